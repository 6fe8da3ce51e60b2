package quota_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	none  = quota.Amounts{quota.Unlimited, quota.Unlimited, quota.Unlimited, quota.Unlimited}
)

func after(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }

// want is a request for memory, in MiB, by a tenant whose quota is q.
func want(tenant string, memory int64, q bulkhead.Quota) quota.Request {
	return quota.Request{
		Tenant: tenant, Tier: bulkhead.Tier{Name: "basic", Multiplier: 1, Priority: 2, Quota: q},
		Asked: bulkhead.Limits{MemoryMB: memory}, Defaults: bulkhead.DefaultLimits(), TTL: time.Hour,
	}
}

// host is one that can promise so much memory, in MiB.
func host(memory int64) quota.Host {
	h := quota.Host{Most: none, Free: none}
	h.Most[quota.Memory] = memory
	return h
}

func mustOffer(t *testing.T, b *quota.Book, now time.Time, r quota.Request) *quota.Booking {
	t.Helper()
	k, err := b.Offer(now, r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// refused fails unless err has the code and names the limit, and returns it.
func refused(t *testing.T, err error, code bulkhead.Code, limit string) *bulkhead.Error {
	t.Helper()
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != code || e.Limit == nil || e.Limit.Name != limit {
		t.Fatalf("got %v (%+v), want %s by %s", err, e, code, limit)
	}
	return e
}

// isGranted reports whether a booking that waited has its place.
func isGranted(k *quota.Booking) bool {
	select {
	case <-k.Ready():
		return true
	default:
		return k.Ready() == nil
	}
}

func TestOwnLimits(t *testing.T) {
	b := quota.New(quota.Config{})
	q := bulkhead.Quota{Sandboxes: 3, MemoryMB: 2048, CPU: 5}
	first := mustOffer(t, b, start, want("a", 1024, q))
	_, err := b.Offer(start, want("a", 2000, q))
	e := refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.memoryMB")
	if diff := cmp.Diff(&bulkhead.LimitEvidence{Name: "tenant.memoryMB", Limit: 2048, Used: 1024, Asked: 2000, Unit: "MiB"}, e.Limit); diff != "" {
		t.Error(diff)
	}
	_, err = b.Offer(start, want("a", 4096, q))
	if e := refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.memoryMB"); !e.Limit.Never || e.RetryAfter != 0 {
		t.Errorf("what can never fit: %+v", e)
	}
	mustOffer(t, b, start, want("a", 512, q))
	_, err = b.Offer(start, want("a", 64, q))
	if e := refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.cpu"); e.Limit.Used != 4 || e.Limit.Asked != 2 || e.Limit.Limit != 5 {
		t.Errorf("%+v", e.Limit)
	}
	mustOffer(t, b, start, want("b", 2048, q)) // another tenant has its own
	first.Return(start)
	first.Return(start)
	if v := b.View("a", bulkhead.Tier{}); v.Used != (bulkhead.Sums{Sandboxes: 1, CPU: 2, MemoryMB: 512, DiskMB: 2048}) {
		t.Errorf("after a return and another of the same: %+v", v.Used)
	}
}

func TestHostLimits(t *testing.T) {
	b := quota.New(quota.Config{})
	b.See(start, host(1000))
	mustOffer(t, b, start, want("a", 600, bulkhead.Quota{}))
	_, err := b.Offer(start, want("b", 600, bulkhead.Quota{}))
	if e := refused(t, err, bulkhead.CodeUnavailable, "host.memoryMB"); e.RetryAfter <= 0 || e.Limit.Used != 600 || e.Limit.Limit != 1000 {
		t.Errorf("%+v", e)
	}
	_, err = b.Offer(start, want("b", 1001, bulkhead.Quota{}))
	if e := refused(t, err, bulkhead.CodeInvalid, "host.memoryMB"); !e.Limit.Never || e.RetryAfter != 0 {
		t.Errorf("%+v", e)
	}
	h := host(1000)
	h.Pressure = "memory stalls"
	b.See(start, h)
	_, err = b.Offer(start, want("b", 64, bulkhead.Quota{}))
	if e := refused(t, err, bulkhead.CodeUnavailable, "host.pressure"); !strings.Contains(e.Msg, "memory stalls") {
		t.Error(e)
	}
}

