package supply

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// Status is what an operator sees of one template's pool.
type Status struct {
	pool.Stats

	// Pinned says that the target was set and not forecast.
	Pinned bool `json:"pinned"`
	// Next is the digest of a version whose boxes are being made before it serves.
	Next string `json:"next,omitempty"`
	// Use is what was asked for, over restarts of the server.
	Use forecast.Stats `json:"use"`
	// Costs are what the forecast reckons with.
	Costs forecast.Costs `json:"costs"`
}

// Report is what an operator sees of all pools.
type Report struct {
	// Pools are those of every template, by name.
	Pools []Status `json:"pools"`
	// Totals adds them up.
	Totals Totals `json:"totals"`
	// Memory is what the host allows the pools.
	Memory Headroom `json:"memory"`
}

// Totals adds up the pools of all templates.
type Totals struct {
	// Warm, Cold, Leased and Making are boxes now.
	Warm   int `json:"warm"`
	Cold   int `json:"cold"`
	Leased int `json:"leased"`
	Making int `json:"making"`
	// TotalUse counts all requests, over restarts, RecentUse those of the last hour.
	TotalUse  int64 `json:"totalUse"`
	RecentUse int64 `json:"recentUse"`
	// WarmMB is the memory of the warm boxes that wait, in MB, IdleMBs what waiting
	// has cost since the server was started, in MB·s.
	WarmMB  float64 `json:"warmMB"`
	IdleMBs float64 `json:"idleMBs"`
}

// Headroom is what the host allows the pools. All are 0 where it is not measured.
type Headroom struct {
	// AvailableMB is what programs could still get, ReserveMB below which pools
	// shrink, in MB of 10⁶ bytes.
	AvailableMB int64 `json:"availableMB"`
	ReserveMB   int64 `json:"reserveMB"`
	// Stalled is the percentage of time that tasks wait for memory.
	Stalled float64 `json:"stalledPercent"`
	// Short says that pools are smaller than wanted for want of memory.
	Short bool `json:"short"`
}

// Report returns the pools of every template that there is or was a request for.
func (p *Planner) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	stats := map[string]pool.Stats{}
	for _, s := range p.cfg.Boxes.Stats() {
		stats[s.Template] = s
		p.entryLocked(s.Template)
	}
	r := Report{Pools: []Status{}}
	for _, e := range p.entries {
		s, made := stats[e.name]
		if !made && !e.there {
			continue
		}
		if !made {
			s = pool.Stats{
				Template: e.name, Digest: e.current.Digest, Image: pool.Image{State: pool.ImageNone},
				Hits: map[pool.Stage]int64{}, Misses: map[string]int64{}, Wasted: map[string]int64{},
			}
		}
		if e.there {
			s.Target = e.inForce
		}
		st := Status{Stats: s, Pinned: e.pin != nil, Use: e.model.Stats(now), Costs: e.model.Costs()}
		if e.next != nil {
			st.Digest, st.Next = e.current.Digest, e.next.Digest
		}
		r.Pools = append(r.Pools, st)
		t := &r.Totals
		t.Warm, t.Cold, t.Leased, t.Making = t.Warm+s.Warm, t.Cold+s.Cold, t.Leased+s.Leased, t.Making+s.Making
		t.TotalUse, t.RecentUse = t.TotalUse+st.Use.Total, t.RecentUse+st.Use.Recent
		t.WarmMB, t.IdleMBs = t.WarmMB+float64(s.Warm)*s.WarmMB, t.IdleMBs+s.IdleMBs
	}
	slices.SortFunc(r.Pools, func(a, b Status) int { return cmp.Compare(a.Template, b.Template) })
	m := p.pressure
	if p.cfg.Memory != nil {
		r.Memory = Headroom{AvailableMB: m.memory.Available / 1e6, ReserveMB: p.cfg.Reserve / 1e6, Stalled: m.memory.Stalled, Short: m.squeezed}
	}
	return r
}

// status returns one template's, or CodeNotFound.
func (p *Planner) status(name string) (Status, error) {
	for _, s := range p.Report().Pools {
		if s.Template == name {
			return s, nil
		}
	}
	return Status{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q does not exist", name)
}

// MaxPin bounds the sizes that can be pinned.
const MaxPin = 1000

// Pin sets the size of a template's pool, or with nil gives it back to the
// forecast. It is durable when it returns. Codes: not_found, invalid.
func (p *Planner) Pin(ctx context.Context, name string, size *store.PoolSize) (Status, error) {
	if size != nil && (size.Warm < 0 || size.Warm > MaxPin || size.Cold < 0 || size.Cold > MaxPin) {
		return Status{}, bulkhead.Errorf(bulkhead.CodeInvalid, "pin is %d warm and %d cold; each must be between 0 and %d", size.Warm, size.Cold, MaxPin)
	}
	t, err := p.cfg.Templates.Get(name)
	if err != nil {
		return Status{}, err //nolint:wrapcheck // says which template
	}
	p.mu.Lock()
	e := p.noteLocked(t, time.Now())
	before := e.pin
	e.pin = nil
	if size != nil {
		e.pin = &pool.Target{Warm: size.Warm, Cold: size.Cold, Why: pinnedByOperator}
	}
	state, err := e.state()
	p.mu.Unlock()
	if err == nil {
		err = p.cfg.Store.PutPools(ctx, state)
	}
	p.mu.Lock()
	if err != nil {
		e.pin = before
	}
	e.until = time.Time{}
	p.planLocked(time.Now())
	p.mu.Unlock()
	if err != nil {
		return Status{}, fmt.Errorf("store pin: %w", err)
	}
	return p.status(t.Name)
}

// Prediction is what is expected of a template.
type Prediction struct {
	// Template is its name.
	Template string `json:"template"`
	// At is when it was made; it is for the time until Until.
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
	// Mean is the expected number of requests, P50, P90 and P99 the numbers that
	// are not exceeded with that probability, in percent.
	Mean float64 `json:"mean"`
	P50  int     `json:"p50"`
	P90  int     `json:"p90"`
	P99  int     `json:"p99"`
	// Use is what was seen until now.
	Use forecast.Stats `json:"use"`
	// Target is how many boxes should wait now.
	Target pool.Target `json:"target"`
}

// Predict forecasts the requests for a template from now until horizon has
// passed. Codes: not_found; invalid for a horizon that is not within 1 s and
// [forecast.MaxHorizon].
func (p *Planner) Predict(name string, horizon time.Duration) (Prediction, error) {
	if horizon < time.Second || horizon > forecast.MaxHorizon {
		return Prediction{}, bulkhead.Errorf(bulkhead.CodeInvalid, "horizon is %s; it must be between 1s and %s", horizon, forecast.MaxHorizon)
	}
	t, err := p.cfg.Templates.Get(name)
	if err != nil {
		return Prediction{}, err //nolint:wrapcheck // says which template
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	e := p.noteLocked(t, now)
	d := e.model.Predict(now, horizon)
	return Prediction{
		Template: t.Name, At: now.UTC(), Until: now.Add(horizon).UTC(), Mean: d.Mean,
		P50: d.Quantile(0.5), P90: d.Quantile(0.9), P99: d.Quantile(0.99), Use: e.model.Stats(now), Target: e.inForce,
	}, nil
}
