package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
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
	// Idle is how many workers are kept ready. Default 4.
	Idle int
	// Max is how many there may be at once. Default 16.
	Max int
	// Cgroup is the beginning of the name of the directory that holds the
	// workers' cgroups; the server's process ID is added. Default
	// "bulkhead-scripts".
	Cgroup string
	// Root is an empty directory that workers take as their root; it is made
	// when it is not there. Default: a temporary one.
	Root string
	// UserBase is the first of the user IDs that workers run as, each another: at
	// most Max and those that are being ended. Default 1800000000.
	UserBase int
	// Wait is how long a run waits for a free worker. Default 10 s.
	Wait time.Duration
	// HostOOM, when set, is called when the kernel killed a worker for memory that
	// was below its own limit: the host, or what the server may have of it, ran out.
	HostOOM func()
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
	wake       chan struct{} // Run has something to look at
	turns      turns
	wg         sync.WaitGroup

	mu       sync.Mutex
	idle     []*worker               // the last is the one used last
	waiting  [classes][]chan *worker // in the order they came
	total    int                     // idle, busy and starting
	starting map[*worker]struct{}
	slots    map[int]bool // user IDs in use, from UserBase on
	next     int
	closed   bool
	failures int // starts that failed in a row
	failure  error
	stats    Stats
}

// startsAtOnce is how many workers are started at the same time.
const startsAtOnce = 2

// maxFailures is how many starts may fail in a row.
const maxFailures = 5

// New returns a pool; [Pool.Run] starts its workers. Without root, or without a
// memory controller, it works with what there is: see [Stats].
func New(cfg Config) (*Pool, error) {
	if cfg.Executable == "" {
		cfg.Executable = "/proc/self/exe"
	}
	if cfg.Idle == 0 {
		cfg.Idle = 4
	}
	if cfg.Max == 0 {
		cfg.Max = 16
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
		cfg: cfg, log: cfg.Log, privileged: os.Geteuid() == 0, wake: make(chan struct{}, 1),
		starting: map[*worker]struct{}{}, slots: map[int]bool{},
	}, nil
}

// Run keeps the pool filled until ctx ends, then ends every worker and removes
// what it made on the host. It returns an error when no worker can be started.
func (p *Pool) Run(ctx context.Context) (err error) {
	if p.privileged {
		if err := p.makeRoot(); err != nil {
			return fmt.Errorf("make the workers' root: %w", err)
		}
		if p.groups, err = newCgroups(p.cfg.Cgroup); err != nil {
			p.log.WarnContext(ctx, "script workers have no hard memory limit", "error", err)
		}
	}
	p.mu.Lock()
	p.stats.Cgroup = p.groups.dir != ""
	p.mu.Unlock()
	defer func() { err = errors.Join(err, p.clean()) }()
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	for {
		if err := p.fill(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-retry.C: // after a start that failed
		}
	}
}

// makeRoot makes the directory that workers take as their root.
func (p *Pool) makeRoot() (err error) {
	if p.root = p.cfg.Root; p.root == "" {
		if p.root, err = os.MkdirTemp("", "bulkhead-worker-root-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(p.root, 0o755); err != nil { //nolint:gosec // everybody may see that it is empty
		return err
	}
	entries, err := os.ReadDir(p.root)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", p.root)
	}
	return os.Chmod(p.root, 0o555) //nolint:gosec // as above
}

// fill begins to start what is missing.
func (p *Pool) fill(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures >= maxFailures {
		return fmt.Errorf("start script workers: %w", p.failure)
	}
	for len(p.starting) < startsAtOnce && p.total < p.cfg.Max &&
		len(p.idle)+len(p.starting) < p.cfg.Idle+p.waitingLocked() {
		w := p.newWorkerLocked()
		p.total++
		p.starting[w] = struct{}{}
		p.wg.Go(func() { p.add(ctx, w) })
	}
	return nil
}

// newWorkerLocked names a worker that is to be started: its number is new, and
// its user nobody else's now.
func (p *Pool) newWorkerLocked() *worker {
	w := &worker{id: p.next, turns: &p.turns, ended: make(chan struct{}), hostOOM: p.cfg.HostOOM}
	p.next++
	for p.slots[w.slot] {
		w.slot++
	}
	p.slots[w.slot] = true
	return w
}

// hasten gives as many workers that are being started as quick programs wait for
// an ordinary share of the processor; the others wait their turn.
func (p *Pool) hasten() {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := len(p.waiting[ClassQuick])
	for w := range p.starting {
		if wanted > 0 {
			p.turns.leave(w.group)
		} else {
			p.turns.join(w.group)
		}
		wanted--
	}
}

