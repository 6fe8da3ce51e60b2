package forecast

import (
	"encoding/json"
	"fmt"

	"github.com/bulkheadhq/bulkhead"
)

// MaxState is the largest stored state in bytes; a larger one is not read. What
// [Model.MarshalJSON] writes stays below it however long a model has learned.
const MaxState = 256 << 10

// stateVersion is raised when an older reader would misunderstand the state.
const stateVersion = 1

// The stored form. Numbers that are learned are kept as float32: the seventh
// figure of a count means nothing.
type (
	modelState struct {
		Version int          `json:"version"`
		Now     int64        `json:"now"`
		Born    int64        `json:"born"`
		Counts  [3]int64     `json:"counts"`
		Minutes []int64      `json:"minutes"`
		Minute  int64        `json:"minute"`
		Season  seasonState  `json:"season"`
		Warm    []levelState `json:"warm"`
		All     []levelState `json:"all"`
	}
	seasonState struct {
		Hourly [24][2]float32 `json:"hourly"`
		Daily  [7][2]float32  `json:"daily"`
		Mean   [2]float32     `json:"mean"`
		Recent [2]float32     `json:"recent"`
		Trend  [2]float32     `json:"trend"`
		Clumps [4]float32     `json:"clumps"`
		Errors [3]float32     `json:"errors"`
		From   int64          `json:"from"`
		Until  int64          `json:"until"`
		OpFrom int64          `json:"opFrom"`
		Pace   float32        `json:"pace"`
		Count  float32        `json:"count"`
		Expect float32        `json:"expected"`
	}
	levelState struct {
		Group  int          `json:"group"`
		Last   int64        `json:"last"`
		LastOp int64        `json:"lastOp"`
		Timer  [3]float32   `json:"timer"`
		Bins   [][4]float32 `json:"bins"` // number, need, past, part
	}
)

// MarshalJSON returns what was learned, without configuration, pin and boxes
// under way. It is meant to be stored every [ModelUpdate] and at the end.
func (m *Model) MarshalJSON() ([]byte, error) {
	s := &m.season
	f := func(v float64) float32 { return float32(v) }
	st := modelState{
		Version: stateVersion, Now: m.now, Born: m.born, Counts: m.counts,
		Minutes: m.recent.n[:], Minute: m.recent.last,
		Season: seasonState{
			Mean: [2]float32{f(s.mean.sum), f(s.mean.n)}, Recent: [2]float32{f(s.recent.claims), f(s.recent.expected)},
			Trend:  [2]float32{f(s.trend.claims), f(s.trend.expected)},
			Clumps: [4]float32{f(s.spread.clump), f(s.spread.clumps), f(s.spread.size), f(s.spread.sizes)},
			Errors: [3]float32{f(s.spread.m1), f(s.spread.m2), f(s.spread.miss)},
			From:   s.from, Until: s.until, OpFrom: s.opFrom, Pace: f(s.pace), Count: f(s.count), Expect: f(s.expected),
		},
		Warm: m.warm.state(), All: m.all.state(),
	}
	for i, c := range s.hourly {
		st.Season.Hourly[i] = [2]float32{f(c.sum), f(c.n)}
	}
	for i, c := range s.daily {
		st.Season.Daily[i] = [2]float32{f(c.sum), f(c.n)}
	}
	return json.Marshal(st)
}

func (s *stage) state() []levelState {
	list := []levelState{}
	for g, l := range s.levels {
		if l == nil {
			continue
		}
		ls := levelState{
			Group: g, Last: l.last, LastOp: l.lastOp, Bins: [][4]float32{},
			Timer: [3]float32{float32(l.timer.mean), float32(l.timer.dev), float32(l.timer.n)},
		}
		for b := range bins {
			if l.need[b] != 0 || l.past[b] != 0 || l.part[b] != 0 {
				ls.Bins = append(ls.Bins, [4]float32{
					float32(b), float32(l.need[b] / l.weight), float32(l.past[b] / l.weight), float32(l.part[b] / l.weight),
				})
			}
		}
		list = append(list, ls)
	}
	return list
}

// UnmarshalJSON replaces what m has learned by a stored state; configuration and
// pin stay. After an error m is as it was. Other costs than those the state was
// learned with are no obstacle: history adapts.
func (m *Model) UnmarshalJSON(data []byte) error {
	if len(data) > MaxState {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "forecast state has %d bytes; it must have at most %d", len(data), MaxState)
	}
	var st modelState
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("read forecast state: %w", err)
	}
	if st.Version != stateVersion {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "forecast state has version %d; this program reads version %d", st.Version, stateVersion)
	}
	fresh, err := New(m.cfg)
	if err != nil {
		return err
	}
	if err := fresh.load(&st); err != nil {
		return err
	}
	fresh.pin = m.pin
	*m = *fresh
	return nil
}

