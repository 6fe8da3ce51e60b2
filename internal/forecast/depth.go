package forecast

import (
	"math"
	"math/bits"
	"time"
)

// maxDepth is the deepest backlog that is told apart.
const maxDepth = 256

// maxGroups is at least the number of groups.
const maxGroups = 32

// group is a range of depths that share their history. The first eight depths
// stand alone, then five groups make an octave or so.
type group struct {
	low, high int
	parent    int // the group of half the depth
}

var groups, groupOf = makeGroups()

func makeGroups() (list []group, of [maxDepth + 1]int) {
	for low := 1; low <= maxDepth; {
		size := 1
		if low > 8 {
			size = low / 5
		}
		g := group{low: low, high: min(low+size-1, maxDepth)}
		if low > 1 {
			g.parent = min(of[(low+1)/2], len(list)-1)
		}
		for d := g.low; d <= g.high; d++ {
			of[d] = len(list)
		}
		list = append(list, g)
		low = g.high + 1
	}
	return list, of
}

// Gaps are binned by their logarithm: bin 0 is under 2^28 ns (268 ms), then two
// bins an octave up to 2^50 ns (13 days), and one for what is longer.
const (
	firstBit = 28
	lastBit  = 50
	bins     = 2*(lastBit-firstBit) + 2
)

func binOf(gap int64) int {
	if gap < 1<<firstBit {
		return 0
	}
	n := bits.Len64(uint64(gap)) - 1
	return min(1+2*(n-firstBit)+int(gap>>(n-1)&1), bins-1)
}

// binFrom returns the shortest gap of bin b, in ns.
func binFrom(b int) int64 {
	if b == 0 {
		return 0
	}
	low := int64(1) << (firstBit + (b-1)/2)
	return low + low/2*int64((b-1)%2)
}

// binWidth is the width of each bin in seconds; the last counts as an octave.
var binWidth = makeWidths()

func makeWidths() (w [bins]float64) {
	for b := range bins {
		next := binFrom(b + 1)
		w[b] = time.Duration(next - binFrom(b)).Seconds()
	}
	return w
}

// What stands in for history. The outcome is flat around each of them.
const (
	// halfOctave is the chance that a depth is reached again in the bin that its
	// gap is in: one half in each doubling of the gap. This prior alone keeps a
	// box for about as long as its memory costs what a miss costs.
	halfOctave = 0.293
	// deeper is how often a depth is reached, over how often half of it is.
	deeper = 0.1
	// memory is the number of gaps that the history of a depth goes back.
	memory = 200
)

// level is the history of one group of depths.
type level struct {
	last, lastOp int64         // when it was last reached, by both clocks
	need         [bins]float64 // times it was reached after a gap in this bin
	past         [bins]float64 // gaps that outlasted this bin
	part         [bins]float64 // seconds spent in this bin by gaps that ended in it
	weight       float64       // of the next gap; grows so that the old ones fade
	timer        timer
}

// reached notes that the depth was reached again; share is what it counts for.
func (l *level) reached(now, op int64, share float64) {
	gap := max(0, op-l.lastOp)
	b := binOf(gap)
	l.need[b] += l.weight * share
	l.part[b] += l.weight * math.Min(time.Duration(gap-binFrom(b)).Seconds(), binWidth[b])
	for i := range b {
		l.past[i] += l.weight
	}
	l.weight *= 1 + 1.0/memory
	if l.weight > 1e6 {
		for i := range bins {
			l.need[i] /= l.weight
			l.past[i] /= l.weight
			l.part[i] /= l.weight
		}
		l.weight = 1
	}
	l.timer.gap(time.Duration(now - l.last).Seconds())
	l.last, l.lastOp = now, op
}

// hazard is how often per operational second the depth is expected to be
// reached, when its last time is in bin b and the prior expects it so often.
func (l *level) hazard(b int, prior float64) float64 {
	spent := (l.past[b]*binWidth[b] + l.part[b]) / l.weight
	return (l.need[b]/l.weight + halfOctave) / (spent + halfOctave/prior)
}

// timer finds depths that are reached at equal gaps.
type timer struct {
	mean, dev float64 // seconds
	n         int
}

// The gaps of a timer are at least shortest apart, and within tight of their mean.
const (
	shortest = 20.0
	tight    = 0.03
)

func (t *timer) gap(s float64) {
	if s < shortest {
		return
	}
	dev := math.Abs(s - t.mean)
	switch {
	case t.n == 0:
		t.mean, t.dev = s, s
	case t.n < 3:
		t.mean += (s - t.mean) / 4
		t.dev = dev
	default:
		t.mean += (s - t.mean) / 4
		t.dev += (dev - t.dev) / 4
	}
	t.n = min(t.n+1, 1000)
}

// due returns the seconds since the last time between which the next is expected.
func (t *timer) due() (from, to float64, ok bool) {
	if t.n < 4 || t.dev > tight*t.mean {
		return 0, 0, false
	}
	slack := 3*t.dev + 2
	return t.mean - slack, t.mean + slack, true
}
