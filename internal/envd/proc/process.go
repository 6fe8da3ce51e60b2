package proc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// The sizes of the chunks that output is read in.
const (
	pipeChunk = 32 << 10
	ttyChunk  = 16 << 10
)

// drainIdle is how long after the end of a process its output may be silent
// before it counts as complete, although something it left behind holds it open.
const drainIdle = time.Second

// process is one program that was started through the service.
type process struct {
	service *Service
	config  *processpb.ProcessConfig
	tag     *string
	cmd     *exec.Cmd
	pid     int
	tty     *os.File // nil without a terminal
	out     hub
	watch   *guard.Watch
	limit   int64 // of printed bytes; 0 means none

	printed atomic.Int64
	over    atomic.Bool  // the end is decided: what is still printed is dropped
	heard   atomic.Int64 // when output was last read or given out, in Unix ns
	giving  atomic.Int32 // how many chunks are being given out
	// fate is why envd ended the process; the first reason stands.
	fate   atomic.Pointer[bulkhead.End]
	expiry *time.Timer // nil without a time limit

	// turn is held by whoever writes to the process; input guards stdin.
	turn  chan struct{}
	stdin *os.File // nil without a pipe or once closed; guarded by turn

	done chan struct{} // closed after end is set
	end  *processpb.ProcessEvent_EndEvent
}

// chunk makes the event for output that came from one of the streams.
type chunk func([]byte) *processpb.ProcessEvent_DataEvent

func stdoutChunk(b []byte) *processpb.ProcessEvent_DataEvent {
	return &processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Stdout{Stdout: b}}
}

func stderrChunk(b []byte) *processpb.ProcessEvent_DataEvent {
	return &processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Stderr{Stderr: b}}
}

func ttyOutput(b []byte) *processpb.ProcessEvent_DataEvent {
	return &processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Pty{Pty: b}}
}

// run starts the process on the ends of its pipes and follows it to its end,
// which comes after timeout at the latest unless that is 0.
func (p *process) run(ends *plumbing, timeout time.Duration) error {
	watch, err := p.service.cfg.Guard.Start(p.cmd)
	ends.closeChildEnds()
	if err != nil {
		ends.closeOurEnds()
		return p.startError(err)
	}
	p.watch, p.pid, p.tty, p.stdin = watch, p.cmd.Process.Pid, ends.tty, ends.stdin
	p.heard.Store(time.Now().UnixNano())
	var readers sync.WaitGroup
	if p.tty != nil {
		readers.Go(func() { p.read(p.tty, ttyChunk, ttyOutput) })
	} else {
		readers.Go(func() { p.read(ends.stdout, pipeChunk, stdoutChunk) })
		readers.Go(func() { p.read(ends.stderr, pipeChunk, stderrChunk) })
	}
	if timeout > 0 {
		p.expiry = time.AfterFunc(timeout, func() { p.expire(timeout) })
	}
	silent := make(chan struct{})
	go func() {
		readers.Wait()
		close(silent)
	}()
	go p.follow(silent, ends)
	return nil
}

// startError turns why a program did not start into an answer.
func (p *process) startError(err error) error {
	name := p.config.GetCmd()
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return errorf(connect.CodeResourceExhausted, "start %.200q: the sandbox has no process left (limit %d)", name, p.service.cfg.Guard.Limits().Pids)
	case errors.Is(err, syscall.ENOMEM):
		return errorf(connect.CodeResourceExhausted, "start %.200q: the sandbox has no memory left", name)
	case errors.Is(err, syscall.E2BIG):
		return errorf(connect.CodeInvalidArgument, "start %.200q: arguments and environment are too long for the kernel", name)
	}
	return errorf(connect.CodeInvalidArgument, "error starting process %.200q in %.200q: %v", name, p.cmd.Dir, cause(err))
}

// cause leaves the path out of an error of the operating system, which would
// name the program again.
func cause(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}