func TestRates(t *testing.T) {
	b := quota.New(quota.Config{})
	q := bulkhead.Quota{CreatesPerSecond: 0.5, CPUSecondsPerDay: 100}
	for range 5 { // ten seconds' worth at once
		mustOffer(t, b, start, want("a", 64, q))
	}
	_, err := b.Offer(start, want("a", 64, q))
	if e := refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.createsPerSecond"); e.RetryAfter != 2*time.Second {
		t.Errorf("retry after %s", e.RetryAfter)
	}
	mustOffer(t, b, after(2), want("a", 64, q))
	r := want("a", 64, q)
	r.Today.CPUSeconds = 100
	_, err = b.Offer(after(60), r)
	if e := refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.cpuSecondsPerDay"); e.RetryAfter != 12*time.Hour-time.Minute || !strings.Contains(e.Msg, "100 were used today") {
		t.Errorf("retry after %s: %s", e.RetryAfter, e.Msg)
	}
	r.Today.CPUSeconds = 99.9
	mustOffer(t, b, after(60), r)
}

func TestWaitingInOrder(t *testing.T) {
	wait := func(tenant string, tier int, p bulkhead.Priority) quota.Request {
		r := want(tenant, 100, bulkhead.Quota{})
		r.Tier.Priority, r.Priority, r.WaitHost = tier, p, true
		return r
	}
	for name, tt := range map[string]struct {
		claims []quota.Request
		at     []float64
		order  string
	}{
		"first come":          {[]quota.Request{wait("a", 1, ""), wait("b", 1, ""), wait("c", 1, "")}, []float64{0, 1, 2}, "abc"},
		"by tier":             {[]quota.Request{wait("a", 1, ""), wait("b", 4, ""), wait("c", 2, "")}, []float64{0, 1, 2}, "bca"},
		"by wish":             {[]quota.Request{wait("a", 2, "low"), wait("b", 2, ""), wait("c", 2, "high")}, []float64{0, 1, 2}, "cba"},
		"low has a floor":     {[]quota.Request{wait("a", 1, ""), wait("b", 1, "low")}, []float64{0, 1}, "ab"},
		"ageing":              {[]quota.Request{wait("a", 1, "low"), wait("b", 4, "high")}, []float64{0, 26}, "ab"},
		"ageing, not so long": {[]quota.Request{wait("a", 1, "low"), wait("b", 4, "high")}, []float64{0, 24}, "ba"},
	} {
		t.Run(name, func(t *testing.T) {
			b := quota.New(quota.Config{Ageing: 5 * time.Second})
			b.See(start, host(100))
			held := mustOffer(t, b, start, want("x", 100, bulkhead.Quota{}))
			var claims []*quota.Booking
			for i, r := range tt.claims {
				claims = append(claims, mustOffer(t, b, after(tt.at[i]), r))
			}
			order := ""
			for range claims {
				held.Return(after(30))
				for i, k := range claims {
					if k != nil && isGranted(k) {
						order += tt.claims[i].Tenant
						held, claims[i] = k, nil
					}
				}
			}
			if order != tt.order {
				t.Errorf("served %q, want %q", order, tt.order)
			}
		})
	}
}

