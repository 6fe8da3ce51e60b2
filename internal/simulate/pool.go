package simulate

import "github.com/bulkheadhq/bulkhead/internal/forecast"

// pool is the boxes of one template. A box is a time: when it became ready.
type pool struct {
	policy              Policy
	warm, cold          shelf
	waiting             ring // when each caller came that has no box yet
	creating, restoring int
	want                forecast.Target

	until  int64 // when to ask the policy again
	queued int64 // the pool's entry in the heap; never when it has none
	urgent bool  // in the queue of those whose callers wait
	refill bool  // in the queue of those that are below their target

	misses int
	waited int64
}

// shelf holds ready boxes, oldest first; the first aged of them are too old.
type shelf struct {
	ring
	aged int
	sum  int64 // ns that boxes stood idle that are gone
}

// take removes the oldest.
func (s *shelf) take(now int64) {
	s.sum += now - s.pop()
	s.aged = max(0, s.aged-1)
}

// age counts the boxes that became ready at or before old.
func (s *shelf) age(old int64) {
	for s.aged < s.n && s.at(s.aged) <= old {
		s.aged++
	}
}

// fresh is the number that are not too old.
func (s *shelf) fresh() int { return s.n - s.aged }

// job is what a builder can do for a pool.
type job int

const (
	nothing job = iota
	restore
	create
)

// forCaller returns what a caller waits for that nobody works on yet.
func (p *pool) forCaller() job {
	switch {
	case p.waiting.n <= p.restoring:
		return nothing
	case p.cold.n > 0:
		return restore
	case p.waiting.n > p.restoring+p.creating:
		return create
	}
	return nothing
}

// forTarget returns what is missing to the target. Boxes that are too old count
// as missing but serve until their replacement is there.
func (p *pool) forTarget() job {
	warm := p.warm.fresh() + p.restoring
	want := p.want.Warm + p.waiting.n
	switch {
	case warm < want && p.cold.n > 0:
		return restore
	case warm+p.cold.fresh()+p.creating < want+p.want.Cold:
		return create
	}
	return nothing
}

// kind is how a claim that comes now is served.
func (p *pool) kind() forecast.Kind {
	switch {
	case p.warm.n > 0:
		return forecast.KindWarm
	case p.restoring+p.cold.n > p.waiting.n:
		return forecast.KindCold
	}
	return forecast.KindNew
}
