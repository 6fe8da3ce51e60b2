package forecast

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// monday is a Monday at midnight.
var monday = time.Date(2025, 1, 6, 0, 0, 0, 0, time.UTC)

func newModel(t testing.TB, cfg Config) *Model {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	costs := func(f func(*Costs)) Config {
		c := DefaultCosts()
		f(&c)
		return Config{Costs: c}
	}
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{costs(func(c *Costs) { c.Restore = -1 }), "restore is -1ns"},
		{costs(func(c *Costs) { c.Create = time.Hour }), "create is 1h"},
		{costs(func(c *Costs) { c.WarmMB = math.NaN() }), "warmMB is NaN"},
		{costs(func(c *Costs) { c.WaitPrice = math.Inf(1) }), "waitPrice is +Inf"},
		{Config{Builders: 257}, "builders is 257"},
		{Config{Builders: -1}, "builders is -1"},
		{Config{Bounds: Bounds{MinWarm: 3, MaxWarm: 2}}, "warm bounds are 3 to 2"},
		{Config{Bounds: Bounds{MaxCold: 257}}, "cold bounds are 0 to 257"},
	} {
		_, err := New(tc.cfg)
		if bulkhead.CodeOf(err) != bulkhead.CodeInvalid || !strings.Contains(bulkhead.Message(err), tc.want) {
			t.Errorf("New(%+v) = %v; want it to say %q", tc.cfg, err, tc.want)
		}
	}
}

func TestSeedFormula(t *testing.T) {
	var s Seed
	if g := s.Target(monday); g.Warm != 2 || g.Cold != 3 {
		t.Errorf("without use: %d+%d; want 2+3", g.Warm, g.Cold)
	}
	// Twelve claims in the Monday's first hour: hourly 12/max(1, 12/168) = 12,
	// daily 12/max(1, 12/7) = 7; 20 minutes later all 12 are recent:
	// ceil((12·7 + 12·2)/2) = 54, over both bounds.
	for i := range 12 {
		s.Observe(monday.Add(time.Duration(i)*time.Minute), KindWarm)
	}
	if g := s.Target(monday.Add(2 * time.Minute)); g.Warm != 2 {
		t.Errorf("before the next maintenance: %d warm; want the old 2", g.Warm)
	}
	if g := s.Target(monday.Add(20 * time.Minute)); g.Warm != 10 || g.Cold != 15 {
		t.Errorf("busy: %d+%d; want 10+15", g.Warm, g.Cold)
	}
	// Next day at noon none is recent and the cells are empty: back to the least.
	if g := s.Target(monday.Add(36 * time.Hour)); g.Warm != 2 || g.Cold != 3 {
		t.Errorf("quiet: %d+%d; want 2+3", g.Warm, g.Cold)
	}
	// A week on, at 00:30 on Monday: only 84/2 = 42 from the cells.
	if g := s.Target(monday.Add(7*24*time.Hour + 30*time.Minute)); g.Warm != 10 || g.Cold != 15 {
		t.Errorf("same hour a week later: %d+%d; want 10+15", g.Warm, g.Cold)
	}
	// Three recent claims elsewhere in the week: ceil((1·1.x + 6)/2).
	var few Seed
	for i := range 3 {
		few.Observe(monday.Add(time.Duration(i)*time.Minute), KindCold)
	}
	if g := few.Target(monday.Add(50 * time.Minute)); g.Warm != 8 || g.Cold != 15 {
		t.Errorf("three claims: %d+%d; want ceil((3·3+6)/2) = 8 and 15", g.Warm, g.Cold)
	}
}

func TestSeedForgetsBeyondWhatItsFormulaNeeds(t *testing.T) {
	var s Seed
	for i := range 5 * maxRecent {
		s.Observe(monday.Add(time.Duration(i)*100*time.Millisecond), KindWarm)
	}
	if len(s.recent) > maxRecent {
		t.Errorf("remembers %d claims; want at most %d", len(s.recent), maxRecent)
	}
	if s.total != 5*maxRecent {
		t.Errorf("total %d; want %d", s.total, 5*maxRecent)
	}
}

func TestNewTemplateStartsFromTheDefaults(t *testing.T) {
	m := newModel(t, Config{})
	g := m.Target(monday)
	if g.Warm < NewWarm || g.Cold < NewCold || g.Why.Cause != CauseNew {
		t.Errorf("new template: %d+%d (%v); want at least 2+3 as new", g.Warm, g.Cold, g.Why)
	}
	g = m.Target(monday.Add(30 * 24 * time.Hour))
	if g.Warm != 0 || g.Cold != 1 || g.Why.Cause != CauseQuiet {
		t.Errorf("never used for a month: %d+%d (%v); want 0+1, quiet", g.Warm, g.Cold, g.Why)
	}
}