// Small ones pass a big one for a moment only, then what comes free is kept.
func TestBigOnesAreNotStarved(t *testing.T) {
	b := quota.New(quota.Config{HoldAfter: time.Second})
	b.See(start, host(100))
	ask := func(tenant string, memory int64) quota.Request {
		r := want(tenant, memory, bulkhead.Quota{})
		r.Asked.MemoryMB, r.WaitHost = memory, true
		return r
	}
	small := []*quota.Booking{mustOffer(t, b, start, ask("s", 64))}
	big := mustOffer(t, b, start, ask("b", 90))
	if k := mustOffer(t, b, after(0.5), ask("s", 30)); !isGranted(k) {
		t.Error("a small one did not pass a big one that came just now")
	} else {
		small = append(small, k)
	}
	small[0].Return(after(2))
	late := mustOffer(t, b, after(2), ask("s", 64))
	if isGranted(late) {
		t.Error("a small one passed a big one that had waited for long")
	}
	if _, err := b.Offer(after(2), want("s", 64, bulkhead.Quota{})); bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("one that may not wait passed: %v", err)
	}
	small[1].Return(after(3))
	if !isGranted(big) || isGranted(late) {
		t.Errorf("big %v, late %v", isGranted(big), isGranted(late))
	}
	big.Return(after(4))
	if !isGranted(late) {
		t.Error("the late one was not served")
	}
}

// A claim that waits for its own tenant's sandboxes holds nobody else up.
func TestWaitingForOneself(t *testing.T) {
	b := quota.New(quota.Config{HoldAfter: time.Second})
	b.See(start, host(1000))
	q := bulkhead.Quota{Sandboxes: 1}
	first := mustOffer(t, b, start, want("a", 100, q))
	r := want("a", 900, q)
	r.WaitOwn, r.WaitHost = true, true
	second := mustOffer(t, b, start, r)
	if k := mustOffer(t, b, after(9), want("b", 900, bulkhead.Quota{})); !isGranted(k) {
		t.Error("another tenant was held up")
	} else {
		k.Return(after(9))
	}
	if v := b.View("a", bulkhead.Tier{}); v.Waiting != 1 {
		t.Errorf("%d wait", v.Waiting)
	}
	first.Return(after(10))
	if !isGranted(second) {
		t.Error("not served")
	}
	third := mustOffer(t, b, after(10), r)
	if wait := third.Wait(after(10)); wait <= 0 {
		t.Errorf("predicted wait %s, one came free within a minute", wait)
	}
	err := third.Withdraw(after(11))
	if e := refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.sandboxes"); e.RetryAfter <= 0 || e.Limit.WaitSeconds <= 0 {
		t.Errorf("no predicted wait: %+v", e)
	}
	second.Return(after(12))
	third.Return(after(12))
	if h := b.Host(); h.Bookings != 0 || h.Waiting != 0 {
		t.Errorf("left: %+v", h)
	}
}

func TestTooManyWait(t *testing.T) {
	b := quota.New(quota.Config{MaxWaiting: 3, MaxWaitingEach: 2})
	b.See(start, host(100))
	mustOffer(t, b, start, want("x", 100, bulkhead.Quota{}))
	ask := func(tenant string) quota.Request {
		r := want(tenant, 100, bulkhead.Quota{})
		r.WaitHost = true
		return r
	}
	mustOffer(t, b, start, ask("a"))
	mustOffer(t, b, start, ask("a"))
	_, err := b.Offer(start, ask("a"))
	refused(t, err, bulkhead.CodeUnavailable, "tenant.waiting")
	mustOffer(t, b, start, ask("b"))
	_, err = b.Offer(start, ask("c"))
	refused(t, err, bulkhead.CodeUnavailable, "host.waiting")
}

