package node_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/quota"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/store/pgtest"
)

// tiers are the tenants' tiers, by tenant.
type tiers map[string]bulkhead.Tier

func (ts tiers) Entitlement(_ context.Context, tenant string) (bulkhead.Tier, error) {
	t, ok := ts[tenant]
	if !ok {
		return t, bulkhead.Errorf(bulkhead.CodeNotFound, "tenant %q does not exist", tenant)
	}
	return t, nil
}

func (ts tiers) UsageToday(_ context.Context, tenant string) (bulkhead.Usage, error) {
	return bulkhead.Usage{CPUSeconds: used[tenant], GBSeconds: 3600}, nil
}

// used are the CPU-seconds that tenants have used today.
var used = map[string]float64{"t1": 50, "t2": 150}

// limited makes the world's nodes keep to a tier, and to what a host can promise.
// Each node gets a book of its own, as each start of a server does.
func (w *world) limited(tier bulkhead.Tier, cfg quota.Config, most quota.Amounts) {
	w.change = func(c *node.Config) {
		c.Tenants = tiers{"t1": tier, "t2": tier}
		c.Book = quota.New(cfg)
		c.Book.See(time.Now(), quota.Host{Most: most, Free: unbounded})
	}
}

var unbounded = quota.Amounts{quota.Unlimited, quota.Unlimited, quota.Unlimited, quota.Unlimited}

// What a tier makes of a request is in force on the host, told to the box, shown
// with its reasons and still there after a restart.
func TestAllocation(t *testing.T) {
	w := newWorld(t)
	w.limited(bulkhead.Tier{Name: "free", Multiplier: 0.5, Priority: 1, Quota: bulkhead.Quota{Sandboxes: 2, TTLSeconds: 60, CPUSecondsPerDay: 100}}, quota.Config{}, unbounded)
	n := w.node()
	sb := w.create(n, request())
	if sb.Limits.CPU != 1 || sb.Limits.MemoryMB != 512 || w.parts.Part(sb.Box).Bound() != sb.Limits || w.envd.inits[0].MemoryBytes != 512<<20 {
		t.Errorf("limits %+v, on the host %+v, in the box %d", sb.Limits, w.parts.Part(sb.Box).Bound(), w.envd.inits[0].MemoryBytes)
	}
	if a := sb.Allocation; a == nil || a.Sandbox != sb.ID || a.Limits != sb.Limits || a.Priority != 1 || len(a.Reasons) != 3 {
		t.Errorf("allocation %+v", a)
	}
	if ttl := sb.EndAt.Sub(sb.StartedAt); ttl != time.Minute {
		t.Errorf("it lives for %s", ttl)
	}
	if later, err := n.SetDeadline(t.Context(), "t1", sb.ID, time.Now().Add(time.Hour), false); err != nil || later.EndAt.Sub(sb.StartedAt) != time.Minute {
		t.Errorf("after a longer deadline it ends %s, %v", later.EndAt, err)
	}
	w.create(n, request())
	_, err := n.Create(t.Context(), request())
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != bulkhead.CodeQuotaExceeded || e.Limit == nil || e.Limit.Name != "tenant.sandboxes" || e.Limit.Used != 2 {
		t.Errorf("a third: %v", err)
	}
	if q, err := n.Quota(t.Context(), "t1"); err != nil || q.Used.Sandboxes != 2 || q.Used.MemoryMB != 1024 || q.Tier.Quota.Sandboxes != 2 {
		t.Errorf("%+v, %v", q, err)
	}
	if a, err := n.WhatIf(t.Context(), request(), 1); err != nil || a.Fits || len(a.Blocks) != 1 || a.Blocks[0].Name != "tenant.sandboxes" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := n.WhatIf(t.Context(), request(), 0); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("what if none: %v", err)
	}

	req := request()
	req.Tenant = "t2"
	if _, err := n.Create(t.Context(), req); !errors.As(err, &e) || e.Limit.Name != "tenant.cpuSecondsPerDay" || e.Limit.Used != 150 || e.RetryAfter <= 0 {
		t.Errorf("after the day's use: %v", err)
	}
	if q, err := n.Quota(t.Context(), "t2"); err != nil || q.Today.CPUSeconds != 150 || q.Today.GBHours != 1 {
		t.Errorf("%+v, %v", q, err)
	}

	second := fork(t, w)
	n = second.node()
	got, err := n.Get(t.Context(), "t1", sb.ID)
	if err != nil || got.Allocation == nil || len(got.Allocation.Reasons) != 3 {
		t.Errorf("after a restart: %+v, %v", got.Allocation, err)
	}
	if q, err := n.Quota(t.Context(), "t1"); err != nil || q.Used.Sandboxes != 2 || q.Used.MemoryMB != 1024 || q.Used.CPU != 2 {
		t.Errorf("after a restart: %+v, %v", q, err)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h := n.Host(); h.Granted != (bulkhead.Sums{}) || h.Bookings != 0 {
		t.Errorf("left: %+v", h)
	}
}

