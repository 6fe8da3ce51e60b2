package quota

import (
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Change books other limits for a sandbox that has its place. What grows must
// fit, and is refused as by [Book.Offer] else; what shrinks always does. Nothing
// changes when it is refused.
func (k *Booking) Change(now time.Time, l bulkhead.Limits, why ...bulkhead.Reason) error {
	b := k.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if k.state != granted {
		return bulkhead.Errorf(bulkhead.CodeConflict, "the booking is not in force")
	}
	holds := AmountsOf(l)
	// The share that is booked follows the grant, what is in use stays booked.
	booked := b.clamp(holds, k.booked)
	if grow := holds.minus(k.holds); lacking(Amounts{}, grow, Amounts{}) >= 0 {
		a := k.account
		if i := lacking(a.used, grow, a.limit); i >= 0 {
			ev := evidence("tenant", i, a.used, grow, a.limit)
			if holds[i] > a.limit[i] {
				return never(ev.Name, ev.Limit, value(i, holds[i]), ev.Unit)
			}
			return exceeded(ev)
		}
		more := booked.minus(k.booked)
		if i := lacking(Amounts{}, booked, b.host.Most); i >= 0 {
			return never("host."+names[i], value(i, b.host.Most[i]), value(i, booked[i]), units[i])
		}
		if i := lacking(b.booked, more, b.host.Capacity); i >= 0 {
			return full(evidence("host", i, b.booked, more, b.host.Capacity))
		}
	}
	b.setLocked(k, holds, booked)
	k.alloc.Limits, k.alloc.At = l, now.UTC()
	if why != nil {
		k.alloc.Reasons = why
	}
	b.serveLocked(now)
	return nil
}

// setLocked changes what k holds.
func (b *Book) setLocked(k *Booking, holds, booked Amounts) {
	b.booked = b.booked.plus(booked).minus(k.booked)
	b.granted = b.granted.plus(holds).minus(k.holds)
	k.account.used = k.account.used.plus(holds).minus(k.holds)
	k.holds, k.booked = holds, booked
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
	b.freed.add(now, k.booked.minus(booked))
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
