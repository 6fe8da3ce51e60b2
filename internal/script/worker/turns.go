package worker

import (
	"slices"
	"sync"
	"time"
)

// turn is how long a group has the turn, and pause how long then nobody has.
const (
	turn  = 20 * time.Millisecond
	pause = 3 * turn
)

// turns are the groups of what is not urgent: runs of which nothing is known, runs
// that have become long, workers that start, clean up or are taken down. They get
// the processor time that nobody else wants, and one of them at a time, in turn, a
// quarter of an ordinary share: that all get on, and few are in anybody's way, is
// worth more than that each gets on fast. The zero value is ready. It may be used
// from any goroutine.
type turns struct {
	mu     sync.Mutex
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
	t.groups = append(t.groups, g)
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
	t.waitLocked(turn)
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
		t.on = false
		t.groups[0].setRank(rankIdle)
		t.groups = append(t.groups[1:], t.groups[0])
		t.waitLocked(pause)
	default:
		t.beginLocked()
	}
}
