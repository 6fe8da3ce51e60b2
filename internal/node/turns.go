package node

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// turnsEvery is how often it is decided which sandboxes go first on the
// processors. A program that has just become busy, or was done, is seen that late.
const turnsEvery = 250 * time.Millisecond

// turns decides which sandboxes go first on the processors.
type turns struct {
	busy, idle time.Duration // at the last look
	at         time.Time
	of         map[*lease]*turn
	background atomic.Int64
}

// turn is one sandbox's.
type turn struct {
	quota.Turn
	cpu time.Duration // at the last look
	in  bool          // the box is in the background
}

// Background returns how many sandboxes let the others go first on the processors.
func (n *Node) Background() int { return int(n.turns.background.Load()) }

// takeTurns puts the sandboxes that keep processors busy behind the others.
func (n *Node) takeTurns(now time.Time) {
	t := &n.turns
	busy, idle, err := n.cfg.Processors()
	if err != nil {
		return // the next look has it
	}
	span, worked, rested := now.Sub(t.at), busy-t.busy, idle-t.idle
	first := t.at.IsZero()
	t.at, t.busy, t.idle = now, busy, idle
	if first || span <= 0 {
		return
	}
	// Where half a core is all that runs, nobody waits for anybody.
	if worked < span/2 && n.Background() == 0 {
		clear(t.of)
		return
	}
	before := t.of
	t.of = make(map[*lease]*turn, len(before))
	var all []*quota.Turn
	for _, l := range n.leases() {
		cpu, err := l.box.Part.CPUTime()
		if err != nil {
			continue // the box is gone
		}
		is, known := before[l]
		if !known {
			is = &turn{cpu: cpu}
		}
		is.Limit, is.Used, is.cpu = l.sandbox().Limits.CPU, float64(cpu-is.cpu)/float64(span), cpu
		t.of[l] = is
		all = append(all, &is.Turn)
	}
	var cores, others float64
	if worked > 19*rested {
		cores, others = float64(worked+rested)/float64(span), float64(worked)/float64(span)
		for _, is := range all {
			others -= is.Used
		}
	}
	quota.TakeTurns(all, cores, max(others, 0))
	var count int64
	for l, is := range t.of {
		if is.Background != is.in {
			if err := l.box.Part.Background(is.Background); err != nil {
				if !errors.Is(err, errors.ErrUnsupported) {
					n.cfg.Log.Debug("change a sandbox's turn", "sandbox", l.sandbox().ID, "err", err)
				}
				continue
			}
			is.in = is.Background
		}
		if is.in {
			count++
		}
	}
	t.background.Store(count)
}
