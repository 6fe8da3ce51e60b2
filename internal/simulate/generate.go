package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Shape says what traffic [Generate] makes.
type Shape struct {
	// Seed decides everything that is random.
	Seed uint64 `json:"seed"`
	// Templates is the number of templates. 1 to 1000.
	Templates int `json:"templates"`
	// Days is the length; day one is a Monday. 0.01 to 366.
	Days float64 `json:"days"`
	// Requests is the expected number of claims. 1 to 8 million.
	Requests int `json:"requests"`
}

// DefaultShape is four weeks of a million claims for forty templates.
func DefaultShape() Shape { return Shape{Seed: 1, Templates: 40, Days: 28, Requests: 1_000_000} }

// ParseShape reads "seed=7,days=14"; what is not named keeps its default, and ""
// or "default" is all of them. The error is a *bulkhead.Error with CodeInvalid.
func ParseShape(text string) (Shape, error) {
	s := DefaultShape()
	if text == "" || text == "default" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || v < 0 || v > 1e15 || (key != "days" && v != math.Trunc(v)) {
			return s, bulkhead.Errorf(bulkhead.CodeInvalid, "%.40q is not a whole number of seed, templates or requests, nor a number of days", part)
		}
		switch key {
		case "seed":
			s.Seed = uint64(v)
		case "templates":
			s.Templates = int(v)
		case "days":
			s.Days = v
		case "requests":
			s.Requests = int(v)
		default:
			return s, bulkhead.Errorf(bulkhead.CodeInvalid, "%.40q is not known; there are seed, templates, days and requests", key)
		}
	}
	return s, s.Validate()
}

// Validate names the first field that is out of its range.
func (s Shape) Validate() error {
	switch {
	case s.Templates < 1 || s.Templates > 1000:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "templates is %d; it must be between 1 and 1000", s.Templates)
	case !(s.Days >= 0.01 && s.Days <= 366):
		return bulkhead.Errorf(bulkhead.CodeInvalid, "days is %v; it must be between 0.01 and 366", s.Days)
	case s.Requests < 1 || s.Requests > 8_000_000:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "requests is %d; it must be between 1 and 8000000", s.Requests)
	}
	return nil
}

// String is what [ParseShape] reads.
func (s Shape) String() string {
	return fmt.Sprintf("seed=%d,templates=%d,days=%g,requests=%d", s.Seed, s.Templates, s.Days, s.Requests)
}

// popularity is σ of the logarithm of the rates. With it, a median of 1.7 claims
// an hour puts 45 % of the applications at one an hour or less and 81 % at one a
// minute or less, as published for Azure Functions (Shahrad et al., ATC 2020).
const popularity = 4.08

// Generate makes traffic with the published shape of serverless platforms: rates
// over eight orders of magnitude; 16 % timers and over half requests by people
// and agents, which come in sessions; queues that arrive in batches; days, weeks
// and crowds. One host's share, that is: no source sends more than about a claim
// and a half per second for long. The shape must be valid.
//
// It stands in for traces that cannot be had here; no figure from it is one from
// production.
func Generate(s Shape) *Trace {
	tr := &Trace{Name: "generated " + s.String(), Start: monday, Span: time.Duration(s.Days * 24 * float64(time.Hour))}
	rates := popularities(s)
	draw := rand.New(rand.NewPCG(s.Seed, 0)) //nolint:gosec // the same every time, no secret
	for i, rate := range rates {
		p := source{
			rate: rate, depth: 0.3 + 1.5*draw.Float64(), peak: 14 + 3*draw.NormFloat64(), weekend: 0.2 + 0.8*draw.Float64(),
			rng: rand.New(rand.NewPCG(s.Seed, uint64(i)+1)), id: int32(i), out: tr, //nolint:gosec // as above
		}
		kind := draw.Float64()
		switch {
		case kind < 0.16 && rate <= 60:
			p.timer()
		case kind < 0.36:
			p.queue()
		case kind < 0.45:
			p.event()
		default:
			p.agent()
		}
		tr.Templates = append(tr.Templates, fmt.Sprintf("%s-%02d", p.kind, i))
	}
	tr.sort()
	return tr
}

// popularities are the rates per hour, largest first.
func popularities(s Shape) []float64 {
	rates := make([]float64, s.Templates)
	sum := 0.0
	for i := range rates {
		u := (float64(i) + 0.5) / float64(s.Templates)
		rates[i] = math.Exp(popularity * math.Sqrt2 * math.Erfinv(1-2*u))
		sum += rates[i]
	}
	for i := range rates {
		rates[i] *= float64(s.Requests) / (s.Days * 24) / sum
	}
	return rates
}

