package forecast

import (
	"math"
	"time"
)

// MaxHorizon is how far ahead [Model.Predict] looks.
const MaxHorizon = 28 * 24 * time.Hour

// Distribution is the forecast number of claims in a span: a negative binomial
// with the given mean and variance, a Poisson where the two are equal.
type Distribution struct {
	// Mean is the expected number.
	Mean float64 `json:"mean"`
	// Variance is at least Mean.
	Variance float64 `json:"variance"`
}

// Predict forecasts the number of claims from now until horizon has passed,
// which is cut to 0 … [MaxHorizon].
func (m *Model) Predict(now time.Time, horizon time.Duration) Distribution {
	from := m.tick(now)
	horizon = min(max(horizon, 0), MaxHorizon)
	end := from + int64(horizon)
	mean := 0.0
	for at := from; at < end; {
		next := min(end, at-at%hour+hour)
		mean += m.season.rate(from, at) * time.Duration(next-at).Seconds()
		at = next
	}
	return Distribution{Mean: mean, Variance: m.season.spread.variance(mean)}
}

// exactUpTo is the mean from which quantiles come from the normal distribution.
const exactUpTo = 10_000

// Quantile returns the least n with P(claims ≤ n) ≥ p. p is cut to 0 … 0.999999.
func (d Distribution) Quantile(p float64) int {
	p = min(max(p, 0), 0.999999)
	if d.Mean <= 0 {
		return 0
	}
	if d.Mean > exactUpTo {
		z := math.Sqrt2 * math.Erfinv(2*max(p, 1e-9)-1)
		return int(math.Max(0, math.Round(d.Mean+z*math.Sqrt(d.Variance))))
	}
	sum, n := 0.0, 0
	last := int(d.Mean + 50*math.Sqrt(math.Max(d.Variance, 1)) + 50)
	for logP := range d.logs() {
		sum += math.Exp(logP)
		if sum >= p || n >= last {
			break
		}
		n++
	}
	return n
}

// AtLeast returns P(claims ≥ n).
func (d Distribution) AtLeast(n int) float64 {
	if n <= 0 {
		return 1
	}
	if d.Mean <= 0 {
		return 0
	}
	if d.Mean > exactUpTo {
		return math.Erfc((float64(n)-0.5-d.Mean)/math.Sqrt(2*d.Variance)) / 2
	}
	sum, k := 0.0, 0
	for logP := range d.logs() {
		if k == n || 1-sum < 1e-12 {
			break
		}
		sum += math.Exp(logP)
		k++
	}
	return max(0, 1-sum)
}

// logs yields ln P(claims = n) for n = 0, 1, 2 and so on.
func (d Distribution) logs() func(func(float64) bool) {
	return func(yield func(float64) bool) {
		over := d.Variance - d.Mean
		if over < 1e-9*d.Mean { // Poisson
			logP := -d.Mean
			for n := 1.0; yield(logP); n++ {
				logP += math.Log(d.Mean / n)
			}
			return
		}
		r := d.Mean * d.Mean / over // number of failures
		q := over / d.Variance      // chance of a success
		logP := r * math.Log1p(-q)
		for n := 1.0; yield(logP); n++ {
			logP += math.Log((n - 1 + r) / n * q)
		}
	}
}
