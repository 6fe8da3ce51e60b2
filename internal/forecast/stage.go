package forecast

import (
	"math"
	"time"
)

// stage watches how deep the claims go into boxes that take lead to replace, and
// how many of them pay.
type stage struct {
	lead   int64   // ns
	pays   float64 // how often per second a box must be needed
	levels [maxGroups]*level
	top    int // the deepest group reached, -1 before the first
	prev   int // the group of the last claim

	// done is when the last boxes given away will have been replaced, oldest at
	// low, by so many builders: a ring of the last maxDepth of them.
	done     [maxDepth]int64
	low, n   int
	builders int
}

// claim notes a claim and returns its depth: one more than the boxes that are
// still being replaced, at most maxDepth.
func (s *stage) claim(now, op int64) int {
	for s.low < s.n && s.done[s.low%maxDepth] <= now {
		s.low++
	}
	if s.n-s.low == maxDepth {
		s.low++
	}
	start := now
	if s.n >= s.builders {
		start = max(start, s.done[(s.n-s.builders)%maxDepth])
	}
	s.done[s.n%maxDepth] = start + s.lead
	s.n++
	depth := s.n - s.low
	s.reached(groupOf[depth], now, op)
	return depth
}

func (s *stage) reached(g int, now, op int64) {
	share := 1.0
	if g == s.prev { // a group that is passed through counts once
		share /= float64(groups[g].high - groups[g].low + 1)
	}
	s.prev, s.top = g, max(s.top, g)
	if l := s.levels[g]; l != nil {
		l.reached(now, op, share)
		return
	}
	s.levels[g] = &level{last: now, lastOp: op, weight: 1}
}

// moment is a time by both clocks, and how fast the operational one runs.
type moment struct {
	wall, op int64
	pace     float64
}

// soonest is the shortest time after which a target is worth computing again
// because of the time alone.
const soonest = int64(time.Second)

// verdict is how many boxes pay, why the last of them does, and until when to
// leave it at that.
type verdict struct {
	boxes int
	why   Reason
	until int64
}

// size judges every group of depths at the given moment. The deepest that pays
// decides, since who needs it needs all before it; so it and those beyond it say
// when to look again.
func (s *stage) size(at moment, timers bool) verdict {
	var hazards [maxGroups]float64
	var next [maxGroups]int64
	top, timed := -1, false
	until := int64(math.MaxInt64)
	for g := range groups {
		half := groups[g].parent
		l := s.levels[g]
		var due bool
		if l == nil {
			hazards[g] = unseen(g, at.op, hazards[half])
			next[g] = max(next[half], at.wall+soonest)
		} else {
			hazards[g], next[g] = l.judge(at, deeper*hazards[half])
		}
		pays := hazards[g]*at.pace >= s.pays
		if l != nil && timers {
			pays, due, next[g] = l.timed(at.wall, s.lead, pays, next[g])
		}
		if pays {
			top, timed, until = g, due, next[g]
		} else if l != nil {
			until = min(until, next[g])
		} else if g > s.top {
			break // what is deeper was never reached either, and is rarer still
		}
	}
	v := verdict{why: Reason{Cause: CauseQuiet, Worth: seconds(1 / s.pays)}, until: until}
	if top >= 0 {
		v.boxes = groups[top].high
		v.why = s.reason(top, at, hazards[top], timed) //nolint:gosec // top is an index of both
	}
	return v
}

// reason says why the boxes up to group top pay.
func (s *stage) reason(top int, at moment, hazard float64, timed bool) Reason {
	r := Reason{Cause: CauseDemand, Box: groups[top].high, Every: seconds(1 / (hazard * at.pace)), Worth: seconds(1 / s.pays)}
	if l := s.levels[top]; l != nil {
		r.Ago = time.Duration(max(at.wall-l.last, 1))
		if timed {
			r.Cause, r.Every = CauseTimer, seconds(l.timer.mean)
		}
	}
	return r
}

// judge returns the hazard of the level, given how often its depth would be
// reached by those at half of it, and when it is worth judging again.
func (l *level) judge(at moment, deeper float64) (hazard float64, next int64) {
	age := max(0, at.op-l.lastOp)
	b := binOf(age)
	prior := halfOctave / binWidth[b]
	if deeper > 0 {
		prior = math.Sqrt(prior * deeper)
	}
	return l.hazard(b, prior), at.wall + max(soonest, int64(float64(binFrom(b+1)-age)/at.pace)+1)
}

// timed replaces the verdict on a level that a timer reaches: it pays while the
// next time is due only, and as usual after a time that was missed.
func (l *level) timed(now, lead int64, pays bool, next int64) (_, due bool, _ int64) {
	from, to, ok := l.timer.due()
	begin, end := l.last+int64(from*1e9)-lead, l.last+int64(to*1e9)
	switch {
	case !ok || now >= end:
		return pays, false, next
	case now < begin:
		return false, false, begin
	}
	return true, true, end
}

// unseen is the hazard of a group that was never reached in op, given that of
// the group at half its depth.
func unseen(g int, op int64, half float64) float64 {
	age := max(1e-3, time.Duration(op).Seconds())
	if g == 0 {
		b := binOf(op)
		return halfOctave / binWidth[b]
	}
	return 1 / (age + 1/max(1e-12, deeper*half))
}

// seconds turns s into a duration, cut to a year.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 365*24*3600) * 1e9)
}
