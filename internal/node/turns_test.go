package node_test

import (
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// A sandbox that keeps the processors busy is put behind the others, and comes
// back when it is done, when it is resized or taken over by another server.
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
		if w.parts.Part(calm.Box).InBackground() {
			t.Error("the calm one is in the background")
		}
	}
	check := func(n *node.Node, what string, want bool) {
		t.Helper()
		if got := w.parts.Part(hog.Box).InBackground(); got != want {
			t.Errorf("%s: in the background %v, want %v", what, got, want)
		}
		count := map[bool]int{true: 1}[want]
		if got := n.Background(); got != count {
			t.Errorf("%s: %d are in the background, want %d", what, got, count)
		}
	}
	const ms = time.Millisecond
	look(n, 0, 0, 500*ms)
	look(n, 400*ms, 50*ms, 50*ms)
	look(n, 100*ms, 50*ms, 350*ms)
	check(n, "busy once", false)
	for range 3 {
		look(n, 400*ms, 50*ms, 50*ms)
	}
	check(n, "busy for long", true)
	look(n, 10*ms, 50*ms, 440*ms)
	check(n, "done", false)
	for range 4 {
		look(n, 460*ms, 40*ms, 0)
	}
	check(n, "all of a full host", true)
	look(n, 5*ms, 495*ms, 0) // in two looks it is the other's turn
	check(n, "starved", false)
	for range 3 {
		look(n, 400*ms, 50*ms, 50*ms)
	}
	check(n, "busy again", true)

	n = w.node()
	if _, err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(n, "taken over", false)
	if err := n.Kill(t.Context(), "t1", hog.ID); err != nil {
		t.Fatal(err)
	}
	now, busy, idle = now.Add(time.Second), busy+time.Second, idle+time.Second
	n.TakeTurns(now)
	if n.Background() != 0 {
		t.Error("one that has ended is in the background")
	}
}