// add starts one worker and hands it out.
func (p *Pool) add(ctx context.Context, w *worker) {
	err := p.start(ctx, w)
	p.mu.Lock()
	delete(p.starting, w)
	if err != nil {
		p.total--
		delete(p.slots, w.slot)
		if ctx.Err() == nil {
			p.failures++
			p.failure = err
			p.log.ErrorContext(ctx, "a script worker did not start", "error", err, "failures", p.failures)
		}
		p.mu.Unlock()
		return
	}
	p.failures = 0
	p.turns.leave(w.group)
	p.stats.Started++
	p.stats.Confined = w.ready.Confined
	kept := p.handLocked(w, true)
	p.mu.Unlock()
	if !kept {
		p.end(w)
	}
	p.look()
}

// look makes Run look at what is missing.
func (p *Pool) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// handLocked gives w to the first who waits, or keeps it idle: a new one as the
// last to be used. It reports false when w is not wanted.
func (p *Pool) handLocked(w *worker, fresh bool) bool {
	if !p.closed {
		for c, queue := range p.waiting {
			if len(queue) > 0 && len(p.idle)+1 >= p.leastIdle(Class(c)) {
				p.wg.Add(1) // for the run that gets it
				queue[0] <- w
				p.waiting[c] = queue[1:]
				return true
			}
		}
	}
	switch {
	case p.closed:
	case fresh:
		p.idle = append([]*worker{w}, p.idle...)
		return true
	case len(p.idle) < p.cfg.Idle+2:
		p.idle = append(p.idle, w)
		return true
	}
	p.total--
	return false
}

