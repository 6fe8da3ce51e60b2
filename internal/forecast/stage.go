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
//
// Where m builders replace boxes, a box that is missing at depth d makes those
// wait one replacement longer who come at depths d, d+m, d+2m and so on: all who
// get a box behind it. So what a box saves is the sum over those depths.
func (s *stage) size(at moment, timers bool) verdict {
	o := s.look(at, timers)
	var saves [maxDepth + 1]float64 // replacements' times a second, by depth
	until := int64(math.MaxInt64)
	for g := o.last; g >= 0; g-- {
		for d := groups[g].high; d >= groups[g].low; d-- {
			saves[d] = o.hazard[g]
			if behind := d + s.builders; behind <= maxDepth {
				saves[d] += saves[behind]
			}
		}
		often := saves[groups[g].high] * at.pace
		if pays := often >= s.pays || o.due[g]; pays || s.levels[g] != nil {
			until = min(until, o.next[g])
			if pays {
				return verdict{boxes: groups[g].high, why: s.reason(g, at, often, o.due[g]), until: until}
			}
		}
	}
	return verdict{why: Reason{Cause: CauseQuiet, Worth: seconds(1 / s.pays)}, until: until}
}

// outlook is what is expected of each group of depths.
type outlook struct {
	hazard [maxGroups]float64 // how often it is reached, per operational second
	next   [maxGroups]int64   // when that is worth judging again
	due    [maxGroups]bool    // a timer reaches it now
	last   int                // the deepest group that was judged
}

// look judges the groups one by one, down to the first that was never reached and
// does not pay: what is deeper is rarer still.
func (s *stage) look(at moment, timers bool) outlook {
	var o outlook
	var usual [maxGroups]float64 // hazards without timers
	for g := range groups {
		half := groups[g].parent
		l := s.levels[g]
		o.last = g
		if l == nil {
			usual[g] = unseen(g, at.op, usual[half])
			o.next[g] = max(o.next[half], at.wall+soonest)
		} else {
			usual[g], o.next[g] = l.judge(at, deeper*usual[half])
		}
		o.hazard[g] = usual[g]
		if l != nil && timers {
			o.hazard[g], o.due[g], o.next[g] = l.timed(at.wall, s.lead, usual[g], o.next[g])
		}
		if g > s.top && usual[g]*at.pace < s.pays {
			break
		}
	}
	return o
}

// reason says why the boxes up to group top pay, the last of them so often per
// second.
func (s *stage) reason(top int, at moment, often float64, timed bool) Reason {
	r := Reason{Cause: CauseDemand, Box: groups[top].high, Every: seconds(1 / often), Worth: seconds(1 / s.pays)}
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

// timed corrects the hazard of a level that a timer reaches: it is due around the
// next time, not before, and as usual after a time that was missed.
func (l *level) timed(now, lead int64, usual float64, next int64) (hazard float64, due bool, _ int64) {
	from, to, ok := l.timer.due()
	begin, end := l.last+int64(from*1e9)-lead, l.last+int64(to*1e9)
	switch {
	case !ok || now >= end:
		return usual, false, next
	case now < begin:
		return 0, false, begin
	}
	return usual, true, end
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
