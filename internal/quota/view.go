package quota

import (
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Sums are [Amounts] in the units that people read. A limit of 0 is none.
type Sums struct {
	Sandboxes int64   `json:"sandboxes"`
	CPU       float64 `json:"cpu"`
	MemoryMB  int64   `json:"memoryMB"`
	DiskMB    int64   `json:"diskMB"`
}

func sums(a Amounts) Sums {
	for i := range a {
		if a[i] == Unlimited {
			a[i] = 0
		}
	}
	return Sums{Sandboxes: a[Sandboxes], CPU: value(CPU, a[CPU]), MemoryMB: a[Memory], DiskMB: a[Disk]}
}

// View is what a tenant may use and does.
type View struct {
	// Tenant is whose, Tier its tier with its own overrides in the quota.
	Tenant string        `json:"tenant"`
	Tier   bulkhead.Tier `json:"tier"`
	// Used is granted to its sandboxes, Waiting the number of its claims that wait.
	Used    Sums `json:"used"`
	Waiting int  `json:"waiting"`
	// Today is what its sandboxes have used since midnight, UTC.
	Today Use `json:"today"`
}

// View returns what the tenant may use by the tier, and does.
func (b *Book) View(now time.Time, tenant string, tier bulkhead.Tier) View {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := View{Tenant: tenant, Tier: tier}
	if a := b.accounts[tenant]; a != nil {
		v.Used, v.Waiting, v.Today = sums(a.used), a.waiting, *a.day.on(now)
	}
	return v
}

// HostView is what the host promises and has promised.
type HostView struct {
	// Capacity is what it can promise now, 0 for no bound; Booked what is expected
	// to be used of that, Granted what its sandboxes may use if all did at once.
	Capacity Sums `json:"capacity"`
	Booked   Sums `json:"booked"`
	Granted  Sums `json:"granted"`
	// Bookings and Waiting are numbers of sandboxes and of claims.
	Bookings int `json:"bookings"`
	Waiting  int `json:"waiting"`
	// Load and LoadFactor say how new sandboxes are scaled.
	Load       Load    `json:"load"`
	LoadFactor float64 `json:"loadFactor"`
	// Pressure says why nothing new is taken on; empty while it is.
	Pressure string `json:"pressure,omitempty"`
}

// Host returns the host's side of the book.
func (b *Book) Host() HostView {
	b.mu.Lock()
	defer b.mu.Unlock()
	return HostView{
		Capacity: sums(b.host.Capacity), Booked: sums(b.booked), Granted: sums(b.granted),
		Bookings: b.bookings, Waiting: len(b.queue),
		Load: b.host.Load, LoadFactor: b.host.Load.Factor(), Pressure: b.host.Pressure,
	}
}

// Tenants returns the tenants that hold something, wait or have used something
// today, sorted.
func (b *Book) Tenants(now time.Time) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for name, a := range b.accounts {
		if a.used != (Amounts{}) || a.waiting > 0 || *a.day.on(now) != (Use{}) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Answer says whether more sandboxes would fit.
type Answer struct {
	// Count is how many were asked about, Fits whether all of them would fit now,
	// Fitting how many would.
	Count   int  `json:"count"`
	Fits    bool `json:"fits"`
	Fitting int  `json:"fitting"`
	// Allocation is what each would get.
	Allocation bulkhead.Allocation `json:"allocation"`
	// Blocks are the limits in the way, the one that lets the fewest through first.
	Blocks []bulkhead.LimitEvidence `json:"blocks"`
}

// MaxWhatIf is how many sandboxes may be asked about at once.
const MaxWhatIf = 100_000

// WhatIf says whether count more sandboxes of this request would fit, and what
// is in the way. It changes nothing.
func (b *Book) WhatIf(now time.Time, r Request, count int) Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[r.Tenant]
	if a == nil {
		a = &account{}
	}
	seen := account{used: a.used, bucket: a.bucket, day: a.day, freed: a.freed}
	seen.adopt(&r.Tier)
	out := Answer{Count: count, Fitting: count}
	type block struct {
		bulkhead.LimitEvidence
		fitting int64
	}
	var blocks []block
	add := func(l bulkhead.LimitEvidence, fitting int64) {
		blocks = append(blocks, block{l, max(fitting, 0)})
	}
	alloc, err := allocate(&r, b.host.Load, b.host.Most, now)
	out.Allocation = alloc
	if known, ok := err.(*bulkhead.Error); ok { //nolint:errorlint // made by allocate
		add(*known.Limit, 0)
	} else {
		for _, s := range []struct {
			scope            string
			used, ask, limit Amounts
			freed            *flow
		}{
			{"tenant", seen.used, AmountsOf(alloc.Limits), seen.limit, &seen.freed},
			{"host", b.booked, b.expect(AmountsOf(alloc.Limits)), b.host.Capacity, &b.freed},
		} {
			for i := range resources {
				if s.ask[i] <= 0 || s.limit[i] == Unlimited {
					continue
				}
				if fit := (s.limit[i] - s.used[i]) / s.ask[i]; fit < int64(count) {
					all := s.ask
					all[i] *= int64(count)
					l := evidence(s.scope, i, s.used, all, s.limit)
					l.Never = all[i] > s.limit[i]
					var short Amounts
					short[i] = all[i] + s.used[i] - s.limit[i]
					if !l.Never {
						l.WaitSeconds = s.freed.wait(now, short)
					}
					add(l, fit)
				}
			}
		}
		if b.host.Pressure != "" {
			add(bulkhead.LimitEvidence{Name: "host.pressure"}, 0)
		}
		if l := seen.rates(now, float64(count)); l != nil {
			fit := int64(0)
			if l.Name == "tenant.createsPerSecond" {
				fit = int64(seen.bucket.tokens)
			}
			add(*l, fit)
		}
	}
	slices.SortStableFunc(blocks, func(x, y block) int { return int(x.fitting - y.fitting) })
	out.Blocks = []bulkhead.LimitEvidence{}
	for _, l := range blocks {
		out.Fitting = min(out.Fitting, int(l.fitting))
		out.Blocks = append(out.Blocks, l.LimitEvidence)
	}
	out.Fits = len(blocks) == 0
	return out
}
