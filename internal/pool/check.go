package pool

import (
	"context"
	"errors"
	"slices"
	"time"
)

// checkTimeout bounds one question for a box's health.
const checkTimeout = 2 * time.Second

// startCheck begins a round of checks, unless one is under way.
func (p *Pool) startCheck(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checking || p.closed {
		return
	}
	p.checking = true
	p.jobs.Go(func() {
		p.checkAll(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.checking = false
	})
}

// checkAll asks every warm box for its health, measures one box of each kind, and
// destroys those that do not answer. A box that is leased meanwhile is left alone.
func (p *Pool) checkAll(ctx context.Context) {
	p.mu.Lock()
	var warm []*Box
	sample := map[*Box]Stage{}
	for _, s := range p.shelves {
		warm = append(warm, s.warm...)
		for stage, shelf := range map[Stage][]*Box{StageWarm: s.warm, StageCold: s.cold} {
			if len(shelf) > 0 {
				sample[shelf[len(shelf)-1]] = stage // the newest: least likely to be leased now
			}
		}
	}
	p.mu.Unlock()
	for b, stage := range sample {
		p.measure(b, stage)
	}
	if p.cfg.Check == nil {
		return
	}
	for _, b := range warm {
		err := p.check(ctx, b)
		if err != nil && ctx.Err() == nil {
			err = p.check(ctx, b)
		}
		if err == nil || ctx.Err() != nil || !p.withdraw(b) {
			continue
		}
		p.cfg.Log.WarnContext(ctx, "a waiting box does not serve", "box", b.ID, "template", b.Template.Name, "err", err)
		p.discard(b)
		p.poke()
	}
}

func (p *Pool) check(ctx context.Context, b *Box) error {
	if b.Dead() {
		return errors.New("its main process is gone")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return p.cfg.Check(ctx, b)
}

// withdraw takes a sick box off its shelf, if it is there.
func (p *Pool) withdraw(b *Box) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelves[b.Template.Digest]
	if s == nil {
		return false
	}
	i := slices.Index(s.warm, b)
	if i < 0 {
		return false
	}
	p.bookLocked(time.Now())
	s.warm = slices.Delete(s.warm, i, i+1)
	s.ledger.Wasted[WasteSick]++
	return true
}

// measure learns what memory a waiting box takes. Cache that the kernel can take
// back does not count.
func (p *Pool) measure(b *Box, stage Stage) {
	u, err := b.Part.Usage()
	if err != nil || u.Memory <= u.Cache {
		return // it goes away
	}
	mb := float64(u.Memory-u.Cache) / 1e6
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bookLocked(time.Now())
	l := p.ledgerLocked(b.Template.Name)
	if stage == StageCold {
		measured(&l.ColdMB, mb)
	} else {
		measured(&l.WarmMB, mb)
	}
}