// feed replays claims at the given times, asking for targets as a pool would,
// until end.
func feed(m *Model, times []time.Time, end time.Time) Target {
	var g Target
	now := monday
	ask := func(to time.Time) {
		for g = m.Target(now); g.Until.Before(to); g = m.Target(now) {
			now = g.Until
		}
		now = to
	}
	for _, at := range times {
		ask(at)
		m.Observe(at, KindWarm)
	}
	ask(end)
	return m.Target(end)
}

func every(gap time.Duration, from time.Time, n int) (times []time.Time) {
	for i := range n {
		times = append(times, from.Add(time.Duration(i)*gap))
	}
	return times
}

func TestBurstRaisesTheTargetWithItsOwnClaims(t *testing.T) {
	m := newModel(t, Config{})
	// An hour of one claim each 30 s: shallow.
	times := every(30*time.Second, monday, 120)
	before := feed(m, times, times[len(times)-1].Add(time.Second))
	// Then 20 at once.
	burst := times[len(times)-1].Add(10 * time.Second)
	for i := range 20 {
		m.Observe(burst.Add(time.Duration(i)*20*time.Millisecond), KindCold)
	}
	at := burst.Add(time.Second)
	during := m.Target(at)
	if during.Warm < 6 || during.Warm+during.Cold < 20 {
		t.Errorf("in a burst of 20: %d+%d; want at least 6 warm and 20 in all", during.Warm, during.Cold)
	}
	if during.Why.Cause != CauseBurst || !m.Stats(at).Burst {
		t.Errorf("in a burst: %v; want it called a burst", during.Why)
	}
	// Back to the old pace: a day later the depth no longer pays for warm boxes.
	times = every(30*time.Second, burst.Add(time.Minute), 2*24*120)
	after := feed(m, times, times[len(times)-1].Add(time.Second))
	if after.Warm > before.Warm+1 {
		t.Errorf("two days after the burst: %d warm; want about the %d from before", after.Warm, before.Warm)
	}
	if after.Why.Cause == CauseBurst {
		t.Errorf("two days after: %v; want no burst", after.Why)
	}
}

func TestIdleTemplateIsGivenUp(t *testing.T) {
	m := newModel(t, Config{})
	times := every(5*time.Second, monday, 200)
	busy := feed(m, times, times[len(times)-1].Add(time.Second))
	if busy.Warm == 0 {
		t.Fatalf("busy: %d warm; want some", busy.Warm)
	}
	warm := busy.Warm
	for _, wait := range []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour, 30 * 24 * time.Hour} {
		g := feed(m, nil, times[len(times)-1].Add(wait))
		if g.Warm > warm {
			t.Errorf("after %v of quiet: %d warm, more than the %d before", wait, g.Warm, warm)
		}
		warm = g.Warm
	}
	if warm != 0 {
		t.Errorf("after a month of quiet: %d warm; want 0", warm)
	}
}

func TestTimerIsProvidedForAroundItsTime(t *testing.T) {
	m := newModel(t, Config{})
	const period = time.Hour
	times := every(period, monday.Add(7*time.Minute), 48)
	last := times[len(times)-1]
	half := feed(m, times, last.Add(period/2))
	if half.Warm != 0 {
		t.Errorf("half an hour before the timer: %d warm (%v); want 0", half.Warm, half.Why)
	}
	if half.Until.After(last.Add(period-time.Second)) || half.Until.Before(last.Add(period*3/4)) {
		t.Errorf("asks again at %v; want shortly before %v", half.Until, last.Add(period))
	}
	due := feed(m, nil, last.Add(period-time.Second))
	if due.Warm != 1 || due.Why.Cause != CauseTimer {
		t.Errorf("a second before the timer: %d warm (%v); want 1 for the timer", due.Warm, due.Why)
	}
	if s := due.Why.String(); !strings.Contains(s, "timer that comes every 1.0h") {
		t.Errorf("reason is %q", s)
	}
	without := newModel(t, Config{NoTimers: true})
	if g := feed(without, times, last.Add(period/2)); g.Why.Cause == CauseTimer {
		t.Errorf("without timers: %v", g.Why)
	}
}

