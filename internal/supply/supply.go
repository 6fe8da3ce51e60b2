// Package supply decides how many boxes wait on this host.
//
// A [Planner] hears of every request that a pool could serve, feeds one
// [forecast.Model] a template, and sets the pool's targets by them: within a
// twentieth of a second of a request, and again when a forecast runs out. It
// measures what a box costs, keeps the pools within the memory that the host has
// to spare, carries a template from one version to the next without emptying its
// pool, and stores what it has learned.
//
// It makes no boxes; package pool does. A Planner is safe for concurrent use.
package supply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// Boxes is the pool whose targets are set.
type Boxes interface {
	// SetTarget says how many boxes of t should wait.
	SetTarget(t bulkhead.Template, target pool.Target)
	// Retain drops the boxes of every template but the given ones.
	Retain(templates []bulkhead.Template)
	// Stats returns what each template's pool did and has.
	Stats() []pool.Stats
	// Waiting counts the boxes of exactly one version of a template, and says why
	// no more could be made.
	Waiting(t bulkhead.Template) (warm, cold int, failed string)
}

// Templates finds templates.
type Templates interface {
	// Get returns the template of that name, ID or digest, or CodeNotFound.
	Get(nameOrID string) (bulkhead.Template, error)
	// List returns all that have a name.
	List() ([]bulkhead.Template, error)
}

// Store keeps what was learned, and pins.
type Store interface {
	// Pools returns all that is kept.
	Pools(ctx context.Context) ([]store.Pool, error)
	// PutPools stores it; durable when it returns.
	PutPools(ctx context.Context, pools ...store.Pool) error
}

// Memory is what the host has.
type Memory struct {
	// Available is what programs could still get, Total what there is, in bytes.
	Available, Total int64
	// Stalled is the percentage of the last ten seconds in which a task waited for
	// memory; 0 where the kernel does not say.
	Stalled float64
}

// Config is what a [Planner] needs. Zero fields take the value in brackets.
type Config struct {
	// Boxes, Templates, Store and Log are required.
	Boxes     Boxes
	Templates Templates
	Store     Store
	Log       *slog.Logger
	// Off leaves every template without a pool but those that are pinned.
	Off bool
	// Bounds hold for templates in use: those asked for within the last hour, and
	// Always [2 to 10 warm, 3 to 15 cold]. Others may go down to nothing.
	Bounds forecast.Bounds
	// Costs are those of a box until they are measured, and the price of waiting
	// [forecast.DefaultCosts].
	Costs forecast.Costs
	// Builders is how many boxes are made at once [1].
	Builders int
	// Always names templates that have a pool before anybody asks for them.
	Always []string
	// Pins are sizes by template name that hold where no operator set others.
	Pins map[string]pool.Target
	// Memory measures the host; nil means that there is always enough.
	Memory func() (Memory, error)
	// Reserve is the memory in bytes below which pools shrink [1 GiB].
	Reserve int64
	// Budget bounds the memory of all warm boxes that wait, in bytes; 0 is no bound
	// but Reserve.
	Budget int64
	// Interval is how often the host and the templates are looked at [1 s],
	// Maintenance how often every target is decided anew [5 min], and ModelUpdate
	// how often what was learned is stored [30 min]; it is stored at the end, too.
	Interval, Maintenance, ModelUpdate time.Duration
	// Reap, when set, is told of the templates there are when one is gone.
	Reap func(templates []bulkhead.Template) error
	// Location is where hours and weekdays are counted [UTC].
	Location *time.Location
}

// rollTime bounds how long the old version of a template serves once there is a
// new one.
const rollTime = 2 * time.Minute

// pause is the time from a request to the plan that follows from it, and those
// that came meanwhile: the request has the processors first.
const pause = 50 * time.Millisecond

// Planner sets the targets of pools.
type Planner struct {
	cfg  Config
	wake chan struct{} // holds 1: something changed

	mu       sync.Mutex
	entries  map[string]*entry // by template name
	pressure pressure
	planned  time.Time // the last complete plan
	known    string    // the templates that were retained last
}

// entry is one template's.
type entry struct {
	name  string
	model *forecast.Model
	// current is what the pool serves under the name; next, when set, is the
	// version whose boxes are being made, which takes its place at rollEnd at last.
	current bulkhead.Template
	next    *bulkhead.Template
	rollEnd time.Time
	there   bool // the template exists
	always  bool // it has a pool before anybody asks
	pin     *pool.Target
	dirty   bool // it learned since it was stored
	until   time.Time
	target  pool.Target // what it should have
	inForce pool.Target // what the memory allows of it
}

// New checks cfg, takes over what was stored, and starts nothing. A state that
// cannot be read is logged as an error and forgotten.
func New(ctx context.Context, cfg Config) (*Planner, error) {
	if cfg.Boxes == nil || cfg.Templates == nil || cfg.Store == nil || cfg.Log == nil {
		return nil, errors.New("supply: Boxes, Templates, Store and Log are required")
	}
	if cfg.Bounds == (forecast.Bounds{}) {
		cfg.Bounds = forecast.SeedBounds()
	}
	if cfg.Costs == (forecast.Costs{}) {
		cfg.Costs = forecast.DefaultCosts()
	}
	cfg.Builders = max(cfg.Builders, 1)
	if cfg.Reserve <= 0 {
		cfg.Reserve = 1 << 30
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&cfg.Interval, time.Second}, {&cfg.Maintenance, forecast.Maintenance}, {&cfg.ModelUpdate, forecast.ModelUpdate}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	p := &Planner{cfg: cfg, wake: make(chan struct{}, 1), entries: map[string]*entry{}}
	p.pressure.allow = math.MaxInt
	if _, err := forecast.New(p.modelConfig()); err != nil {
		return nil, fmt.Errorf("supply: %w", err)
	}
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	for name, t := range cfg.Pins {
		if e := p.entryLocked(name); e.pin == nil {
			e.pin = &t
		}
	}
	for _, name := range cfg.Always {
		p.entryLocked(name).always = true
	}
	p.look()
	for name := range cfg.Pins {
		if !p.entries[name].there {
			cfg.Log.WarnContext(ctx, "no such template to keep warm", "template", name)
		}
	}
	return p, nil
}

