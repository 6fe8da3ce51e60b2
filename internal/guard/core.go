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

// kind is what a claim is for.
type kind int

const (
	kindRun      kind = iota // something that runs and ends
	kindStanding             // something that is made and then stands
	kinds
)

// Claim asks for admission.
type Claim struct {
	// Cost is the memory the work will need, in bytes; 0 or less means the
	// configured estimate.
	Cost int64
	// Priority is the class it waits in.
	Priority Priority
	// Tier names the budget it counts against; it may be empty.
	Tier string
	// Budget is that budget. A zero one is that of Config.Tiers.
	Budget TierBudget
	// Yields is for what is likely to run long: it leaves a few of the places to
	// claims that do not yield.
	Yields bool
	// Standing is for what is made once and then stays for long, such as a
	// sandbox: it counts among those being made, MaxStarting at once, until
	// [Grant.Settle], and never among the runs.
	Standing bool
}

// kind returns what the claim is for.
func (c *Claim) kind() kind {
	if c.Standing {
		return kindStanding
	}
	return kindRun
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
	at      time.Time // enqueued, then admitted, then settled
	settled bool      // the cost no longer counts in pending
	stands  bool      // what was made stands: it counts no longer as active
	ready   chan struct{}
}

// tierUse is what one tier holds.
type tierUse struct {
	cost  int64
	count int
}

// yielded is how many places are left to claims that do not yield, where there are
// four times as many, and slightPart what part of the budget a slight claim needs at
// most.
const (
	yielded    = 2
	slightPart = 256
)

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

	most     [kinds]int // concurrency in force
	active   [kinds]int
	standing int   // what was made and not released
	pending  int64 // cost of what was admitted less than Ramp ago, and of what is being made
	recent   []*Ticket
	tiers    map[string]tierUse
	waiting  [kinds * 2 * priorityCount][]*Ticket
	queued   int
	hold     time.Duration // moving average of how long a grant is held

	total, rejected, completed int64
}

// NewCore returns a core at level normal, or the error of [Config.Validate].
func NewCore(cfg Config) (*Core, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c := &Core{cfg: cfg, calm: true, tiers: map[string]tierUse{}}
	c.most = [kinds]int{kindRun: cfg.base(0), kindStanding: cfg.MaxStarting}
	return c, nil
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
	ch := Change{Was: c.level, OldConcurrency: c.most[kindRun]}
	c.reading = r
	pressed := c.cfg.pressureLevel(r)
	c.adapt(now, pressed)
	bounds := c.cfg.thresholds(c.offset)
	c.level = max(bounds.level(r.Fraction(), c.cfg.Hysteresis, c.level), pressed)
	unlimited, running := c.cfg.MaxConcurrent < 0, c.active[kindRun]
	switch {
	case unlimited && c.level <= LevelStable:
		c.most[kindRun] = c.cfg.base(0)
	case unlimited && c.level == ch.Was && c.level != LevelCritical:
		// What ran when the level was entered stays the measure.
	default:
		c.most[kindRun] = concurrency(c.level, c.cfg.base(running), c.most[kindRun], running)
	}
	c.most[kindStanding] = concurrency(c.level, c.cfg.MaxStarting, c.most[kindStanding], c.active[kindStanding])
	ch.Level, ch.Concurrency = c.level, c.most[kindRun]
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
	t := &Ticket{claim: claim}
	if err := c.take(now, t); err != nil {
		return nil, err
	}
	return t, nil
}

// take is Offer for a ticket that the caller has made.
func (c *Core) take(now time.Time, t *Ticket) error {
	c.total++
	claim := &t.claim
	if claim.Cost <= 0 {
		claim.Cost = c.cfg.EstimatedMemPerReqMB << 20
	}
	t.at = now
	if c.cfg.Disabled {
		c.admit(now, t)
		return nil
	}
	if err := c.refuse(claim); err != nil {
		c.rejected++
		return err
	}
	c.settle(now)
	if (c.queued == 0 || c.slight(claim)) && c.fits(claim) {
		c.admit(now, t)
		return nil
	}
	if c.queued >= c.cfg.MaxWaiting {
		c.rejected++
		return c.unavailable("as many wait as may")
	}
	t.ready = make(chan struct{})
	i := claim.queue()
	c.waiting[i] = append(c.waiting[i], t)
	c.queued++
	return nil
}

// refuse returns the reason why claim must not even wait.
func (c *Core) refuse(claim *Claim) error {
	if c.level == LevelCritical {
		return c.unavailable("memory pressure is too high")
	}
	most := c.budget()
	most = min(most, c.budgetOf(claim).memory(most))
	if c.reading.Limit > 0 && claim.Cost > most {
		return bulkhead.Errorf(bulkhead.CodeInvalid,
			"it needs %d MiB of memory; at most %d MiB can be admitted here", claim.Cost>>20, most>>20)
	}
	return nil
}

// unavailable counts nothing; it makes the 503 with the state of things and the
// predicted wait.
func (c *Core) unavailable(msg string) *bulkhead.Error {
	e := bulkhead.Errorf(bulkhead.CodeUnavailable, "%s (%s)", msg, c.state())
	e.RetryAfter = c.PredictedWait()
	return e
}

// state says in one line what admission goes by.
func (c *Core) state() string {
	if c.reading.Limit <= 0 {
		return fmt.Sprintf("level %v, %d run, %d wait", c.level, c.active[kindRun], c.queued)
	}
	return fmt.Sprintf("level %v: %.1f %% of %d MiB in use, stalled %.0f %% of the time; %d run, %d wait",
		c.level, 100*c.reading.Fraction(), c.reading.Limit>>20, c.reading.Some10, c.active[kindRun], c.queued)
}

