package interp

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lean is a kernel of the lean lane: a program of ours, such as kernel/kernel.py,
// between two pipes. One goroutine reads everything it says. It asks the system for
// all its pipes at once and takes output before messages, so that what was printed
// before a message was sent is also passed on before it.
type lean struct {
	lang  leanLanguage
	proc  *process
	grace time.Duration
	log   *slog.Logger

	requests *os.File
	ready    chan struct{} // it has answered the first request
	closed   chan struct{} // the process has ended and all it said was read
	failed   string        // what the warm-up code failed with; set before ready
	noise    tail          // what it printed while nothing ran

	send  sync.Mutex // guards the writing of requests, and what follows
	busy  bool       // a request to run is being served
	after []byte     // a request that waits until it is not

	run   atomic.Pointer[leanRun] // nil when none is under way
	count int                     // the number of the next execution
}

// leanRun is the execution that is under way. The reader alone uses it, from when
// it is stored in lean.run until ended is closed.
type leanRun struct {
	sink     Sink
	counts   int // 1, or 0 for one that leaves no trace
	ended    chan struct{}
	out, err text
}

var _ Kernel = (*lean)(nil)

// leanLanguage is what differs between the languages of the lean lane: how they
// are started and how requests are written to them.
type leanLanguage interface {
	// command returns the command line, and whether requests are read from standard
	// input instead of descriptor 3.
	command(c leanConfig) (argv []string, stdin bool)
	// start returns the first request; it is answered with "ready".
	start(c leanConfig) ([]byte, error)
	// run and rebind return the requests for [Kernel.Run] and [Kernel.Rebind].
	run(req Request) ([]byte, error)
	rebind(b binding) ([]byte, error)
	// every returns how long an interrupt may take to show before it is repeated.
	every(grace time.Duration) time.Duration
}

// leanConfig is what a lean kernel is started with.
type leanConfig struct {
	account account
	lang    leanLanguage
	dir     string
	env     map[string]string
	preload []string
	warmup  string
	limit   int // bytes of a message
	grace   time.Duration
	log     *slog.Logger
}

// WarmupError is that the code of [Config.Warmup] failed, and with what.
type WarmupError string

// Error returns what the code failed with.
func (e WarmupError) Error() string { return "warm-up code failed: " + string(e) }

// startLean starts a kernel and waits until it is ready.
func startLean(ctx context.Context, c leanConfig) (*lean, error) {
	in, requests, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipes: %w", err)
	}
	k := &lean{
		lang: c.lang, grace: c.grace, log: c.log, requests: requests, count: 1,
		ready: make(chan struct{}), closed: make(chan struct{}),
	}
	r := &leanReader{k: k, frames: frames{max: c.limit}}
	theirs, err := r.open()
	theirs = append(theirs, in)
	if err == nil {
		cmd := command{
			env: c.env, dir: c.dir,
			files:  []*os.File{in, theirs[endMessages], theirs[endTaken]},
			stdout: theirs[endStdout], stderr: theirs[endStderr],
		}
		var stdin bool
		if cmd.argv, stdin = c.lang.command(c); stdin {
			cmd.stdin = in
		}
		k.proc, err = c.account.start(cmd)
	}
	for _, f := range theirs {
		_ = f.Close() // the process has its own
	}
	if err != nil {
		r.close()
		return nil, err
	}
	go r.loop()
	hello, err := c.lang.start(c)
	if err == nil {
		err = k.write(hello)
	}
	if err != nil {
		k.Close()
		return nil, err
	}
	select {
	case <-k.ready:
		if k.failed != "" {
			k.Close()
			return nil, WarmupError(k.failed)
		}
		return k, nil
	case <-k.closed:
		return nil, fmt.Errorf("start kernel: %w: %s", k.proc.dead(), k.noise.String())
	case <-ctx.Done():
		k.Close()
		return nil, fmt.Errorf("start kernel: %w: %s", context.Cause(ctx), k.noise.String())
	}
}

// write writes one request. The kernel reads when nothing runs in it, so this
// blocks for as long as the pipe is full, at most writeTimeout.
func (k *lean) write(data []byte) error {
	k.send.Lock()
	defer k.send.Unlock()
	return k.writeLocked(data)
}

// writeTimeout bounds how long a kernel may take to begin reading a request. One
// that has nothing to run reads at once.
const writeTimeout = 30 * time.Second

func (k *lean) writeLocked(data []byte) error {
	if err := k.requests.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	if _, err := k.requests.Write(data); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	return nil
}

// Run implements [Kernel].
func (k *lean) Run(ctx context.Context, req Request, sink Sink) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // see Kernel
	}
	run := &leanRun{sink: sink, counts: 1, ended: make(chan struct{})}
	data, err := k.lang.run(req)
	if err != nil {
		return err
	}
	if req.Touch {
		run.sink, sink, run.counts = discard{}, discard{}, 0
	}
	sink.Emit(Event{Kind: EventCount, Count: k.count})
	k.run.Store(run)
	k.send.Lock()
	k.busy = true
	err = k.writeLocked(data)
	k.send.Unlock()
	if err != nil {
		k.proc.end() // half a request may have gone out
		<-k.closed
		return k.proc.dead()
	}
	sink.Flush() // the kernel is at work meanwhile
	select {
	case <-run.ended:
		k.idle()
		return nil
	case <-k.closed:
		return k.proc.dead()
	case <-ctx.Done():
	}
	if !stop(run.ended, k.closed, k.grace, k.lang.every(k.grace), func() { k.proc.signal(syscall.SIGINT) }) {
		k.proc.end()
		<-k.closed
		dead := k.proc.dead()
		dead.Unresponsive = true
		return dead
	}
	select {
	case <-run.ended:
		k.idle()
		return nil
	default:
		return k.proc.dead()
	}
}

// idle sends what waited for the execution to end.
func (k *lean) idle() {
	k.send.Lock()
	defer k.send.Unlock()
	k.busy = false
	if k.after == nil {
		return
	}
	if err := k.writeLocked(k.after); err != nil {
		k.proc.end()
	}
	k.after = nil
}

// Rebind implements [Kernel]. While code runs the kernel does not read, so the
// request waits for the end of it; only the last one counts.
func (k *lean) Rebind(env map[string]string, seed []byte) {
	data, err := k.lang.rebind(binding{env: env, seed: seed})
	if err != nil {
		k.log.Error("rebind kernel", "error", err)
		return
	}
	k.send.Lock()
	defer k.send.Unlock()
	if k.busy {
		k.after = data
		return
	}
	if err := k.writeLocked(data); err != nil {
		k.proc.end()
	}
}

// PID implements [Kernel].
func (k *lean) PID() int { return k.proc.pid }

// Done implements [Kernel].
func (k *lean) Done() <-chan struct{} { return k.closed }

// Close implements [Kernel].
func (k *lean) Close() { k.proc.close() }