func (p *Planner) modelConfig() forecast.Config {
	return forecast.Config{Costs: p.cfg.Costs, Bounds: p.cfg.Bounds, Builders: p.cfg.Builders, Location: p.cfg.Location}
}

// load takes over what was stored.
func (p *Planner) load(ctx context.Context) error {
	stored, err := p.cfg.Store.Pools(ctx)
	if err != nil {
		return fmt.Errorf("load pools: %w", err)
	}
	for _, s := range stored {
		e := p.entryLocked(s.Template)
		if s.Pin != nil {
			e.pin = &pool.Target{Warm: s.Pin.Warm, Cold: s.Pin.Cold, Why: pinnedByOperator}
		}
		if s.Forecast == nil {
			continue
		}
		if err := e.model.UnmarshalJSON(s.Forecast); err != nil {
			e.dirty = true
			p.cfg.Log.ErrorContext(ctx, "the stored forecast cannot be read; the template is learned anew",
				"template", s.Template, "saved_at", s.SavedAt, "bytes", len(s.Forecast), "err", err)
		}
	}
	return nil
}

// Why a target is pinned.
const pinnedByOperator = "pinned by an operator"

// entryLocked returns the entry of a template, made if need be.
func (p *Planner) entryLocked(name string) *entry {
	e := p.entries[name]
	if e == nil {
		m, _ := forecast.New(p.modelConfig()) // New has checked the configuration
		e = &entry{name: name, model: m}
		p.entries[name] = e
	}
	return e
}

// Observe learns from a request for t that found a box in the given stage. It
// never blocks for long; the target follows within a twentieth of a second.
func (p *Planner) Observe(t bulkhead.Template, stage pool.Stage) {
	kind := map[pool.Stage]forecast.Kind{
		pool.StageWarm: forecast.KindWarm, pool.StageCold: forecast.KindCold, pool.StageNew: forecast.KindNew,
	}[stage]
	p.mu.Lock()
	e := p.entryLocked(t.Name)
	e.model.Observe(time.Now(), kind)
	e.dirty, e.until = true, time.Time{}
	if !e.there {
		e.current, e.there = t, true
	}
	p.mu.Unlock()
	p.poke()
}

// poke wakes Run; it never blocks.
func (p *Planner) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run keeps the targets right until ctx is done, then stores what was learned
// and returns nil.
func (p *Planner) Run(ctx context.Context) error {
	look := time.NewTicker(p.cfg.Interval)
	defer look.Stop()
	save := time.NewTicker(p.cfg.ModelUpdate)
	defer save.Stop()
	for {
		select {
		case <-p.wake:
			rest := time.NewTimer(pause)
			select {
			case <-rest.C:
				p.plan()
			case <-ctx.Done():
				rest.Stop()
			}
		case <-look.C:
			p.look()
		case <-save.C:
			p.save(ctx)
		case <-ctx.Done():
			p.saveLast(ctx)
			return nil
		}
	}
}

// saveTimeout bounds the last write.
const saveTimeout = 10 * time.Second

// saveLast stores what was learned although ctx is done.
func (p *Planner) saveLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	p.save(ctx)
}

func (p *Planner) plan() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.planLocked(time.Now())
}

// look sees what changed by itself: templates, memory, time.
func (p *Planner) look() {
	list, err := p.cfg.Templates.List()
	if err != nil {
		p.cfg.Log.Error("list templates", "err", err)
	}
	m, measured := p.measure()
	p.mu.Lock()
	now := time.Now()
	var use []bulkhead.Template
	changed := false
	if err == nil {
		use, changed = p.refreshLocked(list, now)
	}
	if measured {
		p.pressLocked(m, now)
	}
	p.planLocked(now)
	p.mu.Unlock()
	if changed && p.cfg.Reap != nil {
		if err := p.cfg.Reap(use); err != nil {
			p.cfg.Log.Error("reap snapshots", "err", err)
		}
	}
}

// save stores what was learned since the last time. An error is logged: the next
// attempt has it all.
func (p *Planner) save(ctx context.Context) {
	p.mu.Lock()
	var dirty []*entry
	var states []store.Pool
	for _, e := range p.entries {
		if !e.dirty {
			continue
		}
		if s, err := e.state(); err != nil {
			p.cfg.Log.ErrorContext(ctx, "encode forecast", "template", e.name, "err", err)
		} else {
			dirty, states = append(dirty, e), append(states, s)
			e.dirty = false
		}
	}
	p.mu.Unlock()
	if len(states) == 0 {
		return
	}
	if err := p.cfg.Store.PutPools(ctx, states...); err != nil {
		p.cfg.Log.ErrorContext(ctx, "store forecasts", "err", err)
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range dirty {
			e.dirty = true
		}
	}
}

// state is what is stored of an entry. A pin of the configuration is not.
func (e *entry) state() (store.Pool, error) {
	s := store.Pool{Template: e.name}
	if e.pin != nil && e.pin.Why == pinnedByOperator {
		s.Pin = &store.PoolSize{Warm: e.pin.Warm, Cold: e.pin.Cold}
	}
	if e.model.Stats(time.Now()).Total > 0 {
		data, err := e.model.MarshalJSON()
		if err != nil {
			return s, err //nolint:wrapcheck // the caller says of what
		}
		s.Forecast = data
	}
	return s, nil
}
