package pool

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// waiter is a request that has to wait for a box.
type waiter struct {
	got chan *Box // holds 1: a box that became warm meanwhile
}

// misfit says what of the limits needs a box of its own, or "".
func misfit(t bulkhead.Template, l bulkhead.Limits) string {
	switch {
	case l.DiskMB != t.Defaults.DiskMB:
		return MissDisk
	case l.OpenFiles != t.Defaults.OpenFiles:
		return MissFiles
	}
	return ""
}

// Acquire returns a warm box of t and the stage it was found in. A waiting box
// is taken at once; else one is made, of which only a few are at a time, or one
// that becomes warm meanwhile is handed over, whichever comes first; ctx bounds
// the wait. The box is the caller's, who must release it.
//
// The box was made with t's default limits unless l's disk or open files differ;
// the caller binds the rest.
func (p *Pool) Acquire(ctx context.Context, t bulkhead.Template, l bulkhead.Limits) (*Box, Stage, error) {
	own := misfit(t, l)
	b, stage, w := p.take(t, own)
	if own == "" && p.cfg.Observe != nil {
		p.cfg.Observe(t, stage)
	}
	if stage != StageWarm {
		p.poke()
		made := t.Defaults
		if own != "" {
			made = l
		}
		var err error
		if b, err = p.await(ctx, t, made, b, w); err != nil {
			return nil, stage, err
		}
	}
	p.lease(b)
	return b, stage, nil
}

// await gets a request its box that found less than a warm one: b, which may be
// nil, is what it found.
func (p *Pool) await(ctx context.Context, t bulkhead.Template, made bulkhead.Limits, b *Box, w *waiter) (*Box, error) {
	defer p.poke()
	defer func() {
		p.mu.Lock()
		p.claims--
		p.mu.Unlock()
	}()
	select {
	case p.starts <- struct{}{}:
		defer func() { <-p.starts }()
	case warm := <-w.got:
		p.putBack(b)
		return warm, nil
	case <-ctx.Done():
		p.putBack(b)
		p.putBack(p.resign(t, w))
		return nil, ctx.Err()
	}
	if warm := p.resign(t, w); warm != nil {
		p.putBack(b)
		return warm, nil
	}
	return p.build(ctx, t, made, b)
}

// build makes a warm box, of b if there is one, and books what it took.
func (p *Pool) build(ctx context.Context, t bulkhead.Template, made bulkhead.Limits, b *Box) (*Box, error) {
	if b == nil {
		var err error
		if b, err = p.create(ctx, t, made); err != nil {
			return nil, err
		}
	}
	return p.finish(ctx, b)
}

// finish warms a box up, or destroys it.
func (p *Pool) finish(ctx context.Context, b *Box) (*Box, error) {
	if err := p.warmUp(ctx, b); err != nil {
		return nil, errors.Join(err, b.Release(context.Background()))
	}
	return b, nil
}

func (p *Pool) create(ctx context.Context, t bulkhead.Template, made bulkhead.Limits) (*Box, error) {
	began := time.Now()
	b, err := p.cfg.Maker.create(ctx, t, made)
	if err == nil {
		p.took(t, StageCold, time.Since(began))
	}
	return b, err
}

func (p *Pool) warmUp(ctx context.Context, b *Box) error {
	began := time.Now()
	err := p.cfg.Maker.warm(ctx, b)
	if err == nil && b.restored {
		p.took(b.Template, StageWarm, time.Since(began))
	}
	return err
}

func (p *Pool) took(t bulkhead.Template, stage Stage, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ledgerLocked(t.Name).took(stage, d)
}

// lease counts the box as given away until it is released.
func (p *Pool) lease(b *Box) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.ledgerLocked(b.Template.Name)
	l.Leased++
	b.returned = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		l.Leased--
	}
}

// resign takes w out of those that wait, and returns the box that it was handed
// before, if any.
func (p *Pool) resign(t bulkhead.Template, w *waiter) *Box {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.shelves[t.Digest]; s != nil {
		s.waiters = slices.DeleteFunc(s.waiters, func(x *waiter) bool { return x == w })
	}
	select {
	case b := <-w.got:
		return b
	default:
		return nil
	}
}

// putBack gives a box, or nil, that its request did not need to the shelf, or
// destroys it where there is none.
func (p *Pool) putBack(b *Box) {
	if b == nil {
		return
	}
	p.mu.Lock()
	s := p.shelves[b.Template.Digest]
	keep := s != nil && !p.closed && !b.Dead()
	if keep {
		p.bookLocked(time.Now())
		s.placeLocked(b)
	}
	p.mu.Unlock()
	if !keep {
		p.discard(b)
	}
}

// placeLocked gives a box to the request that has waited longest, if it is warm,
// else puts it on the shelf, the oldest first.
func (s *shelf) placeLocked(b *Box) {
	into := &s.cold
	if !b.WarmAt.IsZero() {
		if len(s.waiters) > 0 {
			s.waiters[0].got <- b
			s.waiters = s.waiters[1:]
			s.ledger.Handed++
			return
		}
		into = &s.warm
	}
	at, _ := slices.BinarySearchFunc(*into, b, func(x, y *Box) int { return x.MadeAt.Compare(y.MadeAt) })
	*into = slices.Insert(*into, at, b)
}

// take pops the best waiting box, dead ones left aside, and counts the request.
// With less than a warm one, the request counts as a claim until the caller ends
// it, and waits as w.
func (p *Pool) take(t bulkhead.Template, own string) (b *Box, stage Stage, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bookLocked(time.Now())
	s := p.shelfLocked(t)
	s.used = true
	w = &waiter{got: make(chan *Box, 1)}
	stage = StageNew
	switch {
	case own != "":
		s.ledger.Misses[own]++
	default:
		if b = s.popLocked(&s.warm); b != nil {
			s.ledger.Hits[StageWarm]++
			p.yieldLocked(s, time.Now())
			return b, StageWarm, nil
		}
		why := MissEmpty
		if s.target.Warm == 0 {
			why = MissUnpooled
		}
		s.ledger.Misses[why]++
		s.waiters = append(s.waiters, w)
		if b = s.popLocked(&s.cold); b != nil {
			stage = StageCold
		}
	}
	s.ledger.Hits[stage]++
	p.claims++
	p.hurryLocked()
	return b, stage, w
}

// popLocked takes the oldest box that lives. Dead ones stay for Run to release.
func (s *shelf) popLocked(from *[]*Box) *Box {
	for i, b := range *from {
		if !b.Dead() {
			*from = slices.Delete(*from, i, i+1)
			return b
		}
	}
	return nil
}