func TestNightDoesNotLookLikeTheEnd(t *testing.T) {
	// Four weeks of working hours: a claim each 10 min from 9 to 17, none at night.
	var times []time.Time
	for day := range 28 {
		morning := monday.Add(time.Duration(day)*24*time.Hour + 9*time.Hour)
		for i := range 48 {
			// not so regular that it is a timer
			times = append(times, morning.Add(time.Duration(i)*10*time.Minute+time.Duration(i*i%7)*40*time.Second))
		}
	}
	day := monday.Add(28 * 24 * time.Hour)
	passed := func(m *Model, from, to time.Duration) time.Duration {
		feed(m, nil, day.Add(from))
		begin := m.season.op(m.now)
		feed(m, nil, day.Add(to))
		return time.Duration(m.season.op(m.now) - begin)
	}
	with, without := newModel(t, Config{}), newModel(t, Config{NoSeason: true})
	feed(with, times, day)
	feed(without, times, day)
	if s := with.Stats(day); s.Pattern > 0.5 {
		t.Errorf("at midnight the pattern is %.2f; want it low", s.Pattern)
	}
	if got := passed(with, 0, 8*time.Hour); got > 4*time.Hour {
		t.Errorf("eight hours of the night count for %v; want less than half", got)
	}
	if s := with.Stats(day.Add(12 * time.Hour)); s.Pattern < 1.5 {
		t.Errorf("at noon the pattern is %.2f; want it high", s.Pattern)
	}
	if got := passed(without, 0, 8*time.Hour); got != 8*time.Hour {
		t.Errorf("without a pattern eight hours count for %v", got)
	}
}

func TestPriceMovesTheTarget(t *testing.T) {
	times := every(700*time.Millisecond, monday, 2000)
	end := times[len(times)-1].Add(time.Second)
	last := -1
	for _, price := range []float64{0, 1, 1e3, 1e5, 1e7, 1e9} {
		m := newModel(t, Config{})
		m.SetWaitPrice(price)
		g := feed(m, times, end)
		if all := g.Warm + g.Cold; all < last {
			t.Errorf("at price %g: %d boxes, fewer than the %d at a lower price", price, all, last)
		} else {
			last = all
		}
	}
	if last < 3 {
		t.Errorf("at the highest price: %d boxes; want several", last)
	}
	// Pressure on a model that is under way.
	m := newModel(t, Config{})
	before := feed(m, times, end)
	m.SetWaitPrice(0)
	if g := m.Target(end); g.Warm != 0 || g.Cold != 1 {
		t.Errorf("at no price: %d+%d; want the least, 0+1", g.Warm, g.Cold)
	}
	m.SetWaitPrice(DefaultCosts().WaitPrice)
	if g := m.Target(end); g.Warm != before.Warm || g.Cold != before.Cold {
		t.Errorf("after the pressure: %d+%d; want %d+%d again", g.Warm, g.Cold, before.Warm, before.Cold)
	}
}

func TestPinStandsAndTheModelGoesOn(t *testing.T) {
	m := newModel(t, Config{})
	m.Pin(7, 0)
	m.Observe(monday, KindNew)
	g := m.Target(monday)
	if g.Warm != 7 || g.Cold != 0 || g.Why.Cause != CausePinned || !m.Pinned() {
		t.Errorf("pinned: %d+%d (%v); want 7+0", g.Warm, g.Cold, g.Why)
	}
	m.Pin(-1, -1)
	if g := m.Target(monday); g.Warm != 0 || g.Cold != 0 {
		t.Errorf("pinned below 0: %d+%d; want 0+0", g.Warm, g.Cold)
	}
	m.Unpin()
	if g := m.Target(monday); g.Warm == 0 || m.Pinned() {
		t.Errorf("unpinned after a claim: %d warm; want some", g.Warm)
	}
	if s := m.Stats(monday); s.Total != 1 || s.New != 1 || s.Recent != 1 {
		t.Errorf("stats %+v; want the claim while pinned", s)
	}
}

func TestStatsCountTheLastHour(t *testing.T) {
	m := newModel(t, Config{})
	for _, at := range every(10*time.Minute, monday, 30) { // 4 h 50 min
		m.Observe(at, KindWarm)
	}
	s := m.Stats(monday.Add(4*time.Hour + 55*time.Minute))
	if s.Total != 30 || s.Recent != 6 {
		t.Errorf("total %d, recent %d; want 30 and 6", s.Total, s.Recent)
	}
	if s := m.Stats(monday.Add(10 * time.Hour)); s.Recent != 0 {
		t.Errorf("recent %d after five hours of quiet; want 0", s.Recent)
	}
}

func TestTimeThatRunsBackwardsStands(t *testing.T) {
	m := newModel(t, Config{})
	times := every(time.Second, monday.Add(time.Hour), 100)
	want := feed(m, times, times[99])
	m.Observe(monday, KindWarm)
	got := m.Target(monday)
	if got.Warm < want.Warm || !got.Until.After(times[99]) {
		t.Errorf("after a claim from the past: %+v; want at least %d warm and a time after %v", got, want.Warm, times[99])
	}
}

