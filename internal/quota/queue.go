package quota

import (
	"cmp"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// insertLocked puts k in its place among those that wait.
func (b *Book) insertLocked(k *Booking) {
	i, _ := slices.BinarySearchFunc(b.queue, k.key+1, func(w *Booking, key int64) int { return cmp.Compare(w.key, key) })
	b.queue = slices.Insert(b.queue, i, k)
	k.account.waiting++
}

func (b *Book) removeLocked(k *Booking) {
	if i := slices.Index(b.queue, k); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
		k.account.waiting--
	}
}

// concernsLocked reports whether somebody waits whom the account's use of the host
// concerns.
func (b *Book) concernsLocked(a *account) bool { return b.short > 0 || a.waiting > 0 }

// fitsLocked reports whether there is a place for k beside what is booked.
func (b *Book) fitsLocked(k *Booking) bool {
	return b.host.Pressure == "" && lacking(k.account.used, k.holds, k.account.limit) < 0 &&
		lacking(b.booked, k.booked, b.capacity) < 0
}

// serveLocked grants what fits, in the queue's order. A claim that has waited for
// HoldAfter has what it needs kept free: by its tenant's account when that is
// what it lacks, else by the host's too. Until then those behind it may pass.
func (b *Book) serveLocked(now time.Time) {
	b.short = 0
	if len(b.queue) == 0 {
		return
	}
	b.epoch++
	var kept Amounts
	left := b.queue[:0]
	for _, k := range b.queue {
		a := k.account
		if a.epoch != b.epoch {
			a.epoch, a.held = b.epoch, Amounts{}
		}
		ours := lacking(a.used.plus(a.held), k.holds, a.limit) < 0
		theirs := b.host.Pressure == "" && lacking(b.booked.plus(kept), k.booked, b.capacity) < 0
		if ours && theirs {
			a.waiting--
			b.grantLocked(k)
			continue
		}
		if ours {
			b.short++
		}
		if now.Sub(k.since) >= b.cfg.HoldAfter {
			a.held = a.held.plus(k.holds)
			if ours {
				kept = kept.plus(k.booked)
			}
		}
		left = append(left, k)
	}
	clear(b.queue[len(left):])
	b.queue = left
}

// stayLocked says why a claim that was not granted at once may not wait, or nil.
func (b *Book) stayLocked(now time.Time, k *Booking) error {
	ours := lacking(k.account.used, k.holds, k.account.limit) < 0
	if ours && !k.host || !ours && !k.own {
		return b.whyLocked(now, k)
	}
	for _, l := range []struct {
		name       string
		limit, now int
	}{
		{"host.waiting", b.cfg.MaxWaiting, len(b.queue) - 1},
		{"tenant.waiting", b.cfg.MaxWaitingEach, k.account.waiting - 1},
	} {
		if l.now >= l.limit {
			return full(bulkhead.LimitEvidence{
				Name: l.name, Unit: "claims", Limit: float64(l.limit), Used: float64(l.now), Asked: 1,
				WaitSeconds: b.waitLocked(now, k),
			})
		}
	}
	return nil
}

// whyLocked says what a claim that waits is waiting for.
func (b *Book) whyLocked(now time.Time, k *Booking) error {
	a := k.account
	if i := lacking(a.used, k.holds, a.limit); i >= 0 {
		l := evidence("tenant", i, a.used, k.holds, a.limit)
		l.WaitSeconds = b.waitLocked(now, k)
		return exceeded(l)
	}
	if b.host.Pressure != "" {
		return pressed(b.host.Pressure)
	}
	i := lacking(b.booked, k.booked, b.capacity)
	if i < 0 { // those before it are waited for
		i = Sandboxes
		for j := range resources {
			if b.capacity[j] != Unlimited {
				i = j
			}
		}
	}
	l := evidence("host", i, b.booked, k.booked, b.capacity)
	l.WaitSeconds = b.waitLocked(now, k)
	return full(l)
}

// waitLocked predicts how long k waits from now on: how much must come free for
// it and for those before it, at the rate at which things came free lately.
func (b *Book) waitLocked(now time.Time, k *Booking) float64 {
	a := k.account
	host, own := k.booked, k.holds
	for _, w := range b.queue {
		if w == k || w.key > k.key {
			break
		}
		host = host.plus(w.booked)
		if w.account == a {
			own = own.plus(w.holds)
		}
	}
	short := func(used, ask, limit Amounts) Amounts {
		for i := range ask {
			if limit[i] == Unlimited {
				ask[i] = 0
			} else {
				ask[i] += used[i] - limit[i]
			}
		}
		return ask
	}
	ours, theirs := short(a.used, own, a.limit), short(b.booked, host, b.capacity)
	wait := 0.0
	for _, s := range []struct {
		flow  *flow
		short Amounts
	}{{&a.freed, ours}, {&b.freed, theirs}} {
		if !slices.ContainsFunc(s.short[:], func(n int64) bool { return n > 0 }) {
			continue
		}
		w := s.flow.wait(now, s.short)
		if w == 0 {
			return 0
		}
		wait = max(wait, w)
	}
	return wait
}

// Wait predicts how long a claim that waits will still do so, 0 if that is not
// known or it does not wait.
func (k *Booking) Wait(now time.Time) time.Duration {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	if k.state != waiting {
		return 0
	}
	return seconds(k.b.waitLocked(now, k))
}
