package node_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/node"
)

// TestAdmit follows what an admission is asked and told: of a sandbox that lives,
// of one that is refused, and of ones that cannot be made or bound.
func TestAdmit(t *testing.T) {
	w := newWorld(t)
	var asked, made, ended atomic.Int64
	var refuse error
	w.change = func(cfg *node.Config) {
		cfg.Admit = func(_ context.Context, a node.Ask) (node.Admitted, error) {
			asked.Add(1)
			if a.Tenant != "t1" || a.Template.Digest != "sha256:b" || a.Limits.MemoryMB != 1024 || a.Priority != bulkhead.PriorityHigh {
				t.Errorf("asked for %+v", a)
			}
			return node.Admitted{
				Made:  func() { made.Add(1) },
				Ended: func(int64) { ended.Add(1) },
			}, refuse
		}
	}
	n := w.node()
	req := request()
	req.Priority = bulkhead.PriorityHigh
	counts := func(step string, wantAsked, wantMade, wantEnded int64) {
		t.Helper()
		if err := n.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked.Load() != wantAsked || made.Load() != wantMade || ended.Load() != wantEnded {
			t.Errorf("%s: asked %d, made %d, ended %d; want %d, %d, %d", step,
				asked.Load(), made.Load(), ended.Load(), wantAsked, wantMade, wantEnded)
		}
	}
	sb := w.create(n, req)
	counts("it lives", 1, 1, 0)
	if err := n.Kill(t.Context(), "t1", sb.ID); err != nil {
		t.Fatal(err)
	}
	counts("it ended", 1, 1, 1)

	refuse = bulkhead.Errorf(bulkhead.CodeUnavailable, "memory pressure is too high")
	if _, err := n.Create(t.Context(), req); bulkhead.CodeOf(err) != bulkhead.CodeUnavailable || bulkhead.Message(err) != "memory pressure is too high" {
		t.Errorf("a refused one gave %v", err)
	}
	counts("it was refused", 2, 1, 1)
	if got := n.Host(); got.Bookings != 0 {
		t.Errorf("a refused one keeps its place: %+v", got)
	}
	refuse = nil

	for i, fail := range []func(error){
		func(err error) { w.parts.Fail("Acquire", err) },
		func(err error) { w.parts.Fail("Bind", err) },
	} {
		fail(errors.New("planned"))
		if _, err := n.Create(t.Context(), req); err == nil {
			t.Error("no error")
		}
		counts("it could not be made", int64(3+i), 1, int64(2+i))
		fail(nil)
	}
	w.nothingLeft(n)
}
