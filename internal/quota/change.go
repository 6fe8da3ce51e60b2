package quota

import (
	"fmt"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Change books other limits for a sandbox that has its place; the tier is its
// tenant's, and no field of l is zero. What grows must fit, and is refused as by
// [Book.Offer] else; what shrinks always does. Nothing changes when it is refused.
// why, in a few words, becomes the reason of each number that changes.
func (k *Booking) Change(now time.Time, tier bulkhead.Tier, l bulkhead.Limits, why string) error {
	b := k.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if k.state != granted {
		return bulkhead.Errorf(bulkhead.CodeConflict, "the booking is not in force")
	}
	if err := within(&tier.Quota.Sandbox, &k.alloc.Limits, &l); err != nil {
		return err
	}
	if most := b.cfg.Connections; most > 0 && l.Connections > most && l.Connections > k.alloc.Limits.Connections {
		return never("host.connections", float64(most), float64(l.Connections), "connections")
	}
	a := k.account
	a.limit = limitsOf(&tier.Quota)
	holds := AmountsOf(l)
	// The share that is booked follows the grant, what is in use stays booked.
	booked := b.clamp(holds, k.booked)
	grow, more := holds, booked
	grow.sub(&k.holds)
	more.sub(&k.booked)
	if lacking(&nothing, &nothing, &grow, &nothing) >= 0 {
		if i := lacking(&a.used, &nothing, &grow, &a.limit); i >= 0 {
			ev := evidence(&tenantLimits, i, &a.used, &grow, &a.limit)
			if holds[i] > a.limit[i] {
				return never(ev.Name, ev.Limit, value(i, holds[i]), ev.Unit)
			}
			return exceededBy(ev)
		}
		// As a new sandbox is bounded by all that the host has, not by what is booked.
		for i, most := range b.host.Load().Most {
			if grow[i] > 0 && holds[i] > most {
				return never(hostLimits[i], value(i, most), value(i, holds[i]), units[i])
			}
		}
		if i := lacking(&b.booked, &nothing, &more, &b.capacity); i >= 0 {
			return fullOf(evidence(&hostLimits, i, &b.booked, &more, &b.capacity))
		}
	}
	b.setLocked(k, holds, booked)
	k.alloc = changed(k.alloc, l, why, now)
	b.serveLocked(now)
	return nil
}

// columns are the fields of limits that can change while a sandbox runs.
var columns = []struct {
	name, unit string
	of         func(*bulkhead.Limits) float64
}{
	{"cpu", "cores", func(l *bulkhead.Limits) float64 { return l.CPU }},
	{"memoryMB", "MiB", func(l *bulkhead.Limits) float64 { return float64(l.MemoryMB) }},
	{"pids", "tasks", func(l *bulkhead.Limits) float64 { return float64(l.Pids) }},
	{"bandwidthKbps", "kbit/s", func(l *bulkhead.Limits) float64 { return float64(l.BandwidthKbps) }},
	{"packetsPerSecond", "packets/s", func(l *bulkhead.Limits) float64 { return float64(l.PacketsPerSecond) }},
	{"connections", "connections", func(l *bulkhead.Limits) float64 { return float64(l.Connections) }},
	{"outputMBPerSecond", "MiB/s", func(l *bulkhead.Limits) float64 { return float64(l.OutputMBPerSecond) }},
}

// within refuses what grows beyond what one sandbox may have.
func within(most, from, to *bulkhead.Limits) error {
	for _, c := range columns {
		if limit := c.of(most); limit > 0 && c.of(to) > limit && c.of(to) > c.of(from) {
			return never("tenant.sandbox."+c.name, limit, c.of(to), c.unit)
		}
	}
	return nil
}

// changed is an allocation with other limits. A field's reason is the last one.
func changed(a bulkhead.Allocation, l bulkhead.Limits, why string, now time.Time) bulkhead.Allocation {
	reasons := slices.Clone(a.Reasons)
	for _, c := range columns {
		from, to := c.of(&a.Limits), c.of(&l)
		if from == to {
			continue
		}
		reasons = slices.DeleteFunc(reasons, func(r bulkhead.Reason) bool { return r.Field == c.name })
		reasons = append(reasons, bulkhead.Reason{
			Field: c.name, Asked: to, Granted: to,
			Detail: fmt.Sprintf("%s, from %s %s", why, number(from), c.unit),
		})
	}
	a.Limits, a.Reasons, a.At = l, reasons, now.UTC()
	return a
}

// setLocked changes what k holds.
func (b *Book) setLocked(k *Booking, holds, booked Amounts) {
	b.booked.sub(&k.booked)
	b.granted.sub(&k.holds)
	k.account.used.sub(&k.holds)
	k.holds, k.booked = holds, booked
	b.booked.add(&k.booked)
	b.granted.add(&k.holds)
	k.account.used.add(&k.holds)
}

// clamp brings what is booked for a grant between its share and all of it.
func (b *Book) clamp(holds, booked Amounts) Amounts {
	least := b.expect(holds)
	for i := range booked {
		booked[i] = min(max(booked[i], least[i]), holds[i])
	}
	return booked
}

// spare is what is booked beyond what is in use: a quarter of it, and this.
var spare = Amounts{CPU: 50, Memory: 32, Disk: 64}

// Measured tells what the sandbox uses of CPU, memory and disk. More use is
// booked at once, whether it fits or not, since it is a fact; less is lent to
// others after a while, down to the share that the book keeps.
func (k *Booking) Measured(now time.Time, use Amounts) {
	b := k.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if k.state != granted {
		return
	}
	use[Sandboxes] = 0
	b.measured.sub(&k.use)
	b.measured.add(&use)
	k.use = use
	var booked Amounts
	for i := range use {
		k.peak[i] = max(use[i], k.peak[i]-k.peak[i]/8)
		booked[i] = k.peak[i] + k.peak[i]/4 + spare[i]
	}
	booked = b.clamp(k.holds, booked)
	booked[Sandboxes] = 1
	lower := false
	for i := range booked {
		if booked[i] < k.booked[i] {
			if now.Sub(k.since) < b.cfg.Settle {
				booked[i] = k.booked[i]
			} else {
				lower = true
			}
		}
	}
	less := k.booked
	less.sub(&booked)
	b.freed.add(now, &less)
	b.setLocked(k, k.holds, booked)
	if lower {
		b.serveLocked(now)
	}
}

// Booked is what of the host is booked for the sandbox now.
func (k *Booking) Booked() Amounts {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	if k.state != granted {
		return Amounts{}
	}
	return k.booked
}
