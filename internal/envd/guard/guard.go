// Package guard lets one program in a box end before the whole box does.
//
// A [Guard] watches how much memory and how many tasks the box uses while
// programs run, and ends the largest program, or the tree with the most tasks,
// shortly before the box's own limit ends everything. What it did and why is
// kept as a verdict, for whoever waits for that program. The limits of the host
// stand behind it: a guard that is too late costs the box, never the host.
//
// Only programs that the calling process started, directly or not, are ever
// ended. All methods may be called from many goroutines.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// Limits are what the box may use. A zero field means there is no such limit.
type Limits struct {
	// MemoryBytes bounds everything the [Meter] counts.
	MemoryBytes int64
	// Pids bounds the tasks that started programs may have.
	Pids int64
	// CPUTime bounds the processor time of one started program, or of one run of a
	// [Guard.Watch], its tree included.
	CPUTime time.Duration
	// OutputRate bounds how many bytes a second programs print together, see
	// [Guard.AwaitOutput].
	OutputRate int64
	// Cores is how many processors programs are told of. It bounds nothing: the
	// host does. Only gVisor's kernel, which takes it for no more than that, is told.
	Cores int64
}

// Config is what a guard works with.
type Config struct {
	// Proc is where proc is mounted; "" means /proc.
	Proc string
	// CgroupDir is an empty or missing directory where the guard may mount a
	// pids controller of the box's own. "" means it only counts.
	CgroupDir string
	// Meter measures the box; nil means the box cannot be measured, and nothing
	// is ended for its memory.
	Meter Meter
	// Log takes what the guard does.
	Log *slog.Logger
}

// The pace of the watch.
const (
	// slowest is the longest time between two looks while something runs.
	slowest = 250 * time.Millisecond
	// fastest is the shortest: a look costs some 20 µs.
	fastest = 4 * time.Millisecond
	// memoryRate is how fast a program is expected to take memory, in bytes a
	// second: about what one core can clear.
	memoryRate = 2 << 30
	// taskRate is how fast a program is expected to start tasks, per second.
	taskRate = 5000
	// settle is how long memory may take to come back after a program was ended.
	settle = 300 * time.Millisecond
)

// maxVerdicts bounds how many ends are remembered.
const maxVerdicts = 256

// Guard watches one box. See [New].
type Guard struct {
	cfg   Config
	jobs  chan func()
	out   *rate.Limiter
	wake  chan struct{}
	ready chan struct{} // closed when group is settled
	done  chan struct{}

	mu       sync.Mutex
	limits   Limits
	group    *pidsGroup // nil when tasks are only counted
	watched  map[int]*watched
	verdicts map[int]bulkhead.End
	order    []int // the keys of verdicts, oldest first
	peak     Usage
	thawed   chan struct{} // closed when the group takes tasks again; nil unless frozen

	// Only the watch touches what is below.
	acted   time.Time // when a program was last ended
	strikes int       // trees ended in a row without getting below the limit
}

// New returns a guard without limits. It starts nothing; see [Guard.Run].
func New(cfg Config) (*Guard, error) {
	if cfg.Log == nil {
		return nil, errors.New("guard: no log")
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	return &Guard{
		cfg: cfg, jobs: make(chan func()), out: rate.NewLimiter(rate.Inf, 0), wake: make(chan struct{}, 1), ready: make(chan struct{}), done: make(chan struct{}),
		watched: make(map[int]*watched), verdicts: make(map[int]bulkhead.End),
	}, nil
}

// Run starts programs for [Guard.Start] and watches them until ctx is done. It
// must be called once.
func (g *Guard) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { g.spawn(ctx) })
	timer := time.NewTimer(slowest)
	defer timer.Stop()
	for {
		if pause := g.look(); pause > 0 {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			wg.Wait()
			return g.close()
		case <-g.wake:
		case <-timer.C:
		}
	}
}

// spawn runs jobs on a thread of its own. A task is born in the cgroup of the
// thread that starts it, so programs are in the box's group from their first
// instruction while envd's other threads stay outside.
func (g *Guard) spawn(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(g.done)
	group := g.enterGroup()
	g.mu.Lock()
	g.group = group
	g.mu.Unlock()
	close(g.ready)
	for {
		select {
		case <-ctx.Done():
			if group != nil {
				if err := group.leave(); err != nil {
					g.cfg.Log.WarnContext(ctx, "spawning thread stays in the pids group", slog.Any("error", err))
				}
			}
			return
		case job := <-g.jobs:
			job()
		}
	}
}

// enterGroup makes the pids group and moves the calling thread into it, or
// returns nil where the box cannot have one.
func (g *Guard) enterGroup() *pidsGroup {
	if g.cfg.CgroupDir == "" {
		return nil
	}
	group, err := mountPids(g.cfg.CgroupDir)
	if err == nil {
		if err = group.enter(); err != nil {
			err = errors.Join(err, group.close())
		}
	}
	if err != nil {
		g.cfg.Log.Info("no pids controller; tasks are counted", slog.Any("error", err))
		return nil
	}
	return group
}

// close gives the pids controller back, and waits a moment for programs that
// were just ended to leave it. One that still runs keeps it.
func (g *Guard) close() error {
	g.mu.Lock()
	group := g.group
	g.group = nil
	g.mu.Unlock()
	if group == nil {
		return nil
	}
	for deadline := time.Now().Add(settle); group.busy() && time.Now().Before(deadline); {
		<-time.After(fastest)
	}
	if err := group.close(); err != nil {
		return fmt.Errorf("close guard: %w", err)
	}
	return nil
}

// errClosed says that the guard's Run has returned.
var errClosed = errors.New("guard: closed")