func TestTargetsStayWithinBounds(t *testing.T) {
	b := Bounds{MinWarm: 1, MaxWarm: 4, MinCold: 2, MaxCold: 5}
	m := newModel(t, Config{Bounds: b})
	rng := rand.New(rand.NewPCG(1, 2))
	now := monday
	for range 20_000 {
		now = now.Add(time.Duration(math.Exp(rng.NormFloat64()*4) * float64(time.Second)))
		if rng.IntN(3) > 0 {
			m.Observe(now, Kind(rng.IntN(3)))
		}
		g := m.Target(now)
		if g.Warm < 1 || g.Warm > 4 || g.Cold < 2 || g.Cold > 5 {
			t.Fatalf("target %d+%d leaves the bounds %+v", g.Warm, g.Cold, b)
		}
		if !g.Until.After(now) || g.Until.After(now.Add(time.Hour)) {
			t.Fatalf("asked at %v, again at %v; want within the hour after", now, g.Until)
		}
	}
}

func TestPredict(t *testing.T) {
	// Four weeks of Poisson claims at 60 an hour.
	m := newModel(t, Config{})
	rng := rand.New(rand.NewPCG(7, 7))
	var times []time.Time
	end := monday.Add(28 * 24 * time.Hour)
	for at := monday; at.Before(end); at = at.Add(time.Duration(rng.ExpFloat64() * float64(time.Minute))) {
		times = append(times, at)
	}
	feed(m, times, end)
	d := m.Predict(end, time.Hour)
	if d.Mean < 50 || d.Mean > 70 || d.Variance < d.Mean || d.Variance > 4*d.Mean {
		t.Errorf("an hour ahead: mean %.1f, variance %.1f; want about 60 and not much more", d.Mean, d.Variance)
	}
	if q := d.Quantile(0.99); q < 75 || q > 105 {
		t.Errorf("99th percentile %d; want about 80", q)
	}
	if day := m.Predict(end, 24*time.Hour); math.Abs(day.Mean-1440) > 200 {
		t.Errorf("a day ahead: %.0f; want about 1440", day.Mean)
	}
	if d := m.Predict(end, -time.Hour); d.Mean != 0 || d.Quantile(0.99) != 0 || d.AtLeast(1) != 0 {
		t.Errorf("a negative horizon: %+v; want nothing", d)
	}
	if a, b := m.Predict(end, MaxHorizon), m.Predict(end, 10*MaxHorizon); a != b {
		t.Errorf("beyond the horizon: %+v; want %+v", b, a)
	}
}

func TestPredictFollowsAGrowingTrend(t *testing.T) {
	m := newModel(t, Config{})
	var times []time.Time
	end := monday.Add(21 * 24 * time.Hour)
	for at := monday; at.Before(end); {
		gap := 6 * time.Minute
		if at.After(monday.Add(16 * 24 * time.Hour)) {
			gap = 2 * time.Minute
		}
		times = append(times, at)
		at = at.Add(gap)
	}
	feed(m, times, end)
	if s := m.Stats(end); s.Trend < 1.3 || s.PerHour < 24 {
		t.Errorf("after five days at thrice the rate: trend %.2f, %.1f an hour; want more than 1.3 and about 30", s.Trend, s.PerHour)
	}
}

func TestDistribution(t *testing.T) {
	for _, d := range []Distribution{{0.01, 0.01}, {3, 3}, {3, 30}, {400, 400}, {400, 9000}, {9999, 20000}, {50_000, 60_000}} {
		last := 0
		for _, p := range []float64{-1, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999, 2} {
			q := d.Quantile(p)
			if q < last {
				t.Errorf("%+v: quantile %g is %d, less than %d", d, p, q, last)
			}
			last = q
			if p > 0 && p < 1 && d.Mean < exactUpTo {
				if more := d.AtLeast(q + 1); more > 1-p+1e-6 {
					t.Errorf("%+v: P(more than the %g quantile %d) = %g", d, p, q, more)
				}
				if least := d.AtLeast(q); q > 0 && least < 1-p-1e-6 {
					t.Errorf("%+v: P(at least the %g quantile %d) = %g", d, p, q, least)
				}
			}
		}
		if d.AtLeast(0) != 1 {
			t.Errorf("%+v: P(at least 0) = %g", d, d.AtLeast(0))
		}
	}
	if got, want := (Distribution{3, 3}).AtLeast(1), 1-math.Exp(-3); math.Abs(got-want) > 1e-9 {
		t.Errorf("Poisson 3: P(at least 1) = %g; want %g", got, want)
	}
}

