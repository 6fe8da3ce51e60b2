package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// Config is what a pool needs. A zero field takes the default named with it.
type Config struct {
	// Executable is the binary whose main calls [Main] under the name [Name].
	// Default: this process's own.
	Executable string
	// Idle is how many workers are kept ready. Default 2.
	Idle int
	// Max is how many there may be at once. Default 8.
	Max int
	// Cgroup is the name of the directory that holds the workers' cgroups.
	// Default "bulkhead-scripts".
	Cgroup string
	// UserBase is the first of Max user IDs that workers run as. Default 1800000000.
	UserBase int
	// Wait is how long a run waits for a free worker. Default 10 s.
	Wait time.Duration
	// TimeZone is the TZ of the workers' environment, "" for the host's own.
	TimeZone string
	// Log may be nil.
	Log *slog.Logger
}

// Stats is a snapshot of a pool.
type Stats struct {
	// Idle and Busy count the workers now.
	Idle int `json:"idle"`
	Busy int `json:"busy"`
	// Started and Lost count workers ever started, and those replaced because a
	// run ended them.
	Started int64 `json:"started"`
	Lost    int64 `json:"lost"`
	// Confined says whether workers have a user, a root and a network of their
	// own, Cgroup whether a hard memory limit.
	Confined bool `json:"confined"`
	Cgroup   bool `json:"cgroup"`
}

// Pool keeps workers ready and gives each run one.
type Pool struct {
	cfg        Config
	groups     cgroups
	root       string // the workers' empty root directory
	privileged bool
	log        *slog.Logger

	mu      sync.Mutex
	idle    []*worker // the last is the one used last
	total   int       // idle, busy and starting
	next    int
	closed  bool
	changed chan struct{} // closed and replaced when idle or total changes
	stats   Stats
	wg      sync.WaitGroup
}

// New returns a pool; [Pool.Run] starts its workers. Without root, or without a
// memory controller, it works with what there is: see [Stats].
func New(cfg Config) (*Pool, error) {
	if cfg.Executable == "" {
		cfg.Executable = "/proc/self/exe"
	}
	if cfg.Idle == 0 {
		cfg.Idle = 2
	}
	if cfg.Max == 0 {
		cfg.Max = 8
	}
	if cfg.Cgroup == "" {
		cfg.Cgroup = "bulkhead-scripts"
	}
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	if cfg.UserBase == 0 {
		cfg.UserBase = 1_800_000_000
	}
	if cfg.Idle < 1 || cfg.Max < cfg.Idle || cfg.Max > 1024 {
		return nil, fmt.Errorf("configure workers: idle is %d and max %d; they must be 1 to 1024 and idle at most max",
			cfg.Idle, cfg.Max)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Pool{
		cfg: cfg, log: cfg.Log, privileged: os.Geteuid() == 0, changed: make(chan struct{}),
	}, nil
}

// Run keeps the pool filled until ctx ends, then ends every worker and removes
// what it made on the host. It returns an error when no worker can be started.
func (p *Pool) Run(ctx context.Context) (err error) {
	if p.privileged {
		if p.groups, err = newCgroups(p.cfg.Cgroup); err != nil {
			p.log.Warn("script workers have no hard memory limit", "error", err)
		}
		if p.root, err = os.MkdirTemp("", "bulkhead-worker-root-"); err != nil {
			return fmt.Errorf("make the workers' root: %w", err)
		}
		if err := os.Chmod(p.root, 0o555); err != nil { //nolint:gosec // everybody may see that it is empty
			return fmt.Errorf("make the workers' root: %w", err)
		}
	}
	p.mu.Lock()
	p.stats.Cgroup = p.groups.dir != ""
	p.mu.Unlock()
	defer func() { err = errors.Join(err, p.clean()) }()
	failures := 0
	for ctx.Err() == nil {
		p.mu.Lock()
		short := len(p.idle) < p.cfg.Idle && p.total < p.cfg.Max
		id, changed := p.next, p.changed
		if short {
			p.total++
			p.next++
		}
		p.mu.Unlock()
		if !short {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		w, err := p.start(ctx, id)
		switch {
		case err == nil:
			failures = 0
			p.mu.Lock()
			p.stats.Started++
			p.stats.Confined = w.ready.Confined
			p.idle = append([]*worker{w}, p.idle...)
			p.notifyLocked()
			p.mu.Unlock()
			continue
		case ctx.Err() != nil:
		default:
			failures++
			p.log.Error("a script worker did not start", "error", err, "failures", failures)
		}
		p.mu.Lock()
		p.total--
		p.notifyLocked()
		p.mu.Unlock()
		if failures >= 5 {
			return fmt.Errorf("start script workers: %w", err)
		}
		if failures > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(failures) * 200 * time.Millisecond):
			}
		}
	}
	return nil
}

