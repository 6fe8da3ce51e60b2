package pool

import (
	"context"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// maxBackoff bounds how long a shelf whose boxes cannot be made is left alone.
const maxBackoff = time.Minute

// Run keeps the shelves filled until ctx is done, then destroys every waiting
// box and returns nil.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(p.cfg.Interval)
	defer tick.Stop()
	check := time.NewTicker(p.cfg.CheckEvery)
	defer check.Stop()
	for {
		for _, b := range p.sweep() {
			p.jobs.Go(func() { p.discard(b) })
		}
		busy := p.cfg.Busy != nil && p.cfg.Busy()
		for p.start(ctx, time.Now(), busy) {
		}
		select {
		case <-p.wake:
		case <-tick.C:
		case <-check.C:
			p.startCheck(ctx)
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
	p.bookLocked(time.Now())
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
	now := time.Now()
	p.bookLocked(now)
	for digest, s := range p.shelves {
		s.warm, out = p.pruneLocked(s, s.warm, s.target.Warm, now, out)
		s.cold, out = p.pruneLocked(s, s.cold, s.target.Cold, now, out)
		if s.dropped && len(s.warm)+len(s.cold)+s.warming+s.chilling+len(s.waiters) == 0 && !s.imaging {
			delete(p.shelves, digest)
		}
	}
	return out
}

// pruneLocked splits boxes, oldest first, into those that stay and those that go.
func (p *Pool) pruneLocked(s *shelf, boxes []*Box, target int, now time.Time, out []*Box) (keep, gone []*Box) {
	for _, b := range boxes {
		if b.Dead() {
			s.ledger.Wasted[WasteDead]++
			out = append(out, b)
		} else {
			keep = append(keep, b)
		}
	}
	surplus := max(0, len(keep)-target)
	for _, b := range keep[:surplus] {
		why := WasteSurplus
		if now.Sub(b.MadeAt) > p.cfg.MaxAge {
			why = WasteOld
		}
		s.ledger.Wasted[why]++
	}
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
// did. Requests that wait for a box or just got one go first; a busy host gets
// rests.
func (p *Pool) start(ctx context.Context, now time.Time, busy bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || ctx.Err() != nil || p.claims > 0 || p.running >= p.cfg.Parallel {
		return false
	}
	if now.Sub(p.yielded) < p.cfg.Yield {
		return false
	}
	if busy && (p.running > 0 || now.Before(p.rest)) {
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

// yieldLocked leaves the processors to a request that took a box of s, unless it
// was the last one: the next request would wait longer than this one gains.
// Without the free time between two pauses, a steady stream of requests would
// empty a pool that could have kept up.
func (p *Pool) yieldLocked(s *shelf, now time.Time) {
	switch {
	case len(s.warm) == 0:
		p.yielded = time.Time{}
		p.hurryLocked()
		p.poke()
		return
	case now.Sub(p.yielded) >= 2*p.cfg.Yield:
		p.yielded = now
	}
	time.AfterFunc(p.yielded.Add(p.cfg.Yield).Sub(now), p.poke)
}

// nextLocked picks the shelf that lacks its snapshot, else the one that lacks the
// most warm boxes, then cold ones.
func (p *Pool) nextLocked(now time.Time) (job, bool) {
	imaging := false
	for _, s := range p.shelves {
		imaging = imaging || s.imaging
	}
	for _, s := range p.shelves {
		if imaging {
			break // one at a time
		}
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
	p.bookLocked(now)
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
	s, now := j.shelf, time.Now()
	p.bookLocked(now)
	p.running--
	p.rest = now.Add(now.Sub(began))
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
		s.ledger.Failed++
		s.backoff = min(max(2*s.backoff, p.cfg.Interval), maxBackoff)
		s.retry, s.failed = now.Add(s.backoff), bulkhead.Message(err)
	case b != nil:
		s.placeLocked(b)
	}
	if err == nil {
		s.backoff, s.retry, s.failed = 0, time.Time{}, ""
	}
	p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		p.cfg.Log.ErrorContext(ctx, "make box ahead", "template", s.template.Name, "stage", string(j.to), "err", err)
	}
	p.poke()
}

// make does the work of a job, in the background while the shelf has other boxes.
func (p *Pool) make(ctx context.Context, j job) (*Box, error) {
	t := j.shelf.template
	if j.to == stageImage {
		return nil, p.cfg.Maker.Take(ctx, t)
	}
	b := j.from
	if b == nil {
		var err error
		if b, err = p.create(ctx, t, t.Defaults); err != nil || j.to == StageCold {
			return b, err
		}
	}
	defer p.background(j.shelf, b)()
	return p.finish(ctx, b)
}

// maxBehind bounds how long a box that is being made is in the background: beside
// programs that are none of ours it might get next to nothing there.
const maxBehind = 2 * time.Second

// background lets everything else go first on the processors while b is made, until
// what it returns is called, unless a request waits, or the next would have to.
func (p *Pool) background(s *shelf, b *Box) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claims > 0 || len(s.warm) == 0 || b.Part.Background(true) != nil {
		return func() {}
	}
	p.behind[b] = true
	foreground := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.foregroundLocked(b)
	}
	late := time.AfterFunc(maxBehind, foreground)
	return func() { late.Stop(); foreground() }
}

// foregroundLocked ends that for one box, if it is there.
func (p *Pool) foregroundLocked(b *Box) {
	if !p.behind[b] {
		return
	}
	delete(p.behind, b)
	if err := b.Part.Background(false); err != nil && !b.Dead() {
		p.cfg.Log.Error("bring a box to the foreground", "box", b.ID, "err", err)
	}
}

// hurryLocked ends it for all, since somebody waits for one, or the next request
// will.
func (p *Pool) hurryLocked() {
	for b := range p.behind {
		p.foregroundLocked(b)
	}
}
