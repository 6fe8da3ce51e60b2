package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// Oracle is the least that anybody can wait who has the same builders and the same
// times as every policy and begins with the trace as they do, but knows every
// claim in advance.
//
// Its waits are a bound for every policy: when the i-th claim comes, i boxes must
// have been made, whosever they are, and that takes the builders i/m times a
// box's time and one box's time at least. So the first claims may wait, and
// later ones only where more come at once than can be made since the beginning.
//
// Its idle memory is that of one schedule that keeps to it: seen backwards in
// time, claims are jobs of equal length that builders take in the order they
// come, each as late as it can be.
func Oracle(tr *Trace, p Params) *Result {
	r := newResult("oracle", tr)
	build := int64(p.Create + p.Restore)
	ready := make([]int64, len(tr.Arrivals))
	for i := len(ready) - 1; i >= 0; i-- {
		ready[i] = int64(tr.Arrivals[i].At)
		if next := i + p.Builders; next < len(ready) {
			ready[i] = min(ready[i], ready[next]-build)
		}
	}
	var idle int64
	var waits []int64
	for i, a := range tr.Arrivals {
		at := int64(a.At)
		soonest := max(build, int64(float64(i+1)*float64(build)/float64(p.Builders)))
		if soonest > at {
			r.claim(at, forecast.KindNew)
			waits = append(waits, soonest-at+int64(p.Lease))
			continue
		}
		from := max(ready[i], soonest)
		r.claim(at, forecast.KindWarm)
		idle += at - from
		r.timeline.idle(from, at, p.WarmMB)
	}
	r.Created, r.Restored = r.Requests, r.Requests
	r.IdleWarm = float64(idle) / 1e9 * p.WarmMB
	r.Templates = make([]TemplateResult, len(tr.Templates))
	r.setWaits(waits, p.Costs)
	return r
}

// FixedEqual returns the fixed pool that has as much idle memory as asked for,
// or as little more as whole boxes allow, and its sizes by template: the same
// for each, where the number does not divide one more for the busiest. Each has
// coldPer cold boxes for each warm one.
func FixedEqual(tr *Trace, p Params, idle, coldPer float64) (*Result, []forecast.Fixed) {
	rank := ranks(tr.PerTemplate())
	perBox := (p.WarmMB + coldPer*p.ColdMB) * tr.Span.Seconds()
	try := func(boxes int) (*Result, []forecast.Fixed) {
		sizes := spread(boxes, rank, coldPer)
		return Run(tr, p, "", func(i int) Policy { return sizes[i] }), sizes
	}
	// Idle memory grows with the boxes, by a box's worth at most: begin where it
	// would be if none was ever used, and close in.
	low, high := -1, 512*len(rank)
	guess := int(idle / max(perBox, 1e-9))
	var best *Result
	var sizes []forecast.Fixed
	for low+1 < high {
		boxes := min(max(guess, low+1), high-1)
		r, s := try(boxes)
		if short := idle - r.Idle(); short > 0 {
			low = boxes
			guess = boxes + max(1, int(short/max(perBox, 1e-9)))
		} else {
			high, best, sizes = boxes, r, s
			guess = boxes - max(1, int(-short/max(perBox, 1e-9)))
		}
	}
	if best == nil {
		best, sizes = try(high)
	}
	return best, sizes
}

// spread hands out boxes evenly, what is left to those of the first ranks.
func spread(boxes int, rank []int, coldPer float64) []forecast.Fixed {
	sizes := make([]forecast.Fixed, len(rank))
	for i, r := range rank {
		warm := boxes / len(rank)
		if r < boxes%len(rank) {
			warm++
		}
		sizes[i] = forecast.Fixed{Warm: warm, Cold: int(float64(warm)*coldPer + 0.5)}
	}
	return sizes
}

// ranks returns the place of each template, 0 for the busiest.
func ranks(claims []int) []int {
	order := make([]int, len(claims))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(claims[b], claims[a]) })
	rank := make([]int, len(claims))
	for place, i := range order {
		rank[i] = place
	}
	return rank
}

// Hindsight returns the best fixed sizes for this very trace, chosen after it: a
// box is there from start to end if the misses it saves are worth its memory.
func Hindsight(tr *Trace, p Params) []forecast.Fixed {
	warm := depthCounts(tr, p.Restore, p.Builders)
	all := depthCounts(tr, p.Restore+p.Create, p.Builders)
	span := tr.Span.Seconds()
	sizes := make([]forecast.Fixed, len(tr.Templates))
	for i := range sizes {
		w := paying(warm[i], p.Builders, span*(p.WarmMB-p.ColdMB)/max(p.WaitPrice*p.Restore.Seconds(), 1e-9))
		a := paying(all[i], p.Builders, span*p.ColdMB/max(p.WaitPrice*p.Create.Seconds(), 1e-9))
		sizes[i] = forecast.Fixed{Warm: w, Cold: max(0, a-w)}
	}
	return sizes
}

// paying is the deepest depth whose box saves at least so many replacements'
// times: one for each claim of that depth, and of each that gets a box behind it.
func paying(counts []int, builders int, least float64) int {
	saves := slices.Clone(counts)
	for d := len(saves) - 1; d > 0; d-- {
		if behind := d + builders; behind < len(saves) {
			saves[d] += saves[behind]
		}
		if float64(saves[d]) >= least && saves[d] > 0 {
			return d
		}
	}
	return 0
}

// depthCounts counts by template how often a claim came with so many boxes, its
// own included, being replaced, each taking lead by one of the builders.
func depthCounts(tr *Trace, lead time.Duration, builders int) [][]int {
	type line struct {
		done   ring
		counts []int
	}
	lines := make([]line, len(tr.Templates))
	for _, a := range tr.Arrivals {
		l := &lines[a.Template]
		now := int64(a.At)
		for l.done.n > 0 && l.done.at(0) <= now {
			l.done.pop()
		}
		start := now
		if l.done.n >= builders {
			start = max(start, l.done.at(l.done.n-builders))
		}
		l.done.push(start + int64(lead))
		for len(l.counts) <= l.done.n {
			l.counts = append(l.counts, 0)
		}
		l.counts[l.done.n]++
	}
	counts := make([][]int, len(lines))
	for i := range lines {
		counts[i] = lines[i].counts
	}
	return counts
}
