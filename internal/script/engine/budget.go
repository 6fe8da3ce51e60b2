package engine

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"

	"github.com/bulkheadhq/bulkhead"
)

// SmallSource is the length of the longest source that may run in process, in
// bytes. It bounds the parser's stack.
const SmallSource = 8 << 10

// Bounds of the in-process lane. Each built-in that a small program can reach
// does at most a few milliseconds of work under them, since nothing can stop it
// inside.
const (
	smallInput    = 256 << 10 // bytes of input JSON
	smallItems    = 32 << 10  // elements of an array that a built-in loops over
	smallString   = 1 << 20   // length of a string that a built-in reads or makes
	smallProduct  = 64 << 20  // comparisons of one search or sort
	smallAlloc    = 64 << 20  // bytes charged to, or attributed to, one run
	smallNodes    = 20_000    // values of one JSON text
	smallDepth    = 200       // nesting of one JSON text or of joins
	smallTimers   = 1000      // timers set by one run
	smallPromised = 1000      // values of one Promise.all
	smallRead     = 16 << 20  // length of all strings that one built-in reads
	smallDigits   = 16 << 10  // length of a number's text
	smallPieces   = 128 << 10 // strings that one split makes
	callOverhead  = 1 << 10   // bytes charged for a call that allocates at all
	jsonFactor    = 16        // bytes of heap for a byte of JSON, measured
)

// smallTime is the processor time that a run in process may use.
const smallTime = 20 * time.Millisecond

// stop is the error that ends a run from inside a built-in. Unwrapping to an
// InterruptedError makes it impossible for the program to catch.
type stop struct {
	end   bulkhead.End
	moved string
	at    time.Time
}

func (s *stop) Error() string {
	if s.moved != "" {
		return "moved: " + s.moved
	}
	return s.end.String()
}

func (s *stop) Unwrap() error { return &goja.InterruptedError{} }

// budget is what one run may use and has used. The sampler reads and stops it
// from another goroutine; all else belongs to the run's own.
type budget struct {
	lane   Lane
	limits Limits
	rt     *goja.Runtime

	stopped atomic.Pointer[stop]
	charged atomic.Int64 // bytes charged by built-ins, all in all
	shared  atomic.Int64 // bytes the sampler attributes to the run
	peak    atomic.Int64 // most live bytes seen; worker lane only
	began   time.Time
	waiting atomic.Bool // in the event loop, not running
	waited  atomic.Int64

	since   int64 // charged since the heap was last looked at
	logged  atomic.Int64
	nesting int

	heapMu sync.Mutex
	base   int64 // live heap before the run
	gcAt   int64 // live heap at which a forced collection may be tried again
}

// end makes the run stop at the next instruction or charged built-in. Only the
// first call counts. It may be called from any goroutine.
func (b *budget) end(s *stop) {
	s.at = time.Now()
	if b.stopped.CompareAndSwap(nil, s) {
		b.rt.Interrupt(s)
	}
}

// fail ends the run from inside a built-in; it does not return.
func (b *budget) fail(s *stop) {
	b.end(s)
	panic(b.stopped.Load())
}

// enter is called by every charged built-in first: it stops what was stopped
// meanwhile, also where only built-ins call each other.
func (b *budget) enter() {
	if s := b.stopped.Load(); s != nil {
		panic(s)
	}
}

// move ends an in-process run that needs a worker; it does not return.
func (b *budget) move(format string, args ...any) {
	b.fail(&stop{moved: fmt.Sprintf(format, args...)})
}

// memoryEnd is the end of a run that needs n bytes.
func (b *budget) memoryEnd(n int64, detail string) *stop {
	return &stop{end: bulkhead.End{
		Cause: bulkhead.CauseMemoryLimit, At: time.Now(), ExitCode: 137,
		Limit: b.limits.MemoryMB << 20, Peak: max(n, b.peak.Load()), Detail: detail,
	}}
}

// charge books n bytes that a built-in is about to allocate, and stops the run
// before it does if they do not fit. In process they are never given back.
func (b *budget) charge(what string, n int64) {
	if n < 0 {
		n = 1 << 62
	}
	if b.lane == LaneInProcess {
		if n > smallAlloc || b.charged.Add(n) > b.smallBudget() {
			b.move("%s allocates more than the in-process lane allows", what)
		}
		return
	}
	limit := b.limits.MemoryMB << 20
	if n > limit {
		b.fail(b.memoryEnd(n, fmt.Sprintf("%s would allocate %d bytes; the limit is %d MiB",
			what, n, b.limits.MemoryMB)))
	}
	b.charged.Add(n)
	b.since += n
	if b.since < 1<<20 {
		return
	}
	b.since = 0
	if live := b.live() + n; live > limit {
		b.fail(b.memoryEnd(live, fmt.Sprintf("%s would allocate %d bytes; with them it holds more than %d MiB",
			what, n, b.limits.MemoryMB)))
	}
}

// smallBudget returns what a run in process may allocate, all in all.
func (b *budget) smallBudget() int64 { return min(smallAlloc, b.limits.MemoryMB<<20) }

// heapMetric is the live heap and what is not yet swept.
const heapMetric = "/memory/classes/heap/objects:bytes"

// heapBytes reads the heap; about a microsecond.
func heapBytes() int64 {
	s := [1]metrics.Sample{{Name: heapMetric}}
	metrics.Read(s[:])
	return int64(s[0].Value.Uint64()) //nolint:gosec // a heap is smaller than 2^63
}

// live returns what the run holds, in bytes. Where the heap as it is would be
// over the limit it collects garbage first, at most once for each eighth of the
// limit that the heap grows.
func (b *budget) live() int64 {
	b.heapMu.Lock()
	defer b.heapMu.Unlock()
	limit := b.limits.MemoryMB << 20
	n := heapBytes() - b.base
	if n > limit && n >= b.gcAt {
		runtime.GC()
		n = heapBytes() - b.base
		b.gcAt = n + limit/8
	}
	if n > b.peak.Load() {
		b.peak.Store(min(n, limit))
	}
	return n
}

// elapsed returns how long the run has run without what it waited.
func (b *budget) elapsed(now time.Time) time.Duration {
	return now.Sub(b.began) - time.Duration(b.waited.Load())
}

// stopOf returns the stop in err's chain or that an interrupt carried.
func stopOf(err error) *stop {
	if s, ok := errors.AsType[*stop](err); ok {
		return s
	}
	if i, ok := errors.AsType[*goja.InterruptedError](err); ok {
		if s, ok := i.Value().(*stop); ok {
			return s
		}
	}
	return nil
}
