package interp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// leanReader reads everything that a lean kernel says, on raw descriptors: it
// waits for all of them in one call, and must not read one while another has what
// was written earlier.
type leanReader struct {
	k      *lean
	ours   [ends]int // -1 when closed
	wake   [2]int    // [1] is closed when the process has ended, so [0] wakes up
	frames frames
	text   []byte // buffer of output
	msgs   []byte // buffer of messages
}

// The pipes, by what goes through them. All but "taken" are read here.
const (
	endStdout = iota
	endStderr
	endMessages
	endTaken
	ends
)

const (
	// pipeBytes is as much as a pipe holds unless somebody enlarged it.
	pipeBytes = 64 << 10
	// maxReads bounds how much of one pipe is read in a row: one that is written to
	// all the time must not hold up the others.
	maxReads = 16
)

// open makes the pipes and returns the kernel's ends of them. On error it returns
// those that there are.
func (r *leanReader) open() (theirs []*os.File, err error) {
	r.text, r.msgs = make([]byte, pipeBytes), make([]byte, pipeBytes)
	r.wake = [2]int{-1, -1}
	for i := range r.ours {
		r.ours[i] = -1
	}
	for i := range r.ours {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return theirs, fmt.Errorf("make pipes: %w", err)
		}
		our, their := p[0], p[1]
		if i == endTaken {
			our, their = their, our
		}
		r.ours[i] = our
		theirs = append(theirs, os.NewFile(uintptr(their), "|"))
		if err := unix.SetNonblock(our, true); err != nil {
			return theirs, fmt.Errorf("make pipes: %w", err)
		}
	}
	if err := unix.Pipe2(r.wake[:], unix.O_CLOEXEC); err != nil {
		return theirs, fmt.Errorf("make pipes: %w", err)
	}
	return theirs, nil
}

// loop reads until the process has ended.
func (r *leanReader) loop() {
	go func() {
		<-r.k.proc.done
		_ = unix.Close(r.wake[1])
	}()
	defer func() {
		r.k.proc.close()
		r.close()
		close(r.k.closed)
	}()
	poll := make([]unix.PollFd, 0, ends)
	for _, fd := range []int{r.ours[endStdout], r.ours[endStderr], r.ours[endMessages], r.wake[0]} {
		poll = append(poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}) //nolint:gosec // a descriptor fits
	}
	for {
		if _, err := unix.Poll(poll, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			r.k.log.Error("poll kernel", "error", err)
			return
		}
		for i := endStdout; i <= endStderr; i++ {
			if poll[i].Revents != 0 && !r.output(i) {
				poll[i].Fd = -1 // the program closed it
			}
		}
		if poll[endMessages].Revents != 0 {
			if _, open := r.messages(); !open { // it can say nothing more
				r.last()
				return
			}
		}
		if run := r.k.run.Load(); run != nil {
			run.sink.Flush()
		}
		if poll[ends-1].Revents != 0 {
			r.last()
			return
		}
	}
}

// output reads what was printed by now and reports whether there may be more.
func (r *leanReader) output(end int) bool {
	for range maxReads {
		n, err := unix.Read(r.ours[end], r.text)
		if n <= 0 {
			return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
		}
		r.printed(end, r.text[:n])
		if n < len(r.text) {
			break
		}
	}
	return true
}

// messages reads once and handles the messages that are now whole, each after the
// output that was there before it.
func (r *leanReader) messages() (n int, open bool) {
	n, err := unix.Read(r.ours[endMessages], r.msgs)
	if n <= 0 {
		return 0, errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
	}
	r.frames.feed(r.msgs[:n], func(p []byte) {
		r.output(endStdout)
		r.output(endStderr)
		r.handle(p)
	}, func(size int64) {
		r.emit(Event{Kind: EventOversize, Size: size})
	})
	return n, true
}

// last reads what the process said before it ended.
func (r *leanReader) last() {
	for total := 0; total <= r.frames.max; {
		n, _ := r.messages()
		if n == 0 {
			break
		}
		total += n
	}
	r.output(endStdout)
	r.output(endStderr)
	r.printedAll()
}

// close closes what is open. It is not called while loop runs.
func (r *leanReader) close() {
	_ = r.k.requests.Close()
	fds := append(r.ours[:], r.wake[0])
	if r.k.proc == nil {
		fds = append(fds, r.wake[1])
	}
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// emit passes an event on to the execution that is under way, if there is one.
func (r *leanReader) emit(e Event) {
	if run := r.k.run.Load(); run != nil {
		run.sink.Emit(e)
	}
}

// printed takes output. What no execution waits for is lost, as in any notebook.
func (r *leanReader) printed(end int, p []byte) {
	run := r.k.run.Load()
	switch {
	case run == nil:
		_, _ = r.k.noise.Write(p)
	case end == endStdout:
		run.print(EventStdout, run.out.next(p))
	default:
		run.print(EventStderr, run.err.next(p))
	}
}

// printedAll passes on what was held back of both streams.
func (r *leanReader) printedAll() {
	if run := r.k.run.Load(); run != nil {
		run.print(EventStdout, run.out.end())
		run.print(EventStderr, run.err.end())
	}
}

func (r *leanRun) print(kind EventKind, s string) {
	if s != "" {
		r.sink.Emit(Event{Kind: kind, Text: s})
	}
}

// handle takes one message of the kernel. It may be anything.
func (r *leanReader) handle(p []byte) {
	var m leanMessage
	if err := json.Unmarshal(p, &m); err != nil {
		r.k.log.Warn("kernel sent what is no message", "error", err)
		return
	}
	switch m.Ev {
	case "ready":
		for _, s := range m.Skipped {
			r.k.log.Warn(boxrpc.LogSkipped + s.Entry + ": " + s.Error) //nolint:sloglint // the host reads it
		}
		r.k.failed = m.Failed
		select {
		case <-r.k.ready:
		default:
			close(r.k.ready)
		}
	case "display":
		r.emit(Event{Kind: EventDisplay, Data: m.Data})
		_, _ = unix.Write(r.ours[endTaken], []byte{1}) // full: it has not read what it waits for
	case "result":
		r.emit(Event{Kind: EventResult, Data: m.Data})
	case "error":
		r.emit(Event{Kind: EventError, Name: m.Name, Value: m.Value, Traceback: m.Traceback})
	case "oversize":
		r.emit(Event{Kind: EventOversize, Size: m.Size})
	case "done":
		r.printedAll()
		if run := r.k.run.Load(); run != nil {
			r.k.count = max(m.Count, r.k.count+run.counts) // a shell does not count by itself
			r.k.run.Store(nil)
			close(run.ended)
		}
	}
}
