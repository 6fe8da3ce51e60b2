package quota

import (
	"sync"
	"sync/atomic"
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
	// Connections is how many connections to the outside the operator lets one
	// sandbox have open [no bound].
	Connections int64
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
//
// Everything is decided under one lock, which is held for no longer than sums and
// comparisons take: whoever finds it held then spins for a moment, where it would
// else be put to sleep and woken by the scheduler. So what a request gets, its
// reasons and why it is refused are worked out before and after.
type Book struct {
	cfg      Config
	host     atomic.Pointer[Host] // as last seen
	accounts sync.Map             // of tenants: string to *account; what is in them is guarded by mu

	mu       sync.Mutex
	capacity Amounts // what the host can promise now
	booked   Amounts // on the host, by what is expected of each booking
	measured Amounts // in use by all bookings, when they were last measured
	granted  Amounts // to all tenants
	bookings int
	queue    []*Booking // those that wait, first to be served first
	short    int        // those of them that wait for the host
	least    Amounts    // of each resource, what the most modest of those asks for, or less
	freed    flow
	epoch    uint64
}

// New returns an empty book of a host without limits.
func New(cfg Config) *Book {
	cfg.fill()
	none := Amounts{Unlimited, Unlimited, Unlimited, Unlimited}
	b := &Book{cfg: cfg, capacity: none}
	b.host.Store(&Host{Most: none, Free: none})
	return b
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
	ours    bool  // while it waits: it lacks nothing of its tenant's, but of the host
	own     bool  // may wait for its tenant's own sandboxes
	host    bool  // may wait for the host
}

// Offer decides on a request: a booking that is granted or one that waits, which
// [Booking.Ready] tells. The error is a *[bulkhead.Error] with its Limit set:
// [bulkhead.CodeQuotaExceeded] for the tenant's own limits,
// [bulkhead.CodeUnavailable] when the host is full, [bulkhead.CodeInvalid] for
// what this host could never carry. The booking must be returned.
func (b *Book) Offer(now time.Time, r Request) (*Booking, error) {
	host := b.host.Load()
	alloc, err := b.allocate(&r, host, now)
	if err != nil {
		return nil, err
	}
	t := termsOf(&r.Tier.Quota, r.Today)
	k := &Booking{
		b: b, account: b.account(r.Tenant), alloc: alloc, holds: AmountsOf(alloc.Limits), since: now, own: r.WaitOwn, host: r.WaitHost,
		// Waiting gains priority at one rate for all, so the order never changes.
		key: now.UnixNano() - int64(alloc.Priority)*int64(b.cfg.Ageing),
	}
	k.booked = b.expect(k.holds)
	if i := lacking(&nothing, &nothing, &k.holds, &t.limit); i >= 0 {
		return nil, never(tenantLimits[i], value(i, t.limit[i]), value(i, k.holds[i]), units[i])
	}
	if i := lacking(&nothing, &nothing, &k.booked, &host.Most); i >= 0 {
		return nil, never(hostLimits[i], value(i, host.Most[i]), value(i, k.booked[i]), units[i])
	}
	if no := b.decide(now, k, &t); no.kind != granting {
		return nil, no.err()
	}
	return k, nil
}

// decide enters the booking, as granted or as one that waits, or says why not.
func (b *Book) decide(now time.Time, k *Booking, t *terms) refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := k.account
	a.limit = t.limit
	if no := a.rates(now, t, 1); no.kind != granting {
		return no
	}
	switch {
	case a.waiting > 0: // the limit may be another than it was
		b.insertLocked(k)
		b.serveLocked(now)
	case b.fitsLocked(k) && b.passesLocked(now, k):
		b.grantLocked(k)
	default: // nothing came free, so there is nothing to serve
		b.insertLocked(k)
		if k.ours = lacking(&a.used, &nothing, &k.holds, &a.limit) < 0; k.ours {
			b.shortLocked(k)
		}
	}
	if k.state == waiting {
		if no := b.stayLocked(now, k); no.kind != granting {
			b.removeLocked(k)
			k.state = returned
			return no
		}
		k.ready = make(chan struct{})
	}
	if t.creates > 0 {
		a.bucket.tokens--
	}
	return refusal{}
}

