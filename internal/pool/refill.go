package pool

import (
	"context"
	"errors"
	"time"
)

// maxBackoff bounds how long a shelf whose boxes cannot be made is left alone.
const maxBackoff = time.Minute

// Run keeps the shelves filled until ctx is done, then destroys every waiting
// box and returns nil.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(p.cfg.Interval)
	defer tick.Stop()
	for {
		for _, b := range p.sweep() {
			p.jobs.Go(func() { p.discard(b) })
		}
		for p.start(ctx, time.Now()) {
		}
		select {
		case <-p.wake:
		case <-tick.C:
		case <-ctx.Done():
			p.drain()
			return nil
		}
	}
}

// drain waits for what is being made and destroys what waits.
func (p *Pool) drain() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.jobs.Wait()
	p.mu.Lock()
	var boxes []*Box
	for _, s := range p.shelves {
		boxes = append(append(boxes, s.warm...), s.cold...)
		s.warm, s.cold = nil, nil
	}
	p.mu.Unlock()
	for _, b := range boxes {
		p.jobs.Go(func() { p.discard(b) })
	}
	p.jobs.Wait()
}

// sweep takes off the shelves what should not be there: dead boxes, and the
// oldest of a surplus. An old box is no surplus until its successor waits.
func (p *Pool) sweep() (out []*Box) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for digest, s := range p.shelves {
		before := len(out)
		s.warm, out = prune(s.warm, s.target.Warm, out)
		s.cold, out = prune(s.cold, s.target.Cold, out)
		s.stats.Wasted += int64(len(out) - before)
		if s.dropped && len(s.warm)+len(s.cold)+s.warming+s.chilling == 0 {
			delete(p.shelves, digest)
		}
	}
	return out
}

// prune splits boxes, oldest first, into those that stay and those that go.
func prune(boxes []*Box, target int, out []*Box) (keep, gone []*Box) {
	for _, b := range boxes {
		if b.Dead() {
			out = append(out, b)
		} else {
			keep = append(keep, b)
		}
	}
	surplus := max(0, len(keep)-target)
	return keep[surplus:], append(out, keep[:surplus]...)
}

func (p *Pool) discard(b *Box) {
	if err := b.Release(context.Background()); err != nil {
		p.cfg.Log.Error("release waiting box", "box", b.ID, "err", err)
	}
}

// stageImage is the job of taking a template's snapshot.
const stageImage Stage = "snapshot"

// job is one box to be made ahead, or a snapshot to be taken.
type job struct {
	shelf *shelf
	from  *Box // a cold box to warm, or nil to create one
	to    Stage
}

// start begins one job, if there is one and room for it, and reports whether it
// did. Requests that wait for a box go first.
func (p *Pool) start(ctx context.Context, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || ctx.Err() != nil || p.claims > 0 || p.running >= p.cfg.Parallel {
		return false
	}
	j, ok := p.nextLocked(now)
	if !ok {
		return false
	}
	p.running++
	p.jobs.Go(func() { p.do(ctx, j) })
	return true
}

// nextLocked picks the shelf that lacks its snapshot, else the one that lacks the
// most warm boxes, then cold ones.
func (p *Pool) nextLocked(now time.Time) (job, bool) {
	for _, s := range p.shelves {
		can, ready := p.cfg.Maker.snapshots(s.template)
		wanted := s.used || s.target.Warm+s.target.Cold > 0
		if can && !ready && wanted && !s.dropped && !s.imaging && !now.Before(s.retry) {
			s.imaging = true
			return job{shelf: s, to: stageImage}, true
		}
	}
	var best *shelf
	to, most := StageWarm, 0
	for _, stage := range []Stage{StageWarm, StageCold} {
		for _, s := range p.shelves {
			if now.Before(s.retry) || s.imaging {
				continue
			}
			lack := s.target.Warm - p.fresh(s.warm, now) - s.warming
			if stage == StageCold {
				lack = s.target.Cold - p.fresh(s.cold, now) - s.chilling
			}
			if lack > most {
				best, most, to = s, lack, stage
			}
		}
		if best != nil {
			break
		}
	}
	if best == nil {
		return job{}, false
	}
	j := job{shelf: best, to: to}
	if to == StageCold {
		best.chilling++
		return j, true
	}
	best.warming++
	j.from = best.popLocked(&best.cold)
	return j, true
}

func (p *Pool) fresh(boxes []*Box, now time.Time) (n int) {
	for _, b := range boxes {
		if !b.Dead() && now.Sub(b.MadeAt) <= p.cfg.MaxAge {
			n++
		}
	}
	return n
}

// do makes one box and puts it on its shelf.
func (p *Pool) do(ctx context.Context, j job) {
	began := time.Now()
	b, err := p.make(ctx, j)
	p.mu.Lock()
	s := j.shelf
	p.running--
	switch j.to {
	case StageWarm:
		s.warming--
	case StageCold:
		s.chilling--
	default:
		s.imaging = false
	}
	switch {
	case err != nil:
		s.stats.Failed++
		s.backoff = min(max(2*s.backoff, p.cfg.Interval), maxBackoff)
		s.retry = time.Now().Add(s.backoff)
	case j.to == StageWarm:
		s.warm = append(s.warm, b)
	case j.to == StageCold:
		s.cold = append(s.cold, b)
	}
	if err == nil {
		s.backoff, s.retry = 0, time.Time{}
		s.stats.RefillSeconds += time.Since(began).Seconds()
	}
	p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		p.cfg.Log.Error("make box ahead", "template", s.template.Name, "stage", string(j.to), "err", err)
	}
	p.poke()
}

func (p *Pool) make(ctx context.Context, j job) (*Box, error) {
	b, m := j.from, p.cfg.Maker
	if j.to == stageImage {
		return nil, m.Take(ctx, j.shelf.template)
	}
	if b == nil {
		var err error
		if b, err = m.create(ctx, j.shelf.template, j.shelf.template.Defaults); err != nil {
			return nil, err
		}
	}
	if j.to == StageCold {
		return b, nil
	}
	if err := m.warm(ctx, b); err != nil {
		return nil, errors.Join(err, b.Release(ctx))
	}
	return b, nil
}