// end ends a worker's process.
func (p *Pool) end(w *worker) {
	if err := w.stop(); err != nil {
		p.log.Warn("a script worker left something behind", "worker", w.id, "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.slots, w.slot)
}

// clean ends all workers, with their cgroups, and removes the root.
func (p *Pool) clean() error {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	for c, queue := range p.waiting {
		for _, waiter := range queue {
			close(waiter)
		}
		p.waiting[c] = nil
	}
	p.mu.Unlock()
	var errs []error
	for _, w := range idle {
		errs = append(errs, w.stop())
	}
	p.wg.Wait()
	if p.root != "" && p.cfg.Root == "" {
		errs = append(errs, os.Remove(p.root))
	}
	return errors.Join(errs...)
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Idle, s.Busy = len(p.idle), p.total-len(p.idle)
	return s
}

// Class says how likely a task is to be done soon, and by that who goes first
// where workers or processor time are short.
type Class int

// The classes; a class goes before those that follow it.
const (
	// ClassQuick is for programs that were quick before. It takes any worker.
	ClassQuick Class = iota
	// ClassUnknown leaves two idle workers to those, and waits its turn for the
	// processor.
	ClassUnknown
	// ClassBehind is for what is likely to ruin its worker, or can wait: it takes a
	// worker only where as many are idle as are kept ready.
	ClassBehind
	classes
)

// leastIdle returns how many workers must be idle for a task to take one.
func (p *Pool) leastIdle(c Class) int {
	switch c {
	case ClassQuick:
		return 1
	case ClassUnknown:
		return min(3, p.cfg.Idle)
	default:
		return p.cfg.Idle
	}
}

// waitingLocked returns how many tasks wait for a worker.
func (p *Pool) waitingLocked() int {
	n := 0
	for _, queue := range p.waiting {
		n += len(queue)
	}
	return n
}

// acquire takes an idle worker, the one used last, or waits for one in turn.
func (p *Pool) acquire(ctx context.Context, c Class) (*worker, error) {
	if c == ClassQuick {
		p.NoteQuick()
	}
	p.mu.Lock()
	if n := len(p.idle); n >= p.leastIdle(c) && !p.closed {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.wg.Add(1)
		p.mu.Unlock()
		p.look()
		return w, nil
	}
	turn := make(chan *worker, 1)
	if p.closed {
		close(turn)
	} else {
		p.waiting[c] = append(p.waiting[c], turn)
	}
	p.mu.Unlock()
	p.look()
	p.hasten()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Wait)
	defer cancel()
	select {
	case w, ok := <-turn:
		return taken(w, ok)
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.waiting[c] = slices.DeleteFunc(p.waiting[c], func(c chan *worker) bool { return c == turn })
	p.mu.Unlock()
	select {
	case w, ok := <-turn: // in the same instant
		return taken(w, ok)
	default:
		return nil, &bulkhead.Error{
			Code: bulkhead.CodeUnavailable, Op: "wait for a script worker",
			Msg: "no script worker was free in time", RetryAfter: time.Second, Err: context.Cause(ctx),
		}
	}
}

// taken is the end of a wait for a turn.
func taken(w *worker, ok bool) (*worker, error) {
	if !ok {
		return nil, bulkhead.Errorf(bulkhead.CodeUnavailable, "the server is stopping")
	}
	return w, nil
}

// release gives a worker back, or ends it if err says that it is no good.
func (p *Pool) release(w *worker, err error) {
	defer p.wg.Done()
	if err == nil {
		p.turns.leave(w.group)
	}
	p.mu.Lock()
	kept := false
	if err == nil {
		kept = p.handLocked(w, false)
	} else {
		p.total--
		if !errors.Is(err, errWorn) && !errors.Is(err, errLarge) {
			p.stats.Lost++
		}
	}
	p.mu.Unlock()
	if err != nil && !errors.Is(err, errWorn) && !errors.Is(err, errLarge) {
		p.log.Info("a script worker is replaced", "worker", w.id, "runs", w.runs, "error", err, "stderr", w.tail.String())
	}
	if !kept {
		p.look()
		p.end(w)
	}
}

// NoteQuick tells the pool that a quick program begins to run, also where that is in
// no worker: what is not urgent leaves the processors to it.
func (p *Pool) NoteQuick() { p.turns.quick.Add(1) }

// Task is one run for a worker.
type Task struct {
	// Source is JavaScript.
	Source string
	// Input is what the engine needs; its Journal may hold what happened already.
	Input engine.Input
	// Class says who goes first.
	Class Class
	// Began, when set, is called when the run begins, after it has waited.
	Began func()
}

// Do runs a task in a worker. It blocks until the run has ended or ctx has; a
// run that is under way then is killed. The error is a *bulkhead.Error with
// [bulkhead.CodeUnavailable] when no worker was free; whatever the program does
// is an outcome.
func (p *Pool) Do(ctx context.Context, t Task) (engine.Outcome, error) {
	if t.Input.Journal == nil {
		t.Input.Journal = engine.NewJournal()
	}
	for range p.cfg.Idle {
		out, err := p.try(ctx, t)
		if !errors.Is(err, errLarge) {
			return out, err
		}
	}
	return p.try(ctx, t)
}

// try is Do with one worker. The error is errLarge, for one that was too large and is
// replaced, or as Do has it.
func (p *Pool) try(ctx context.Context, t Task) (engine.Outcome, error) {
	w, err := p.acquire(ctx, t.Class)
	if err != nil {
		return engine.Outcome{}, err
	}
	if t.Began != nil {
		t.Began()
	}
	out, err := w.run(ctx, &runRequest{
		Source: t.Source, Input: t.Input.JSON, Limits: t.Input.Limits,
		Journal: t.Input.Journal, HasFetch: t.Input.HasFetch,
	}, t.Input.Host, t.Class)
	if err == nil && large(&out) {
		go func() { p.release(w, w.cleaned(&out)) }() // release ends what keeps Run waiting
	} else {
		p.release(w, err)
	}
	if out.End.Cause == "" {
		return out, fmt.Errorf("run in a worker: %w", err)
	}
	return out, nil
}

// buildTime and buildMemory bound a TypeScript build, vetTime a vetting.
const (
	buildTime   = 5 * time.Second
	buildMemory = 256 << 20
	vetTime     = time.Second
)

// Vet reads the source of a program that was quick, in a worker, and says what kind
// of program it is: a parser is fed with other people's texts, and some of them
// keep it busy for ever. The error is that of [Pool.Do].
func (p *Pool) Vet(ctx context.Context, source string) (engine.Verdict, error) {
	w, err := p.acquire(ctx, ClassQuick)
	if err != nil {
		return engine.Verdict{}, err
	}
	var v engine.Verdict
	err = w.exchange(ctx, kindVet, []byte(source), exchange{
		want: kindVerdict, into: &v, time: vetTime, class: ClassQuick, most: 1 << 20,
	})
	p.release(w, err)
	if err != nil {
		v = engine.Verdict{Why: "its source takes long to read"}
	}
	return v, nil
}

// Build turns TypeScript into JavaScript in a worker, since the parser's stack
// and memory grow with the source. A *engine.SyntaxError says what is wrong.
func (p *Pool) Build(ctx context.Context, source string) (Built, error) {
	w, err := p.acquire(ctx, ClassUnknown)
	if err != nil {
		return Built{}, err
	}
	var b built
	if err = w.group.setLimit(w.base + buildMemory); err == nil {
		err = w.exchange(ctx, kindBuild, []byte(source), exchange{
			want: kindBuilt, into: &b, time: buildTime, class: ClassUnknown, most: maxPayload,
		})
	}
	p.release(w, err)
	switch {
	case err != nil:
		return Built{}, &bulkhead.Error{
			Code: bulkhead.CodeInvalid, Op: "build TypeScript",
			Msg: "the source is too large or too deeply nested to build", Err: err,
		}
	case b.Failure != nil:
		return Built{}, &engine.SyntaxError{Failure: *b.Failure}
	}
	return b.Built, nil
}
