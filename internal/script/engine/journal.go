package engine

import (
	crand "crypto/rand"
	"math/rand/v2"
	"time"
)

// journalTimes is how many clock readings a journal keeps; a run that reads the
// clock more often in process is moved at that point.
const journalTimes = 4096

// Journal is what makes a run repeatable: the seed of its random numbers and
// the clock readings it was given. It is plain data and travels to a worker.
type Journal struct {
	// Seed feeds Math.random and crypto; it comes from the system's own source.
	Seed [32]byte `json:"seed"`
	// Times are the clock readings so far, in milliseconds since 1970.
	Times []int64 `json:"times,omitempty"`
}

// NewJournal returns a journal with a fresh seed.
func NewJournal() *Journal {
	j := &Journal{}
	_, _ = crand.Read(j.Seed[:]) // never fails, by its contract
	return j
}

// replay reads a journal from its start and then goes on writing it.
type replay struct {
	j    *Journal
	next int
	rnd  *rand.ChaCha8 // nil until chance asks for it
}

// now returns the next reading: the recorded one while there are any, then the
// clock's. full reports that the journal can record no more.
func (p *replay) now() (t time.Time, full bool) {
	if p.next < len(p.j.Times) {
		t = time.UnixMilli(p.j.Times[p.next])
		p.next++
		return t, false
	}
	t = time.Now().Truncate(time.Millisecond)
	if p.next >= journalTimes {
		return t, true
	}
	p.j.Times = append(p.j.Times, t.UnixMilli())
	p.next++
	return t, false
}

// chance returns the source of random numbers.
func (p *replay) chance() *rand.ChaCha8 {
	if p.rnd == nil {
		p.rnd = rand.NewChaCha8(p.j.Seed)
	}
	return p.rnd
}

// float returns a number in [0, 1) with 53 random bits.
func (p *replay) float() float64 { return float64(p.chance().Uint64()>>11) / (1 << 53) }
