package quota

import (
	"math"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// terms are what a quota bounds, ready to be compared.
type terms struct {
	limit   Amounts
	creates float64 // a second; 0 is no bound
	today   [days]struct{ limit, used float64 }
}

// The budgets of a day, as indices of terms.today.
const (
	cpuSeconds = iota
	gbHours
	days
)

// termsOf are those of the quota of a tenant that has used so much today.
func termsOf(q *bulkhead.Quota, use bulkhead.DayUse) terms {
	t := terms{limit: limitsOf(q), creates: q.CreatesPerSecond}
	t.today[cpuSeconds].limit, t.today[cpuSeconds].used = q.CPUSecondsPerDay, use.CPUSeconds
	t.today[gbHours].limit, t.today[gbHours].used = q.GBHoursPerDay, use.GBHours
	return t
}

// account is what one tenant holds.
type account struct {
	limit   Amounts // as its last request had it
	used    Amounts // granted to its sandboxes
	waiting int
	bucket  bucket
	freed   flow

	epoch uint64  // of held
	held  Amounts // kept free, in this epoch, for its claims that wait longest
}

// bucket lets creates through at a rate, with a burst of ten seconds' worth and
// at least one.
type bucket struct {
	tokens float64
	at     time.Time
}

// burstSeconds is how much of its rate a tenant may save up.
const burstSeconds = 10

// fill brings the bucket up to now and returns its size.
func (b *bucket) fill(now time.Time, rate float64) float64 {
	size := max(1, rate*burstSeconds)
	switch {
	case b.at.IsZero():
		b.tokens = size
	case now.After(b.at):
		b.tokens = min(size, b.tokens+rate*now.Sub(b.at).Seconds())
	default:
		return size
	}
	b.at = now
	return size
}

// wait is how long until n tokens are there; the bucket is filled.
func (b *bucket) wait(rate, n float64) float64 { return max(0, (n-b.tokens)/rate) }

const dayLength = 24 * time.Hour

// untilTomorrow is how long the UTC day that now is in still takes.
func untilTomorrow(now time.Time) float64 {
	now = now.UTC()
	return now.Truncate(dayLength).Add(dayLength).Sub(now).Seconds() // the zero time is a midnight
}

// flow is how fast something comes free, as a sum that decays.
type flow struct {
	sum [resources]float64
	at  time.Time
}

// recall is how long a flow remembers.
const recall = time.Minute

func (f *flow) decay(now time.Time) {
	if now.After(f.at) {
		if !f.at.IsZero() {
			k := math.Exp(-float64(now.Sub(f.at)) / float64(recall))
			for i := range f.sum {
				f.sum[i] *= k
			}
		}
		f.at = now
	}
}

func (f *flow) add(now time.Time, a *Amounts) {
	f.decay(now)
	for i := range a {
		f.sum[i] += float64(max(0, a[i]))
	}
}

// wait is how many seconds the lacking amounts are expected to take, at least
// 0.05 and at most 600; 0 if that is not known.
func (f *flow) wait(now time.Time, lacking Amounts) float64 {
	f.decay(now)
	longest := 0.0
	for i, n := range lacking {
		if n <= 0 {
			continue
		}
		rate := f.sum[i] / recall.Seconds()
		if rate <= 0 || float64(n)/rate > 600 {
			return 0
		}
		longest = max(longest, float64(n)/rate)
	}
	if longest > 0 {
		longest = max(longest, 0.05)
	}
	return math.Round(longest*100) / 100
}
