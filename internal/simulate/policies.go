package simulate

import (
	"math"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// idleTarget is a target that stands until a claim comes.
func idleTarget(now time.Time, warm, cold int) forecast.Target {
	return forecast.Target{Warm: warm, Cold: cold, Until: now.Add(24 * time.Hour)}
}

// window is when a box is to be warm.
type window struct{ from, to time.Time }

// windows are the boxes a keep-alive policy holds: each claim asks for one to
// replace the box it took. A claim that finds a warm box uses up the window that
// ends last, as a router that prefers the box used last does.
type windows struct {
	list []window
	cold int
}

// maxWindows bounds what a keep-alive policy holds.
const maxWindows = 1024

func (w *windows) replace(kind forecast.Kind, at time.Time, next window) {
	if kind == forecast.KindWarm {
		last := -1
		for i, x := range w.list {
			if !x.from.After(at) && (last < 0 || x.to.After(w.list[last].to)) {
				last = i
			}
		}
		if last >= 0 {
			w.list = slices.Delete(w.list, last, last+1)
		}
	}
	if len(w.list) < maxWindows {
		w.list = append(w.list, next)
	}
}

func (w *windows) target(now time.Time) forecast.Target {
	w.list = slices.DeleteFunc(w.list, func(x window) bool { return !x.to.After(now) })
	t := idleTarget(now, 0, w.cold)
	for _, x := range w.list {
		edge := x.to
		if x.from.After(now) {
			edge = x.from
		} else {
			t.Warm++
		}
		if edge.Before(t.Until) {
			t.Until = edge
		}
	}
	return t
}

// KeepAlive is what function platforms do: a box stays for a set time after a
// claim. Boxes are used once here, so what stays is the replacement of the box
// that the claim took.
type KeepAlive struct {
	keep time.Duration
	held windows
}

// NewKeepAlive keeps boxes for keep, and so many cold ones always.
func NewKeepAlive(keep time.Duration, cold int) *KeepAlive {
	return &KeepAlive{keep: keep, held: windows{cold: cold}}
}

// Observe asks for a replacement.
func (k *KeepAlive) Observe(at time.Time, kind forecast.Kind) {
	k.held.replace(kind, at, window{at, at.Add(k.keep)})
}

// Target counts the replacements whose time has not run out.
func (k *KeepAlive) Target(now time.Time) forecast.Target { return k.held.target(now) }

// The settings of the hybrid histogram policy, as published.
const (
	histogramRange = 240 // minutes
	headShare      = 0.05
	tailShare      = 0.99
	margin         = 0.10
	forecastMargin = 0.15
	minVariation   = 2.0
	enoughGaps     = 8
)

// Hybrid is the hybrid histogram policy of "Serverless in the Wild" (Shahrad et
// al., ATC 2020): a histogram of the gaps between claims, by the minute up to
// four hours, says when to warm a box up after a claim (its 5th percentile) and
// until when to keep it (the 99th), with 10 % to spare. While it says nothing,
// boxes stay for its whole range. Where most gaps are longer than that, the next
// one is forecast from the last, with 15 % to spare; the paper fits ARIMA there,
// here it is an autoregression of the first order.
type Hybrid struct {
	bins   [histogramRange]int
	total  int // gaps in the bins
	beyond int // longer gaps
	long   []float64
	last   time.Time
	held   windows
}

// NewHybrid also keeps so many cold boxes always.
func NewHybrid(cold int) *Hybrid { return &Hybrid{held: windows{cold: cold}} }

// Observe learns the gap and asks for a replacement.
func (h *Hybrid) Observe(at time.Time, kind forecast.Kind) {
	if !h.last.IsZero() {
		minutes := at.Sub(h.last).Minutes()
		if b := int(minutes); b < histogramRange {
			h.bins[b]++
			h.total++
		} else {
			h.beyond++
		}
		if len(h.long) == 32 {
			h.long = append(h.long[:0], h.long[1:]...)
		}
		h.long = append(h.long, minutes)
	}
	h.last = at
	warmUp, keep := h.plan()
	from := at.Add(time.Duration(warmUp * float64(time.Minute)))
	h.held.replace(kind, at, window{from, from.Add(time.Duration(keep * float64(time.Minute)))})
}

// plan returns when to warm up and how long to keep, in minutes.
func (h *Hybrid) plan() (warmUp, keep float64) {
	all := h.total + h.beyond
	switch {
	case all < enoughGaps:
	case 2*h.beyond > all:
		next := autoregress(h.long)
		return next * (1 - forecastMargin), next * 2 * forecastMargin
	case h.variation() >= minVariation:
		head := float64(h.percentile(headShare)) * (1 - margin)
		tail := float64(h.percentile(tailShare)+1) * (1 + margin)
		return head, tail - head
	}
	return 0, histogramRange
}

// variation is the coefficient of variation of the bins' counts.
func (h *Hybrid) variation() float64 {
	mean := float64(h.total) / histogramRange
	if mean == 0 {
		return 0
	}
	sum := 0.0
	for _, n := range h.bins {
		sum += (float64(n) - mean) * (float64(n) - mean)
	}
	return math.Sqrt(sum/histogramRange) / mean
}

// percentile returns the first bin by which the share of the gaps is reached.
func (h *Hybrid) percentile(share float64) int {
	want := int(math.Ceil(share * float64(h.total)))
	for b, n := range h.bins {
		if want -= n; want <= 0 {
			return b
		}
	}
	return histogramRange - 1
}

// autoregress forecasts the next value from the last.
func autoregress(x []float64) float64 {
	mean := 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	var cov, variance float64
	for i, v := range x {
		variance += (v - mean) * (v - mean)
		if i > 0 {
			cov += (v - mean) * (x[i-1] - mean)
		}
	}
	phi := 0.0
	if variance > 0 {
		phi = min(max(cov/variance, -0.9), 0.9)
	}
	return math.Max(0, mean+phi*(x[len(x)-1]-mean))
}

// Target counts the boxes that are to be warm now.
func (h *Hybrid) Target(now time.Time) forecast.Target { return h.held.target(now) }

// Depth is the simplest policy that reacts to depth: the k-th box stays for a
// set time after k claims came within its lead time. It is what the model would
// be that learns nothing.
type Depth struct {
	warm, cold depths
}

// depths remembers when each depth was last reached.
type depths struct {
	lead, keep time.Duration
	recent     []time.Time
	last       []time.Time
}

// NewDepth keeps a warm box for keep and a cold one ten times as long.
func NewDepth(c forecast.Costs, keep time.Duration) *Depth {
	return &Depth{warm: depths{lead: c.Restore, keep: keep}, cold: depths{lead: c.Restore + c.Create, keep: 10 * keep}}
}

// Observe notes how deep the claim went.
func (d *Depth) Observe(at time.Time, _ forecast.Kind) {
	d.warm.claim(at)
	d.cold.claim(at)
}

func (d *depths) claim(at time.Time) {
	d.recent = slices.DeleteFunc(d.recent, func(t time.Time) bool { return at.Sub(t) > d.lead })
	if len(d.recent) < 128 {
		d.recent = append(d.recent, at)
	}
	for len(d.last) < len(d.recent) {
		d.last = append(d.last, at)
	}
	for i := range d.recent {
		d.last[i] = at
	}
}

// count is the number of depths whose time has not run out, and until when.
func (d *depths) count(now time.Time) (n int, until time.Time) {
	until = now.Add(24 * time.Hour)
	for n < len(d.last) && d.last[n].Add(d.keep).After(now) {
		until = d.last[n].Add(d.keep)
		n++
	}
	return n, until
}

// Target counts the depths that were reached lately.
func (d *Depth) Target(now time.Time) forecast.Target {
	warm, until := d.warm.count(now)
	all, other := d.cold.count(now)
	t := idleTarget(now, warm, max(1, all-warm))
	t.Until = until
	if other.Before(until) {
		t.Until = other
	}
	return t
}

// Rate is the textbook newsvendor: claims are taken for Poisson at the largest
// of three moving averages, over half a minute, five minutes and an hour, and
// the target is the quantile of the demand over the lead time at which another
// box no longer pays.
type Rate struct {
	costs forecast.Costs
	rates [3]float64 // claims per second
	last  time.Time
}

var rateSpans = [3]float64{30, 300, 3600} // seconds

// NewRate prices misses and memory as c does.
func NewRate(c forecast.Costs) *Rate { return &Rate{costs: c} }

// Observe adds a claim to the averages.
func (r *Rate) Observe(at time.Time, _ forecast.Kind) {
	r.fade(at)
	for i, span := range rateSpans {
		r.rates[i] += 1 / span
	}
}

func (r *Rate) fade(now time.Time) {
	if !r.last.IsZero() {
		for i, span := range rateSpans {
			r.rates[i] *= math.Exp(-now.Sub(r.last).Seconds() / span)
		}
	}
	r.last = now
}

// Target is computed afresh; it stands for a while that grows with the quiet.
func (r *Rate) Target(now time.Time) forecast.Target {
	r.fade(now)
	rate := slices.Max(r.rates[:])
	c := r.costs
	size := func(lead time.Duration, mb, saved float64) int {
		d := forecast.Distribution{Mean: rate * lead.Seconds(), Variance: rate * lead.Seconds()}
		n := 0
		for n < 64 && rate*d.AtLeast(n)*saved*c.WaitPrice >= mb {
			n++
		}
		return n
	}
	warm := size(c.Restore, c.WarmMB-c.ColdMB, c.Restore.Seconds())
	all := size(c.Restore+c.Create, c.ColdMB, c.Create.Seconds())
	t := idleTarget(now, warm, max(1, all-warm))
	t.Until = now.Add(time.Duration(min(max(1, 0.2/math.Max(rate, 1e-9)), 600) * float64(time.Second)))
	return t
}

// bounded is the live policy within the bounds that the server has by default.
type bounded struct{ *forecast.Model }

// Target is the model's, within the bounds.
func (b bounded) Target(now time.Time) forecast.Target {
	_ = b.BoundInUse(now, forecast.SeedBounds(), false) // they are valid
	return b.Model.Target(now)
}