func TestBinsAreContiguous(t *testing.T) {
	for b := range bins {
		if got := binOf(binFrom(b)); got != b {
			t.Errorf("the first gap of bin %d is in bin %d", b, got)
		}
		if b > 0 {
			if got := binOf(binFrom(b) - 1); got != b-1 {
				t.Errorf("the gap before bin %d is in bin %d", b, got)
			}
		}
		if !(binWidth[b] > 0) {
			t.Errorf("bin %d is %g s wide", b, binWidth[b])
		}
	}
	if binOf(math.MaxInt64) != bins-1 || binOf(-1) != 0 {
		t.Error("gaps beyond the ends must fall in the outer bins")
	}
}

func TestGroupsCoverEveryDepth(t *testing.T) {
	if len(groups) > maxGroups {
		t.Fatalf("%d groups; want at most %d", len(groups), maxGroups)
	}
	next := 1
	for i, g := range groups {
		if g.low != next || g.high < g.low {
			t.Errorf("group %d is %d to %d; want it to begin at %d", i, g.low, g.high, next)
		}
		if i > 0 && g.parent >= i {
			t.Errorf("group %d has parent %d", i, g.parent)
		}
		next = g.high + 1
	}
	if next != maxDepth+1 {
		t.Errorf("groups end before %d; want %d", next, maxDepth+1)
	}
}

func TestDepthIsTheBacklogOfTheBuilders(t *testing.T) {
	s := stage{lead: int64(time.Second), builders: 2, top: -1, prev: -1}
	at := func(ms int64) int64 { return ms * int64(time.Millisecond) }
	for i, tc := range []struct {
		ms   int64
		want int
	}{
		{0, 1}, {0, 2}, {0, 3}, // done at 1000, 1000, 2000
		{999, 4},  // done at 2000
		{1000, 3}, // two are back; done at 3000
		{2999, 2}, // done at 3999
		{9000, 1},
	} {
		if got := s.claim(at(tc.ms), at(tc.ms)); got != tc.want {
			t.Errorf("claim %d at %d ms has depth %d; want %d", i, tc.ms, got, tc.want)
		}
	}
	for range 10 * maxDepth {
		if got := s.claim(at(9000), at(9000)); got > maxDepth {
			t.Fatalf("depth %d; want at most %d", got, maxDepth)
		}
	}
}

func TestReasonsRead(t *testing.T) {
	for _, tc := range []struct {
		r    Reason
		want string
	}{
		{Reason{Cause: CauseDemand, Box: 4, Every: 3 * time.Minute, Worth: 106 * time.Minute, Ago: 20 * time.Second}, "box 4 is needed about every 3.0m, pays up to every 1.8h, last 20s ago"},
		{Reason{Cause: CauseBurst, Box: 9, Every: 350 * time.Millisecond, Worth: 50 * time.Hour}, "burst: box 9 is needed about every 350ms, pays up to every 2.1d, never needed yet"},
		{Reason{Cause: CauseTimer, Box: 1, Every: time.Hour}, "box 1 is due by a timer that comes every 1.0h"},
		{Reason{Cause: CauseQuiet}, "quiet: no box pays for itself now"},
		{Reason{Cause: CausePinned}, "pinned by the operator"},
		{Reason{Cause: CauseNew}, "new template, no claims yet"},
		{Reason{Cause: CauseFormula}, "hour, weekday and recent use"},
	} {
		if got := tc.r.String(); got != tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
	if KindWarm.String() != "warm" || KindCold.String() != "cold" || KindNew.String() != "new" || Kind(9).String() != "kind(9)" {
		t.Error("kinds have wrong names")
	}
}

// Where boxes are replaced one after another, a box spares a wait to all who come
// behind it: more are worth keeping than where all are replaced at once.
func TestFewBuildersKeepMore(t *testing.T) {
	size := func(builders int) int {
		m := newModel(t, Config{Builders: builders, Costs: Costs{Restore: time.Second, Create: time.Second, WarmMB: 100, ColdMB: 10, WaitPrice: 1e6}})
		var times []time.Time
		at := monday
		for i := range 200 { // a burst of 20, every 20 to 40 hours
			at = at.Add(time.Duration(20+10*(i%3)) * time.Hour)
			for range 20 {
				times = append(times, at)
			}
		}
		g := feed(m, times, at.Add(25*time.Hour))
		return g.Warm
	}
	if one, many := size(1), size(32); one <= many || one < 5 {
		t.Errorf("%d warm boxes with one builder and %d with 32; want more", one, many)
	}
}