// Idle capacity is lent, and taken back as soon as it is used.
func TestLending(t *testing.T) {
	b := quota.New(quota.Config{Share: 0.25, Settle: 5 * time.Second})
	b.See(start, host(1000))
	var all []*quota.Booking
	for range 3 { // each is granted 1000, and booked with a share of it
		all = append(all, mustOffer(t, b, start, want("a", 1000, bulkhead.Quota{})))
	}
	if h := b.Host(); h.Granted.MemoryMB != 3000 || h.Booked.MemoryMB != 750 {
		t.Fatalf("%+v", h)
	}
	use := func(at float64, k *quota.Booking, mib int64) {
		k.Measured(after(at), quota.Amounts{0, 100, mib, 10})
	}
	use(1, all[0], 400)
	if got := all[0].Booked()[quota.Memory]; got != 400+100+32 {
		t.Errorf("booked %d for 400 in use", got)
	}
	use(2, all[1], 900)
	if got := all[1].Booked()[quota.Memory]; got != 1000 {
		t.Errorf("booked %d for 900 in use of 1000", got)
	}
	if h := b.Host(); h.Booked.MemoryMB <= 1000 {
		t.Errorf("measured use was not booked: %+v", h.Booked)
	}
	_, err := b.Offer(after(3), want("b", 100, bulkhead.Quota{}))
	refused(t, err, bulkhead.CodeUnavailable, "host.memoryMB")
	for at := 6.0; at < 60; at++ {
		use(at, all[1], 100)
		use(at, all[0], 100)
	}
	if got := all[1].Booked()[quota.Memory]; got != 250 {
		t.Errorf("booked %d for 100 in use, the share is 250", got)
	}
	mustOffer(t, b, after(60), want("b", 100, bulkhead.Quota{}))
	for _, k := range all {
		k.Return(after(61))
		k.Measured(after(62), quota.Amounts{0, 1, 999, 1})
	}
	if h := b.Host(); h.Bookings != 1 || h.Granted.MemoryMB != 100 {
		t.Errorf("left: %+v", h)
	}
}

// What other programs take of the host is not promised; what sandboxes use is
// counted once.
func TestFree(t *testing.T) {
	b := quota.New(quota.Config{Share: 0.5})
	free := func(mib int64) {
		h := host(1000)
		h.Free[quota.Memory] = mib
		b.See(start, h)
	}
	free(400)
	k := mustOffer(t, b, start, want("a", 400, bulkhead.Quota{}))
	_, err := b.Offer(start, want("a", 500, bulkhead.Quota{}))
	if e := refused(t, err, bulkhead.CodeUnavailable, "host.memoryMB"); e.Limit.Limit != 400 || e.Limit.Used != 200 || e.Limit.Asked != 250 {
		t.Errorf("%+v", e.Limit)
	}
	k.Measured(start, quota.Amounts{0, 10, 300, 10})
	free(300) // of the 400, 300 are now used by the sandbox; others gave 200 back
	if got := b.Host().Capacity.MemoryMB; got != 600 {
		t.Errorf("capacity %d, want 300 in use and 300 free", got)
	}
	free(2000)
	if got := b.Host().Capacity.MemoryMB; got != 1000 {
		t.Errorf("capacity %d, want all that there is", got)
	}
	k.Return(start)
	free(-50)
	if got := b.Host().Capacity.MemoryMB; got != 0 {
		t.Errorf("capacity %d with less free than the reserve", got)
	}
}

func TestChange(t *testing.T) {
	b := quota.New(quota.Config{})
	b.See(start, host(4000))
	q := bulkhead.Quota{MemoryMB: 3000}
	k := mustOffer(t, b, start, want("a", 1000, q))
	other := mustOffer(t, b, start, want("b", 1500, bulkhead.Quota{}))
	l := k.Allocation().Limits
	try := func(memory int64) error {
		l.MemoryMB = memory
		return k.Change(after(1), bulkhead.Tier{Quota: q}, l, "changed")
	}
	refused(t, try(3001), bulkhead.CodeQuotaExceeded, "tenant.memoryMB")
	if e := refused(t, try(2600), bulkhead.CodeUnavailable, "host.memoryMB"); e.Limit.Asked != 1600 || e.Limit.Used != 2500 {
		t.Errorf("%+v", e.Limit)
	}
	// Where little of a grant is booked, it still is no more than the host has.
	lent := quota.New(quota.Config{Share: 0.1})
	lent.See(start, host(4000))
	small := mustOffer(t, lent, start, want("c", 1000, bulkhead.Quota{}))
	l.MemoryMB = 4001
	err := small.Change(after(1), bulkhead.Tier{}, l, "changed")
	if e := refused(t, err, bulkhead.CodeInvalid, "host.memoryMB"); e.Limit.Asked != 4001 || e.Limit.Limit != 4000 || !e.Limit.Never {
		t.Errorf("%+v", e.Limit)
	}
	l.MemoryMB = 4000
	if err := small.Change(after(1), bulkhead.Tier{}, l, "changed"); err != nil {
		t.Error(err)
	}
	if got := k.Allocation().Limits.MemoryMB; got != 1000 {
		t.Errorf("a refused change changed it to %d", got)
	}
	for _, memory := range []int64{2500, 500, 700} {
		if err := try(memory); err != nil {
			t.Fatal(err)
		}
	}
	if h := b.Host(); h.Granted.MemoryMB != 2200 || h.Booked.MemoryMB != 2200 {
		t.Errorf("%+v", h)
	}
	reasons := k.Allocation().Reasons
	if len(reasons) != 1 || reasons[0].Field != "memoryMB" || reasons[0].Granted != 700 || !strings.Contains(reasons[0].Detail, "from 500 MiB") {
		t.Errorf("reasons %+v", reasons)
	}
	q.Sandbox.MemoryMB = 600
	refused(t, try(800), bulkhead.CodeQuotaExceeded, "tenant.sandbox.memoryMB")
	if err := try(650); err != nil { // less than before is never refused
		t.Error(err)
	}
	k.Return(after(2))
	other.Return(after(2))
	if err := try(100); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("a change of what was returned: %v", err)
	}
	if h := b.Host(); h.Granted != (bulkhead.Sums{}) || h.Booked != (bulkhead.Sums{}) {
		t.Errorf("left: %+v", h)
	}
}

