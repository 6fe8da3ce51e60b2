package guard

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/DataDog/sketches-go/ddsketch"
	lru "github.com/hashicorp/golang-lru/v2"
)

// The learner's fixed sizes. A sketch has a relative error of 2 % and at most
// 64 bins, about 1 KiB; a generation of runs is long enough for a p99 and
// short enough to follow a program that changed.
const (
	learnerAccuracy   = 0.02
	learnerBins       = 64
	learnerGeneration = 1000
	learnerLeast      = 5
	// What is known well is looked at less often: every learnerSkip'th run, once
	// learnerKnown were seen.
	learnerKnown = 64
	learnerSkip  = 8
)

// Learner estimates what a run will need from what the same code needed before,
// at about the same input size, and forgets the kinds of work used longest ago. It
// may be used from any goroutine.
type Learner struct {
	kinds *lru.Cache[learnKey, *Kind]
}

// learnKey is one kind of work: a fingerprint, and the input's size class.
type learnKey struct {
	fingerprint string
	class       int
}

// Kind is what is known of one kind of work: the peaks of two generations of a
// thousand runs. It may be used from any goroutine.
type Kind struct {
	mu                sync.Mutex
	current, previous *ddsketch.DDSketch
	count             int   // runs in current
	seen              int   // runs since the last that was observed
	estimate          int64 // 0 while too little is known
}

// NewLearner returns a learner for at most the given number of kinds, which
// must be at least 1.
func NewLearner(kinds int) (*Learner, error) {
	cache, err := lru.New[learnKey, *Kind](kinds)
	if err != nil {
		return nil, fmt.Errorf("make learner for %d kinds: %w", kinds, err)
	}
	return &Learner{kinds: cache}, nil
}

// classOf groups input sizes by powers of four.
func classOf(inputBytes int64) int { return (bits.Len64(uint64(max(0, inputBytes))) + 1) / 2 }

// Kind returns what is known of the code with this fingerprint on an input of this
// size in bytes.
func (l *Learner) Kind(fingerprint string, inputBytes int64) *Kind {
	key := learnKey{fingerprint, classOf(inputBytes)}
	if k, ok := l.kinds.Get(key); ok {
		return k
	}
	k := &Kind{}
	if was, ok, _ := l.kinds.PeekOrAdd(key, k); ok {
		return was
	}
	return k
}

// Len returns how many kinds are known.
func (l *Learner) Len() int { return l.kinds.Len() }

// Observe records that a run peaked at peak bytes. Peaks that are not positive are
// ignored.
func (k *Kind) Observe(peak int64) {
	if peak <= 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen++; k.count >= learnerKnown && k.seen < learnerSkip && peak <= k.estimate {
		return
	}
	weight := k.seen // it stands for those that were not looked at
	if peak > k.estimate {
		weight = 1
	}
	k.seen = 0
	if k.current == nil || k.count >= learnerGeneration {
		sketch, err := ddsketch.LogCollapsingLowestDenseDDSketch(learnerAccuracy, learnerBins)
		if err != nil {
			return // the constants are wrong; tests would show it
		}
		k.previous, k.current, k.count = k.current, sketch, 0
	}
	if k.current.AddWithCount(float64(peak), float64(weight)) != nil {
		return
	}
	k.count += weight
	k.estimate = k.quantileLocked()
}

// quantileLocked returns the 99th percentile of what was seen and 15 % on top, 0
// while too little was.
func (k *Kind) quantileLocked() int64 {
	if k.count < learnerLeast && k.previous == nil {
		return 0
	}
	var most float64
	for _, s := range []*ddsketch.DDSketch{k.current, k.previous} {
		if s == nil || s.IsEmpty() {
			continue
		}
		if q, err := s.GetValueAtQuantile(0.99); err == nil {
			most = max(most, q)
		}
	}
	return int64(most * 1.15)
}

// Estimate returns the memory to book for a run, in bytes: the 99th percentile
// of what was seen and 15 % on top. With fewer than five runs seen it returns
// fallback and false.
func (k *Kind) Estimate(fallback int64) (int64, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.estimate <= 0 {
		return fallback, false
	}
	return k.estimate, true
}
