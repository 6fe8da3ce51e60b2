package simulate

import (
	"cmp"
	"slices"
	"time"
)

// Arrival is one claim.
type Arrival struct {
	// At is when it comes, counted from the trace's start.
	At time.Duration
	// Template is an index into the trace's templates.
	Template int32
	// Life is for how many seconds its box is leased.
	Life float32
}

// Trace is a list of claims in the order of time.
type Trace struct {
	// Name says where it comes from.
	Name string
	// Start is the time that At counts from; the hours and weekdays of the
	// policies follow from it.
	Start time.Time
	// Span is the length; no arrival is later.
	Span time.Duration
	// Templates are the names.
	Templates []string
	// Arrivals are sorted by At.
	Arrivals []Arrival
}

// Limits of a trace, whichever way it is made.
const (
	// MaxArrivals is the largest number of claims.
	MaxArrivals = 10_000_000
	// MaxTemplates is the largest number of templates.
	MaxTemplates = 10_000
	// MaxSpan is the longest time from the first claim to the last.
	MaxSpan = 400 * 24 * time.Hour
)

func (t *Trace) sort() {
	slices.SortStableFunc(t.Arrivals, func(a, b Arrival) int { return cmp.Compare(a.At, b.At) })
}

// PerTemplate counts the claims of each template.
func (t *Trace) PerTemplate() []int {
	n := make([]int, len(t.Templates))
	for _, a := range t.Arrivals {
		n[a.Template]++
	}
	return n
}

// LeasedSeconds is how long boxes are leased in all, in seconds.
func (t *Trace) LeasedSeconds() float64 {
	s := 0.0
	for _, a := range t.Arrivals {
		s += float64(a.Life)
	}
	return s
}
