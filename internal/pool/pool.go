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
	// Busy, when set, says that the host has no processor to spare: then boxes are
	// made ahead one at a time, with as long a rest after each as it took.
	Busy func() bool
	// Yield is how long no box is begun ahead after a request got one that was not
	// the last of its template, so that it has the processors to itself [100 ms].
	// Requests that follow within twice that time begin no other pause.
	Yield time.Duration
	// Observe, when set, is told of every request that a box of the pool could
	// serve, with the stage that it found. It must not block.
	Observe func(t bulkhead.Template, stage Stage)
	// Check, when set, asks a warm box whether it still serves. A box that fails
	// twice in a row is destroyed.
	Check func(ctx context.Context, b *Box) error
	// CheckEvery is how often waiting boxes are checked and measured [30 s].
	CheckEvery time.Duration
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

// Pool keeps shelves of boxes. It is safe for concurrent use. Without [Pool.Run]
// it makes every box when it is asked for.
type Pool struct {
	cfg    Config
	starts chan struct{}
	wake   chan struct{} // holds 1: something changed
	jobs   sync.WaitGroup

	mu       sync.Mutex
	shelves  map[string]*shelf  // by template digest
	ledgers  map[string]*ledger // by template name
	claims   int                // requests that wait for a box to be made
	running  int                // boxes being made ahead
	rest     time.Time          // on a busy host, until when none is
	yielded  time.Time          // when the last pause for a request began
	behind   map[*Box]bool      // boxes that are made in the background
	checking bool
	closed   bool
}

// shelf is the boxes of one template that wait.
type shelf struct {
	template   bulkhead.Template
	target     Target
	ledger     *ledger
	booked     time.Time // until when those that wait are in the ledger
	warm, cold []*Box    // oldest first
	waiters    []*waiter
	warming    int  // boxes on their way to warm
	chilling   int  // boxes on their way to cold
	imaging    bool // its snapshot is being taken
	retry      time.Time
	backoff    time.Duration
	failed     string // why the last box or snapshot could not be made
	dropped    bool   // its template is gone
	used       bool   // somebody asked for a box; its snapshot is worth taking
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
	}{{&cfg.MaxAge, time.Hour}, {&cfg.Interval, time.Second}, {&cfg.CheckEvery, 30 * time.Second}, {&cfg.Yield, 100 * time.Millisecond}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return &Pool{
		cfg: cfg, starts: make(chan struct{}, cfg.Starts), wake: make(chan struct{}, 1),
		shelves: map[string]*shelf{}, ledgers: map[string]*ledger{}, behind: map[*Box]bool{},
	}, nil
}

// SetTarget says how many boxes of t should wait from now on. Counts are cut to
// their range.
func (p *Pool) SetTarget(t bulkhead.Template, target Target) {
	target.Warm = min(max(target.Warm, 0), 1000)
	target.Cold = min(max(target.Cold, 0), 1000)
	p.mu.Lock()
	s := p.shelfLocked(t)
	s.target, s.dropped = target, false
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

func (p *Pool) shelfLocked(t bulkhead.Template) *shelf {
	s := p.shelves[t.Digest]
	if s == nil {
		s = &shelf{template: t, ledger: p.ledgerLocked(t.Name), booked: time.Now()}
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

// Adopt takes over a box that an earlier server leased.
func (p *Pool) Adopt(ctx context.Context, box string, t bulkhead.Template, l bulkhead.Limits) (*Box, error) {
	b, err := p.cfg.Maker.adopt(ctx, box, t, l)
	if err == nil {
		p.lease(b)
	}
	return b, err
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
