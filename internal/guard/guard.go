package guard

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Source reads memory. [Probe] is the real one.
type Source interface {
	// Read returns the memory now. It takes microseconds and may be called from
	// one goroutine at a time. With full set it also measures what is slow to
	// measure, such as reclaimable page cache.
	Read(full bool) (Reading, error)
}

// staleAfter is how old a reading may be before Acquire takes a new one.
const staleAfter = 50 * time.Millisecond

// Guard admits work while memory allows it. Make it with [New], start its loop
// with [Guard.Run]. Its methods may be called from any goroutine, also before
// and after Run: Acquire then takes the readings it needs by itself.
type Guard struct {
	cfg Config
	src Source
	log *slog.Logger

	mu       sync.Mutex
	core     *Core
	base     time.Time // what now counts from; it does not change
	readAt   time.Time
	fullAt   time.Time
	loggedAt time.Time // last refusal that was logged
	refused  int64     // refusals since then
	waits    waitStats
	wakeups  chan struct{}
}

// waitStats are the sums behind the wait metric.
type waitStats struct {
	count   int64
	seconds float64
}

// New returns a guard. The logger may be nil. The error is that of
// [Config.Validate].
func New(cfg Config, src Source, log *slog.Logger) (*Guard, error) {
	core, err := NewCore(cfg)
	if err != nil {
		return nil, fmt.Errorf("configure memory guard: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Guard{cfg: cfg.withDefaults(), src: src, log: log, core: core, base: time.Now(), wakeups: make(chan struct{}, 1)}, nil
}

// now is the time, by a clock that costs half of what time.Now does.
func (g *Guard) now() time.Time { return g.base.Add(time.Since(g.base)) }

// Run reads the memory every 20 to 80 ms, logs what changes and wakes those who
// may go on. It blocks until ctx ends and returns nil then.
func (g *Guard) Run(ctx context.Context) error {
	c := g.cfg
	g.log.InfoContext(ctx, "memory guard ready",
		"enabled", !c.Disabled,
		"max_memory_percent", 100*c.MaxPercent,
		"warning_percent", 100*c.WarningPercent,
		"critical_percent", 100*c.CriticalPercent,
		"check_interval", c.CheckInterval,
		"estimated_mem_per_req_mb", c.EstimatedMemPerReqMB,
		"base_concurrency", c.MaxConcurrent)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wakeups:
		case <-timer.C:
		}
		g.mu.Lock()
		g.observeLocked(g.now())
		next := g.core.NextCheck()
		g.mu.Unlock()
		timer.Reset(next)
	}
}

// observeLocked takes a reading and lets in whom it allows. A source that fails
// leaves the last reading in force and is logged once per CheckInterval.
func (g *Guard) observeLocked(now time.Time) {
	full := now.Sub(g.fullAt) >= g.cfg.CheckInterval
	g.readAt = now
	r, err := g.src.Read(full)
	if err != nil {
		if full {
			g.fullAt = now
			g.log.Error("memory guard cannot read memory", "error", err)
		}
		return
	}
	if full {
		g.fullAt = now
	}
	ch := g.core.Observe(now, r)
	if ch.Changed() && (ch.Level != ch.Was || ch.Level != LevelCritical) {
		g.log.Info("memory guard adjusted concurrency",
			"action", ch.Level.String(),
			"memory_percent", percent(r),
			"old_concurrency", ch.OldConcurrency,
			"new_concurrency", ch.Concurrency,
			"active_tasks", g.core.active[kindRun])
	}
	g.admitLocked(now)
}

// admitLocked wakes every waiter that may run now.
func (g *Guard) admitLocked(now time.Time) {
	for t := g.core.Admit(now); t != nil; t = g.core.Admit(now) {
		close(t.ready)
	}
}

// Grant is the right to run, with its cost booked. Release it when the work is
// over.
type Grant struct {
	g *Guard
	t Ticket
}

// Release gives the grant back. It may be called again and on nil; only the
// first call counts. It does not block.
func (gr *Grant) Release() {
	if gr == nil {
		return
	}
	gr.g.change(gr, (*Core).Release)
}

// Settle says that what a standing claim was for has been made; see
// [Claim.Standing]. It does nothing for other grants, on nil, and when repeated.
func (gr *Grant) Settle() {
	if gr == nil {
		return
	}
	gr.g.change(gr, (*Core).Settle)
}

// change does something to a grant that may let others in.
func (g *Guard) change(gr *Grant, do func(*Core, time.Time, *Ticket)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	do(g.core, now, &gr.t)
	if g.core.queued > 0 {
		g.admitLocked(now)
	}
}

// Acquire waits until work that needs cost bytes may start, MaxWait (10 s) at
// most, and books it. A cost of 0 or less means the configured estimate. The
// grant must be released.
//
// The error is a *bulkhead.Error: [bulkhead.CodeUnavailable] at once while
// memory is critical or too many wait, and after MaxWait; [bulkhead.CodeInvalid]
// at once for what can never fit; [bulkhead.CodeTimeout] when ctx ended first.
func (g *Guard) Acquire(ctx context.Context, cost int64, p Priority) (*Grant, error) {
	return g.AcquireClaim(ctx, Claim{Cost: cost, Priority: p})
}

// AcquireClaim is [Guard.Acquire] for a claim that also names a tier.
func (g *Guard) AcquireClaim(ctx context.Context, claim Claim) (*Grant, error) {
	gr := &Grant{g: g, t: Ticket{claim: claim}}
	now := g.now()
	g.mu.Lock()
	if !g.cfg.Disabled && now.Sub(g.readAt) >= staleAfter {
		g.observeLocked(now)
	}
	if err := g.core.take(now, &gr.t); err != nil {
		g.logRefusalLocked(now, err)
		g.mu.Unlock()
		return nil, err
	}
	g.mu.Unlock()
	if gr.t.ready == nil {
		return gr, nil
	}
	select {
	case g.wakeups <- struct{}{}: // look sooner while somebody waits
	default:
	}
	return g.wait(ctx, gr, now)
}

// wait blocks until gr is admitted, or takes it back.
func (g *Guard) wait(ctx context.Context, gr *Grant, since time.Time) (*Grant, error) {
	t := &gr.t
	timer := time.NewTimer(g.cfg.MaxWait)
	defer timer.Stop()
	var err error
	late := false
	select {
	case <-t.ready:
	case <-timer.C:
		late = true
	case <-ctx.Done():
		err = &bulkhead.Error{
			Code: bulkhead.CodeTimeout, Op: "wait for memory",
			Msg: "the request ended before memory was free", Err: context.Cause(ctx),
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	g.waits.count++
	g.waits.seconds += now.Sub(since).Seconds()
	if t.state == ticketAdmitted { // even if it was in the same instant
		return gr, nil
	}
	g.core.Release(now, t)
	if late {
		err = g.core.unavailable(fmt.Sprintf("waited %v for memory; that is the limit", g.cfg.MaxWait))
		g.logRefusalLocked(now, err)
	}
	return nil, err
}

// logRefusalLocked logs at most one refusal a second, with how many it stands for.
func (g *Guard) logRefusalLocked(now time.Time, err error) {
	g.refused++
	if now.Sub(g.loggedAt) < time.Second {
		return
	}
	g.loggedAt = now
	g.log.Warn("memory guard refused", "error", err, "refusals", g.refused, "memory_stats", g.statsLocked())
	g.refused = 0
}

// ReportOOM tells the guard that the kernel killed admitted work for memory;
// unless FixedThresholds is set, its thresholds move down.
func (g *Guard) ReportOOM() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.core.ReportOOM()
}