func TestWhatIf(t *testing.T) {
	b := quota.New(quota.Config{})
	b.See(start, host(10_000))
	q := bulkhead.Quota{Sandboxes: 8, MemoryMB: 4096}
	mustOffer(t, b, start, want("a", 1024, q))
	a := b.WhatIf(start, want("a", 1024, q), 3)
	if !a.Fits || a.Fitting != 3 || len(a.Blocks) != 0 || a.Allocation.Limits.MemoryMB != 1024 {
		t.Errorf("%+v", a)
	}
	a = b.WhatIf(start, want("a", 1024, q), 10)
	if a.Fits || a.Fitting != 3 || len(a.Blocks) != 3 || a.Blocks[0].Name != "tenant.memoryMB" || a.Blocks[1].Name != "tenant.sandboxes" || a.Blocks[2].Name != "host.memoryMB" {
		t.Errorf("%+v", a)
	}
	a = b.WhatIf(start, want("a", 5000, q), 1)
	if a.Fits || a.Fitting != 0 || len(a.Blocks) != 1 || !a.Blocks[0].Never {
		t.Errorf("%+v", a)
	}
	// Whoever is told that so many fit gets so many.
	for range 3 {
		mustOffer(t, b, start, want("a", 1024, q))
	}
	_, err := b.Offer(start, want("a", 1024, q))
	refused(t, err, bulkhead.CodeQuotaExceeded, "tenant.memoryMB")
	if a := b.WhatIf(start, want("new", 1024, bulkhead.Quota{}), 6); a.Fitting != 5 {
		t.Errorf("a tenant that nobody knows: %+v", a)
	}
}

