package worker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// While quick programs run, turn is how long a group has the turn, and pause how
// long then nobody has; otherwise longTurn is how long, with no pause.
const (
	turn     = 5 * time.Millisecond
	pause    = 3 * turn
	longTurn = 20 * time.Millisecond
)

// turns are the groups of what is not urgent: runs of which nothing is known, runs
// that have become long, workers that start, clean up or are taken down. They get
// the processor time that nobody else wants, and one of them at a time, in turn, half
// an ordinary share for a moment: that all get on, and few are in anybody's way, is
// worth more than that each gets on fast. The zero value is ready. It may be used
// from any goroutine.
type turns struct {
	quick atomic.Int64 // quick runs ever begun

	mu     sync.Mutex
	seen   int64    // of these, at the end of the last turn
	groups []*group // in the order of their turns
	on     bool     // the first has the turn
	timer  *time.Timer
}

// join puts a group among them, unless it is there. A nil group has no turns.
func (t *turns) join(g *group) {
	if g == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.groups, g) {
		return
	}
	i := 0 // who is new has the next turn: most need few
	if t.on {
		i = 1
	}
	t.groups = slices.Insert(t.groups, i, g)
	g.setRank(rankIdle)
	if t.timer == nil {
		t.beginLocked()
	}
}

// leave takes a group out, for an ordinary share.
func (t *turns) leave(g *group) {
	if g == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.groups, g); i >= 0 {
		t.groups = slices.Delete(t.groups, i, i+1)
		t.on = t.on && i > 0
	}
	g.setRank(rankFront)
}

// hurry gives a group that joined the turn now: it has to end.
func (t *turns) hurry(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.groups, g)
	if i < 0 {
		return
	}
	if t.on {
		t.groups[0].setRank(rankIdle)
	}
	t.groups = slices.Insert(slices.Delete(t.groups, i, i+1), 0, g)
	t.beginLocked()
}

// beginLocked gives the first group the turn.
func (t *turns) beginLocked() {
	t.on = true
	t.groups[0].setRank(rankTurn)
	if t.quick.Load() != t.seen {
		t.waitLocked(turn)
	} else {
		t.waitLocked(longTurn)
	}
}

// waitLocked calls next in a while.
func (t *turns) waitLocked(d time.Duration) {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(d, t.next)
}

// next ends a turn, or a pause.
func (t *turns) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.groups) == 0:
		t.timer, t.on = nil, false
	case t.on:
		quick := t.quick.Load()
		t.on = quick == t.seen
		t.seen = quick
		first := t.groups[0]
		t.groups = append(t.groups[1:], first)
		if !t.on || t.groups[0] != first {
			first.setRank(rankIdle)
		}
		if t.on {
			t.beginLocked()
		} else {
			t.waitLocked(pause)
		}
	default:
		t.beginLocked()
	}
}
