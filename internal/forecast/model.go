package forecast

import (
	"math"
	"time"
)

// Model forecasts the demand for one template and decides how many boxes of it
// to keep. It is not safe for concurrent use. Make one with [New].
type Model struct {
	cfg    Config
	season season
	warm   stage // boxes that a restore replaces
	all    stage // boxes that a create and a restore replace
	now    int64 // the latest time seen, in ns; 0 before the first
	born   int64
	burst  int64 // until when claims count as a burst
	counts [3]int64
	recent minutes
	pin    *Fixed
}

// New returns a model that knows nothing. Its template counts as new from the
// first time it is given. The error is a *bulkhead.Error with CodeInvalid.
func New(cfg Config) (*Model, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Model{cfg: cfg, season: season{loc: cfg.Location, flat: cfg.NoSeason}}
	m.warm = stage{lead: int64(cfg.Costs.Restore), builders: cfg.Builders, top: -1, prev: -1}
	m.all = stage{lead: int64(cfg.Costs.Create + cfg.Costs.Restore), builders: cfg.Builders, top: -1, prev: -1}
	m.SetWaitPrice(cfg.Costs.WaitPrice)
	return m, nil
}

// SetWaitPrice changes how many MB·s one second of a caller's wait is worth from
// now on. A pool under memory pressure lowers it until the targets fit: that
// drops the boxes that are least likely to be missed. Values that are not
// positive stand for the least there is.
func (m *Model) SetWaitPrice(price float64) {
	c := m.cfg.Costs
	price = math.Max(price, 1e-9)
	m.cfg.Costs.WaitPrice = price
	// A warm box in the place of a cold one saves a restore. A cold one in the
	// place of none saves a create.
	m.warm.pays = pays(c.WarmMB-c.ColdMB, price*c.Restore.Seconds())
	m.all.pays = pays(c.ColdMB, price*c.Create.Seconds())
}

// SetCosts changes what the stages cost from now on, as a live pool measures
// them. What was learned stays: depths that were counted with the old times are
// history that fades. After an error, a *bulkhead.Error with CodeInvalid, m is as
// it was.
func (m *Model) SetCosts(c Costs) error {
	if err := c.Validate(); err != nil {
		return err
	}
	m.cfg.Costs = c
	m.warm.lead, m.all.lead = int64(c.Restore), int64(c.Create+c.Restore)
	m.SetWaitPrice(c.WaitPrice)
	return nil
}

// Costs returns what the stages cost by now.
func (m *Model) Costs() Costs { return m.cfg.Costs }

// SetBounds changes the least and the most that a target may be. After an error,
// a *bulkhead.Error with CodeInvalid, m is as it was.
func (m *Model) SetBounds(b Bounds) error {
	if err := b.Validate(); err != nil {
		return err
	}
	m.cfg.Bounds = b
	return nil
}

// BoundInUse sets the bounds to b, whose least sizes hold while the template is in
// use: always, or claimed within [RecentUse]. Errors are those of SetBounds.
func (m *Model) BoundInUse(now time.Time, b Bounds, always bool) error {
	if m.tick(now); !always && m.recent.sum(m.now) == 0 {
		b.MinWarm, b.MinCold = 0, 0
	}
	return m.SetBounds(b)
}

// pays is how often per second a box must be needed that costs so many MB.
func pays(mb, saved float64) float64 { return math.Max(mb, 1e-6) / math.Max(saved, 1e-9) }

// Pin sets the target until [Model.Unpin]; the model goes on learning. Negative
// sizes count as 0. The pin is configuration and no part of the state.
func (m *Model) Pin(warm, cold int) { m.pin = &Fixed{Warm: max(0, warm), Cold: max(0, cold)} }

// Unpin gives the target back to the model.
func (m *Model) Unpin() { m.pin = nil }

// Pinned reports whether an operator set the target.
func (m *Model) Pinned() bool { return m.pin != nil }

