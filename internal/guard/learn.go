package guard

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/DataDog/sketches-go/ddsketch"
	lru "github.com/hashicorp/golang-lru/v2"
)

// The learner's fixed sizes. A sketch has a relative error of 2 % and at most
// 64 bins, about 1 KiB; a generation of runs is long enough for a p99 and short
// enough to follow a program that changed.
const (
	learnerAccuracy   = 0.02
	learnerBins       = 64
	learnerGeneration = 1000
	learnerLeast      = 5
)

// Learner estimates what a run will need from what the same code needed before,
// at about the same input size. It keeps two generations of a thousand runs for
// each kind of work and forgets the kinds used longest ago. It may be used from
// any goroutine.
type Learner struct {
	mu    sync.Mutex
	kinds *lru.Cache[learnKey, *history]
}

// learnKey is one kind of work: a fingerprint, and the input's size class.
type learnKey struct {
	fingerprint string
	class       int
}

// history is the peaks seen of one kind.
type history struct {
	current, previous *ddsketch.DDSketch
	count             int
}

// NewLearner returns a learner for at most the given number of kinds, which
// must be at least 1.
func NewLearner(kinds int) (*Learner, error) {
	cache, err := lru.New[learnKey, *history](kinds)
	if err != nil {
		return nil, fmt.Errorf("make learner for %d kinds: %w", kinds, err)
	}
	return &Learner{kinds: cache}, nil
}

// classOf groups input sizes by powers of four.
func classOf(inputBytes int64) int { return (bits.Len64(uint64(max(0, inputBytes))) + 1) / 2 }

// Observe records that a run of the code with this fingerprint peaked at peak
// bytes. Peaks that are not positive are ignored.
func (l *Learner) Observe(fingerprint string, inputBytes, peak int64) {
	if peak <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := learnKey{fingerprint, classOf(inputBytes)}
	h, ok := l.kinds.Get(key)
	if !ok {
		h = &history{}
		l.kinds.Add(key, h)
	}
	if h.current == nil || h.count >= learnerGeneration {
		sketch, err := ddsketch.LogCollapsingLowestDenseDDSketch(learnerAccuracy, learnerBins)
		if err != nil {
			return // the constants are wrong; tests would show it
		}
		h.previous, h.current, h.count = h.current, sketch, 0
	}
	if h.current.Add(float64(peak)) == nil {
		h.count++
	}
}

// Estimate returns the memory to book for a run, in bytes: the 99th percentile
// of what was seen and 15 % on top. With fewer than five runs seen it returns
// fallback and false.
func (l *Learner) Estimate(fingerprint string, inputBytes, fallback int64) (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.kinds.Get(learnKey{fingerprint, classOf(inputBytes)})
	if !ok || h.count < learnerLeast && h.previous == nil {
		return fallback, false
	}
	var most float64
	for _, s := range []*ddsketch.DDSketch{h.current, h.previous} {
		if s == nil || s.IsEmpty() {
			continue
		}
		if q, err := s.GetValueAtQuantile(0.99); err == nil {
			most = max(most, q)
		}
	}
	if most <= 0 {
		return fallback, false
	}
	return int64(most * 1.15), true
}

// Len returns how many kinds are known.
func (l *Learner) Len() int { return l.kinds.Len() }
