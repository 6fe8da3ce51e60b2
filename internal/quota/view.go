package quota

import (
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// sums are amounts in the units that people read.
func sums(a Amounts) bulkhead.Sums {
	for i := range a {
		if a[i] == Unlimited {
			a[i] = 0
		}
	}
	return bulkhead.Sums{Sandboxes: a[Sandboxes], CPU: value(CPU, a[CPU]), MemoryMB: a[Memory], DiskMB: a[Disk]}
}

// View returns what the tenant may use by the tier, and does. What it has used
// today the book does not know.
func (b *Book) View(tenant string, tier bulkhead.Tier) bulkhead.QuotaState {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := bulkhead.QuotaState{Tenant: tenant, Tier: tier}
	if a := b.accounts[tenant]; a != nil {
		v.Used, v.Waiting = sums(a.used), a.waiting
	}
	return v
}

// Host returns the host's side of the book.
func (b *Book) Host() bulkhead.HostState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bulkhead.HostState{
		Capacity: sums(b.capacity), Booked: sums(b.booked), Granted: sums(b.granted),
		Bookings: b.bookings, Waiting: len(b.queue),
		Load: b.host.Load, LoadFactor: b.host.Load.Factor(), Pressure: b.host.Pressure,
	}
}

// MaxWhatIf is how many sandboxes may be asked about at once.
const MaxWhatIf = 100_000

// WhatIf says whether count more sandboxes of this request would fit, and what
// is in the way. It changes nothing.
func (b *Book) WhatIf(now time.Time, r Request, count int) bulkhead.WhatIf {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[r.Tenant]
	if a == nil {
		a = &account{}
	}
	seen := account{used: a.used, bucket: a.bucket, freed: a.freed}
	seen.adopt(&r.Tier)
	out := bulkhead.WhatIf{Count: count, Fitting: count}
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
			{"host", b.booked, b.expect(AmountsOf(alloc.Limits)), b.capacity, &b.freed},
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
		if l := seen.rates(now, r.Today, float64(count)); l != nil {
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