// source makes the claims of one template.
type source struct {
	kind    string
	rate    float64 // claims per hour, on average
	depth   float64 // of the day's wave: ln of peak over mean, about
	peak    float64 // hour of day
	weekend float64 // Saturdays and Sundays, against weekdays
	rng     *rand.Rand
	id      int32
	out     *Trace
}

// add puts a claim into the trace, whose box lives for a log-normal time with a
// median of 30 s.
func (p *source) add(at time.Duration) {
	if at >= 0 && at < p.out.Span && len(p.out.Arrivals) < MaxArrivals {
		life := math.Min(3600, 30*math.Exp(1.5*p.rng.NormFloat64()))
		p.out.Arrivals = append(p.out.Arrivals, Arrival{At: at, Template: p.id, Life: float32(life)})
	}
}

// hours calls f for each hour with the number of events to expect in it, which
// is perHour on average: a wave over the day, a factor for weekends, noise that
// lasts a few hours, and once in two weeks a crowd of ten minutes.
func (p *source) hours(perHour float64, f func(from time.Duration, n float64)) {
	mean, term := 1.0, 1.0 // of exp(depth·cos): the Bessel function I0(depth)
	for k := 1.0; k < 20; k++ {
		term *= p.depth / 2 / k
		mean += term * term
	}
	mean *= (5 + 2*p.weekend) / 7
	noise := 0.0
	for h := time.Duration(0); h < p.out.Span; h += time.Hour {
		at := p.out.Start.Add(h)
		x := math.Exp(p.depth*math.Cos(2*math.Pi*(float64(at.Hour())-p.peak)/24)) / mean
		if d := at.Weekday(); d == time.Saturday || d == time.Sunday {
			x *= p.weekend
		}
		noise = 0.7*noise + 0.25*p.rng.NormFloat64()
		n := perHour * x * math.Exp(noise-0.06)
		f(h, n)
		if p.rng.Float64() < 0.003 {
			from := h + time.Duration(p.rng.Float64()*float64(time.Hour))
			p.poisson(from, 10*time.Minute, math.Min(600, 3*math.Max(n, 1)), p.add)
		}
	}
}

// poisson calls f at the points of a Poisson process with n expected points.
func (p *source) poisson(from, span time.Duration, n float64, f func(time.Duration)) {
	if n <= 0 {
		return
	}
	gap := float64(span) / n
	for t := p.rng.ExpFloat64() * gap; t < float64(span); t += p.rng.ExpFloat64() * gap {
		f(from + time.Duration(t))
	}
}

// timer fires at a usual period near the rate; three in ten fan out.
func (p *source) timer() {
	p.kind = "timer"
	best := time.Minute
	for _, q := range []time.Duration{5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour} {
		if math.Abs(math.Log(q.Hours()*p.rate)) < math.Abs(math.Log(best.Hours()*p.rate)) {
			best = q
		}
	}
	n := 1
	if p.rng.Float64() < 0.3 {
		n = 2 + p.rng.IntN(6)
	}
	for t := time.Duration(p.rng.Float64() * float64(best)); t < p.out.Span; t += best {
		for range n {
			p.add(t + time.Duration(math.Abs(p.rng.NormFloat64())*float64(300*time.Millisecond)))
		}
	}
}

// event is a plain Poisson process along the day's wave.
func (p *source) event() {
	p.kind = "event"
	p.hours(p.rate, func(from time.Duration, n float64) { p.poisson(from, time.Hour, n, p.add) })
}

// queue brings batches that take minutes to drain.
func (p *source) queue() {
	p.kind = "queue"
	size := math.Min(400, math.Max(8, p.rate/4))
	p.hours(p.rate/size, func(from time.Duration, n float64) {
		p.poisson(from, time.Hour, n, func(at time.Duration) {
			n := size * p.rng.ExpFloat64()
			length := math.Max(60*math.Exp(p.rng.NormFloat64()-0.5), n/1.5)
			p.poisson(at, time.Duration(length*float64(time.Second)), n, p.add)
		})
	})
}

// agent brings sessions: five claims some seconds apart on average, and in three
// of a hundred a fan-out of 4 to 100 within seconds, with a heavy tail.
func (p *source) agent() {
	p.kind = "agent"
	const mean = 0.97*5 + 0.03*11
	p.hours(p.rate/mean, func(from time.Duration, n float64) {
		p.poisson(from, time.Hour, n, func(at time.Duration) {
			if p.rng.Float64() < 0.03 {
				size := math.Min(100, 4*math.Pow(1-p.rng.Float64(), -1/1.4))
				for range int(size) {
					p.add(at)
					at += time.Duration(p.rng.ExpFloat64() * float64(40*time.Millisecond))
				}
				return
			}
			for {
				p.add(at)
				if p.rng.Float64() < 0.2 {
					return
				}
				at += time.Duration(12 * math.Exp(1.2*p.rng.NormFloat64()) * float64(time.Second))
			}
		})
	})
}
