package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

const (
	// maxEvent bounds one event of a run, such as an image: 32 MiB.
	maxEvent = 32 << 20
	// maxCollected bounds what [Sandbox.RunCode] and [Sandbox.Exec] keep of each
	// stream: 16 MiB. A stream read event by event has no such bound.
	maxCollected = 16 << 20
)

// CodeOptions say how code is run. The zero value runs Python in the default context.
type CodeOptions struct {
	// Language is python, javascript, typescript, r, java or bash, as far as the
	// template has them; python when empty. It goes with no Context.
	Language string
	// Context is the ID of a [Context], whose language is used.
	Context string
	// Env is set for this run only, on top of the sandbox's.
	Env map[string]string
	// Timeout ends the run with CauseTimeLimit. 0 means none but the sandbox's life.
	Timeout time.Duration
}

// EventKind says which field of an [Event] is set.
type EventKind string

// The kinds of events.
const (
	// EventCount carries Count.
	EventCount EventKind = "count"
	// EventStdout and EventStderr carry Text and At.
	EventStdout EventKind = "stdout"
	EventStderr EventKind = "stderr"
	// EventResult carries Result.
	EventResult EventKind = "result"
	// EventError carries Err.
	EventError EventKind = "error"
	// EventEnd is the last event and carries End.
	EventEnd EventKind = "end"
)

// Event is one thing that happened while code ran.
type Event struct {
	Kind EventKind
	// Count is how many runs the context has seen, this one included.
	Count int
	// Text was printed, At is when, by the sandbox's clock.
	Text string
	At   time.Time
	// Result is a value that the code showed or ended with.
	Result *Result
	// Err is the exception that the code did not catch.
	Err *CodeError
	// End is how the run ended: exited with 0, or with 1 after an exception, or
	// with the limit that it ran into.
	End *bulkhead.End
}

// CodeError is an exception that code raised.
type CodeError struct {
	// Name is its type and Value its message.
	Name  string `json:"name"`
	Value string `json:"value"`
	// Traceback is its stack in the language's own form, perhaps with colours.
	Traceback string `json:"traceback"`
}

// Error returns the name and the message.
func (e *CodeError) Error() string { return e.Name + ": " + e.Value }

// Execution is everything that came of one run.
type Execution struct {
	// Count is how many runs the context has seen, this one included.
	Count int `json:"executionCount"`
	// Stdout and Stderr are what was printed, at most 16 MiB each.
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	// Truncated says that more was printed than is kept here.
	Truncated bool `json:"truncated,omitempty"`
	// Results are the values shown, the main one last.
	Results []Result `json:"results"`
	// Err is the exception that ended the run, or nil.
	Err *CodeError `json:"error,omitempty"`
	// End is how the run ended.
	End bulkhead.End `json:"end"`
}

// Text returns the plain text of the main result, "" when there is none.
func (e *Execution) Text() string {
	for _, r := range e.Results {
		if r.Main {
			return r.Text()
		}
	}
	return ""
}

// RunCode runs code and waits for its end. An exception is no error of RunCode:
// it is in the Execution.
func (s *Sandbox) RunCode(ctx context.Context, code string, o CodeOptions) (*Execution, error) {
	run := &Execution{Results: []Result{}}
	var stdout, stderr bytes.Buffer
	for ev, err := range s.StreamCode(ctx, code, o) {
		if err != nil {
			return nil, err
		}
		switch ev.Kind {
		case EventCount:
			run.Count = ev.Count
		case EventStdout:
			run.Truncated = collect(&stdout, []byte(ev.Text)) || run.Truncated
		case EventStderr:
			run.Truncated = collect(&stderr, []byte(ev.Text)) || run.Truncated
		case EventResult:
			run.Results = append(run.Results, *ev.Result)
		case EventError:
			run.Err = ev.Err
		case EventEnd:
			run.End = *ev.End
		}
	}
	run.Stdout, run.Stderr = stdout.String(), stderr.String()
	return run, nil
}

// collect adds p to b up to [maxCollected] and reports whether it left some out.
func collect(b *bytes.Buffer, p []byte) bool {
	room := maxCollected - b.Len()
	b.Write(p[:min(len(p), room)])
	return len(p) > room
}

// StreamCode runs code and yields what happens as it happens, an EventEnd last.
// After an error it ends. A caller that stops early, or whose ctx ends,
// interrupts the code.
func (s *Sandbox) StreamCode(ctx context.Context, code string, o CodeOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		r := &codeRun{sandbox: s, options: o, started: time.Now()}
		err := r.stream(ctx, code, func(ev Event) bool { return yield(ev, nil) })
		if err != nil && !errors.Is(err, errStopped) {
			yield(Event{}, err)
		}
	}
}

// errStopped is how a consumer that wants no more events ends a stream.
var errStopped = errors.New("the consumer stopped")

// errTimeLimit cancels a run whose own time is over.
var errTimeLimit = errors.New("time limit")

// codeRun is one run on its way.
type codeRun struct {
	sandbox *Sandbox
	options CodeOptions
	started time.Time
	heard   func()
	raised  bool
	end     *bulkhead.End
}

// wireExecute is the body of /execute.
type wireExecute struct {
	Code      string            `json:"code"`
	ContextID string            `json:"context_id,omitempty"`
	Language  string            `json:"language,omitempty"`
	EnvVars   map[string]string `json:"env_vars,omitempty"`
}

