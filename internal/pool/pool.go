// Package pool keeps boxes ready before they are asked for.
//
// A [Maker] makes boxes out of a [Driver], which package driver/gvisor and its
// siblings implement, and [Parts], which package host implements. A [Pool]
// keeps shelves of them, one per template: cold boxes, which cost next to no
// memory, and warm ones, which answer at once. A box serves one lease and is
// destroyed; nothing is ever put back.
//
// What a lease asks for is bound late, so that other limits, env or egress do
// not turn a hit into a miss. Only the size of the disk and the number of open
// files are part of a box's making.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Config is what a Pool needs. Zero fields take the value in brackets.
type Config struct {
	// Maker makes the boxes; required.
	Maker *Maker
	// Parallel is how many boxes are made ahead at once [1].
	Parallel int
	// Starts is how many boxes are made for waiting requests at once; more wait
	// their turn [8].
	Starts int
	// MaxAge is how old a waiting box may grow before it is replaced [1 h].
	MaxAge time.Duration
	// Interval is how often shelves are looked at when nothing happens [1 s].
	Interval time.Duration
	// Log gets what has nobody to return it to; required.
	Log *slog.Logger
}

// Target is how many boxes of a template should wait.
type Target struct {
	// Warm and Cold are counts, 0 to 1000.
	Warm int `json:"warm"`
	Cold int `json:"cold"`
	// Why is one sentence for a person.
	Why string `json:"why,omitempty"`
}

// Stats is what a shelf did since the pool was made, and what is on it.
type Stats struct {
	// Template is the template's name.
	Template string `json:"template"`
	// Warm, Cold and Making are boxes now; Target is how many there should be.
	Warm   int    `json:"warm"`
	Cold   int    `json:"cold"`
	Making int    `json:"making"`
	Target Target `json:"target"`
	// Hits counts requests by the stage of the box they got.
	Hits map[Stage]int64 `json:"hits"`
	// Misses counts requests that got less than a warm box, by reason: "empty",
	// "limits" (a disk or file limit that needs a box of its own).
	Misses map[string]int64 `json:"misses"`
	// Wasted counts boxes that were destroyed without having been used, Failed
	// those that could not be made.
	Wasted int64 `json:"wasted"`
	Failed int64 `json:"failed"`
	// RefillSeconds is the time that making the boxes took, in all.
	RefillSeconds float64 `json:"refillSeconds"`
}

// Pool keeps shelves of boxes. It is safe for concurrent use. Without [Pool.Run]
// it makes every box when it is asked for.
type Pool struct {
	cfg    Config
	starts chan struct{}
	wake   chan struct{} // holds 1: something changed
	jobs   sync.WaitGroup

	mu      sync.Mutex
	shelves map[string]*shelf // by template digest
	claims  int               // requests that wait for a box to be made
	running int               // boxes being made ahead
	closed  bool
}

// shelf is the boxes of one template that wait.
type shelf struct {
	template   bulkhead.Template
	target     Target
	warm, cold []*Box // oldest first
	warming    int    // boxes on their way to warm
	chilling   int    // boxes on their way to cold
	imaging    bool   // its snapshot is being taken
	retry      time.Time
	backoff    time.Duration
	dropped    bool // its template is gone
	used       bool // somebody asked for a box; its snapshot is worth taking
	stats      Stats
}

// New checks cfg and starts nothing.
func New(cfg Config) (*Pool, error) {
	if cfg.Maker == nil || cfg.Log == nil {
		return nil, errors.New("pool: Maker and Log are required")
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&cfg.Parallel, 1}, {&cfg.Starts, 8}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&cfg.MaxAge, time.Hour}, {&cfg.Interval, time.Second}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return &Pool{
		cfg: cfg, starts: make(chan struct{}, cfg.Starts), wake: make(chan struct{}, 1),
		shelves: map[string]*shelf{},
	}, nil
}

// SetTarget says how many boxes of t should wait from now on. Counts are cut to
// their range.
func (p *Pool) SetTarget(t bulkhead.Template, target Target) {
	target.Warm = min(max(target.Warm, 0), 1000)
	target.Cold = min(max(target.Cold, 0), 1000)
	p.mu.Lock()
	p.shelfLocked(t).target = target
	p.mu.Unlock()
	p.poke()
}

// Retain drops the shelves of every template but the given ones; their boxes are
// destroyed.
func (p *Pool) Retain(templates []bulkhead.Template) {
	keep := map[string]bool{}
	for _, t := range templates {
		keep[t.Digest] = true
	}
	p.mu.Lock()
	for digest, s := range p.shelves {
		if !keep[digest] {
			s.target, s.dropped = Target{Why: "the template is gone"}, true
		}
	}
	p.mu.Unlock()
	p.poke()
}

