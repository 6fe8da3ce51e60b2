package guard

import (
	"fmt"
	"math"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Reading is one look at the memory.
type Reading struct {
	// Used is the memory in use without reclaimable page cache, in bytes.
	Used int64
	// Limit is the memory there is, in bytes; 0 when it is not known, and then
	// only counts and pressure limit.
	Limit int64
	// Some10 and Full10 are the kernel's stall shares in percent over the last
	// 10 s; 0 where the kernel has none.
	Some10, Full10 float64
	// Source says what was read: "cgroup2", "cgroup1" or "host".
	Source string
}

// Fraction returns Used over Limit, 0 when Limit is not known.
func (r Reading) Fraction() float64 {
	if r.Limit <= 0 {
		return 0
	}
	return float64(r.Used) / float64(r.Limit)
}

// Priority orders the claims that wait. A claim's turn comes by its weight times
// the time it has waited, so that weight buys speed and waiting always helps.
type Priority int

// The priorities and their weights.
const (
	// PriorityLow has weight 1: batch work.
	PriorityLow Priority = iota - 1
	// PriorityNormal has weight 4. It is the zero value.
	PriorityNormal
	// PriorityHigh has weight 16: somebody is watching.
	PriorityHigh
)

// priorityCount and priorityWeights belong together.
const priorityCount = 3

var priorityWeights = [priorityCount]float64{1, 4, 16}

// ParsePriority reads "low", "normal", "high" or "", which is normal.
func ParsePriority(s string) (Priority, error) {
	switch s {
	case "low":
		return PriorityLow, nil
	case "", "normal":
		return PriorityNormal, nil
	case "high":
		return PriorityHigh, nil
	}
	return 0, bulkhead.Errorf(bulkhead.CodeInvalid, "priority is %q; it must be low, normal or high", s)
}

// index returns p's place in the tables.
func (p Priority) index() int { return int(min(max(p, PriorityLow), PriorityHigh)) + 1 }

// Claim asks for admission.
type Claim struct {
	// Cost is the memory the work will need, in bytes; 0 or less means the
	// configured estimate.
	Cost int64
	// Priority is the class it waits in.
	Priority Priority
	// Tier names the budget it counts against; it may be empty.
	Tier string
}

// ticketState is where a ticket is in its life.
type ticketState int

const (
	ticketWaiting ticketState = iota
	ticketAdmitted
	ticketDone
)

// Ticket is a claim the core has taken. It belongs to the core that made it.
type Ticket struct {
	claim   Claim
	state   ticketState
	at      time.Time // enqueued, then admitted
	settled bool      // the cost no longer counts in pending
	ready   chan struct{}
}

// tierUse is what one tier holds.
type tierUse struct {
	cost  int64
	count int
}

// bypassFor is how long smaller claims may overtake one that does not fit.
const bypassFor = time.Second

// Core is the decision: levels, concurrency, budgets and the queue. It has no
// clock, so every method takes the time; times must not go backwards. It is not
// safe for concurrent use.
type Core struct {
	cfg     Config
	reading Reading
	level   Level
	offset  float64 // adaption of the thresholds, -0.10 to 0
	calm    bool    // no pressure seen since adapted
	adapted time.Time

	current int // concurrency in force
	active  int
	pending int64 // cost of what was admitted less than Ramp ago
	recent  []*Ticket
	tiers   map[string]tierUse
	waiting [priorityCount][]*Ticket
	queued  int
	hold    time.Duration // moving average of how long a grant is held

	total, rejected, completed int64
}

// NewCore returns a core at level normal, or the error of [Config.Validate].
func NewCore(cfg Config) (*Core, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Core{cfg: cfg, current: cfg.base(0), calm: true, tiers: map[string]tierUse{}}, nil
}

// base returns the base concurrency. Where none is configured it is unlimited
// while nothing presses, and what ran when the pressure came after that.
func (c *Config) base(active int) int {
	if c.MaxConcurrent > 0 {
		return c.MaxConcurrent
	}
	if active > 0 {
		return max(4, active)
	}
	return math.MaxInt32
}

// Change says what a reading changed.
type Change struct {
	// Level and Was are the levels after and before.
	Level, Was Level
	// Concurrency and OldConcurrency are the limits after and before.
	Concurrency, OldConcurrency int
}

// Changed reports whether anything did.
func (c Change) Changed() bool {
	return c.Level != c.Was || c.Concurrency != c.OldConcurrency
}

// Observe takes a reading in and adjusts level, concurrency and thresholds.
// Call [Core.Admit] after it.
func (c *Core) Observe(now time.Time, r Reading) Change {
	ch := Change{Was: c.level, OldConcurrency: c.current}
	c.reading = r
	pressed := c.cfg.pressureLevel(r)
	c.adapt(now, pressed)
	bounds := c.cfg.thresholds(c.offset)
	c.level = max(bounds.level(r.Fraction(), c.cfg.Hysteresis, c.level), pressed)
	unlimited := c.cfg.MaxConcurrent < 0
	switch {
	case unlimited && c.level <= LevelStable:
		c.current = c.cfg.base(0)
	case unlimited && c.level == ch.Was && c.level != LevelCritical:
		// What ran when the level was entered stays the measure.
	default:
		c.current = concurrency(c.level, c.cfg.base(c.active), c.current, c.active)
	}
	ch.Level, ch.Concurrency = c.level, c.current
	return ch
}

// adapt moves the thresholds once per CheckInterval.
func (c *Core) adapt(now time.Time, pressed Level) {
	if c.cfg.FixedThresholds {
		return
	}
	if pressed >= LevelHigh {
		c.calm = false
	}
	if c.adapted.IsZero() {
		c.adapted = now
	}
	if now.Sub(c.adapted) < c.cfg.CheckInterval {
		return
	}
	if c.calm {
		c.offset = min(0, c.offset+0.005)
	} else {
		c.lower()
	}
	c.adapted, c.calm = now, true
}

// ReportOOM tells the core that the kernel killed something for memory although
// it had been admitted: the thresholds were too high.
func (c *Core) ReportOOM() {
	if !c.cfg.FixedThresholds {
		c.lower()
	}
}

// lower moves the thresholds one step down.
func (c *Core) lower() { c.offset = max(-0.10, c.offset-0.02) }

// Offer takes a claim. It returns a ticket that is admitted or waiting, or a
// *bulkhead.Error: [bulkhead.CodeInvalid] for what can never fit,
// [bulkhead.CodeUnavailable] with RetryAfter while memory is critical or the
// queue is full.
func (c *Core) Offer(now time.Time, claim Claim) (*Ticket, error) {
	c.total++
	if claim.Cost <= 0 {
		claim.Cost = c.cfg.EstimatedMemPerReqMB << 20
	}
	t := &Ticket{claim: claim, at: now}
	if c.cfg.Disabled {
		c.admit(now, t)
		return t, nil
	}
	if err := c.refuse(claim); err != nil {
		c.rejected++
		return nil, err
	}
	c.settle(now)
	if c.queued == 0 && c.fits(claim) {
		c.admit(now, t)
		return t, nil
	}
	if c.queued >= c.cfg.MaxWaiting {
		c.rejected++
		return nil, c.unavailable(fmt.Sprintf("%d claims wait already; that is the limit", c.queued))
	}
	t.ready = make(chan struct{})
	i := claim.Priority.index()
	c.waiting[i] = append(c.waiting[i], t)
	c.queued++
	return t, nil
}

// refuse returns the reason why claim must not even wait.
func (c *Core) refuse(claim Claim) error {
	if c.level == LevelCritical {
		return c.unavailable(fmt.Sprintf(
			"memory pressure is too high: %.1f %% of the memory limit is in use", 100*c.reading.Fraction()))
	}
	most := c.budget()
	if t, ok := c.cfg.Tiers[claim.Tier]; ok && t.MemoryShare > 0 {
		most = min(most, int64(t.MemoryShare*float64(most)))
	}
	if c.reading.Limit > 0 && claim.Cost > most {
		return bulkhead.Errorf(bulkhead.CodeInvalid,
			"it needs %d MiB of memory; at most %d MiB can be admitted here", claim.Cost>>20, most>>20)
	}
	return nil
}

// unavailable counts nothing; it makes the 503 with the predicted wait.
func (c *Core) unavailable(msg string) error {
	e := bulkhead.Errorf(bulkhead.CodeUnavailable, "%s", msg)
	e.RetryAfter = c.PredictedWait()
	return e
}

// PredictedWait returns how long a claim that came now would wait, from the
// claims before it and how long grants are held: 100 ms to 30 s.
func (c *Core) PredictedWait() time.Duration {
	slots := max(1, min(c.active, c.current))
	wait := c.hold * time.Duration(c.queued+1) / time.Duration(slots)
	return min(max(wait, 100*time.Millisecond), 30*time.Second)
}

// budget returns the memory that admitted work may fill, in bytes.
func (c *Core) budget() int64 {
	return int64((c.cfg.MaxPercent + c.offset) * float64(c.reading.Limit))
}

// settle drops from pending what was admitted more than Ramp ago.
func (c *Core) settle(now time.Time) {
	n := 0
	for _, t := range c.recent {
		if t.state == ticketAdmitted && !t.settled && now.Sub(t.at) < c.cfg.Ramp {
			break
		}
		c.unpend(t)
		n++
	}
	if n > 0 {
		c.recent = append(c.recent[:0], c.recent[n:]...)
	}
}

// unpend takes t's cost out of pending, once.
func (c *Core) unpend(t *Ticket) {
	if !t.settled {
		t.settled = true
		c.pending -= t.claim.Cost
	}
}

// fits reports whether claim may run beside what runs. Call settle before it.
func (c *Core) fits(claim Claim) bool {
	if c.level == LevelCritical || c.active >= c.current {
		return false
	}
	budget := c.budget()
	if b, ok := c.cfg.Tiers[claim.Tier]; ok {
		use := c.tiers[claim.Tier]
		if b.Concurrency > 0 && use.count >= b.Concurrency {
			return false
		}
		if b.MemoryShare > 0 && c.reading.Limit > 0 &&
			float64(use.cost+claim.Cost) > b.MemoryShare*float64(budget) {
			return false
		}
	}
	return c.reading.Limit <= 0 || c.reading.Used+c.pending+claim.Cost <= budget
}

// admit books t.
func (c *Core) admit(now time.Time, t *Ticket) {
	t.state, t.at = ticketAdmitted, now
	c.active++
	c.pending += t.claim.Cost
	c.recent = append(c.recent, t)
	if t.claim.Tier != "" {
		use := c.tiers[t.claim.Tier]
		use.cost += t.claim.Cost
		use.count++
		c.tiers[t.claim.Tier] = use
	}
}

// Release ends an admitted ticket, or takes a waiting one out of the queue as
// rejected. It may be called again; only the first call counts. Call
// [Core.Admit] after it.
func (c *Core) Release(now time.Time, t *Ticket) {
	switch t.state {
	case ticketWaiting:
		c.rejected++
		c.unqueue(t)
	case ticketAdmitted:
		c.completed++
		c.active--
		c.unpend(t)
		if t.claim.Tier != "" {
			use := c.tiers[t.claim.Tier]
			use.cost -= t.claim.Cost
			use.count--
			if use.count == 0 {
				delete(c.tiers, t.claim.Tier)
			} else {
				c.tiers[t.claim.Tier] = use
			}
		}
		c.hold += (now.Sub(t.at) - c.hold) / 8
		if len(c.recent) > 0 && c.recent[0].settled {
			c.settleDone()
		}
		if c.level == LevelCritical {
			c.current = c.active
		}
	case ticketDone:
		return
	}
	t.state = ticketDone
}

// settleDone drops the settled tickets at the front of recent.
func (c *Core) settleDone() {
	n := 0
	for n < len(c.recent) && c.recent[n].settled {
		n++
	}
	c.recent = append(c.recent[:0], c.recent[n:]...)
}

// unqueue removes t from its queue.
func (c *Core) unqueue(t *Ticket) {
	q := &c.waiting[t.claim.Priority.index()]
	for i, w := range *q {
		if w == t {
			*q = append((*q)[:i], (*q)[i+1:]...)
			c.queued--
			return
		}
	}
}

// Admit returns the next waiting ticket that may run now and books it, or nil.
// Call it until it returns nil.
//
// The order is weight × time waited. A ticket that does not fit may be
// overtaken by the heads of the other classes, but once it has waited a second
// nothing that comes after it passes: it cannot starve.
func (c *Core) Admit(now time.Time) *Ticket {
	if c.queued == 0 || c.level == LevelCritical || c.active >= c.current {
		return nil
	}
	c.settle(now)
	var tried [priorityCount]bool
	for range priorityCount {
		best, score := -1, -1.0
		for i, q := range c.waiting {
			if len(q) == 0 || tried[i] {
				continue
			}
			if s := priorityWeights[i] * float64(now.Sub(q[0].at)+1); s > score {
				best, score = i, s
			}
		}
		if best < 0 {
			return nil
		}
		t := c.waiting[best][0]
		if c.fits(t.claim) {
			c.unqueue(t)
			c.admit(now, t)
			return t
		}
		if now.Sub(t.at) >= bypassFor && !c.tierFull(t.claim) {
			return nil
		}
		tried[best] = true //nolint:gosec // best is an index of waiting
	}
	return nil
}

// tierFull reports whether it is claim's own tier that holds it back; such a
// claim must not hold back the other tiers.
func (c *Core) tierFull(claim Claim) bool {
	claim2 := claim
	claim2.Tier = ""
	return claim.Tier != "" && c.fits(claim2)
}

// NextCheck returns how long the next reading may wait: 20 ms near a bound or
// under pressure, 80 ms otherwise, so that pressure is noticed within 100 ms.
func (c *Core) NextCheck() time.Duration {
	const calm, near = 80 * time.Millisecond, 20 * time.Millisecond
	if c.level >= LevelWarning || c.queued > 0 {
		return near
	}
	for _, bound := range c.cfg.thresholds(c.offset) {
		if d := bound - c.reading.Fraction(); d > 0 && d < 0.05 {
			return near
		}
	}
	return calm
}
