package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

const (
	// startTime is how long a new worker may take until it is ready.
	startTime = 20 * time.Second
	// graceTime is how long after its time limit a run may go on before its
	// process is killed: a built-in that cannot be interrupted.
	graceTime = 250 * time.Millisecond
	// longRun is the processor time after which a run is not urgent any more.
	longRun = 20 * time.Millisecond
	// tailBytes is how much of a worker's standard error is kept.
	tailBytes = 4 << 10
)

// process of the server's side: one worker.
type worker struct {
	id    int
	slot  int // of the user IDs
	cmd   *exec.Cmd
	conn  net.Conn
	group *group // guarded by the pool's mu until the worker is ready
	base  int64  // what its cgroup used when it was ready
	turns *turns // the pool's
	tail  tail
	runs  int
	ready ready
	// hostOOM is called when the kernel killed it for want of memory elsewhere.
	hostOOM func()
	ended   chan struct{} // closed when the process is gone
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailBytes; n > 0 {
		// A Go crash says what it died of first, so that the start is kept too.
		t.b = append(t.b[:tailBytes/2], t.b[len(t.b)-tailBytes/2:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func (t *tail) contains(words ...string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range words {
		if bytes.Contains(t.b, []byte(w)) {
			return true
		}
	}
	return false
}

// start starts a worker and waits until it is confined and warm.
func (p *Pool) start(ctx context.Context, w *worker) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "server")
	defer func() { _ = theirs.Close() }()
	w.conn, err = net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		return fmt.Errorf("open the socket: %w", err)
	}
	uid := 0
	if p.privileged {
		uid = p.cfg.UserBase + w.slot
	}
	w.cmd = &exec.Cmd{
		Path: p.cfg.Executable, Args: []string{Name, strconv.Itoa(uid), p.root},
		Env: []string{"GOTRACEBACK=single"}, Stderr: &w.tail, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if p.cfg.TimeZone != "" {
		w.cmd.Env = append(w.cmd.Env, "TZ="+p.cfg.TimeZone)
	}
	if p.privileged {
		w.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
			unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	g, err := p.groups.make(w.id)
	if err != nil {
		return errors.Join(err, w.conn.Close())
	}
	p.mu.Lock()
	w.group = g
	p.mu.Unlock()
	p.hasten()
	if err := w.cmd.Start(); err != nil {
		p.turns.leave(w.group)
		return errors.Join(fmt.Errorf("start a worker: %w", err), w.conn.Close(), w.group.remove())
	}
	go func() {
		_ = w.cmd.Wait() // how it ended stands in ProcessState
		close(w.ended)
	}()
	if err := w.welcome(ctx); err != nil {
		return errors.Join(err, w.stop())
	}
	return nil
}

// welcome places the process in its cgroup, then lets it begin.
func (w *worker) welcome(ctx context.Context) error {
	if err := w.group.add(w.cmd.Process.Pid); err != nil {
		return fmt.Errorf("place a worker: %w", err)
	}
	deadline, _ := ctx.Deadline()
	if err := w.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	if err := writeFrame(w.conn, kindReady, nil); err != nil {
		return err
	}
	k, payload, err := readFrame(w.conn, 1<<10)
	if err != nil {
		return fmt.Errorf("wait for a worker: %w (%s)", err, &w.tail)
	}
	if k != kindReady {
		return fmt.Errorf("wait for a worker: it sent %c", k)
	}
	if err := json.Unmarshal(payload, &w.ready); err != nil {
		return fmt.Errorf("wait for a worker: %w", err)
	}
	w.base = w.group.used()
	return nil
}

// stop ends the process and removes its cgroup. It may be called again.
func (w *worker) stop() error {
	_ = w.conn.Close()
	_ = w.cmd.Process.Kill() // gone already is as good
	<-w.ended
	w.turns.leave(w.group)
	return w.group.remove()
}

// exchange does one request: it sends the frame and serves what the worker asks
// until the frame of the wanted kind comes.
func (w *worker) exchange(ctx context.Context, k kind, payload any, e exchange) error {
	if err := w.conn.SetDeadline(time.Now().Add(e.time + graceTime)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	// A caller that goes away takes the deadline with it.
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer w.watch(e.time, e.class)()
	var err error
	if raw, ok := payload.([]byte); ok {
		err = writeFrame(w.conn, k, raw)
	} else {
		err = send(w.conn, k, payload)
	}
	if err != nil {
		return err
	}
	for {
		got, data, err := readFrame(w.conn, e.most)
		if err != nil {
			return err
		}
		switch got {
		case e.want:
			if err := json.Unmarshal(data, e.into); err != nil {
				return fmt.Errorf("decode frame %c: %w", got, err)
			}
			return nil
		case kindLog:
			err = e.log(data)
		case kindCall:
			err = w.answer(data, e.host)
		default:
			err = fmt.Errorf("read frame: unexpected kind %c", got)
		}
		if err != nil {
			return err
		}
	}
}

// exchange is what one request needs.
type exchange struct {
	want  kind
	into  any
	host  engine.Host
	time  time.Duration
	class Class
	most  int64 // bytes of the largest frame
	left  int64 // bytes of log lines that may still come
}

// log passes a line on and counts it, since the worker's own count is not trusted.
func (e *exchange) log(data []byte) error {
	var l engine.LogLine
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("decode a log line: %w", err)
	}
	if e.left -= int64(len(l.Message)); e.left < 0 {
		return errors.New("read log lines: more than the limit")
	}
	e.host.Log(l)
	return nil
}

// answer asks the host what the worker asks.
func (w *worker) answer(data []byte, host engine.Host) error {
	var c call
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("decode a call: %w", err)
	}
	var a answer
	var err error
	if a.Data, err = host.Call(c.Op, c.Payload); err != nil {
		a.Error, a.Over = err.Error(), errors.Is(err, engine.ErrOver)
	}
	return send(w.conn, kindAnswer, a)
}

// run does one run. The error means that the worker must be replaced; the
// outcome says what the program did even then.
func (w *worker) run(ctx context.Context, req *runRequest, host engine.Host, c Class) (engine.Outcome, error) {
	w.runs++
	limit := req.Limits.MemoryMB << 20
	// Beside the program's own memory: what the collector needs before it runs,
	// and the texts that travel.
	hard := w.base + limit + limit/2 + 16<<20 + 4*int64(len(req.Input)) + 4*int64(len(req.Source))
	if err := w.group.setLimit(hard); err != nil {
		return engine.Outcome{}, errors.Join(errLarge, err)
	}
	var out engine.Outcome
	began := time.Now()
	err := w.exchange(ctx, kindRun, req, exchange{
		want: kindOutcome, into: &out, host: host, time: req.Limits.Time(), class: c,
		most: 2*req.Limits.ResultBytes + 2*maxPayload, left: req.Limits.LogBytes + 16<<10,
	})
	if err == nil && large(&out) {
		w.turns.join(w.group)
	}
	if err == nil {
		return out, w.worn(&out)
	}
	return w.autopsy(ctx, req, time.Since(began)), err
}

// watch lets the worker wait its turn for the processor unless what it does is
// quick, or as soon as it has become long. At its time limit it has the next turn,
// to end. The function that watch returns ends the watching.
func (w *worker) watch(limit time.Duration, c Class) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	began := w.cpuTime()
	if c != ClassQuick {
		w.turns.join(w.group)
	}
	go func() {
		defer close(done)
		end := time.NewTimer(limit)
		defer end.Stop()
		tick := time.NewTicker(longRun)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-end.C:
				w.turns.hurry(w.group)
				return
			case <-tick.C:
			}
			if w.cpuTime()-began >= longRun {
				w.turns.join(w.group)
				tick.Stop()
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// cpuTime returns the processor time of the worker's process, 0 where the
// kernel does not tell.
func (w *worker) cpuTime() time.Duration {
	const schedClock = 2 // of the clocks that a process ID makes
	var ts unix.Timespec
	if unix.ClockGettime(int32(^w.cmd.Process.Pid<<3|schedClock), &ts) != nil { //nolint:gosec // process IDs have 22 bits
		return 0
	}
	return time.Duration(ts.Nano())
}

// cleaned waits until a worker whose run was large has given its memory back.
func (w *worker) cleaned(out *engine.Outcome) error {
	if out.Stuck || !large(out) {
		return nil
	}
	if err := w.conn.SetDeadline(time.Now().Add(startTime)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	k, _, err := readFrame(w.conn, 1<<10)
	if err == nil && k != kindReady {
		err = fmt.Errorf("wait for a worker: it sent %c", k)
	}
	return err
}

// maxPayload bounds what one call of a program carries, in bytes.
const maxPayload = 8 << 20

// errWorn says that a worker is to be replaced although its run was fine.
var errWorn = errors.New("the worker is worn")

// errLarge says that earlier runs left the worker larger than this run may be.
var errLarge = errors.New("the worker is too large for the run")

// maxRuns is how many runs a worker serves.
const maxRuns = 10_000

// worn tells whether the run has left the worker stuck, old or too large to keep.
func (w *worker) worn(out *engine.Outcome) error {
	switch {
	case out.Stuck:
		return errors.New("a built-in did not stop")
	case w.runs >= maxRuns, out.Usage.PeakBytes > 32<<20 && w.group.used() > w.base+128<<20:
		return errWorn
	}
	return nil
}

// autopsy ends the process and finds out what happened to its run.
func (w *worker) autopsy(ctx context.Context, req *runRequest, wall time.Duration) engine.Outcome {
	limit := req.Limits.MemoryMB << 20
	cut := ctx.Err() != nil
	late := wall >= req.Limits.Time()
	if !cut && !late {
		// The socket closed by itself; the process is ending or has ended.
		select {
		case <-w.ended:
		case <-time.After(time.Second):
		}
	}
	_ = w.cmd.Process.Kill()
	<-w.ended
	end := bulkhead.End{At: time.Now(), ExitCode: 137, Cause: bulkhead.CauseCrashed, Detail: "its worker ended"}
	peak := max(0, w.group.peak()-w.base)
	kills := w.group.kills()
	switch {
	case w.group.byHost(kills):
		end.Detail = "the host ran out of memory"
		if w.hostOOM != nil {
			w.hostOOM()
		}
	case kills > 0,
		w.tail.contains("out of memory", "cannot allocate memory", "stack exceeds", "makeslice: len out of range"):
		end.Cause, end.Limit, end.Peak = bulkhead.CauseMemoryLimit, limit, max(peak, limit)
		end.Detail = fmt.Sprintf("it needed more than %d MiB", req.Limits.MemoryMB)
	case cut:
		end.Cause, end.Detail = bulkhead.CauseKilled, "the caller went away"
	case late:
		end.Cause, end.Limit, end.Peak = bulkhead.CauseTimeLimit, req.Limits.TimeMS, wall.Milliseconds()
		end.Detail = fmt.Sprintf("it ran longer than %d ms", req.Limits.TimeMS)
	}
	out := engine.Outcome{End: end}
	out.Usage.PeakBytes = peak
	out.Usage.WallMS = float64(wall) / 1e6
	if s := w.cmd.ProcessState; s != nil {
		out.Usage.CPUMS = float64(s.UserTime()+s.SystemTime()) / 1e6
	}
	return out
}
