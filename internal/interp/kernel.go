package interp

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// A Kernel is one process that runs code of one language. Run is called by one
// goroutine at a time; the other methods may be called at any time.
type Kernel interface {
	// Run executes code and gives sink every event of it, in order, beginning with
	// [EventCount]. It returns nil when the code has ended, well or not, and the
	// kernel is ready for more. When ctx is done it interrupts the code and still
	// waits for it to end; a kernel that does not stop in time is killed. When ctx is
	// done from the beginning nothing is run, and there are no events. The error
	// is a *[DeadError] when the process has ended: the kernel is then of no more
	// use. After it has returned, sink is not used any more.
	Run(ctx context.Context, req Request, sink Sink) error
	// Rebind gives a running kernel the environment variables and the random seed
	// of the sandbox that it now belongs to. It does not wait for the kernel: what
	// is run from now on sees the change. seed may be empty.
	Rebind(env map[string]string, seed []byte)
	// PID is the process's number in the box.
	PID() int
	// Done is closed when the process has ended.
	Done() <-chan struct{}
	// Close kills the process and everything it started, and waits for it. It may
	// be called twice.
	Close()
}

// Request is one piece of code to run.
type Request struct {
	// Code is the program.
	Code string
	// Env is set while the code runs and is then as before.
	Env map[string]string
	// Touch asks, instead of running Code, to use once all that an execution uses,
	// and to leave no trace of it. There are no events.
	Touch bool
}

// A Sink takes the events of one execution. It is safe for concurrent use. It may
// block: the kernel then waits.
type Sink interface {
	// Emit takes one event. Events may be buffered until Flush.
	Emit(Event)
	// Flush passes on what was buffered.
	Flush()
}

// EventKind says which fields of an [Event] are set.
type EventKind int

// The kinds of events.
const (
	// EventCount begins an execution: Count is its number in the kernel.
	EventCount EventKind = iota
	// EventStdout and EventStderr are output: Text.
	EventStdout
	EventStderr
	// EventResult is the value of the code's last expression: Data.
	EventResult
	// EventDisplay is what the code chose to show: Data.
	EventDisplay
	// EventError is the error that ended the code: Name, Value, Traceback.
	EventError
	// EventOversize stands for a message that was too long to take: Size.
	EventOversize
)

// Event is one thing that an execution brought forth.
type Event struct {
	Kind  EventKind
	Count int
	// Text is valid UTF-8.
	Text string
	// Data are representations of one value by MIME type, as JSON.
	Data map[string]json.RawMessage
	// Name, Value and Traceback are as the language gives them.
	Name, Value, Traceback string
	// End is set, of an error, when a limit ended the code: which one.
	End *bulkhead.End
	// Size is in bytes.
	Size int64
}

// size returns about how many bytes the event takes up on its way out.
func (e Event) size() int64 {
	n := len(e.Text) + len(e.Name) + len(e.Value) + len(e.Traceback)
	for mime, data := range e.Data {
		n += len(mime) + len(data)
	}
	return int64(n)
}

// DeadError says that a kernel's process has ended.
type DeadError struct {
	// PID is what its process id was.
	PID int
	// Status is how it ended, such as "exit status 1" or "signal: killed".
	Status string
	// Unresponsive says that it was killed because it did not stop when interrupted.
	Unresponsive bool
}

// Error says how the process ended.
func (e *DeadError) Error() string { return "kernel ended: " + e.Status }

// event turns the death of a kernel into the error that the execution ends with,
// with the guard's verdict when there is one.
func (e *DeadError) event(verdict func(pid int) (bulkhead.End, bool)) Event {
	const lost = " Its variables are lost; the context goes on with a new kernel."
	ev := Event{Kind: EventError, Name: "KernelDied", Value: "The kernel ended by itself (" + e.Status + ")." + lost}
	end, known := verdict(e.PID)
	if known {
		ev.End = &end
	}
	switch {
	case known && end.Cause == bulkhead.CauseMemoryLimit:
		ev.Name = "MemoryLimitExceeded"
		ev.Value = fmt.Sprintf("The kernel was killed: memory_limit: it used %d bytes, the limit is %d bytes.%s",
			end.Peak, end.Limit, lost)
	case known:
		ev.Name = "KernelKilled"
		ev.Value = fmt.Sprintf("The kernel was killed: %s (limit %d, peak %d).%s", end, end.Limit, end.Peak, lost)
	case e.Unresponsive:
		ev.Name = "KernelUnresponsive"
		ev.Value = "The kernel did not stop when interrupted and was killed." + lost
	}
	return ev
}

// stop ends a run whose context is done: it interrupts the code, does so again
// after each of every, and gives up after grace. It reports whether the run ended.
func stop(ended, dead <-chan struct{}, grace, every time.Duration, interrupt func()) bool {
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		select {
		case <-ended: // just in time: whatever comes next must not be hit
			return true
		default:
		}
		interrupt()
		select {
		case <-ended:
			return true
		case <-dead:
			return true
		case <-deadline.C:
			return false
		case <-again.C:
		}
	}
}