// A tier cannot take a sandbox below what its box holds already.
func TestScaledNotBelowUse(t *testing.T) {
	w := newWorld(t)
	w.limited(bulkhead.Tier{Name: "tiny", Multiplier: 0.1}, quota.Config{}, unbounded)
	w.parts.PresetUsage(pool.Usage{Memory: 400 << 20, Cache: 100 << 20})
	sb := w.create(w.node(), request())
	if want := int64(300 + 75 + 16); sb.Limits.MemoryMB != want || w.parts.Part(sb.Box).Bound().MemoryMB != want || sb.Limits.CPU != 0.2 {
		t.Errorf("limits %+v, want %d MiB", sb.Limits, want)
	}
	reasons := sb.Allocation.Reasons
	if last := reasons[len(reasons)-1]; last.Field != "memoryMB" || last.Detail != "raised to what its box needs, from 102 MiB" {
		t.Errorf("%+v", reasons)
	}
}

// What a sandbox does not use is lent to others, and comes back when it uses it; its
// own limit stays what it was granted.
func TestLending(t *testing.T) {
	w := newWorld(t)
	most := unbounded
	most[quota.Memory], most[quota.CPU] = 2000, 4000
	w.limited(bulkhead.Tier{Name: "t", Multiplier: 1}, quota.Config{Share: 0.25, Settle: time.Nanosecond}, most)
	n := w.node()
	sb := w.create(n, request()) // 1024 MiB, 2 cores
	part := w.parts.Part(sb.Box)
	now := time.Now()
	use := func(cpu time.Duration, memory int64) bulkhead.Sums {
		now = now.Add(time.Second)
		part.Use(pool.Usage{CPU: cpu, Memory: memory << 20})
		n.Measure(now)
		return n.Host().Booked
	}
	if b := n.Host().Booked; b.MemoryMB != 256 || b.CPU != 0.5 {
		t.Errorf("at first %+v", b)
	}
	use(time.Second, 100)
	if b := use(2*time.Second, 800); b.MemoryMB != 1024 || b.CPU != 1.3 {
		t.Errorf("with 800 MiB and a core in use %+v", b)
	}
	a := w.create(n, request())
	w.create(n, request())
	if err := n.Kill(t.Context(), "t1", a.ID); err != nil {
		t.Fatal(err)
	}
	w.until("its box is gone", func() bool { return n.Host().Bookings == 2 })
	for range 40 {
		use(2*time.Second, 100)
	}
	if b := use(2*time.Second, 100); b.MemoryMB != 2*256 || b.CPU != 1 {
		t.Errorf("long idle %+v", b)
	}
	if bound := part.Bound(); bound.MemoryMB != 1024 || bound.CPU != 2 {
		t.Errorf("its limit became %+v", bound)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b := n.Host().Booked; b != (bulkhead.Sums{}) {
		t.Errorf("left: %+v", b)
	}
}

// Who may wait gets the place of who ends; who does not, hears how long that is
// expected to take.
func TestWaitForAPlace(t *testing.T) {
	w := newWorld(t)
	w.limited(bulkhead.Tier{Name: "one", Multiplier: 1, Quota: bulkhead.Quota{Sandboxes: 1}}, quota.Config{}, unbounded)
	n := w.node()
	first := w.create(n, request())
	req := request()
	req.Wait = time.Minute
	got := make(chan error, 1)
	go func() {
		_, err := n.Create(t.Context(), req)
		got <- err
	}()
	for { // until it waits
		if q, err := n.Quota(t.Context(), "t1"); err != nil {
			t.Fatal(err)
		} else if q.Waiting == 1 {
			break
		}
		<-time.After(time.Millisecond)
	}
	if err := n.Kill(t.Context(), "t1", first.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	req.Wait = time.Millisecond
	_, err := n.Create(t.Context(), req)
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != bulkhead.CodeQuotaExceeded || e.Limit.WaitSeconds <= 0 {
		t.Errorf("after it waited in vain: %+v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	req.Wait = time.Minute
	go func() {
		_, err := n.Create(ctx, req)
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() {
		_, err := n.Create(t.Context(), req)
		got <- err
	}()
	n.Drain()
	if err := <-got; bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("draining: %v", err)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h := n.Host(); h.Bookings != 0 || h.Waiting != 0 {
		t.Errorf("left: %+v", h)
	}
}

// 64 clients, one tenant, limits of the tenant and of the host that both hold them
// up, sandboxes that die at random, boxes that cannot be bound, servers that are
// killed at random: never more than the limits, and nothing in the end.
func TestRace(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { race(t, newWorld(t)) })
	t.Run("postgres", func(t *testing.T) {
		pg := pgtest.Start(t)
		race(t, newWorldOn(t, func(t *testing.T) *store.Store { return openStore(t, pg.Database(t)) }))
	})
}

func race(t *testing.T, w *world) {
	t.Helper()
	const (
		sandboxes = 24     // the tenant's
		memory    = 9000   // the tenant's, MiB
		cores     = 14_000 // the host's, in thousandths
		clients   = 64     //
		creates   = 12     // by each
	)
	most := unbounded
	most[quota.CPU] = cores
	w.limited(bulkhead.Tier{Name: "t", Multiplier: 1, Quota: bulkhead.Quota{Sandboxes: sandboxes, MemoryMB: memory}},
		quota.Config{HoldAfter: 20 * time.Millisecond}, most)
	n := w.node()
	var g sync.WaitGroup
	var mu sync.Mutex
	counts := map[string]int{}
	count := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		counts[what]++
	}
	for c := range clients {
		g.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(c)))
			for range creates {
				req := request()
				req.Limits = bulkhead.Limits{CPU: float64(1+r.IntN(30)) / 10, MemoryMB: 64 + r.Int64N(1500)}
				req.Priority = []bulkhead.Priority{"", "low", "high"}[r.IntN(3)]
				req.Wait = time.Duration(r.IntN(40)-1) * time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+r.IntN(200))*time.Millisecond)
				sb, err := n.Create(ctx, req)
				cancel()
				if err != nil {
					count("refused: " + string(bulkhead.CodeOf(err)))
					continue
				}
				count("made")
				if r.IntN(2) == 0 {
					l := bulkhead.Limits{CPU: float64(1+r.IntN(30)) / 10, MemoryMB: 64 + r.Int64N(1500)}
					if _, err := n.Resize(t.Context(), "t1", sb.ID, l); err == nil {
						count("resized")
					}
				}
				switch r.IntN(4) {
				case 0:
					w.driver.Crash(sb.Box)
				case 1:
					if r.IntN(4) == 0 { // and whoever else comes now
						w.parts.Fail("Bind", errors.New("a broken host"))
						_, _ = n.Create(t.Context(), request())
						w.parts.Fail("Bind", nil)
					}
				}
				if err := n.Kill(t.Context(), "t1", sb.ID); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
					t.Error(err)
				}
			}
		})
	}
	forks := make(chan struct{})
	go func() { // servers that are killed meanwhile, and what the next ones find
		defer close(forks)
		for range 4 {
			restarted(t, fork(t, w), memory, cores)
		}
	}()
	<-forks
	g.Wait()
	w.parts.Fail("Bind", nil)
	_, peak := w.parts.Sum()
	if peak.Bound > sandboxes || peak.MemoryMB > memory || peak.MilliCPU > cores {
		t.Errorf("overshoot: %+v", peak)
	}
	t.Logf("%v", counts)
	t.Logf("at most %+v at once", peak)
	if peak.MemoryMB < memory*3/4 || peak.MilliCPU < cores*3/4 {
		t.Errorf("the limits were not reached: %+v", peak)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.nothingLeft(n)
	if h := n.Host(); h.Bookings != 0 || h.Waiting != 0 || h.Granted != (bulkhead.Sums{}) || h.Booked != (bulkhead.Sums{}) {
		t.Errorf("left in the book: %+v", h)
	}
	if now, _ := w.parts.Sum(); now.Bound != 0 || now.MemoryMB != 0 {
		t.Errorf("left on the host: %+v", now)
	}
	if q, err := n.Quota(t.Context(), "t1"); err != nil || q.Used != (bulkhead.Sums{}) {
		t.Errorf("left of the tenant: %+v, %v", q, err)
	}
}

