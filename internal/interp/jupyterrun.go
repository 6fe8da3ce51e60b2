package interp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"syscall"
)

// jupyterRun is one request to execute, and its fence if the language needs one.
type jupyterRun struct {
	id, fence string // of the messages
	fenceID   string // of the fence's own
	sink      Sink
	ended     chan struct{}

	replied, idle bool // of the request
	fenced        bool // nothing more is to come, as far as the fence can tell
	failed        bool
}

// deliver calls f with the execution that is under way, if there is one.
func (k *jupyter) deliver(f func(*jupyterRun)) {
	k.turn.Lock()
	defer k.turn.Unlock()
	if k.run != nil {
		f(k.run)
	}
}

// Run implements [Kernel].
func (k *jupyter) Run(ctx context.Context, req Request, sink Sink) error {
	quiet := discard{}
	if req.Touch {
		req, sink = Request{}, quiet
	}
	if ctx.Err() != nil {
		return nil // see Kernel
	}
	if code := k.before(req.Env); code != "" {
		if err := k.execute(ctx, code, quiet); err != nil || ctx.Err() != nil {
			return err
		}
	}
	err := k.execute(ctx, req.Code, sink)
	if err != nil {
		return err
	}
	if code := k.reset(req.Env); code != "" {
		// The code has ended; what is left to do does not depend on the client.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.grace)
		defer cancel()
		if err := k.execute(ctx, code, quiet); err != nil {
			k.log.WarnContext(ctx, "reset environment of kernel", "error", err)
		}
	}
	return nil
}

// discard is a Sink for what nobody asked for.
type discard struct{}

// Emit implements [Sink].
func (discard) Emit(Event) {}

// Flush implements [Sink].
func (discard) Flush() {}

// before returns the code that prepares an execution: what a lease has changed
// since the last one, and the execution's own variables.
func (k *jupyter) before(env map[string]string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	if k.bind != nil {
		lines, k.bind = k.vars.lease(k.bind), nil
	}
	return strings.Join(append(lines, k.vars.set(env)...), "\n")
}

// reset returns the code that undoes the variables of an execution.
func (k *jupyter) reset(env map[string]string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(k.vars.reset(env), "\n")
}

// execute runs code and waits for its end as [Kernel.Run] does. What goes to
// [discard] is run silently.
func (k *jupyter) execute(ctx context.Context, code string, sink Sink) error {
	_, silent := sink.(discard)
	run := &jupyterRun{sink: sink, ended: make(chan struct{})}
	request := executeRequest{Code: code, Silent: silent, StoreHistory: !silent}
	frames, id, err := encodeMessage(k.key, k.session, "execute_request", request)
	if err != nil {
		return err
	}
	run.id = id
	var fence [][]byte
	if k.lang.fence != nil && !silent {
		run.fenceID = rand.Text()
		request = executeRequest{Code: k.lang.fence(run.fenceID), Silent: true}
		if fence, run.fence, err = encodeMessage(k.key, k.session, "execute_request", request); err != nil {
			return err
		}
	}
	k.turn.Lock()
	k.run = run
	k.turn.Unlock()
	defer func() {
		k.turn.Lock()
		k.run = nil
		k.turn.Unlock()
	}()
	err = k.shell.send(frames...)
	if err == nil && fence != nil {
		err = k.shell.send(fence...) // in the same breath: it is served next
	}
	if err != nil {
		k.proc.end()
	}
	select {
	case <-run.ended:
		return nil
	case <-k.done:
		return k.proc.dead()
	case <-ctx.Done():
	}
	if !stop(run.ended, k.done, k.grace, max(k.grace/2, 1), k.interrupt) {
		k.Close()
		dead := k.proc.dead()
		dead.Unresponsive = true
		return dead
	}
	select {
	case <-run.ended:
		return nil
	default:
		return k.proc.dead()
	}
}

// interrupt asks the kernel to stop what it runs.
func (k *jupyter) interrupt() {
	if !k.byMsg {
		k.proc.signal(syscall.SIGINT)
		return
	}
	if err := k.ask(k.control, "interrupt_request", struct{}{}); err != nil {
		k.log.Warn("interrupt kernel", "error", err)
	}
}

// asked takes a question for the user, whom nobody can ask: it was said that there
// is none, so this ends the execution.
func (k *jupyter) asked(m jupyterMessage) {
	if m.Type != "input_request" {
		return
	}
	k.deliver(func(r *jupyterRun) {
		r.fail(Event{
			Kind: EventError, Name: "StdinNotImplementedError",
			Value: "there is nobody to ask for input here: put the value into the code instead",
		})
		k.interrupt()
	})
}

// replied takes an answer to a request.
func (k *jupyter) replied(m jupyterMessage) {
	if m.Type != "execute_reply" {
		return
	}
	var c outputContent
	if err := json.Unmarshal(m.Content, &c); err != nil {
		return
	}
	k.deliver(func(r *jupyterRun) {
		switch m.Parent {
		case r.id:
			switch c.Status {
			case "error":
				r.fail(Event{Kind: EventError, Name: c.Name, Value: c.Value, Traceback: strings.Join(c.Traceback, "\n")})
			case "abort", "aborted":
				r.fail(Event{Kind: EventError, Name: "ExecutionAborted", Value: "Execution was aborted"})
			}
			r.replied = true
		case r.fence: // it is served before the last output is out, so it may only fail here
			r.fenced = r.fenced || c.Status != "ok"
		}
		r.check()
	})
}

// published takes a message to everyone.
func (k *jupyter) published(m jupyterMessage) {
	k.deliver(func(r *jupyterRun) {
		// Late output may already bear the fence's name.
		if m.Parent != r.id && m.Parent != r.fence {
			return
		}
		var c outputContent
		if err := json.Unmarshal(m.Content, &c); err != nil {
			return
		}
		switch m.Type {
		case "execute_input":
			if m.Parent == r.id {
				r.sink.Emit(Event{Kind: EventCount, Count: c.Count})
			}
		case "stream":
			kind := EventStdout
			if c.Stream == "stderr" {
				kind = EventStderr
			}
			r.sink.Emit(Event{Kind: kind, Text: c.Text})
		case "display_data", "update_display_data":
			r.sink.Emit(Event{Kind: EventDisplay, Data: c.Data})
		case "execute_result":
			r.sink.Emit(Event{Kind: EventResult, Data: c.Data})
		case "error":
			r.fail(Event{Kind: EventError, Name: c.Name, Value: c.Value, Traceback: strings.Join(c.Traceback, "\n")})
		case "status":
			r.idle = r.idle || (c.State == "idle" && m.Parent == r.id)
		case fenceType:
			r.fenced = r.fenced || c.Fence == r.fenceID
		}
		r.check()
	})
}

// fail passes on the first error of the execution.
func (r *jupyterRun) fail(e Event) {
	if !r.failed {
		r.failed = true
		r.sink.Emit(e)
	}
}

// check ends the execution when everything of it has come.
func (r *jupyterRun) check() {
	if !r.replied || !r.idle || (r.fence != "" && !r.fenced) {
		return
	}
	select {
	case <-r.ended:
	default:
		close(r.ended)
	}
}
