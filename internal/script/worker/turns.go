package worker

import (
	"slices"
	"sync"
	"time"
)

// turn is how long a group has the turn.
const turn = 20 * time.Millisecond

// turns are the groups of what is not urgent: runs of which nothing is known, runs
// that have become long, workers that start, clean up or are taken down. They get
// the processor time that nobody else wants, and one of them at a time, in turn, a
// quarter of an ordinary share: that all get on, and few are in anybody's way, is
// worth more than that each gets on fast. The zero value is ready. It may be used
// from any goroutine.
type turns struct {
	mu     sync.Mutex
	groups []*group // the first has the turn
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
	t.passLocked()
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
		t.passLocked()
	}
	g.setRank(rankFront)
}

// hurry gives a group that joined the turn now: it has to end.
func (t *turns) hurry(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.groups, g)
	if i <= 0 {
		return
	}
	t.groups[0].setRank(rankIdle)
	t.groups = slices.Insert(slices.Delete(t.groups, i, i+1), 0, g)
	t.passLocked()
}

// next ends a turn.
func (t *turns) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = nil
	if len(t.groups) > 1 {
		t.groups[0].setRank(rankIdle)
		t.groups = append(t.groups[1:], t.groups[0])
	}
	t.passLocked()
}

// passLocked gives the first group the turn, and sees that it ends where others wait.
func (t *turns) passLocked() {
	if len(t.groups) == 0 {
		return
	}
	t.groups[0].setRank(rankTurn)
	if len(t.groups) > 1 && t.timer == nil {
		t.timer = time.AfterFunc(turn, t.next)
	}
}