// restarted checks that books, rows and host agree after a start on what a killed
// server left, and that nothing of it stays.
func restarted(t *testing.T, w *world, memory, cores int64) {
	t.Helper()
	w.parts.Fail("Bind", nil)
	n := w.node()
	live, err := n.List(t.Context(), bulkhead.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var sum bulkhead.Sums
	for _, sb := range live {
		row, err := w.store.Sandbox(t.Context(), "", sb.ID)
		if err != nil || row.State != bulkhead.StateRunning || row.Limits != sb.Limits {
			t.Errorf("row %+v of %+v, %v", row, sb, err)
		}
		if bound := w.parts.Part(sb.Box).Bound(); bound != sb.Limits {
			t.Errorf("sandbox %s has %+v in its row and %+v on the host", sb.ID, sb.Limits, bound)
		}
		sum.Sandboxes++
		sum.CPU += sb.Limits.CPU
		sum.MemoryMB += sb.Limits.MemoryMB
	}
	h := n.Host()
	if h.Granted.Sandboxes != sum.Sandboxes || h.Granted.MemoryMB != sum.MemoryMB || int64(h.Granted.CPU*1000+.5) != int64(sum.CPU*1000+.5) {
		t.Errorf("after a restart the book has %+v, the sandboxes have %+v", h.Granted, sum)
	}
	if sum.MemoryMB > memory || int64(sum.CPU*1000+.5) > cores {
		t.Errorf("after a restart %+v", sum)
	}
	if w.parts.Taken() != len(live) {
		t.Errorf("%d boxes for %d sandboxes", w.parts.Taken(), len(live))
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	w.nothingLeft(n)
	if h := n.Host(); h.Bookings != 0 || h.Granted != (bulkhead.Sums{}) {
		t.Errorf("left: %+v", h)
	}
}
