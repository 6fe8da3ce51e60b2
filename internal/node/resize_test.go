package node_test

import (
	"errors"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// A change is booked, in force on the host, told to the box and durable; one that
// is refused changes nothing of that.
func TestResize(t *testing.T) {
	w := newWorld(t)
	most := unbounded
	most[quota.CPU] = 8000
	w.limited(bulkhead.Tier{Name: "t", Multiplier: 1, Quota: bulkhead.Quota{MemoryMB: 3000, Sandbox: bulkhead.Limits{Pids: 1000, Connections: 9999}}}, quota.Config{}, most)
	n := w.node()
	sb := w.create(n, request())
	w.create(n, request())
	part := w.parts.Part(sb.Box)
	part.Use(pool.Usage{Memory: 700 << 20, Cache: 100 << 20})
	now := sb.Limits
	check := func(name string) {
		t.Helper()
		row, err := w.store.Sandbox(t.Context(), "t1", sb.ID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := n.Get(t.Context(), "t1", sb.ID)
		if err != nil {
			t.Fatal(err)
		}
		h, told := n.Host().Granted, boxrpc.Limits{}
		if k := len(w.envd.limits); k > 0 {
			told = w.envd.limits[k-1]
		}
		if got.Limits != now || got.Allocation.Limits != now || row.Limits != now || row.Allocation.Limits != now || part.Bound() != now ||
			h.MemoryMB != now.MemoryMB+1024 || h.CPU != now.CPU+2 || told != (boxrpc.Limits{}) && told.MemoryBytes != now.MemoryMB<<20 {
			t.Errorf("after %s: sandbox %+v, row %+v, on the host %+v, in the book %+v, in the box %+v; want %+v",
				name, got.Limits, row.Limits, part.Bound(), h, told, now)
		}
	}
	check("create")
	for _, tt := range []struct {
		name  string
		want  bulkhead.Limits
		code  bulkhead.Code
		limit string
		fail  bool
	}{
		{name: "up", want: bulkhead.Limits{CPU: 3, MemoryMB: 1900, Pids: 900, BandwidthKbps: 5000, Connections: 9000}},
		{name: "down", want: bulkhead.Limits{CPU: 0.5, MemoryMB: 800, Connections: 10}},
		{name: "both ways", want: bulkhead.Limits{CPU: 4, MemoryMB: 700, Pids: 64}},
		{name: "the same", want: bulkhead.Limits{CPU: 4}},
		{name: "memory in use", want: bulkhead.Limits{MemoryMB: 650}, code: bulkhead.CodeConflict, limit: "sandbox.memoryMB"},
		{name: "the tenant's sum", want: bulkhead.Limits{MemoryMB: 2500}, code: bulkhead.CodeQuotaExceeded, limit: "tenant.memoryMB"},
		{name: "the tenant's maximum", want: bulkhead.Limits{Pids: 1001}, code: bulkhead.CodeQuotaExceeded, limit: "tenant.sandbox.pids"},
		{name: "the tenant's maximum of connections", want: bulkhead.Limits{Connections: 10_000}, code: bulkhead.CodeQuotaExceeded, limit: "tenant.sandbox.connections"},
		{name: "the host's", want: bulkhead.Limits{CPU: 6.5}, code: bulkhead.CodeUnavailable, limit: "host.cpu"},
		{name: "disk", want: bulkhead.Limits{DiskMB: 4096}, code: bulkhead.CodeUnsupported},
		{name: "nothing", code: bulkhead.CodeInvalid},
		{name: "out of range", want: bulkhead.Limits{CPU: -1}, code: bulkhead.CodeInvalid},
		{name: "a broken host", want: bulkhead.Limits{CPU: 1, MemoryMB: 1500}, code: bulkhead.CodeInternal, fail: true},
		{name: "up again", want: bulkhead.Limits{CPU: 5}},
	} {
		if tt.fail {
			w.parts.FailOnce("Bind", errors.New("planned"))
		}
		_, err := n.Resize(t.Context(), "t1", sb.ID, tt.want)
		var e *bulkhead.Error
		if bulkhead.CodeOf(err) != tt.code || tt.limit != "" && (!errors.As(err, &e) || e.Limit == nil || e.Limit.Name != tt.limit) {
			t.Errorf("%s: %v, want %s by %s", tt.name, err, tt.code, tt.limit)
		}
		if tt.code == "" {
			now = tt.want.Or(now)
		}
		check(tt.name)
	}
	if _, err := n.Resize(t.Context(), "t2", sb.ID, bulkhead.Limits{CPU: 1}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("another tenant's: %v", err)
	}
	w.envd.answer(500) // a box that does not listen is bounded all the same
	if _, err := n.Resize(t.Context(), "t1", sb.ID, bulkhead.Limits{MemoryMB: 900}); err != nil || part.Bound().MemoryMB != 900 {
		t.Errorf("a deaf box: %v, %+v", err, part.Bound())
	}
	second := fork(t, w)
	if got, err := second.node().Get(t.Context(), "t1", sb.ID); err != nil || got.Limits.MemoryMB != 900 || got.Limits.CPU != 5 {
		t.Errorf("after a restart: %+v, %v", got.Limits, err)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Resize(t.Context(), "t1", sb.ID, bulkhead.Limits{CPU: 1}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("after its end: %v", err)
	}
	if h := n.Host(); h.Granted != (bulkhead.Sums{}) {
		t.Errorf("left: %+v", h)
	}
}