// Stats returns every shelf's.
func (p *Pool) Stats() []Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Stats, 0, len(p.shelves))
	for _, s := range p.shelves {
		st := s.stats
		st.Template, st.Target = s.template.Name, s.target
		st.Warm, st.Cold, st.Making = len(s.warm), len(s.cold), s.warming+s.chilling
		st.Hits, st.Misses = clone(s.stats.Hits), clone(s.stats.Misses)
		all = append(all, st)
	}
	return all
}

func clone[K comparable](m map[K]int64) map[K]int64 {
	out := make(map[K]int64, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (p *Pool) shelfLocked(t bulkhead.Template) *shelf {
	s := p.shelves[t.Digest]
	if s == nil {
		s = &shelf{template: t, stats: Stats{Hits: map[Stage]int64{}, Misses: map[string]int64{}}}
		p.shelves[t.Digest] = s
	}
	return s
}

// poke wakes Run; it never blocks.
func (p *Pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Acquire returns a warm box of t and the stage it was found in. A waiting box
// is taken at once; else one is made, of which only a few are at a time, and ctx
// bounds the wait. The box is the caller's, who must release it.
//
// The box was made with t's default limits unless l's disk or open files differ;
// the caller binds the rest.
func (p *Pool) Acquire(ctx context.Context, t bulkhead.Template, l bulkhead.Limits) (*Box, Stage, error) {
	fits := l.DiskMB == t.Defaults.DiskMB && l.OpenFiles == t.Defaults.OpenFiles
	b, stage := p.take(t, fits)
	p.poke()
	if stage == StageWarm {
		return b, stage, nil
	}
	defer p.poke()
	defer func() {
		p.mu.Lock()
		p.claims--
		p.mu.Unlock()
	}()
	select {
	case p.starts <- struct{}{}:
		defer func() { <-p.starts }()
	case <-ctx.Done():
		return nil, stage, p.giveUp(b, ctx.Err())
	}
	if b == nil {
		made := t.Defaults
		if !fits {
			made = l
		}
		var err error
		if b, err = p.cfg.Maker.create(ctx, t, made); err != nil {
			return nil, stage, err
		}
	}
	if err := p.cfg.Maker.warm(ctx, b); err != nil {
		return nil, stage, p.giveUp(b, err)
	}
	return b, stage, nil
}

// giveUp releases a box that became of no use and returns why.
func (p *Pool) giveUp(b *Box, why error) error {
	if b == nil {
		return why
	}
	return errors.Join(why, b.Release(context.Background()))
}

// take pops the best waiting box, dead ones left aside, and counts the request.
// With less than a warm one, the request counts as a claim until the caller ends
// it.
func (p *Pool) take(t bulkhead.Template, fits bool) (*Box, Stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelfLocked(t)
	s.used = true
	if fits {
		if b := s.popLocked(&s.warm); b != nil {
			s.stats.Hits[StageWarm]++
			return b, StageWarm
		}
		s.stats.Misses["empty"]++
		if b := s.popLocked(&s.cold); b != nil {
			s.stats.Hits[StageCold]++
			p.claims++
			return b, StageCold
		}
	} else {
		s.stats.Misses["limits"]++
	}
	s.stats.Hits[StageNew]++
	p.claims++
	return nil, StageNew
}

// popLocked takes the oldest box that lives. Dead ones stay for Run to release.
func (s *shelf) popLocked(from *[]*Box) *Box {
	for i, b := range *from {
		if !b.Dead() {
			*from = append((*from)[:i:i], (*from)[i+1:]...)
			return b
		}
	}
	return nil
}

// Adopt takes over a box that an earlier server leased.
func (p *Pool) Adopt(ctx context.Context, box string, t bulkhead.Template, l bulkhead.Limits) (*Box, error) {
	return p.cfg.Maker.adopt(ctx, box, t, l)
}

// Reap destroys every box on the host, and every part, for which inUse is false.
// It must not run beside anything that makes boxes.
func (p *Pool) Reap(ctx context.Context, inUse func(box string) bool) (reaped []string, err error) {
	boxes, err := p.cfg.Maker.Driver.List(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, b := range boxes {
		if inUse(b.ID) {
			continue
		}
		reaped = append(reaped, b.ID)
		if err := p.cfg.Maker.Driver.Destroy(ctx, b.ID); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, p.cfg.Maker.Parts.Reap(ctx, inUse))
	return reaped, errors.Join(errs...)
}

// Alive reports whether the driver knows the box and its main process runs.
func (p *Pool) Alive(ctx context.Context, box string) (bool, error) {
	boxes, err := p.cfg.Maker.Driver.List(ctx)
	if err != nil {
		return false, err
	}
	for _, b := range boxes {
		if b.ID == box {
			return b.Alive, nil
		}
	}
	return false, nil
}
