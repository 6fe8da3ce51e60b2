package supply

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// planLocked decides every target that is due and puts them in force.
func (p *Planner) planLocked(now time.Time) {
	stats := map[string]pool.Stats{}
	for _, s := range p.cfg.Boxes.Stats() {
		stats[s.Template] = s
	}
	all := now.Sub(p.planned) >= p.cfg.Maintenance
	if all {
		p.planned = now
	}
	for _, e := range p.entries {
		p.roll(e, now)
		if costs, changed := newCosts(e.model.Costs(), stats[e.name]); changed {
			if err := e.model.SetCosts(costs); err != nil {
				p.cfg.Log.Error("measured costs", "template", e.name, "err", err)
			} else {
				e.until = time.Time{}
			}
		}
		if all || !now.Before(e.until) {
			e.target, e.until = p.want(e, now)
		}
	}
	p.enforceLocked(now)
}

// enforceLocked tells the pool the targets that the memory allows. Two names of
// one version share its boxes, which count under the first of them.
func (p *Planner) enforceLocked(now time.Time) {
	type version struct {
		template bulkhead.Template
		target   pool.Target
	}
	versions := map[string]*version{}
	add := func(t bulkhead.Template, target pool.Target) {
		if v := versions[t.Digest]; v != nil {
			v.target.Warm += target.Warm
			v.target.Cold += target.Cold
			return
		}
		versions[t.Digest] = &version{t, target}
	}
	fit := p.fit(now)
	for _, e := range slices.SortedFunc(maps.Keys(fit), func(a, b *entry) int { return cmp.Compare(a.name, b.name) }) {
		t := fit[e]
		e.inForce = t
		add(e.current, t)
		if e.next != nil {
			add(*e.next, t)
		}
	}
	for _, v := range versions {
		p.cfg.Boxes.SetTarget(v.template, v.target)
	}
}

// pooled says whether boxes of the template may wait at all.
func (p *Planner) pooled(e *entry, now time.Time) bool {
	return e.there && (e.pin != nil || !p.cfg.Off && (e.always || e.model.Stats(now).Total > 0))
}

// want is how many boxes of a template should wait if the host has the memory,
// and until when that holds.
func (p *Planner) want(e *entry, now time.Time) (pool.Target, time.Time) {
	switch {
	case !p.pooled(e, now):
		why := "nobody has asked for it yet"
		if p.cfg.Off {
			why = "pools are switched off but for pinned ones"
		}
		return pool.Target{Why: why}, now.Add(p.cfg.Maintenance)
	case e.pin != nil:
		return *e.pin, now.Add(p.cfg.Maintenance)
	}
	_ = e.model.BoundInUse(now, p.cfg.Bounds, e.always) // New has checked them
	g := e.model.Target(now)
	return target(g), g.Until
}

func target(g forecast.Target) pool.Target {
	return pool.Target{Warm: g.Warm, Cold: g.Cold, Why: g.Why.String()}
}

// newCosts are those of the model with what was measured since, and whether they
// differ enough to matter.
func newCosts(c forecast.Costs, s pool.Stats) (forecast.Costs, bool) {
	changed := false
	differs := func(old, measured float64) bool {
		far := measured > 0 && math.Abs(measured-old) > 0.2*old
		changed = changed || far
		return far
	}
	if differs(c.Create.Seconds(), s.CreateTime.Seconds()) {
		c.Create = min(s.CreateTime, 10*time.Minute)
	}
	if differs(c.Restore.Seconds(), s.RestoreTime.Seconds()) {
		c.Restore = min(s.RestoreTime, 10*time.Minute)
	}
	if differs(c.WarmMB, s.WarmMB) {
		c.WarmMB = s.WarmMB
	}
	if differs(c.ColdMB, s.ColdMB) {
		c.ColdMB = s.ColdMB
	}
	return c, changed
}

// fit returns the targets that the memory allows: the wanted ones where there is
// enough. Otherwise the price of waiting is lowered until they fit, which drops
// the boxes that are least likely to be missed; pinned ones go last.
func (p *Planner) fit(now time.Time) map[*entry]pool.Target {
	out := map[*entry]pool.Target{}
	sum, pinned := 0, 0
	var free []*entry
	for _, e := range p.entries {
		if !e.there {
			continue
		}
		out[e] = e.target
		sum += e.target.Warm
		if e.pin != nil {
			pinned += e.target.Warm
		} else if e.target.Warm > 0 {
			free = append(free, e)
		}
	}
	allow := p.pressure.allow
	if p.pressure.dry {
		for e, t := range out {
			t.Cold, t.Why = 0, p.pressure.String()
			out[e] = t
		}
	}
	if sum <= allow {
		return out
	}
	rest := allow - pinned
	for e, g := range p.squeeze(free, max(rest, 0), now) {
		t := out[e]
		t.Warm, t.Why = g.Warm, fmt.Sprintf("%s; %d wanted: %s", p.pressure.String(), t.Warm, t.Why)
		out[e] = t
	}
	for ; rest < 0; rest++ {
		var most *entry
		for e, t := range out {
			if e.pin != nil && t.Warm > 0 && (most == nil || t.Warm > out[most].Warm) {
				most = e
			}
		}
		if most == nil {
			break
		}
		t := out[most]
		t.Warm, t.Why = t.Warm-1, fmt.Sprintf("%s; %d pinned", p.pressure.String(), most.target.Warm)
		out[most] = t
	}
	return out
}

// squeeze returns targets for unpinned templates of at most so many warm boxes in
// all.
func (p *Planner) squeeze(free []*entry, allow int, now time.Time) map[*entry]forecast.Target {
	try := func(factor float64) (map[*entry]forecast.Target, int) {
		got, sum := map[*entry]forecast.Target{}, 0
		for _, e := range free {
			c := e.model.Costs()
			_ = e.model.SetBounds(forecast.Bounds{MaxWarm: p.cfg.Bounds.MaxWarm, MaxCold: p.cfg.Bounds.MaxCold}) // checked
			e.model.SetWaitPrice(c.WaitPrice * factor)
			g := e.model.Target(now)
			e.model.SetWaitPrice(c.WaitPrice)
			g.Warm = min(g.Warm, e.target.Warm)
			got[e] = g
			sum += g.Warm
		}
		return got, sum
	}
	best := map[*entry]forecast.Target{}
	for _, e := range free {
		best[e] = forecast.Target{}
	}
	low, high := -30.0, 0.0 // of the factor's natural logarithm
	for range 12 {
		mid := (low + high) / 2
		if got, sum := try(math.Exp(mid)); sum <= allow {
			best, low = got, mid
		} else {
			high = mid
		}
	}
	return best
}
