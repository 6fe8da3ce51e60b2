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
		if k.ours {
			b.short--
		}
	}
}

// shortLocked counts k among those that wait for the host.
func (b *Book) shortLocked(k *Booking) {
	if b.short == 0 {
		b.least = k.booked
	}
	b.short++
	for i, n := range k.booked {
		b.least[i] = min(b.least[i], n)
	}
}

// enoughLocked reports whether what is free on the host may be enough for one of
// those that wait for it. If it is not, there is nothing to serve.
func (b *Book) enoughLocked() bool {
	return b.short > 0 && lacking(&b.booked, &nothing, &b.least, &b.capacity) < 0
}

// fitsLocked reports whether there is a place for k beside what is booked.
func (b *Book) fitsLocked(k *Booking) bool {
	return b.host.Load().Pressure == "" && lacking(&k.account.used, &nothing, &k.holds, &k.account.limit) < 0 &&
		lacking(&b.booked, &nothing, &k.booked, &b.capacity) < 0
}

// passesLocked reports whether there is a place for k, which fits and none of
// whose tenant's claims wait, also beside what is kept for those before it. It
// looks at as many of them as it takes to know: as a rule the first that waits for
// the host is one too many.
func (b *Book) passesLocked(now time.Time, k *Booking) bool {
	var kept Amounts
	left := b.short
	for _, w := range b.queue {
		if left == 0 || w.key > k.key {
			break
		}
		if !w.ours {
			continue
		}
		left--
		if now.Sub(w.since) >= b.cfg.HoldAfter {
			kept.add(&w.booked)
			if lacking(&b.booked, &kept, &k.booked, &b.capacity) >= 0 {
				return false
			}
		}
	}
	return true
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
	pressure := b.host.Load().Pressure != ""
	var kept Amounts
	left := b.queue[:0]
	for _, k := range b.queue {
		a := k.account
		if a.epoch != b.epoch {
			a.epoch, a.held = b.epoch, Amounts{}
		}
		k.ours = lacking(&a.used, &a.held, &k.holds, &a.limit) < 0
		if k.ours {
			if !pressure && lacking(&b.booked, &kept, &k.booked, &b.capacity) < 0 {
				a.waiting--
				b.grantLocked(k)
				continue
			}
			b.shortLocked(k)
		}
		if now.Sub(k.since) >= b.cfg.HoldAfter {
			a.held.add(&k.holds)
			if k.ours {
				kept.add(&k.booked)
			}
		}
		left = append(left, k)
	}
	clear(b.queue[len(left):])
	b.queue = left
}

// stayLocked says why a claim that was not granted at once may not wait, if so.
func (b *Book) stayLocked(now time.Time, k *Booking) refusal {
	ours := lacking(&k.account.used, &nothing, &k.holds, &k.account.limit) < 0
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
			return refusal{kind: full, LimitEvidence: bulkhead.LimitEvidence{
				Name: l.name, Unit: "claims", Limit: float64(l.limit), Used: float64(l.now), Asked: 1,
				WaitSeconds: b.waitLocked(now, k),
			}}
		}
	}
	return refusal{}
}

// whyLocked says what a claim that waits is waiting for.
func (b *Book) whyLocked(now time.Time, k *Booking) refusal {
	a := k.account
	if i := lacking(&a.used, &nothing, &k.holds, &a.limit); i >= 0 {
		no := refusal{kind: exceeded, LimitEvidence: evidence(&tenantLimits, i, &a.used, &k.holds, &a.limit)}
		no.WaitSeconds = b.waitLocked(now, k)
		return no
	}
	if why := b.host.Load().Pressure; why != "" {
		return refusal{kind: pressed, pressure: why}
	}
	i := lacking(&b.booked, &nothing, &k.booked, &b.capacity)
	if i < 0 { // those before it are waited for
		i = Sandboxes
		for j := range resources {
			if b.capacity[j] != Unlimited {
				i = j
			}
		}
	}
	no := refusal{kind: full, LimitEvidence: evidence(&hostLimits, i, &b.booked, &k.booked, &b.capacity)}
	no.WaitSeconds = b.waitLocked(now, k)
	return no
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
		host.add(&w.booked)
		if w.account == a {
			own.add(&w.holds)
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