// onSpawner runs f on the thread that starts programs.
func (g *Guard) onSpawner(f func() error) error {
	result := make(chan error, 1)
	select {
	case <-g.done:
		return errClosed
	case g.jobs <- func() { result <- f() }:
		return <-result
	}
}

// Start is [Guard.Spawn] for a program that is watched until the returned Watch
// is released.
func (g *Guard) Start(cmd *exec.Cmd) (*Watch, error) {
	if err := g.Spawn(cmd); err != nil {
		return nil, err
	}
	return g.watch(cmd.Process.Pid, true), nil
}

// Spawn starts cmd as cmd.Start does, within the box's limits. It blocks until
// [Guard.Run] runs. The error wraps [syscall.EAGAIN] when the box has no task
// left.
func (g *Guard) Spawn(cmd *exec.Cmd) error {
	g.awaitThaw()
	if err := g.onSpawner(cmd.Start); err != nil {
		return err
	}
	if _, ok := g.cfg.Meter.(sentryMeter); !ok {
		// Should the kernel run out of the box's memory first, it takes a program
		// and not envd. gVisor's kernel takes none. The program may have ended.
		_ = os.WriteFile(filepath.Join(g.cfg.Proc, strconv.Itoa(cmd.Process.Pid), "oom_score_adj"), []byte("500"), 0)
	}
	return nil
}

// awaitThaw waits while a tree is being ended, but not for long.
func (g *Guard) awaitThaw() {
	g.mu.Lock()
	thawed := g.thawed
	g.mu.Unlock()
	if thawed == nil {
		return
	}
	select {
	case <-thawed:
	case <-time.After(maxStrikes * settle):
	}
}

// A Watch keeps the guard looking while a program runs.
type Watch struct {
	once sync.Once
	end  func()
}

// Release ends the watch. It may be called more than once.
func (w *Watch) Release() { w.once.Do(w.end) }

// Watch watches a program that runs already, such as one that was restored, and
// forgets any verdict on an earlier one of that pid. The box is looked at only
// while there is at least one Watch.
func (g *Guard) Watch(pid int) *Watch { return g.watch(pid, false) }

// watch is [Guard.Watch] of a program that has just been started, or not.
func (g *Guard) watch(pid int, fresh bool) *Watch {
	g.mu.Lock()
	w := g.watched[pid]
	if w == nil {
		w = &watched{began: time.Now(), based: fresh}
		g.watched[pid] = w
		delete(g.verdicts, pid)
	}
	w.watches++
	g.mu.Unlock()
	g.nudge()
	return &Watch{end: func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		w.watches--
		if w.watches == 0 {
			delete(g.watched, pid)
		}
		if len(g.watched) == 0 {
			g.peak = Usage{}
			g.nudge()
		}
	}}
}

// nudge makes the watch look at once.
func (g *Guard) nudge() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Verdict says why the guard ended pid, or a program in pid's tree, and whether
// it did. Verdicts stay until 256 later ones or until pid is watched anew.
func (g *Guard) Verdict(pid int) (bulkhead.End, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	end, ok := g.verdicts[pid]
	return end, ok
}

// record keeps end for pid and for every watched program in whose tree pid is.
func (g *Guard) record(end bulkhead.End, all []proctree.Process, pids ...int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	blamed := make(map[int]bool)
	for _, pid := range pids {
		blamed[pid] = true
	}
	for root := range g.watched {
		for _, p := range proctree.Members(all, root) {
			if blamed[p.Pid] {
				blamed[root] = true
				break
			}
		}
	}
	for pid := range blamed {
		if _, known := g.verdicts[pid]; !known {
			g.order = append(g.order, pid)
		}
		g.verdicts[pid] = end
	}
	for len(g.order) > maxVerdicts {
		delete(g.verdicts, g.order[0])
		g.order = g.order[1:]
	}
}

// Usage measures the box now. The error says why it cannot be measured.
func (g *Guard) Usage() (Usage, error) {
	if g.cfg.Meter == nil {
		return Usage{}, errNoMeter
	}
	return g.cfg.Meter.Measure()
}

// Limits returns the limits in force.
func (g *Guard) Limits() Limits {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.limits
}

// SetLimits puts l in force. Programs that run already are bounded too. It blocks
// until [Guard.Run] runs.
func (g *Guard) SetLimits(l Limits) error {
	if l.MemoryBytes < 0 || l.Pids < 0 || l.CPUTime < 0 || l.Cores < 0 || l.OutputRate < 0 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "limits are %+v; none may be negative", l)
	}
	select {
	case <-g.ready:
	case <-g.done:
	}
	select {
	case <-g.done:
		return errClosed
	default:
	}
	g.mu.Lock()
	tell := l.Cores != g.limits.Cores
	g.limits = l
	group := g.group
	g.mu.Unlock()
	g.setOutputRate(l.OutputRate)
	if tell {
		if err := g.tellCores(l.Cores); err != nil {
			return fmt.Errorf("set limits: %w", err)
		}
	}
	if group != nil {
		if err := errors.Join(group.setMax(l.Pids), g.gather(group)); err != nil {
			return fmt.Errorf("set limits: %w", err)
		}
	}
	g.nudge()
	return nil
}

// gather moves programs into the group that the guard did not start.
func (g *Guard) gather(group *pidsGroup) error {
	strays, err := group.strays()
	if err != nil || len(strays) == 0 {
		return err
	}
	all, err := proctree.List(g.cfg.Proc)
	if err != nil {
		return err
	}
	for _, p := range proctree.Descendants(all, os.Getpid()) {
		if !slices.Contains(strays, p.Pid) {
			continue
		}
		if err := group.add(p.Pid); err != nil { // it may have ended
			g.cfg.Log.Info("program stays outside the pids controller", slog.Int("pid", p.Pid), slog.Any("error", err))
		}
	}
	return nil
}