// clean ends all workers and removes the cgroups and the root.
func (p *Pool) clean() error {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.notifyLocked()
	p.mu.Unlock()
	var errs []error
	for _, w := range idle {
		errs = append(errs, w.stop())
	}
	p.wg.Wait()
	errs = append(errs, p.groups.remove())
	if p.root != "" {
		errs = append(errs, os.Remove(filepath.Clean(p.root)))
	}
	return errors.Join(errs...)
}

// notifyLocked wakes everybody who waits for a change.
func (p *Pool) notifyLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Idle, s.Busy = len(p.idle), p.total-len(p.idle)
	return s
}

// acquire takes an idle worker, the one used last, or waits for one.
func (p *Pool) acquire(ctx context.Context) (*worker, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Wait)
	defer cancel()
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, bulkhead.Errorf(bulkhead.CodeUnavailable, "the server is stopping")
		}
		if n := len(p.idle); n > 0 {
			w := p.idle[n-1]
			p.idle = p.idle[:n-1]
			p.wg.Add(1)
			p.notifyLocked()
			p.mu.Unlock()
			return w, nil
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &bulkhead.Error{
				Code: bulkhead.CodeUnavailable, Op: "wait for a script worker",
				Msg: "no script worker was free in time", RetryAfter: time.Second, Err: context.Cause(ctx),
			}
		}
	}
}

// release gives a worker back, or ends it if err says that it is no good.
func (p *Pool) release(w *worker, err error) {
	defer p.wg.Done()
	p.mu.Lock()
	if err == nil && !p.closed && len(p.idle) < p.cfg.Idle+2 {
		p.idle = append(p.idle, w)
		p.notifyLocked()
		p.mu.Unlock()
		return
	}
	p.total--
	if err != nil && !errors.Is(err, errWorn) {
		p.stats.Lost++
		p.log.Info("a script worker is replaced", "worker", w.id, "runs", w.runs, "error", err, "stderr", w.tail.String())
	}
	p.notifyLocked()
	p.mu.Unlock()
	if err := w.stop(); err != nil {
		p.log.Warn("a script worker left something behind", "worker", w.id, "error", err)
	}
}

// Task is one run for a worker.
type Task struct {
	// Source is JavaScript.
	Source string
	// Input is what the engine needs; its Journal may hold what happened already.
	Input engine.Input
}

// Do runs a task in a worker. It blocks until the run has ended or ctx has; a
// run that is under way then is killed. The error is a *bulkhead.Error with
// [bulkhead.CodeUnavailable] when no worker was free; whatever the program does
// is an outcome.
func (p *Pool) Do(ctx context.Context, t Task) (engine.Outcome, error) {
	w, err := p.acquire(ctx)
	if err != nil {
		return engine.Outcome{}, err
	}
	if t.Input.Journal == nil {
		t.Input.Journal = engine.NewJournal()
	}
	out, err := w.run(ctx, &runRequest{
		Source: t.Source, Input: t.Input.JSON, Limits: t.Input.Limits,
		Journal: t.Input.Journal, HasFetch: t.Input.HasFetch,
	}, t.Input.Host)
	p.release(w, err)
	if out.End.Cause == "" {
		return out, fmt.Errorf("run in a worker: %w", err)
	}
	return out, nil
}

// buildTime and buildMemory bound a TypeScript build.
const (
	buildTime   = 5 * time.Second
	buildMemory = 256 << 20
)

// Build turns TypeScript into JavaScript in a worker, since the parser's stack
// and memory grow with the source. A *engine.SyntaxError says what is wrong.
func (p *Pool) Build(ctx context.Context, source string) (string, error) {
	w, err := p.acquire(ctx)
	if err != nil {
		return "", err
	}
	var b built
	if err = w.group.setLimit(w.base + buildMemory); err == nil {
		err = w.exchange(ctx, kindBuild, []byte(source), exchange{
			want: kindBuilt, into: &b, time: buildTime, most: maxPayload,
		})
	}
	p.release(w, err)
	switch {
	case err != nil:
		return "", &bulkhead.Error{
			Code: bulkhead.CodeInvalid, Op: "build TypeScript",
			Msg: "the source is too large or too deeply nested to build", Err: err,
		}
	case b.Failure != nil:
		return "", &engine.SyntaxError{Failure: *b.Failure}
	}
	return b.Code, nil
}
