package node_test

import (
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// A sandbox that keeps the processors busy is put behind the others, and comes
// back when it is done, when it is starved or taken over by another server.
func TestTurns(t *testing.T) {
	w := newWorld(t)
	var busy, idle time.Duration
	w.change = func(c *node.Config) {
		c.Processors = func() (time.Duration, time.Duration, error) { return busy, idle, nil }
	}
	n := w.node()
	hog, calm := w.create(n, request()), w.create(n, request())
	now := time.Now()
	var used [2]time.Duration
	// look says what was used in the quarter of a second before it.
	look := func(n *node.Node, hogs, calms, rest time.Duration) {
		t.Helper()
		used[0], used[1] = used[0]+hogs, used[1]+calms
		busy, idle, now = busy+hogs+calms, idle+rest, now.Add(250*time.Millisecond)
		w.parts.Part(hog.Box).Use(pool.Usage{CPU: used[0]})
		w.parts.Part(calm.Box).Use(pool.Usage{CPU: used[1]})
		n.TakeTurns(now)
	}
	check := func(n *node.Node, what string, wantHog, wantCalm bool) {
		t.Helper()
		gotHog, gotCalm := w.parts.Part(hog.Box).InBackground(), w.parts.Part(calm.Box).InBackground()
		if gotHog != wantHog || gotCalm != wantCalm {
			t.Errorf("%s: the hog is in the background %v, the calm one %v; want %v, %v", what, gotHog, gotCalm, wantHog, wantCalm)
		}
		count := 0
		for _, in := range []bool{wantHog, wantCalm} {
			if in {
				count++
			}
		}
		if got := n.Background(); got != count {
			t.Errorf("%s: %d are in the background, want %d", what, got, count)
		}
	}
	const ms = time.Millisecond
	look(n, 0, 0, 500*ms)
	look(n, 200*ms, 50*ms, 250*ms)
	look(n, 50*ms, 50*ms, 400*ms)
	check(n, "busy once", false, false)
	for range 3 {
		look(n, 400*ms, 50*ms, 50*ms)
	}
	check(n, "busy for long", true, false)
	for range 4 {
		look(n, 10*ms, 50*ms, 440*ms)
	}
	check(n, "done", false, false)
	for range 4 {
		look(n, 460*ms, 40*ms, 0)
	}
	check(n, "all of a full host", true, false)
	for range 4 {
		look(n, 5*ms, 495*ms, 0)
	}
	check(n, "starved by what was calm", false, true)
	for range 5 {
		look(n, 400*ms, 50*ms, 50*ms)
	}
	check(n, "busy again", true, false)

	n = w.node()
	if _, err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.parts.Part(hog.Box).InBackground() {
		t.Error("taken over by another server it is in the background")
	}
	if err := n.Kill(t.Context(), "t1", hog.ID); err != nil {
		t.Fatal(err)
	}
	now, busy, idle = now.Add(time.Second), busy+time.Second, idle+time.Second
	n.TakeTurns(now)
	if n.Background() != 0 {
		t.Error("one that has ended is in the background")
	}
}