// stream runs code and hands on its events; errStopped when yield wants no more.
func (r *codeRun) stream(ctx context.Context, code string, yield func(Event) bool) error {
	const op = "run code"
	if r.options.Timeout < 0 {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: fmt.Sprintf("Timeout is %v; it must not be negative", r.options.Timeout)}
	}
	body, err := json.Marshal(wireExecute{
		Code: code, ContextID: r.options.Context, Language: r.options.Language, EnvVars: r.options.Env,
	})
	if err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: "the code has no JSON form", Err: err}
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if r.options.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, r.options.Timeout, errTimeLimit)
		defer stop()
	}
	heard, done := r.sandbox.vigil(ctx, cancel)
	defer done()
	r.heard = heard
	err = r.events(ctx, body, yield)
	switch {
	case err == nil || errors.Is(err, errStopped):
		return err
	case errors.Is(context.Cause(ctx), errSandboxEnded):
		err = goneError(op)
	case caller.Err() == nil && errors.Is(context.Cause(ctx), errTimeLimit):
		return r.finish(timeLimit(r.options.Timeout, time.Since(r.started)), yield)
	}
	if end, ok := r.sandbox.endOf(caller, err); ok {
		return r.finish(end, yield)
	}
	return err
}

// finish yields the last event.
func (r *codeRun) finish(end bulkhead.End, yield func(Event) bool) error {
	if !yield(Event{Kind: EventEnd, End: &end}) {
		return errStopped
	}
	return nil
}

// events sends the request and reads its answer line by line.
func (r *codeRun) events(ctx context.Context, body []byte, yield func(Event) bool) error {
	const op = "run code"
	resp, err := r.sandbox.doBox(ctx, boxRequest{
		op: op, method: http.MethodPost, path: "/execute", client: r.sandbox.httpClient(boxrpc.InterpreterPort),
		body: bytes.NewReader(body), header: http.Header{"Content-Type": {"application/json"}},
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	for lines.Scan() {
		r.heard()
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		ev, ok, err := r.decode(lines.Bytes())
		switch {
		case err != nil:
			return &bulkhead.Error{Code: bulkhead.CodeInternal, Op: op, Msg: "the interpreter sent an event that is not JSON", Err: err}
		case !ok:
			continue
		case !yield(ev):
			return errStopped
		case ev.Kind == EventEnd:
			return nil
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return &bulkhead.Error{Code: bulkhead.CodeTooLarge, Op: op, Msg: "one event of the run is larger than 32 MiB"}
	} else if err != nil {
		return transportError(ctx, op, err)
	}
	if ctx.Err() != nil {
		return transportError(ctx, op, ctx.Err())
	}
	return &bulkhead.Error{Code: bulkhead.CodeUnavailable, Op: op, Msg: "the connection ended before the run did"}
}

// wireEvent is one line of the answer.
type wireEvent struct {
	Type           string          `json:"type"`
	Text           json.RawMessage `json:"text"`
	Timestamp      json.RawMessage `json:"timestamp"`
	ExecutionCount int             `json:"execution_count"`
	Name           string          `json:"name"`
	Value          string          `json:"value"`
	Traceback      string          `json:"traceback"`
	End            *bulkhead.End   `json:"end"`
}

// decode makes an event of a line; ok is false for a line that is none, such as
// a keepalive or a kind that a later server invented.
func (r *codeRun) decode(line []byte) (ev Event, ok bool, err error) {
	var w wireEvent
	if err := json.Unmarshal(line, &w); err != nil {
		return Event{}, false, err
	}
	if w.End != nil {
		r.end = w.End
	}
	switch w.Type {
	case "number_of_executions":
		return Event{Kind: EventCount, Count: w.ExecutionCount}, true, nil
	case "stdout", "stderr":
		ev = Event{Kind: EventKind(w.Type), At: eventTime(w.Timestamp)}
		err = json.Unmarshal(w.Text, &ev.Text)
		return ev, true, err
	case "result":
		var result Result
		if err := json.Unmarshal(line, &result); err != nil {
			return Event{}, false, err
		}
		return Event{Kind: EventResult, Result: &result}, true, nil
	case "error":
		r.raised = true
		return Event{Kind: EventError, Err: &CodeError{Name: w.Name, Value: w.Value, Traceback: w.Traceback}}, true, nil
	case "end_of_execution":
		if r.end == nil {
			r.end = &bulkhead.End{Cause: bulkhead.CauseExited, At: time.Now()}
			if r.raised {
				r.end.ExitCode = 1
			}
		}
		return Event{Kind: EventEnd, End: r.end}, true, nil
	default:
		return Event{}, false, nil
	}
}

// eventTime reads a time stamp, RFC 3339 or seconds or nanoseconds since 1970;
// zero when there is none.
func eventTime(raw json.RawMessage) time.Time {
	var at time.Time
	if at.UnmarshalJSON(raw) == nil {
		return at
	}
	var n float64
	if json.Unmarshal(raw, &n) != nil || n <= 0 {
		return time.Time{}
	}
	if n > 1e15 {
		return time.Unix(0, int64(n))
	}
	return time.UnixMilli(int64(n * 1000))
}

// timeLimit is the end of a program whose own time is over.
func timeLimit(limit, took time.Duration) bulkhead.End {
	return bulkhead.End{
		Cause: bulkhead.CauseTimeLimit, At: time.Now(), Limit: limit.Milliseconds(), Peak: took.Milliseconds(),
		Detail: fmt.Sprintf("it ran longer than %v", limit),
	}
}
