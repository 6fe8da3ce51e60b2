package node_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// used returns what the tenant of the tests used.
func (w *world) used() bulkhead.Usage {
	w.t.Helper()
	now := time.Now()
	rows, err := w.store.Usage(w.t.Context(), store.UsageQuery{Tenant: "t1", From: now.Add(-24 * time.Hour), To: now, By: store.ByTenant})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(rows) == 0 {
		return bulkhead.Usage{}
	}
	return rows[0].Usage
}

// until waits for the store to say so.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		<-time.After(2 * time.Millisecond) // the store has no event for it
	}
	w.t.Fatalf("waited in vain until %s", what)
}

// run runs the node's sampling; the function that it returns ends it.
func (w *world) run(n *node.Node) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// A sandbox that no sample ever saw is accounted for to the last tick when Kill
// returns, without what its box used while it waited for somebody.
func TestShortSandboxCountsExactly(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	began := time.Now()
	sb := w.create(n, request())
	part := w.parts.Part(sb.Box)
	part.Count(bulkhead.Meter{CPU: 1234567 * time.Nanosecond, Egress: 1001, Ingress: 77})
	part.Use(pool.Usage{Memory: 3 << 30, Cache: 1 << 30})
	if err := n.Kill(t.Context(), "t1", sb.ID); err != nil {
		t.Fatal(err)
	}
	u, lived := w.used(), time.Since(began).Seconds()
	if u.Sandboxes != 1 || u.CPUSeconds != 0.001234567 || u.EgressBytes != 1001 || u.IngressBytes != 77 {
		t.Errorf("used %+v", u)
	}
	if u.Seconds <= 0 || u.Seconds > lived || u.GBSeconds < 1.9*u.Seconds || u.GBSeconds > 2.1*u.Seconds {
		t.Errorf("lived %v s of at most %v, with 2 GiB used %v GiB·s", u.Seconds, lived, u.GBSeconds)
	}
	w.nothingLeft(n)
}

// What a box used before its lease began is not its tenant's.
func TestWarmthIsFree(t *testing.T) {
	w := newWorld(t)
	w.parts.Preset(bulkhead.Meter{CPU: time.Hour, Egress: 1 << 40, Ingress: 1 << 40})
	n := w.node()
	sb := w.create(n, request())
	w.parts.Part(sb.Box).Count(bulkhead.Meter{CPU: time.Hour + time.Second, Egress: 1<<40 + 5, Ingress: 1<<40 + 6})
	if err := n.Kill(t.Context(), "t1", sb.ID); err != nil {
		t.Fatal(err)
	}
	if u := w.used(); u.CPUSeconds != 1 || u.EgressBytes != 5 || u.IngressBytes != 6 {
		t.Errorf("used %+v", u)
	}
}

// After kill -9 the next server counts on from the last sample: nothing is lost
// and nothing is twice.
func TestUsageSurvivesACrash(t *testing.T) {
	w := newWorld(t)
	w.sampleEvery = time.Millisecond
	first := w.node()
	alive, dead := w.create(first, request()), w.create(first, request())
	count := func(w *world, cpu time.Duration) {
		for _, sb := range []bulkhead.Sandbox{alive, dead} {
			w.parts.Part(sb.Box).Count(bulkhead.Meter{CPU: cpu, Egress: int64(cpu / time.Second)})
		}
	}
	stop := w.run(first)
	count(w, time.Second)
	w.until("both are sampled", func() bool { return w.used().CPUSeconds == 2 })
	stop()

	count(w, 3*time.Second) // after the last sample, before the crash
	second := fork(t, w)
	for _, sb := range []bulkhead.Sandbox{alive, dead} {
		m, err := w.store.Meter(t.Context(), sb.ID)
		if err != nil || m.CPU != time.Second {
			t.Fatalf("recorded reading: %+v, %v", m, err)
		}
		if err := second.store.AddUsage(t.Context(), []bulkhead.Metered{{
			Sandbox: sb.ID, Tenant: "t1", First: true, From: sb.StartedAt, To: m, CPU: m.CPU, Egress: m.Egress,
		}}); err != nil {
			t.Fatal(err)
		}
	}
	count(second, 10*time.Second) // while no server runs
	second.driver.Crash(dead.Box)
	n := second.node()
	if u := second.used(); u.CPUSeconds != 11 || u.EgressBytes != 11 || u.Sandboxes != 2 {
		t.Errorf("once the dead one is settled: %+v", u)
	}
	second.parts.Part(alive.Box).Count(bulkhead.Meter{CPU: 12 * time.Second, Egress: 12})
	if err := n.Kill(t.Context(), "t1", alive.ID); err != nil {
		t.Fatal(err)
	}
	if u := second.used(); u.CPUSeconds != 22 || u.EgressBytes != 22 || u.Sandboxes != 2 {
		t.Errorf("in the end: %+v", u)
	}
}

// broken is a store that records no usage for a while.
type broken struct {
	node.Store

	fails atomic.Bool
	calls atomic.Int64
}

func (b *broken) AddUsage(ctx context.Context, m []bulkhead.Metered) error {
	b.calls.Add(1)
	if b.fails.Load() {
		return errors.New("no")
	}
	return b.Store.AddUsage(ctx, m)
}

// Usage that could not be recorded is recorded later, of sandboxes that ended
// meanwhile, too.
func TestUsageWaitsForTheStore(t *testing.T) {
	w := newWorld(t)
	w.sampleEvery = time.Millisecond
	b := &broken{}
	b.fails.Store(true)
	w.through = func(s node.Store) node.Store { b.Store = s; return b }
	n := w.node()
	sb := w.create(n, request())
	w.parts.Part(sb.Box).Count(bulkhead.Meter{CPU: time.Second})
	stop := w.run(n)
	defer stop()
	w.until("some samples failed", func() bool { return b.calls.Load() > 5 })
	w.parts.Part(sb.Box).Count(bulkhead.Meter{CPU: 3 * time.Second})
	if err := n.Kill(t.Context(), "t1", sb.ID); err != nil {
		t.Fatal(err)
	}
	if u := w.used(); u != (bulkhead.Usage{}) {
		t.Fatalf("recorded %+v", u)
	}
	b.fails.Store(false)
	w.until("it is recorded", func() bool { return w.used().CPUSeconds == 3 })
	after := b.calls.Load()
	other := w.create(n, request()) // whose samples show that more rounds went by
	w.until("more samples are taken", func() bool { return b.calls.Load() > after+3 })
	if u := w.used(); u.CPUSeconds != 3 || u.Sandboxes > 2 {
		t.Errorf("later: %+v", u)
	}
	if err := n.Kill(t.Context(), "t1", other.ID); err != nil {
		t.Fatal(err)
	}
}