// maxTime bounds stored times: the year 2200, in ns.
const maxTime = int64(7_258_118_400_000_000_000)

func (m *Model) load(st *modelState) error {
	c := check{}
	m.now, m.born = c.time("now", st.Now), c.time("born", st.Born)
	if m.born > m.now {
		c.fail("born", st.Born)
	}
	for i, n := range st.Counts {
		m.counts[i] = c.time("counts", n)
	}
	if len(st.Minutes) != len(m.recent.n) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "forecast state has %d minutes; it must have %d", len(st.Minutes), len(m.recent.n))
	}
	for i, n := range st.Minutes {
		m.recent.n[i] = c.time("minutes", n)
	}
	m.recent.last = c.time("minute", st.Minute)
	m.loadSeason(&c, &st.Season)
	for _, x := range []struct {
		stage  *stage
		levels []levelState
	}{{&m.warm, st.Warm}, {&m.all, st.All}} {
		if len(x.levels) > len(groups) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "forecast state has %d levels; it must have at most %d", len(x.levels), len(groups))
		}
		for i := range x.levels {
			x.stage.load(&c, &x.levels[i], m.now)
		}
	}
	return c.err
}

func (m *Model) loadSeason(c *check, st *seasonState) {
	s := &m.season
	for i, v := range st.Hourly {
		s.hourly[i] = cell{c.num("hourly", v[0]), c.num("hourly", v[1])}
	}
	for i, v := range st.Daily {
		s.daily[i] = cell{c.num("daily", v[0]), c.num("daily", v[1])}
	}
	s.mean = ewma{c.num("mean", st.Mean[0]), c.num("mean", st.Mean[1])}
	s.recent = pair{c.num("recent", st.Recent[0]), c.num("recent", st.Recent[1])}
	s.trend = pair{c.num("trend", st.Trend[0]), c.num("trend", st.Trend[1])}
	s.spread = spread{
		clump: c.num("clumps", st.Clumps[0]), clumps: c.num("clumps", st.Clumps[1]),
		size: c.num("clumps", st.Clumps[2]), sizes: c.num("clumps", st.Clumps[3]),
		m1: c.num("errors", st.Errors[0]), m2: c.num("errors", st.Errors[1]), miss: c.num("errors", st.Errors[2]),
	}
	s.from, s.until, s.opFrom = c.time("from", st.From), c.time("until", st.Until), c.time("opFrom", st.OpFrom)
	s.pace, s.count, s.expected = c.num("pace", st.Pace), c.num("count", st.Count), c.num("expected", st.Expect)
	if s.until != 0 && (s.pace < minPace/2 || s.pace > maxPace || s.from > m.now || s.from >= s.until || s.until-s.from > hour) {
		c.fail("season clock", st.Pace)
	}
}

func (s *stage) load(c *check, st *levelState, now int64) {
	if st.Group < 0 || st.Group >= len(groups) || s.levels[st.Group] != nil {
		c.fail("group", st.Group)
		return
	}
	l := &level{weight: 1, last: c.time("last", st.Last), lastOp: c.time("lastOp", st.LastOp)}
	if l.last > now {
		c.fail("last", st.Last)
	}
	n := int(min(c.num("timer", st.Timer[2]), 1000))
	l.timer = timer{mean: c.num("timer", st.Timer[0]), dev: c.num("timer", st.Timer[1]), n: n}
	for _, v := range st.Bins {
		b := int(c.num("bin", v[0]))
		if b >= bins {
			c.fail("bin", v[0])
			return
		}
		l.need[b], l.past[b], l.part[b] = c.num("need", v[1]), c.num("past", v[2]), c.num("part", v[3])
	}
	s.levels[st.Group] = l
	s.top = max(s.top, st.Group)
}

// check keeps the first field that is out of its range.
type check struct{ err error }

func (c *check) fail(field string, v any) {
	if c.err == nil {
		c.err = bulkhead.Errorf(bulkhead.CodeInvalid, "forecast state has %v for %s, which is out of range", v, field)
	}
}

func (c *check) time(field string, v int64) int64 {
	if v < 0 || v > maxTime {
		c.fail(field, v)
		return 0
	}
	return v
}

func (c *check) num(field string, v float32) float64 {
	if !(v >= 0 && v <= 1e18) {
		c.fail(field, v)
		return 0
	}
	return float64(v)
}