// tick carries the clocks to now and returns it in ns, never before the last.
func (m *Model) tick(now time.Time) int64 {
	m.now = max(m.now, now.UnixNano())
	if m.born == 0 {
		m.born = m.now
	}
	m.season.advance(m.now)
	return m.now
}

// Observe learns from a claim that the given stage served.
func (m *Model) Observe(at time.Time, kind Kind) {
	now := m.tick(at)
	op := m.season.op(now)
	m.counts[min(kind, KindNew)]++
	m.recent.add(now)
	m.season.count++
	m.warm.claim(now, op)
	depth := m.all.claim(now, op)
	m.season.spread.claim(depth == 1)
	usual := m.season.mean.value() / 3600 * m.season.pace * time.Duration(m.all.lead).Seconds()
	if depth >= 4 && float64(depth) > 4*(1+usual) {
		m.burst = now + int64(time.Minute)
	}
}

// Target returns how many boxes should be waiting from now on.
func (m *Model) Target(now time.Time) Target {
	t := m.tick(now)
	if m.pin != nil {
		return m.pin.Target(now)
	}
	at := moment{wall: t, op: m.season.op(t), pace: m.season.pace}
	warm := m.warm.size(at, !m.cfg.NoTimers)
	all := m.all.size(at, !m.cfg.NoTimers)
	g := Target{Warm: warm.boxes, Cold: all.boxes - warm.boxes, Why: warm.why}
	if g.Warm == 0 {
		g.Why = all.why
	}
	if g.Why.Cause == CauseDemand && t < m.burst {
		g.Why.Cause = CauseBurst
	}
	until := min(max(min(warm.until, all.until), t+soonest), m.season.until)
	if m.total() == 0 && t-m.born < int64(RecentUse) {
		g.Warm, g.Cold, g.Why = NewWarm, NewCold, Reason{Cause: CauseNew}
		until = min(until, m.born+int64(RecentUse))
	}
	g.Warm, g.Cold = m.cfg.Bounds.clamp(g.Warm, g.Cold)
	g.Until = time.Unix(0, until)
	return g
}

func (m *Model) total() int64 { return m.counts[KindWarm] + m.counts[KindCold] + m.counts[KindNew] }

// Stats are what a model has seen.
type Stats struct {
	// Total is the number of claims, of which Warm, Cold and New were served so.
	Total int64 `json:"total"`
	Warm  int64 `json:"warm"`
	Cold  int64 `json:"cold"`
	New   int64 `json:"new"`
	// Recent is the number of claims in the last hour, give or take a minute.
	Recent int64 `json:"recent"`
	// PerHour is the forecast rate of claims for now.
	PerHour float64 `json:"perHour"`
	// Trend is how the last three days compare with the three weeks before, by
	// the pattern: 1.2 is a fifth more.
	Trend float64 `json:"trend"`
	// Pattern is how busy this hour of this weekday is; 1 is average.
	Pattern float64 `json:"pattern"`
	// Burst says whether claims come much faster than usual.
	Burst bool `json:"burst"`
}

// Stats returns what was seen until now.
func (m *Model) Stats(now time.Time) Stats {
	t := m.tick(now)
	return Stats{
		Total: m.total(), Warm: m.counts[KindWarm], Cold: m.counts[KindCold], New: m.counts[KindNew],
		Recent:  m.recent.sum(t),
		PerHour: m.season.rate(t, t) * 3600,
		Trend:   m.season.trend.ratio(m.season.prior()),
		Pattern: m.season.factor(t),
		Burst:   t < m.burst,
	}
}

// minutes counts events over the last hour, minute by minute.
type minutes struct {
	n    [60]int64
	last int64 // the minute counted last
}

func (r *minutes) roll(now int64) int {
	m := now / int64(time.Minute)
	for i := max(r.last+1, m-59); i <= m; i++ {
		r.n[i%60] = 0
	}
	r.last = max(r.last, m)
	return int(m % 60)
}

func (r *minutes) add(now int64) { r.n[r.roll(now)]++ }

func (r *minutes) sum(now int64) int64 {
	r.roll(now)
	var s int64
	for _, n := range r.n {
		s += n
	}
	return s
}
