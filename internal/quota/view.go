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
	if a := b.known(tenant); a != nil {
		v.Used, v.Waiting = sums(a.used), a.waiting
	}
	return v
}

// Host returns the host's side of the book.
func (b *Book) Host() bulkhead.HostState {
	b.mu.Lock()
	defer b.mu.Unlock()
	host := b.host.Load()
	return bulkhead.HostState{
		Capacity: sums(b.capacity), Booked: sums(b.booked), Granted: sums(b.granted),
		Bookings: b.bookings, Waiting: len(b.queue),
		Load: host.Load, LoadFactor: host.Load.Factor(), Pressure: host.Pressure,
	}
}

// MaxWhatIf is how many sandboxes may be asked about at once.
const MaxWhatIf = 100_000

// WhatIf says whether count more sandboxes of this request would fit, and what
// is in the way. It changes nothing.
func (b *Book) WhatIf(now time.Time, r Request, count int) bulkhead.WhatIf {
	b.mu.Lock()
	defer b.mu.Unlock()
	var seen account
	if a := b.known(r.Tenant); a != nil {
		seen = account{used: a.used, bucket: a.bucket, freed: a.freed}
	}
	t := termsOf(&r.Tier.Quota, r.Today)
	host := b.host.Load()
	out := bulkhead.WhatIf{Count: count, Fitting: count}
	type block struct {
		bulkhead.LimitEvidence
		fitting int64
	}
	var blocks []block
	add := func(l bulkhead.LimitEvidence, fitting int64) {
		blocks = append(blocks, block{l, max(fitting, 0)})
	}
	alloc, err := b.allocate(&r, host, now)
	out.Allocation = alloc
	if known, ok := err.(*bulkhead.Error); ok { //nolint:errorlint // made by allocate
		add(*known.Limit, 0)
	} else {
		for _, s := range []struct {
			names            *[resources]string
			used, ask, limit Amounts
			freed            *flow
		}{
			{&tenantLimits, seen.used, AmountsOf(alloc.Limits), t.limit, &seen.freed},
			{&hostLimits, b.booked, b.expect(AmountsOf(alloc.Limits)), b.capacity, &b.freed},
		} {
			for i := range resources {
				if s.ask[i] <= 0 || s.limit[i] == Unlimited {
					continue
				}
				if fit := (s.limit[i] - s.used[i]) / s.ask[i]; fit < int64(count) {
					all := s.ask
					all[i] *= int64(count)
					l := evidence(s.names, i, &s.used, &all, &s.limit)
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
		if host.Pressure != "" {
			add(bulkhead.LimitEvidence{Name: "host.pressure"}, 0)
		}
		if no := seen.rates(now, &t, float64(count)); no.kind != granting {
			fit := int64(0)
			if no.Name == "tenant.createsPerSecond" {
				fit = int64(seen.bucket.tokens)
			}
			add(no.LimitEvidence, fit)
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
