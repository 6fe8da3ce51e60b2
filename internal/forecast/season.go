package forecast

import (
	"math"
	"time"
)

// What the pattern is learned with. All were chosen on generated traffic; the
// outcome is flat around each of them.
const (
	// hourDecay and dayDecay forget a cell with each new value: about a month.
	hourDecay = 0.97
	dayDecay  = 0.995
	// cellPrior is how many average hours a cell starts from.
	cellPrior = 5
	// maxRatio bounds what one hour may say about its cell.
	maxRatio = 5
	// minPace and maxPace bound the operational clock.
	minPace = 0.1
	maxPace = 20
	// meanDecay forgets the mean over about three weeks.
	meanDecay = 1 - 1.0/500
	// enoughHours is when there is a mean to compare with.
	enoughHours = 20
)

// season is a template's hour-of-day and day-of-week pattern, its rate, and the
// clock that runs by them: fast in hours that are busier than the average.
type season struct {
	loc  *time.Location
	flat bool

	hourly [24]cell
	daily  [7]cell
	mean   ewma // claims per hour
	recent pair // about the last three hours
	trend  pair // about the last three days
	spread spread

	from, until int64 // of the current hour, in ns
	opFrom      int64 // the operational clock at from
	pace        float64
	count       float64 // claims in the current hour
	expected    float64 // what was forecast for it
}

// cell is a decayed mean of ratios to the average hour.
type cell struct{ sum, n float64 }

func (c *cell) add(v, decay float64) { c.sum, c.n = c.sum*decay+v, c.n*decay+1 }

// ewma is a decayed mean.
type ewma struct{ sum, n float64 }

func (e *ewma) add(v, decay float64) { e.sum, e.n = e.sum*decay+v, e.n*decay+1 }

func (e *ewma) value() float64 { return e.sum / math.Max(e.n, 1) }

// pair is a decayed sum of claims beside what the pattern expected.
type pair struct{ claims, expected float64 }

func (p *pair) add(claims, expected, decay float64) {
	p.claims, p.expected = p.claims*decay+claims, p.expected*decay+expected
}

// ratio is how the claims compare with the pattern, pulled to 1 by prior claims.
func (p *pair) ratio(prior float64) float64 { return (p.claims + prior) / (p.expected + prior) }

// spread is what is needed for the variance of a count: claims come in clumps,
// and the rate itself differs from its forecast.
type spread struct {
	clump               float64 // claims in the current clump
	clumps, size, sizes float64 // number, sum and sum of squares, decayed
	m1, m2, miss        float64 // sums of forecasts, their squares, squared errors
}

// claim counts one; first says that it starts a clump.
func (s *spread) claim(first bool) {
	if first && s.clump > 0 {
		const decay = 1 - 1.0/500
		s.clumps = s.clumps*decay + 1
		s.size = s.size*decay + s.clump
		s.sizes = s.sizes*decay + s.clump*s.clump
		s.clump = 0
	}
	s.clump++
}

func (s *spread) closeHour(count, expected float64) {
	const decay = 1 - 1.0/200
	s.m1 = s.m1*decay + expected
	s.m2 = s.m2*decay + expected*expected
	s.miss = s.miss*decay + (count-expected)*(count-expected)
}

// perClaim is the variance that clumps bring for each expected claim, at least 1.
func (s *spread) perClaim() float64 {
	if s.size < 1 {
		return 1
	}
	return s.sizes / s.size
}

// variance of a count whose mean is expected to be m.
func (s *spread) variance(m float64) float64 {
	v := 0.0
	if s.m2 > 0 {
		v = min(max(0, (s.miss-s.perClaim()*s.m1)/s.m2), 10)
	}
	return s.perClaim()*m + v*m*m
}

// hour is in ns.
const hour = int64(time.Hour)

// advance carries the clock to now and closes the hour that ended. Hours in
// which nobody asked, as while the server was down, teach nothing.
func (s *season) advance(now int64) {
	if now < s.until {
		return
	}
	if s.until == 0 { // the first call
		s.from, s.pace = now, 1
		s.until = now - now%hour + hour
		return
	}
	if now-s.until < hour {
		s.learn()
	}
	start := now - now%hour
	s.opFrom += int64(s.pace*float64(s.until-s.from)) + max(0, start-s.until)
	s.from, s.until, s.count = start, start+hour, 0
	s.pace = 1
	f := s.factor(start)
	if !s.flat {
		s.pace = min(max(f, minPace), maxPace)
	}
	s.expected = s.mean.value() * f * s.recent.ratio(s.prior())
}

// op is the operational clock at now, which must not be before the last advance.
func (s *season) op(now int64) int64 { return s.opFrom + int64(s.pace*float64(now-s.from)) }

func (s *season) learn() {
	at := time.Unix(0, s.until-1).In(s.loc)
	m := s.mean.value()
	f := s.factor(s.from)
	if s.mean.n > enoughHours && m > 0 {
		r := math.Min(s.count/m, maxRatio)
		s.hourly[at.Hour()].add(r, hourDecay)
		s.daily[at.Weekday()].add(r, dayDecay)
		s.spread.closeHour(s.count, s.expected)
	}
	s.mean.add(s.count, meanDecay)
	s.recent.add(s.count, m*f, 1-1.0/3)
	s.trend.add(s.count, m*f, 1-1.0/72)
}

// factor is how busy the hour at the given time is by the pattern; 1 is average.
func (s *season) factor(ns int64) float64 {
	at := time.Unix(0, ns).In(s.loc)
	return share(s.hourly[:], at.Hour(), cellPrior) * share(s.daily[:], int(at.Weekday()), 12*cellPrior)
}

// share is cell i over the mean of all cells, each pulled to 1 by prior.
func share(cells []cell, i int, prior float64) float64 {
	value := func(c cell) float64 { return (c.sum + prior) / (c.n + prior) }
	sum := 0.0
	for _, c := range cells {
		sum += value(c)
	}
	return value(cells[i]) * float64(len(cells)) / sum
}

// prior is how many claims the ratios start from: a few clumps.
func (s *season) prior() float64 { return 5 * s.spread.perClaim() }

// rate is the forecast of claims per second at a time not before now.
func (s *season) rate(now, at int64) float64 {
	trend := s.trend.ratio(s.prior())
	if s.mean.n == 0 { // the first hour: what there is of it, and a quarter without claims
		return s.count / (time.Duration(now-s.from).Seconds() + float64(hour/4)/1e9)
	}
	now2 := s.recent
	now2.claims += s.count
	now2.expected += s.mean.value() * s.factor(now) * float64(now-s.from) / float64(time.Hour)
	recent := now2.ratio(s.prior())
	ahead := math.Exp(-float64(at-now) / float64(3*time.Hour))
	return s.mean.value() * s.factor(at) * (trend + (recent-trend)*ahead) / 3600
}
