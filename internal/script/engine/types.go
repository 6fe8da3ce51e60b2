package engine

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Lane is where a program runs.
type Lane int

// The lanes.
const (
	// LaneInProcess is the server's own process: microseconds, small programs only.
	LaneInProcess Lane = iota
	// LaneWorker is a process of its own under a hard limit.
	LaneWorker
)

// String returns "in-process" or "worker".
func (l Lane) String() string {
	if l == LaneWorker {
		return "worker"
	}
	return "in-process"
}

// Limits bounds one run. A zero field means its default; see [Limits.Or].
type Limits struct {
	// MemoryMB is the memory the program may hold, in MiB. 1 to 4096, default 64.
	MemoryMB int64 `json:"memoryMB,omitempty" yaml:"memoryMB"`
	// TimeMS is how long it may run, waiting included, in milliseconds. 1 to
	// 300000, default 5000.
	TimeMS int64 `json:"timeMS,omitempty" yaml:"timeMS"`
	// ResultBytes is the largest result, as JSON. 1 to 67108864, default 5242880.
	ResultBytes int64 `json:"resultBytes,omitempty" yaml:"resultBytes"`
	// LogBytes is how much it may write to the console, each line with 16 bytes
	// more than its text. 1 to 16777216, default 262144.
	LogBytes int64 `json:"logBytes,omitempty" yaml:"logBytes"`
	// Depth is how many calls may be nested. 16 to 10000, default 1000.
	Depth int64 `json:"depth,omitempty" yaml:"depth"`
}

// DefaultLimits are the limits of a run that names none.
func DefaultLimits() Limits {
	return Limits{MemoryMB: 64, TimeMS: 5000, ResultBytes: 5 << 20, LogBytes: 256 << 10, Depth: 1000}
}

// Or returns l with each zero field taken from d.
func (l Limits) Or(d Limits) Limits {
	or := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	or(&l.MemoryMB, d.MemoryMB)
	or(&l.TimeMS, d.TimeMS)
	or(&l.ResultBytes, d.ResultBytes)
	or(&l.LogBytes, d.LogBytes)
	or(&l.Depth, d.Depth)
	return l
}

// Validate checks every field that is not zero. The error is a *bulkhead.Error
// with [bulkhead.CodeInvalid] that names the field, the value and the range.
func (l Limits) Validate() error { return l.ValidateNamed(nil) }

// ValidateNamed is [Limits.Validate] for limits of which some are named, by their
// names in JSON in any case: there 0 is a value as well, and out of range.
func (l Limits) ValidateNamed(named []string) error {
	for _, f := range []struct {
		name       string
		value      int64
		least, max int64
		unit       string
	}{
		{"memoryMB", l.MemoryMB, 1, MostMemoryMB, "MiB"},
		{"timeMS", l.TimeMS, 1, MostTimeMS, "ms"},
		{"resultBytes", l.ResultBytes, 1, MostResultBytes, "bytes"},
		{"logBytes", l.LogBytes, 1, 16 << 20, "bytes"},
		{"depth", l.Depth, 16, 10_000, "calls"},
	} {
		given := f.value != 0 || slices.ContainsFunc(named, func(n string) bool { return strings.EqualFold(n, f.name) })
		if given && (f.value < f.least || f.value > f.max) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "limits.%s is %d; it must be between %d and %d %s",
				f.name, f.value, f.least, f.max, f.unit)
		}
	}
	return nil
}

// The largest memory, time and result that a run may have at all.
const (
	MostMemoryMB    = 4096
	MostTimeMS      = 300_000
	MostResultBytes = 64 << 20
)

// Time returns TimeMS as a duration.
func (l Limits) Time() time.Duration { return time.Duration(l.TimeMS) * time.Millisecond }

// LogLine is one line a program wrote to its console.
type LogLine struct {
	// Level is debug, info, warn or error.
	Level string `json:"level"`
	// Message is the text, without a newline at its end.
	Message string `json:"message"`
}

// Failure is the exception that ended a program.
type Failure struct {
	// Name is the error's class, such as TypeError.
	Name string `json:"name"`
	// Message says what is wrong.
	Message string `json:"message"`
	// Stack is where, one call a line, the innermost 16, at most 4 KiB.
	Stack string `json:"stack,omitempty"`
	// Cause is what the error names as its cause, if it does.
	Cause string `json:"cause,omitempty"`
}

// Usage is what a run used.
type Usage struct {
	// CPUMS is processor time and WallMS time on the clock, in milliseconds.
	CPUMS  float64 `json:"cpuMS"`
	WallMS float64 `json:"wallMS"`
	// PeakBytes is the most memory it held: in a worker measured, in process its
	// share of what was allocated while it ran.
	PeakBytes int64 `json:"peakBytes"`
	// ResultBytes is the size of the result as JSON.
	ResultBytes int64 `json:"resultBytes"`
	// LogBytes is what it wrote to the console, counted as in Limits.
	LogBytes int64 `json:"logBytes"`
}

// Outcome is how a run ended.
type Outcome struct {
	// Result is the program's value as JSON, "null" when it has none. It is nil
	// unless the end is exited with code 0.
	Result json.RawMessage `json:"result,omitempty"`
	// Failure is the exception, if one ended it.
	Failure *Failure `json:"error,omitempty"`
	// End is the cause with its evidence.
	End bulkhead.End `json:"end"`
	// Usage is what it used.
	Usage Usage `json:"usage"`
	// Stuck says that the run did not stop when it was told to, and still goes on.
	Stuck bool `json:"stuck,omitempty"`
	// Moved, when not empty, says why the run must be done again in a worker;
	// everything else is void then.
	Moved string `json:"moved,omitempty"`
}

// Input is one run's task.
type Input struct {
	// JSON is the value of the global "input"; empty means undefined. It must be
	// valid.
	JSON json.RawMessage
	// Limits are in force; no field may be zero.
	Limits Limits
	// Host answers what the program asks of the world.
	Host Host
	// Journal makes the run repeatable; nil means a new one.
	Journal *Journal
	// HasFetch says whether the program has fetch at all.
	HasFetch bool
	// Stuck, if set, is called when the run was told to stop and has used 100 ms
	// of processor time since, because a built-in goes on. It is called once,
	// from another goroutine, with how the run ended; only the process's end
	// stops the built-in.
	Stuck func(Outcome)
}

// Host is the world as a program sees it.
type Host interface {
	// Log takes one line. It must not block for long.
	Log(LogLine)
	// Call does one operation, "kv.get", "kv.set", "kv.delete", "kv.list" or
	// "fetch", and blocks until it is done. An error's message is thrown into
	// the program, so it must be safe for a tenant to read; ErrMove moves an
	// in-process run instead, ErrOver ends a run at its time limit.
	Call(op string, payload []byte) ([]byte, error)
}

// ErrMove is what a [Host] returns for a call that it would not be able to
// repeat: the run goes on in a worker.
var ErrMove = errors.New("the run must be moved first")

// ErrOver is what a [Host] returns for a call that took until the run's time was
// over.
var ErrOver = errors.New("the run's time is over")

// InProcessMemory is the most memory that a run in process can have attributed
// to it, in bytes: what admission books for one.
const InProcessMemory = smallAlloc