// PredictedWait returns how long a claim that came now would wait, from the
// claims before it and how long grants are held: 100 ms to 30 s.
func (c *Core) PredictedWait() time.Duration {
	slots := max(1, min(c.active[kindRun], c.most[kindRun]))
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

// budgetOf returns the budget that claim counts against.
func (c *Core) budgetOf(claim *Claim) TierBudget {
	if claim.Budget != (TierBudget{}) {
		return claim.Budget
	}
	return c.cfg.Tiers[claim.Tier]
}

// full reports whether as many of claim's kind are active as may be.
func (c *Core) full(claim *Claim) bool {
	most := c.most[claim.kind()]
	if claim.Yields {
		most -= min(yielded, most/4)
	}
	return c.active[claim.kind()] >= most
}

// slight reports whether claim needs so little that it delays no other by what it
// takes: it goes past those that wait for memory.
func (c *Core) slight(claim *Claim) bool { return !claim.Yields && claim.Cost <= c.budget()/slightPart }

// fits reports whether claim may run beside what runs. Call settle before it.
func (c *Core) fits(claim *Claim) bool {
	if c.level == LevelCritical || c.full(claim) {
		return false
	}
	budget := c.budget()
	if b := c.budgetOf(claim); b != (TierBudget{}) {
		use := c.tiers[claim.Tier]
		if b.Concurrency > 0 && use.count >= b.Concurrency {
			return false
		}
		if c.reading.Limit > 0 && use.cost+claim.Cost > b.memory(budget) {
			return false
		}
	}
	if c.level == LevelHigh && c.slight(claim) {
		// Half of the scripts go on, those that need next to nothing.
		budget = int64((c.cfg.CriticalPercent + c.offset) * float64(c.reading.Limit))
	}
	return c.reading.Limit <= 0 || c.reading.Used+c.pending+claim.Cost <= budget
}

// admit books t.
func (c *Core) admit(now time.Time, t *Ticket) {
	t.state, t.at = ticketAdmitted, now
	c.active[t.claim.kind()]++
	c.pending += t.claim.Cost
	if !t.claim.Standing {
		c.recent = append(c.recent, t)
	}
	if t.claim.Tier != "" {
		use := c.tiers[t.claim.Tier]
		use.cost += t.claim.Cost
		use.count++
		c.tiers[t.claim.Tier] = use
	}
}

// Settle says that what a standing claim was for has been made. From then on it
// takes no place among those being made, and after Ramp its memory is taken to be
// in what is measured. It does nothing for other tickets, and when repeated.
func (c *Core) Settle(now time.Time, t *Ticket) {
	if t.state != ticketAdmitted || !t.claim.Standing || t.stands {
		return
	}
	t.stands, t.at = true, now
	c.active[kindStanding]--
	c.standing++
	c.recent = append(c.recent, t)
	c.leaveTier(t)
}

// leaveTier gives back what t holds of its tier's budget.
func (c *Core) leaveTier(t *Ticket) {
	if t.claim.Tier == "" {
		return
	}
	use := c.tiers[t.claim.Tier]
	use.cost -= t.claim.Cost
	use.count--
	if use.count == 0 {
		delete(c.tiers, t.claim.Tier)
	} else {
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
		c.unpend(t)
		switch {
		case t.stands:
			c.standing--
		default:
			c.active[t.claim.kind()]--
			c.leaveTier(t)
		}
		if !t.claim.Standing {
			c.hold += (now.Sub(t.at) - c.hold) / 8
		}
		if len(c.recent) > 0 && c.recent[0].settled {
			c.settleDone()
		}
		if c.level == LevelCritical {
			c.most = c.active
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
	q := &c.waiting[t.claim.queue()]
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
// nothing that comes after it passes but what is slight: it cannot starve.
func (c *Core) Admit(now time.Time) *Ticket {
	if c.queued == 0 || c.level == LevelCritical {
		return nil
	}
	c.settle(now)
	var tried [len(c.waiting)]bool
	barred := false
	for range c.waiting {
		best, score := -1, -1.0
		for i, q := range c.waiting {
			if len(q) == 0 || tried[i] {
				continue
			}
			if s := priorityWeights[i%priorityCount] * float64(now.Sub(q[0].at)+1); s > score {
				best, score = i, s
			}
		}
		if best < 0 {
			return nil
		}
		t := c.waiting[best][0]
		if c.fits(&t.claim) && (!barred || c.slight(&t.claim)) {
			c.unqueue(t)
			c.admit(now, t)
			return t
		}
		barred = barred || now.Sub(t.at) >= bypassFor && !c.full(&t.claim) && !c.tierFull(t.claim)
		tried[best] = true //nolint:gosec // best is an index of waiting
	}
	return nil
}

// queue returns the index of the queue that the claim waits in.
func (c *Claim) queue() int {
	lane := int(c.kind()) * 2
	if c.Yields {
		lane++
	}
	return lane*priorityCount + c.Priority.index()
}

// tierFull reports whether it is claim's own tier that holds it back; such a
// claim must not hold back the other tiers.
func (c *Core) tierFull(claim Claim) bool {
	named := claim.Tier != ""
	claim.Tier, claim.Budget = "", TierBudget{}
	return named && c.fits(&claim)
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
