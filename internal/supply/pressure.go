package supply

import (
	"fmt"
	"math"
	"time"
)

// pressure is what the host's memory allows the pools.
type pressure struct {
	// allow is how many warm boxes may wait, all templates together.
	allow int
	// squeezed says that it is less than what waited, or was until a moment ago;
	// dry that cold boxes go as well.
	squeezed, dry bool

	memory  Memory
	reserve int64
	cut     time.Time // when allow was lowered last
	limit   int       // the value it was lowered to
}

// How pools shrink and grow.
const (
	// stallLimit is the share of time that tasks wait for memory from which pools
	// shrink, in percent.
	stallLimit = 10.0
	// cutEvery is the least time between two cuts: what was destroyed has to show.
	cutEvery = time.Second
	// growAfter is how long after the last cut pools grow again.
	growAfter = 10 * time.Second
	// defaultBoxMB stands for a warm box until one was measured.
	defaultBoxMB = 170.0
)

// String says it for a person.
func (p *pressure) String() string {
	return fmt.Sprintf("memory is short: %d MB available, %d MB kept free, %.0f %% of the time stalled",
		p.memory.Available/1e6, p.reserve/1e6, p.memory.Stalled)
}

// measure reads the host's memory, if it is to be heeded.
func (p *Planner) measure() (Memory, bool) {
	if p.cfg.Memory == nil {
		return Memory{Available: math.MaxInt64}, p.cfg.Budget > 0
	}
	m, err := p.cfg.Memory()
	if err != nil {
		p.cfg.Log.Error("measure host memory", "err", err)
		return m, false
	}
	return m, true
}

// waitingLocked counts the warm boxes that wait, and says how many bytes one takes.
func (p *Planner) waitingLocked() (warm int, box float64) {
	mb := 0.0
	for _, s := range p.cfg.Boxes.Stats() {
		warm += s.Warm
		mb += float64(s.Warm) * s.WarmMB
	}
	if mb == 0 {
		return warm, defaultBoxMB * 1e6
	}
	return warm, mb / float64(warm) * 1e6
}

// pressLocked decides how many warm boxes may wait.
func (p *Planner) pressLocked(m Memory, now time.Time) {
	warm, box := p.waitingLocked()
	was := p.pressure.squeezed
	allow := p.pressure.step(now, m, p.cfg.Reserve, warm, box)
	if p.pressure.squeezed != was {
		p.cfg.Log.Warn("pools follow the host's memory", "short", p.pressure.squeezed,
			"available_mb", m.Available/1e6, "stalled_percent", m.Stalled, "warm", warm, "allowed", allow)
	}
	if p.cfg.Budget > 0 {
		allow = min(allow, int(float64(p.cfg.Budget)/box))
	}
	p.pressure.allow = allow
}

// step decides how many warm boxes of so many bytes may wait. While memory is
// short, each step cuts what is missing; afterwards what fits half of what is free
// comes back, so that the pools do not take at once what somebody just gave.
func (p *pressure) step(now time.Time, m Memory, reserve int64, warm int, box float64) int {
	p.memory, p.reserve = m, reserve
	room := float64(m.Available - reserve)
	// Stalls while half of the memory is free are those of a group that is at a
	// limit of its own, such as a box with a memory bomb.
	stalled := m.Stalled >= stallLimit && m.Available < m.Total/2
	switch {
	case room < 0 || stalled:
		if !p.squeezed || now.Sub(p.cut) >= cutEvery {
			p.dry = p.squeezed && warm == 0 && room < 0
			p.limit = max(0, warm-max(1, int(math.Ceil(-room/box))))
			p.squeezed, p.cut = true, now
		}
		return min(p.limit, warm)
	case p.squeezed && now.Sub(p.cut) < growAfter:
		return p.limit
	case p.squeezed && room < 2*box:
		return warm
	}
	p.squeezed, p.dry = false, false
	if more := room / 2 / box; more < math.MaxInt32 {
		return warm + int(more) + 1
	}
	return math.MaxInt
}
