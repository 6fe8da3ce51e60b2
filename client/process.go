package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
)

const (
	// maxMessage bounds one message from a box: 64 MiB, a directory of about
	// 200,000 entries.
	maxMessage = 64 << 20
	// stdinChunk is how much of a program's input one call carries.
	stdinChunk = 32 << 10
	// keepalive asks the box for a sign of life, so that no proxy on the way
	// takes a silent program for a dead connection. In seconds.
	keepalive = "5"
	// grace is how long the end of a program that ran into its time limit is
	// waited for before the stream is given up.
	grace = 5 * time.Second
)

// errGaveUp cancels a stream that outlived its program's time limit.
var errGaveUp = errors.New("no end of the program within 5 s of its time limit")

// jsonCodec are the options of every call: JSON without compression.
func jsonCodec() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithProtoJSON(), connect.WithAcceptCompression("gzip", nil, nil), connect.WithReadMaxBytes(maxMessage),
	}
}

// Size is that of a terminal.
type Size struct{ Cols, Rows uint16 }

// Command says what to start.
type Command struct {
	// Path is the program, found on PATH unless it holds a slash, and Args are its
	// arguments, its name not among them. See [Shell] for a command line.
	Path string
	Args []string
	// Env is set on top of the sandbox's.
	Env map[string]string
	// Dir is the working directory; the user's home when empty.
	Dir string
	// User runs it; the template's default user when empty.
	User string
	// Stdin keeps its standard input open for [Process.Write]. Without it the
	// program reads an empty input.
	Stdin bool
	// TTY, when not nil, runs it on a terminal of that size. Its output is then
	// one stream, [PTY], and it takes input whatever Stdin says.
	TTY *Size
	// Timeout ends it with CauseTimeLimit. 0 means none but the sandbox's life. A
	// deadline of the context of [Sandbox.Start] counts as one too.
	Timeout time.Duration
}

// Shell is the command that has line run by a login bash, as E2B's SDKs do.
func Shell(line string) Command {
	return Command{Path: "/bin/bash", Args: []string{"-l", "-c", line}}
}

// Stream names where a chunk of output came from.
type Stream string

// The streams of a program.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	PTY    Stream = "pty"
)

// Chunk is a piece of output. Data belongs to whoever received it.
type Chunk struct {
	Stream Stream
	Data   []byte
}

// Signal is the number of a signal, as in Linux.
type Signal int32

// The signals that every box delivers.
const (
	SIGTERM Signal = 15
	SIGKILL Signal = 9
)