// read gives out what comes from f until it ends. Once the end of the process
// was told, the rest is read and dropped, so that what the process left behind
// can go on printing.
func (p *process) read(f *os.File, size int, event chunk) {
	buf := make([]byte, size)
	for {
		n, err := f.Read(buf)
		// A later program may have p's pid, so nothing is done to p after its end.
		if n > 0 && !p.over.Load() {
			p.giving.Add(1)
			if kept := p.count(n); kept > 0 {
				p.service.cfg.Guard.AwaitOutput(context.Background(), kept) // some ms a chunk
				p.out.publish(event(bytes.Clone(buf[:kept])))
			}
			p.heard.Store(time.Now().UnixNano())
			p.giving.Add(-1)
		}
		if err != nil { // io.EOF, or EIO on a terminal that nobody holds
			return
		}
	}
}

// count adds n printed bytes and returns how many of them may be given out. At
// the limit it ends the process.
func (p *process) count(n int) int {
	total := p.printed.Add(int64(n))
	if p.limit == 0 || total <= p.limit {
		return n
	}
	if p.fate.CompareAndSwap(nil, &bulkhead.End{
		Cause: bulkhead.CauseOutputLimit, Limit: p.limit, Peak: total,
		Detail: fmt.Sprintf("the process printed more than %d bytes and was ended", p.limit),
	}) {
		p.kill()
	}
	return int(max(0, int64(n)-(total-p.limit)))
}

// expire ends the process because its time is over.
func (p *process) expire(limit time.Duration) {
	if p.fate.CompareAndSwap(nil, &bulkhead.End{
		Cause: bulkhead.CauseTimeLimit, Limit: limit.Milliseconds(), Peak: limit.Milliseconds(),
		Detail: fmt.Sprintf("the process ran longer than %v and was ended", limit),
	}) {
		p.kill()
	}
}

// kill ends the process and its tree. It does not wait for the end.
func (p *process) kill() { proctree.Kill(p.service.cfg.Proc, p.pid) }

// follow waits for the process and for the end of its output, tells its end and
// frees what it held. silent is closed when nothing more can be printed.
func (p *process) follow(silent <-chan struct{}, ends *plumbing) {
	_ = p.cmd.Wait() // the state says how
	if p.expiry != nil {
		p.expiry.Stop()
	}
	p.drain(silent)
	p.over.Store(true)
	p.out.close()
	p.end = p.ending()
	p.service.cfg.Log.Info("process ended", slog.Int("pid", p.pid), slog.String("status", p.end.GetStatus()),
		slog.String("cause", p.end.GetCause()))
	p.service.ended(p)
	close(p.done)

	p.turn <- struct{}{}
	if p.stdin != nil {
		_ = p.stdin.Close() // nobody reads it
		p.stdin = nil
	}
	<-p.turn
	if p.tty != nil {
		_ = p.tty.Close() // hangs up what it left behind
	}
	<-silent
	ends.closeOurEnds()
	p.watch.Release()
}

// drain waits until all output was given out: until it ends or, when something
// else holds it open, until nothing came for a while.
func (p *process) drain(silent <-chan struct{}) {
	p.heard.Store(time.Now().UnixNano())
	for {
		idle := time.Since(time.Unix(0, p.heard.Load()))
		if p.giving.Load() == 0 && idle >= drainIdle {
			return
		}
		select {
		case <-silent:
			return
		case <-time.After(max(drainIdle-idle, 10*time.Millisecond)):
		}
	}
}

// ending says how and why the process ended.
func (p *process) ending() *processpb.ProcessEvent_EndEvent {
	state := p.cmd.ProcessState
	end := &processpb.ProcessEvent_EndEvent{
		ExitCode: int32(state.ExitCode()), //nolint:gosec // -1 to 255
		Exited:   state.Exited(), Status: state.String(), Cause: string(bulkhead.CauseExited),
	}
	status, _ := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		end.Signal = int32(status.Signal()) //nolint:gosec // 1 to 64
	}
	if state.Success() {
		if fate := p.fate.Load(); fate != nil && fate.Cause == bulkhead.CauseOutputLimit {
			blame(end, *fate) // it ended by itself, with its output cut
		}
		return end
	}
	end.Error = &end.Status
	fate := p.fate.Load()
	verdict, judged := p.service.cfg.Guard.Verdict(p.pid)
	switch {
	case judged && (fate == nil || fate.Cause == bulkhead.CauseKilled): // it may have ignored the signal
		blame(end, verdict)
	case fate != nil && (status.Signaled() || fate.Cause == bulkhead.CauseOutputLimit): // it may have handled the signal
		blame(end, *fate)
	case fate == nil:
		if full, ok := diskFull("/"); ok {
			blame(end, full)
		}
	}
	return end
}

