// Package rate bounds how fast named parties may do something.
//
// It is token buckets (golang.org/x/time/rate) under names, with the figures that
// an answer tells a client. It is pure: the time comes from the caller. A Buckets
// may be used by any number of goroutines.
package rate

import (
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Window is the time whose worth of tokens may be taken at once.
const Window = 10 * time.Second

// maxNames bounds how many buckets are kept. One that is dropped starts full.
const maxNames = 16384

// Buckets are one bucket for each name. The zero value is not usable.
type Buckets struct {
	buckets *lru.Cache[string, *rate.Limiter]
}

// New returns buckets that are full.
func New() *Buckets {
	buckets, _ := lru.New[string, *rate.Limiter](maxNames) // fails for a size below 1 only
	return &Buckets{buckets}
}

// Decision is what came of taking a token.
type Decision struct {
	// OK says that it was taken.
	OK bool
	// Limit is how many may be taken within [Window], Remaining how many could be
	// taken right now.
	Limit, Remaining int
	// Reset is when the bucket is full again, Wait when one more token is there;
	// zero when there is one.
	Reset, Wait time.Duration
}

// Take takes a token of name's bucket, which fills at perSecond tokens a second up
// to a Window's worth, and at least one. A rate that differs from the call before
// is in force at once.
func (b *Buckets) Take(name string, perSecond float64, now time.Time) Decision {
	burst := max(1, int(math.Ceil(perSecond*Window.Seconds())))
	bucket, ok := b.buckets.Get(name)
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(perSecond), burst)
		if other, found, _ := b.buckets.PeekOrAdd(name, bucket); found {
			bucket = other
		}
	}
	if bucket.Limit() != rate.Limit(perSecond) {
		bucket.SetLimitAt(now, rate.Limit(perSecond))
		bucket.SetBurstAt(now, burst)
	}
	d := Decision{OK: bucket.AllowN(now, 1), Limit: burst}
	tokens := bucket.TokensAt(now)
	d.Remaining = max(0, int(math.Floor(tokens+1e-9)))
	d.Reset = seconds((float64(burst) - tokens) / perSecond)
	if d.Remaining == 0 {
		d.Wait = seconds((1 - tokens) / perSecond)
	}
	return d
}

// seconds is a number of seconds, at most a day's.
func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), 24*3600) * float64(time.Second))
}