// ProcessInfo is a program that runs in a sandbox and was started through its API.
type ProcessInfo struct {
	PID  int      `json:"pid"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	Dir  string   `json:"dir,omitempty"`
}

// Process is a program in a sandbox. One goroutine may read its output while
// others write to it or signal it.
type Process struct {
	sandbox *Sandbox
	pid     uint32
	tty     bool
	user    string
	limit   time.Duration
	started time.Time

	// next waits for an event and is nil-safe after the end; see read.
	next func() (*processpb.ProcessEvent, error)
	stop context.CancelCauseFunc
	// heard is called at each event; see vigil.
	heard func()
	// gone tells whether the caller's context has ended, why what canceled the
	// stream.
	gone, why func() error
	end       *bulkhead.End
}

// Start starts a program and returns once it runs. When ctx is canceled the
// program runs on, unread, and [Sandbox.Attach] finds it again; when a deadline
// of ctx passes it is killed.
func (s *Sandbox) Start(ctx context.Context, cmd Command) (*Process, error) {
	const op = "start process"
	if cmd.Path == "" {
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: "Path is empty; name a program"}
	}
	if cmd.Timeout < 0 {
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: fmt.Sprintf("Timeout is %v; it must not be negative", cmd.Timeout)}
	}
	msg := &processpb.StartRequest{
		Process: &processpb.ProcessConfig{Cmd: cmd.Path, Args: cmd.Args, Envs: cmd.Env},
		Stdin:   &cmd.Stdin,
	}
	if cmd.Dir != "" {
		msg.Process.Cwd = &cmd.Dir
	}
	if cmd.TTY != nil {
		msg.Pty = cmd.TTY.wire()
		msg.Stdin = nil
	}
	p := &Process{sandbox: s, tty: cmd.TTY != nil, user: cmd.User, limit: cmd.Timeout, started: time.Now()}
	if at, ok := ctx.Deadline(); ok && (p.limit == 0 || time.Until(at) < p.limit) {
		p.limit = time.Until(at)
	}
	req := connect.NewRequest(msg)
	p.headers(req.Header())
	if p.limit != 0 {
		p.limit = max(p.limit.Truncate(time.Millisecond), time.Millisecond) // what the header can say
		req.Header().Set("Connect-Timeout-Ms", strconv.FormatInt(p.limit.Milliseconds(), 10))
	}
	ctx, p.stop = p.streamContext(ctx)
	stream, err := s.processes.Start(ctx, req)
	return p.open(ctx, op, reader(stream, err), err)
}

// Attach follows a running program that was started through the API, by its PID.
// Output from before is not repeated. CodeNotFound when there is none.
func (s *Sandbox) Attach(ctx context.Context, pid int) (*Process, error) {
	p := &Process{sandbox: s, started: time.Now()}
	req := connect.NewRequest(&processpb.ConnectRequest{Process: selector(uint32(pid))}) //nolint:gosec // a PID that does not fit names no process
	p.headers(req.Header())
	ctx, p.stop = p.streamContext(ctx)
	stream, err := s.processes.Connect(ctx, req)
	return p.open(ctx, "attach to process", reader(stream, err), err)
}

// Processes returns the programs that were started through the API and run now.
func (s *Sandbox) Processes(ctx context.Context) ([]ProcessInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.client.cfg.RequestTimeout)
	defer cancel()
	resp, err := s.processes.List(ctx, connect.NewRequest(&processpb.ListRequest{}))
	if err != nil {
		return nil, rpcError(ctx, "list processes", err)
	}
	infos := make([]ProcessInfo, 0, len(resp.Msg.GetProcesses()))
	for _, p := range resp.Msg.GetProcesses() {
		c := p.GetConfig()
		infos = append(infos, ProcessInfo{PID: int(p.GetPid()), Path: c.GetCmd(), Args: c.GetArgs(), Dir: c.GetCwd()})
	}
	return infos, nil
}

// streamContext is ctx without its deadline, which the box keeps by itself and
// reports as an end, not as a broken stream.
func (p *Process) streamContext(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	p.gone = ctx.Err
	streaming, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel(ctx.Err())
		}
	})
	var backstop *time.Timer
	if p.limit > 0 {
		backstop = time.AfterFunc(p.limit+grace, func() { cancel(errGaveUp) })
	}
	p.why = func() error { return context.Cause(streaming) }
	heard, done := p.sandbox.vigil(streaming, cancel)
	p.heard = heard
	return streaming, func(cause error) {
		unhook()
		done()
		if backstop != nil {
			backstop.Stop()
		}
		cancel(cause)
	}
}

// eventMessage is a message of either stream of events.
type eventMessage interface {
	GetEvent() *processpb.ProcessEvent
}

// reader makes a pull function of a stream of events.
func reader[T any, M interface {
	*T
	eventMessage
}](stream *connect.ServerStreamForClient[T], err error) func() (*processpb.ProcessEvent, error) {
	return func() (*processpb.ProcessEvent, error) {
		if err != nil {
			return nil, err
		}
		if stream.Receive() {
			return M(stream.Msg()).GetEvent(), nil
		}
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the stream ended before the program did"))
	}
}

// open waits for the event that says the program runs.
func (p *Process) open(ctx context.Context, op string, next func() (*processpb.ProcessEvent, error), err error) (*Process, error) {
	p.next = next
	if err == nil {
		var ev *processpb.ProcessEvent
		for err == nil && ev.GetStart() == nil {
			ev, err = next()
		}
		p.pid = ev.GetStart().GetPid()
	}
	if err != nil {
		err = rpcError(ctx, op, err)
		if errors.Is(p.why(), errSandboxEnded) {
			err = goneError(op)
		}
		p.stop(nil)
		return nil, err
	}
	return p, nil
}

// headers sets what every stream asks for.
func (p *Process) headers(h http.Header) {
	h.Set("Keepalive-Ping-Interval", keepalive)
	basicUser(h, p.user)
}

// PID is its number in the sandbox.
func (p *Process) PID() int { return int(p.pid) }

// Output yields what the program prints until it ends; [Process.Wait] then has its
// end at once. A program whose output is not read waits when the buffers on the
// way are full. A caller that stops early may go on later with another Output.
func (p *Process) Output() iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		for p.end == nil {
			ev, err := p.next()
			p.heard()
			if err != nil {
				if err = p.cut(err); err != nil {
					yield(Chunk{}, err)
				}
				return
			}
			if end := ev.GetEnd(); end != nil {
				p.finish(endOfProcess(end))
				return
			}
			if c, ok := chunkOf(ev.GetData()); ok && !yield(c, nil) {
				return
			}
		}
	}
}

// Wait discards what output is left and returns how the program ended. An end is
// no error, whatever its cause. When the whole sandbox ended, its end is returned.
func (p *Process) Wait() (bulkhead.End, error) {
	for _, err := range p.Output() {
		if err != nil {
			return bulkhead.End{}, err
		}
	}
	return *p.end, nil
}

// Detach stops following the program, which runs on. It may be called twice.
func (p *Process) Detach() { p.stop(nil) }

// finish stores the end and frees the stream.
func (p *Process) finish(end bulkhead.End) {
	p.end = &end
	p.stop(nil)
}

// cut explains a broken stream: by the program's time limit or the end of the
// sandbox, both stored as the end, or by the error it returns.
func (p *Process) cut(err error) error {
	if errors.Is(p.gone(), context.Canceled) {
		p.stop(nil)
		return fmt.Errorf("follow process: %w", context.Canceled)
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	limited := p.limit > 0 && time.Since(p.started) >= p.limit
	err = rpcError(ctx, "follow process", err)
	if errors.Is(p.why(), errSandboxEnded) {
		err = goneError("follow process")
	}
	if code := bulkhead.CodeOf(err); limited && (code == bulkhead.CodeTimeout || code == bulkhead.CodeUnavailable) {
		p.finish(timeLimit(p.limit, time.Since(p.started)))
		return nil
	}
	if end, ok := p.sandbox.endOf(ctx, err); ok {
		p.finish(end)
		return nil
	}
	p.stop(nil)
	return err
}

// chunkOf is the output in a data event.
func chunkOf(d *processpb.ProcessEvent_DataEvent) (Chunk, bool) {
	switch out := d.GetOutput().(type) {
	case *processpb.ProcessEvent_DataEvent_Stdout:
		return Chunk{Stdout, out.Stdout}, true
	case *processpb.ProcessEvent_DataEvent_Stderr:
		return Chunk{Stderr, out.Stderr}, true
	case *processpb.ProcessEvent_DataEvent_Pty:
		return Chunk{PTY, out.Pty}, true
	default:
		return Chunk{}, false
	}
}

// endOfProcess reads how a program ended. A box that knows no causes, as E2B's
// own, leaves "exited".
func endOfProcess(e *processpb.ProcessEvent_EndEvent) bulkhead.End {
	end := bulkhead.End{
		Cause: bulkhead.CauseExited, At: time.Now(), ExitCode: int(e.GetExitCode()),
		Limit: e.GetLimit(), Peak: e.GetPeak(), Detail: e.GetDetail(),
	}
	if cause := bulkhead.Cause(e.GetCause()); slices.Contains(bulkhead.Causes(), cause) {
		end.Cause = cause
	}
	if n := int(e.GetSignal()); n > 0 {
		end.ExitCode = 128 + n
	}
	return end
}

// Write sends input to the program. Its stdin must have been asked for.
func (p *Process) Write(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), stdinChunk)
		input := &processpb.ProcessInput{Input: &processpb.ProcessInput_Stdin{Stdin: b[:n]}}
		if p.tty {
			input.Input = &processpb.ProcessInput_Pty{Pty: b[:n]}
		}
		if err := p.unary(ctx, "write to process", func(ctx context.Context) error {
			_, err := p.sandbox.processes.SendInput(ctx, connect.NewRequest(&processpb.SendInputRequest{Process: selector(p.pid), Input: input}))
			return err
		}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// CloseStdin ends the program's input.
func (p *Process) CloseStdin(ctx context.Context) error {
	return p.unary(ctx, "close stdin", func(ctx context.Context) error {
		_, err := p.sandbox.processes.CloseStdin(ctx, connect.NewRequest(&processpb.CloseStdinRequest{Process: selector(p.pid)}))
		return err
	})
}

// Signal sends a signal to the program. CodeNotFound when it has ended.
func (p *Process) Signal(ctx context.Context, sig Signal) error {
	return p.unary(ctx, "signal process", func(ctx context.Context) error {
		_, err := p.sandbox.processes.SendSignal(ctx, connect.NewRequest(&processpb.SendSignalRequest{Process: selector(p.pid), Signal: processpb.Signal(sig)}))
		return err
	})
}

// Resize tells the program's terminal its new size.
func (p *Process) Resize(ctx context.Context, size Size) error {
	return p.unary(ctx, "resize terminal", func(ctx context.Context) error {
		_, err := p.sandbox.processes.Update(ctx, connect.NewRequest(&processpb.UpdateRequest{Process: selector(p.pid), Pty: size.wire()}))
		return err
	})
}

// unary makes one call that is not a stream.
func (p *Process) unary(ctx context.Context, op string, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.sandbox.client.cfg.RequestTimeout)
	defer cancel()
	if err := call(ctx); err != nil {
		return rpcError(ctx, op, err)
	}
	return nil
}

func (z Size) wire() *processpb.PTY {
	return &processpb.PTY{Size: &processpb.PTY_Size{Cols: uint32(z.Cols), Rows: uint32(z.Rows)}}
}

func selector(pid uint32) *processpb.ProcessSelector {
	return &processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Pid{Pid: pid}}
}