// rates returns the limit over time that n more creates would meet, if any.
func (a *account) rates(now time.Time, t *terms, n float64) refusal {
	if t.creates > 0 {
		size := a.bucket.fill(now, t.creates)
		if a.bucket.tokens < min(n, size) {
			return refusal{kind: exceeded, LimitEvidence: bulkhead.LimitEvidence{
				Name: "tenant.createsPerSecond", Unit: "creates/s", Limit: t.creates, Used: t.creates, Asked: n,
				WaitSeconds: a.bucket.wait(t.creates, min(n, size)),
			}}
		}
	}
	for i, d := range t.today {
		if d.limit > 0 && d.used >= d.limit {
			return refusal{kind: exceeded, LimitEvidence: bulkhead.LimitEvidence{
				Name: budgets[i].name, Unit: budgets[i].unit, Limit: d.limit, Used: d.used, WaitSeconds: untilTomorrow(now),
			}}
		}
	}
	return refusal{}
}

// budgets are those of a day, as the API writes them.
var budgets = [days]struct{ name, unit string }{
	cpuSeconds: {"tenant.cpuSecondsPerDay", "CPU-seconds"},
	gbHours:    {"tenant.gbHoursPerDay", "GB-hours"},
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
	state, no := k.withdraw(now)
	switch state {
	case granted:
		return nil
	case returned:
		return bulkhead.Errorf(bulkhead.CodeConflict, "the booking was returned")
	case waiting:
	}
	return no.err()
}

// withdraw returns the state that the booking was in.
func (k *Booking) withdraw(now time.Time) (state, refusal) {
	b := k.b
	b.mu.Lock()
	defer b.mu.Unlock()
	was := k.state
	if was != waiting {
		return was, refusal{}
	}
	no := b.whyLocked(now, k)
	b.removeLocked(k)
	k.state = returned
	b.serveLocked(now) // what was kept free for it
	return was, no
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
		b.booked.sub(&k.booked)
		b.granted.sub(&k.holds)
		b.measured.sub(&k.use)
		k.account.used.sub(&k.holds)
		b.freed.add(now, &k.booked)
		k.account.freed.add(now, &k.holds)
		if k.account.waiting > 0 || b.enoughLocked() {
			b.serveLocked(now)
		}
	}
	k.state = returned
}

// Adopt books what runs already, whatever the limits are: a sandbox that an
// earlier server granted.
func (b *Book) Adopt(now time.Time, a bulkhead.Allocation) *Booking {
	k := &Booking{b: b, account: b.account(a.Tenant), alloc: a, holds: AmountsOf(a.Limits), since: now}
	k.booked = b.expect(k.holds)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grantLocked(k)
	return k
}

// grantLocked enters the booking.
func (b *Book) grantLocked(k *Booking) {
	k.state = granted
	b.bookings++
	b.booked.add(&k.booked)
	b.granted.add(&k.holds)
	k.account.used.add(&k.holds)
	if k.ready != nil {
		close(k.ready)
	}
}

// account is the tenant's, made when it is first asked for.
func (b *Book) account(tenant string) *account {
	if a := b.known(tenant); a != nil {
		return a
	}
	a, _ := b.accounts.LoadOrStore(tenant, &account{limit: Amounts{Unlimited, Unlimited, Unlimited, Unlimited}})
	return a.(*account) //nolint:errcheck,forcetypeassert // nothing else is stored
}

// known is the tenant's account, nil if there is none.
func (b *Book) known(tenant string) *account {
	a, _ := b.accounts.Load(tenant)
	known, _ := a.(*account)
	return known
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
	b.host.Store(&h)
	b.capacity = h.Most
	for i := range h.Free {
		if h.Free[i] != Unlimited {
			b.capacity[i] = min(h.Most[i], max(0, b.measured[i]+h.Free[i]))
		}
	}
	b.serveLocked(now)
}
