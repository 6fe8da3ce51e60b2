package quota

import (
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Config is what a Book goes by. Zero fields take the value in brackets.
type Config struct {
	// Share is the least part of a grant's CPU and memory that stays booked on the
	// host while less is in use, and what a new sandbox is expected to need;
	// DiskShare is that of its disk. 1 lends nothing: every grant is booked in full.
	// 0 < Share <= 1 [1].
	Share, DiskShare float64
	// Settle is how long a new booking keeps what was expected of it before it is
	// lowered to what is used [5 s].
	Settle time.Duration
	// Ageing is how long a claim waits for each step of priority that it gains on
	// those that come later [5 s].
	Ageing time.Duration
	// HoldAfter is how long a claim waits before what it needs is kept free for it,
	// even if smaller ones would fit [500 ms].
	HoldAfter time.Duration
	// MaxWaiting and MaxWaitingEach bound the claims that wait, of all tenants and
	// of one [1024, 256].
	MaxWaiting, MaxWaitingEach int
}

func (c *Config) fill() {
	for _, share := range []*float64{&c.Share, &c.DiskShare} {
		if !(*share > 0 && *share <= 1) {
			*share = 1
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.Settle, 5 * time.Second}, {&c.Ageing, 5 * time.Second}, {&c.HoldAfter, 500 * time.Millisecond}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.MaxWaiting <= 0 {
		c.MaxWaiting = 1024
	}
	if c.MaxWaitingEach <= 0 {
		c.MaxWaitingEach = 256
	}
}

// Host is what the host can promise, as it was last seen.
type Host struct {
	// Most is what it can promise if nothing else runs on it, Free what nobody uses
	// now, less what is kept in reserve. Unlimited is no bound.
	Most, Free Amounts
	// Load scales what sandboxes get.
	Load bulkhead.Load
	// Pressure, when not empty, says in a few words why nothing new is taken on.
	Pressure string
}

// Book holds who has what, and who waits. See the package's comment.
type Book struct {
	cfg Config

	mu       sync.Mutex
	host     Host
	capacity Amounts // what the host can promise now
	booked   Amounts // on the host, by what is expected of each booking
	measured Amounts // in use by all bookings, when they were last measured
	granted  Amounts // to all tenants
	bookings int
	accounts map[string]*account
	queue    []*Booking // those that wait, first to be served first
	short    int        // those of them that wait for the host, when they were last served
	freed    flow
	epoch    uint64
}

// New returns an empty book of a host without limits.
func New(cfg Config) *Book {
	cfg.fill()
	none := Amounts{Unlimited, Unlimited, Unlimited, Unlimited}
	return &Book{cfg: cfg, host: Host{Most: none, Free: none}, capacity: none, accounts: map[string]*account{}}
}

// state is where a booking is in its life.
type state uint8

const (
	waiting state = iota
	granted
	returned
)

// Booking is a place in a [Book], or a claim that waits for one.
type Booking struct {
	b       *Book
	account *account
	state   state
	ready   chan struct{} // closed when it is granted; nil if it never waited
	alloc   bulkhead.Allocation
	holds   Amounts // of the tenant's account
	booked  Amounts // of the host's
	use     Amounts // as last measured
	peak    Amounts // of what was measured, slowly forgotten
	since   time.Time
	key     int64 // its place in the queue: lower is served first
	own     bool  // may wait for its tenant's own sandboxes
	host    bool  // may wait for the host
}

// Offer decides on a request: a booking that is granted or one that waits, which
// [Booking.Ready] tells. The error is a *[bulkhead.Error] with its Limit set:
// [bulkhead.CodeQuotaExceeded] for the tenant's own limits,
// [bulkhead.CodeUnavailable] when the host is full, [bulkhead.CodeInvalid] for
// what this host could never carry. The booking must be returned.
func (b *Book) Offer(now time.Time, r Request) (*Booking, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accountLocked(r.Tenant)
	a.adopt(&r.Tier)
	alloc, err := b.admissibleLocked(now, a, &r)
	if err != nil {
		return nil, err
	}
	k := &Booking{
		b: b, account: a, alloc: alloc, holds: AmountsOf(alloc.Limits), since: now, own: r.WaitOwn, host: r.WaitHost,
		// Waiting gains priority at one rate for all, so the order never changes.
		key: now.UnixNano() - int64(alloc.Priority)*int64(b.cfg.Ageing),
	}
	k.booked = b.expect(k.holds)
	switch {
	case !b.concernsLocked(a) && b.fitsLocked(k):
		b.grantLocked(k)
	default:
		b.insertLocked(k)
		b.serveLocked(now)
	}
	if k.state == waiting {
		if err := b.stayLocked(now, k); err != nil {
			b.removeLocked(k)
			k.state = returned
			return nil, err
		}
		k.ready = make(chan struct{})
	}
	if a.tier.Quota.CreatesPerSecond > 0 {
		a.bucket.tokens--
	}
	return k, nil
}

// admissibleLocked finds what the request gets, if it can ever fit and the
// tenant's rates allow it.
func (b *Book) admissibleLocked(now time.Time, a *account, r *Request) (bulkhead.Allocation, error) {
	alloc, err := allocate(r, b.host.Load, b.host.Most, now)
	if err != nil {
		return alloc, err
	}
	ask := AmountsOf(alloc.Limits)
	if i := lacking(Amounts{}, ask, a.limit); i >= 0 {
		return alloc, never("tenant."+names[i], value(i, a.limit[i]), value(i, ask[i]), units[i])
	}
	if i := lacking(Amounts{}, b.expect(ask), b.host.Most); i >= 0 {
		return alloc, never("host."+names[i], value(i, b.host.Most[i]), value(i, b.expect(ask)[i]), units[i])
	}
	if l := a.rates(now, r.Today, 1); l != nil {
		return alloc, exceeded(*l)
	}
	return alloc, nil
}

// rates returns the limit over time that n more creates would meet, or nil.
func (a *account) rates(now time.Time, use bulkhead.DayUse, n float64) *bulkhead.LimitEvidence {
	q := &a.tier.Quota
	if rate := q.CreatesPerSecond; rate > 0 {
		size := a.bucket.fill(now, rate)
		if a.bucket.tokens < min(n, size) {
			return &bulkhead.LimitEvidence{
				Name: "tenant.createsPerSecond", Unit: "creates/s", Limit: rate, Used: rate, Asked: n,
				WaitSeconds: a.bucket.wait(rate, min(n, size)),
			}
		}
	}
	for _, d := range []struct {
		name, unit  string
		limit, used float64
	}{
		{"tenant.cpuSecondsPerDay", "CPU-seconds", q.CPUSecondsPerDay, use.CPUSeconds},
		{"tenant.gbHoursPerDay", "GB-hours", q.GBHoursPerDay, use.GBHours},
	} {
		if d.limit > 0 && d.used >= d.limit {
			return &bulkhead.LimitEvidence{Name: d.name, Unit: d.unit, Limit: d.limit, Used: d.used, WaitSeconds: untilTomorrow(now)}
		}
	}
	return nil
}

// Ready is closed when the booking is granted. It is nil for one that was
// granted at once.
func (k *Booking) Ready() <-chan struct{} { return k.ready }

// Allocation is what was granted, and why.
func (k *Booking) Allocation() bulkhead.Allocation {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	return k.alloc
}

// Name says which sandbox the booking turned out to be of.
func (k *Booking) Name(sandbox string) {
	k.b.mu.Lock()
	defer k.b.mu.Unlock()
	k.alloc.Sandbox = sandbox
}

// Withdraw gives up waiting. It returns nil when the booking was granted
// meanwhile, which then still must be returned, else why there was no place.
func (k *Booking) Withdraw(now time.Time) error {
	b := k.b
	b.mu.Lock()
	defer b.mu.Unlock()
	switch k.state {
	case granted:
		return nil
	case returned:
		return bulkhead.Errorf(bulkhead.CodeConflict, "the booking was returned")
	case waiting:
	}
	err := b.whyLocked(now, k)
	b.removeLocked(k)
	k.state = returned
	b.serveLocked(now) // what was kept free for it
	return err
}

// Return gives the booking back, or its place among those that wait. It may be
// repeated; only the first call counts.
func (k *Booking) Return(now time.Time) {
	if k == nil {
		return
	}
	b := k.b
	b.mu.Lock()
	defer b.mu.Unlock()
	switch k.state {
	case returned:
		return
	case waiting:
		b.removeLocked(k)
		b.serveLocked(now) // what was kept free for it
	case granted:
		b.bookings--
		b.booked = b.booked.minus(k.booked)
		b.granted = b.granted.minus(k.holds)
		b.measured = b.measured.minus(k.use)
		k.account.used = k.account.used.minus(k.holds)
		b.freed.add(now, k.booked)
		k.account.freed.add(now, k.holds)
		if b.concernsLocked(k.account) {
			b.serveLocked(now)
		}
	}
	k.state = returned
}

// Adopt books what runs already, whatever the limits are: a sandbox that an
// earlier server granted.
func (b *Book) Adopt(now time.Time, a bulkhead.Allocation) *Booking {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &Booking{b: b, account: b.accountLocked(a.Tenant), alloc: a, holds: AmountsOf(a.Limits), since: now}
	k.booked = b.expect(k.holds)
	b.grantLocked(k)
	return k
}

// grantLocked enters the booking.
func (b *Book) grantLocked(k *Booking) {
	k.state = granted
	b.bookings++
	b.booked = b.booked.plus(k.booked)
	b.granted = b.granted.plus(k.holds)
	k.account.used = k.account.used.plus(k.holds)
	if k.ready != nil {
		close(k.ready)
	}
}

func (b *Book) accountLocked(tenant string) *account {
	a := b.accounts[tenant]
	if a == nil {
		a = &account{limit: Amounts{Unlimited, Unlimited, Unlimited, Unlimited}}
		b.accounts[tenant] = a
	}
	return a
}

// expect is what a grant is booked with on the host until it is measured.
func (b *Book) expect(holds Amounts) Amounts {
	holds[CPU] = int64(float64(holds[CPU]) * b.cfg.Share)
	holds[Memory] = int64(float64(holds[Memory]) * b.cfg.Share)
	holds[Disk] = int64(float64(holds[Disk]) * b.cfg.DiskShare)
	return holds
}

// See tells the book of the host, and serves those that wait. What the host can
// promise is what its sandboxes use already and what nobody uses, up to Most: so
// what other programs on it take is not promised twice.
func (b *Book) See(now time.Time, h Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.host, b.capacity = h, h.Most
	for i := range h.Free {
		if h.Free[i] != Unlimited {
			b.capacity[i] = min(h.Most[i], max(0, b.measured[i]+h.Free[i]))
		}
	}
	b.serveLocked(now)
}