// fullShare is the part of a disk that may be left of one that is full: not every
// file system gives its last blocks away.
const fullShare = 1024

// diskFull says that nothing more can be written below path: a program that
// failed just now most likely failed for it, whatever it printed.
func diskFull(path string) (bulkhead.End, bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil || fs.Blocks == 0 || fs.Bavail > fs.Blocks/fullShare {
		return bulkhead.End{}, false
	}
	size := int64(fs.Blocks) * fs.Bsize //nolint:gosec // less than 2^63
	return bulkhead.End{
		Cause: bulkhead.CauseDiskLimit, Limit: size, Peak: size,
		Detail: fmt.Sprintf("it failed when the disk of %d MiB was full", size>>20),
	}, true
}

// blame writes why into end.
func blame(end *processpb.ProcessEvent_EndEvent, why bulkhead.End) {
	end.Cause, end.Limit, end.Peak, end.Detail = string(why.Cause), why.Limit, why.Peak, why.Detail
}

// signal sends sig on behalf of a client: SIGKILL to the whole tree, any other
// to the process group.
func (p *process) signal(sig syscall.Signal) error {
	name := cmp.Or(unix.SignalName(sig), "signal "+strconv.Itoa(int(sig)))
	p.fate.CompareAndSwap(nil, &bulkhead.End{Cause: bulkhead.CauseKilled, Detail: "a client sent " + name})
	if sig == syscall.SIGKILL {
		p.kill()
		return nil
	}
	if err := syscall.Kill(-p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return errorf(connect.CodeInternal, "send %s to process %d: %v", name, p.pid, err)
	}
	return nil
}

// write writes input to the process and blocks while it does not read, until
// ctx is done.
func (p *process) write(ctx context.Context, input *processpb.ProcessInput) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	var f *os.File
	var data []byte
	switch in := input.GetInput().(type) {
	case *processpb.ProcessInput_Pty:
		if p.tty == nil {
			return errorf(connect.CodeFailedPrecondition, "process %d has no terminal: send the input as stdin", p.pid)
		}
		f, data = p.tty, in.Pty
	case *processpb.ProcessInput_Stdin:
		switch {
		case p.tty != nil:
			return errorf(connect.CodeFailedPrecondition, "process %d has a terminal: send the input as pty", p.pid)
		case p.stdin == nil:
			return errorf(connect.CodeFailedPrecondition, "stdin of process %d is not enabled or closed", p.pid)
		}
		f, data = p.stdin, in.Stdin
	default:
		return errorf(connect.CodeInvalidArgument, "input is neither stdin nor pty")
	}
	if err := writeWithin(ctx, f, data); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errorf(connect.CodeFailedPrecondition, "write to process %d: %v", p.pid, cause(err))
	}
	return nil
}

// writeWithin writes data to f, a pipe or a terminal, until ctx is done.
func writeWithin(ctx context.Context, f *os.File, data []byte) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = f.SetWriteDeadline(time.Unix(1, 0)) // a file without deadlines blocks on
	})
	_, err := f.Write(data)
	if !stop() {
		<-interrupted
		_ = f.SetWriteDeadline(time.Time{}) // for the next writer
	}
	return err
}

// closeStdin ends the standard input. It may be repeated.
func (p *process) closeStdin(ctx context.Context) error {
	if p.tty != nil {
		return errorf(connect.CodeFailedPrecondition, "process %d has a terminal: send Ctrl+D (0x04) instead", p.pid)
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	if p.stdin == nil {
		return nil
	}
	err := p.stdin.Close()
	p.stdin = nil
	if err != nil {
		return errorf(connect.CodeInternal, "close stdin of process %d: %v", p.pid, err)
	}
	return nil
}

// resize changes the size of the terminal.
func (p *process) resize(size *pty.Winsize) error {
	if p.tty == nil {
		return errorf(connect.CodeFailedPrecondition, "process %d has no terminal", p.pid)
	}
	if err := pty.Setsize(p.tty, size); err != nil {
		return errorf(connect.CodeInternal, "resize terminal of process %d: %v", p.pid, err)
	}
	return nil
}