// model replays random operations and checks the book after each.
func model(t *testing.T, rng *rand.Rand, steps int) {
	t.Helper()
	type sum struct{ n, cpu, memory int64 }
	limits := sum{12, 14_000, 9000}
	q := bulkhead.Quota{Sandboxes: int(limits.n), CPU: 14, MemoryMB: limits.memory}
	b := quota.New(quota.Config{HoldAfter: time.Second, MaxWaiting: 20})
	b.See(start, host(16_000))
	now, adopted := start, map[string]bool{}
	live := map[*quota.Booking]string{}
	tenants := []string{"a", "b", "c"}
	check := func(op string) {
		t.Helper()
		host, used := sum{}, map[string]sum{}
		for k, tenant := range live {
			if !isGranted(k) {
				continue
			}
			l := k.Allocation().Limits
			u := used[tenant]
			used[tenant] = sum{u.n + 1, u.cpu + int64(l.CPU*1000+.5), u.memory + l.MemoryMB}
			host = sum{host.n + 1, host.cpu + int64(l.CPU*1000+.5), host.memory + l.MemoryMB}
		}
		for _, tenant := range tenants {
			v, u := b.View(tenant, bulkhead.Tier{}), used[tenant]
			if v.Used.Sandboxes != u.n || int64(v.Used.CPU*1000+.5) != u.cpu || v.Used.MemoryMB != u.memory {
				t.Fatalf("after %s: tenant %s has %+v in the book and %+v in its allocations", op, tenant, v.Used, u)
			}
			if !adopted[tenant] && (u.n > limits.n || u.cpu > limits.cpu || u.memory > limits.memory) {
				t.Fatalf("after %s: tenant %s has %+v, beyond %+v", op, tenant, u, limits)
			}
		}
		h := b.Host()
		if h.Granted.MemoryMB != host.memory || h.Booked.MemoryMB != host.memory || int64(h.Bookings) != host.n {
			t.Fatalf("after %s: the host has %+v in the book and %+v in allocations", op, h, host)
		}
		if len(adopted) == 0 && host.memory > 16_000 {
			t.Fatalf("after %s: the host has %d MiB booked of 16000", op, host.memory)
		}
	}
	// Whoever can be served has been: looking at the host again grants nothing.
	idle := func(op string) {
		t.Helper()
		before := b.Host()
		b.See(now, host(16_000))
		if after := b.Host(); after.Bookings != before.Bookings {
			t.Fatalf("after %s: %d bookings, and %d when those that wait are served", op, before.Bookings, after.Bookings)
		}
	}
	pick := func() *quota.Booking {
		for k := range live {
			return k
		}
		return nil
	}
	for range steps {
		now = now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
		op := ""
		switch rng.IntN(10) {
		case 0, 1, 2, 3:
			op = "offer"
			r := want(tenants[rng.IntN(3)], 64+rng.Int64N(4000), q)
			r.Asked.CPU = float64(1+rng.IntN(60)) / 20
			r.WaitOwn, r.WaitHost = rng.IntN(2) == 0, rng.IntN(2) == 0
			r.Priority = []bulkhead.Priority{"", "low", "high"}[rng.IntN(3)]
			if k, err := b.Offer(now, r); err == nil {
				live[k] = r.Tenant
				idle(op)
			} else if e := (*bulkhead.Error)(nil); !errors.As(err, &e) || e.Limit == nil {
				t.Fatalf("a refusal without evidence: %v", err)
			}
		case 4, 5, 6:
			op = "return"
			if k := pick(); k != nil {
				k.Return(now)
				k.Return(now)
				delete(live, k)
				idle(op)
			}
		case 7:
			op = "withdraw"
			if k := pick(); k != nil && k.Withdraw(now) != nil {
				delete(live, k)
			}
		case 8:
			op = "change"
			if k := pick(); k != nil {
				l := k.Allocation().Limits
				l.CPU, l.MemoryMB = float64(1+rng.IntN(60))/20, 64+rng.Int64N(4000)
				_ = k.Change(now, bulkhead.Tier{Quota: q}, l, "changed")
			}
		case 9:
			if rng.IntN(20) == 0 {
				op = "adopt"
				tenant := tenants[rng.IntN(3)]
				l := bulkhead.Limits{CPU: 1, MemoryMB: 3000}.Or(bulkhead.DefaultLimits())
				live[b.Adopt(now, bulkhead.Allocation{Tenant: tenant, Limits: l})] = tenant
				adopted[tenant] = true // what runs is booked whether it fits or not
			}
		}
		check(op)
	}
	for k := range live {
		k.Return(now)
	}
	clear(live)
	check("the end")
	if h := b.Host(); h.Waiting != 0 || h.Booked != (bulkhead.Sums{}) || h.Granted != (bulkhead.Sums{}) {
		t.Fatalf("left: %+v", h)
	}
}

func TestInvariants(t *testing.T) {
	for seed := range uint64(30) {
		model(t, rand.New(rand.NewPCG(seed, 1)), 400)
	}
}

func FuzzBook(f *testing.F) {
	f.Add(uint64(1), uint16(100))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) {
		model(t, rand.New(rand.NewPCG(seed, 2)), int(steps%600))
	})
}
