package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// lease is a sandbox while it lives.
type lease struct {
	tenant  string
	box     *pool.Box
	booking *quota.Booking
	ended   chan struct{}
	meter   meter

	resizing sync.Mutex // held for one resize, with what the box is told

	mu       sync.Mutex // guards the rest
	sb       bulkhead.Sandbox
	timer    *time.Timer // ends it when its time is over
	samples  ring[bulkhead.Sample]
	logs     ring[bulkhead.LogLine]
	cpu      time.Duration // at the last sample
	told     told
	recorded bool // its row is in the store
	admitted Admitted
	holds    int64 // bytes, when it was opened; 0 when that is not known
}

// What a lease remembers: samples of an hour at one each 5 s, and the lines of a
// log that a person would read.
const (
	keptSamples = 720
	keptLogs    = 1000
)

func newLease(box *pool.Box, booking *quota.Booking) *lease {
	l := &lease{
		box: box, booking: booking, ended: make(chan struct{}),
		samples: ring[bulkhead.Sample]{max: keptSamples},
		logs:    ring[bulkhead.LogLine]{max: keptLogs},
	}
	box.Listen(func(level slog.Level, message string) { l.log(level, message, nil) })
	return l
}

func (l *lease) sandbox() bulkhead.Sandbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sb
}

// log keeps a line of the sandbox's own log.
func (l *lease) log(level slog.Level, message string, fields map[string]string) {
	name := map[slog.Level]string{slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warn"}[level]
	if name == "" {
		name = "error"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs.add(bulkhead.LogLine{At: time.Now().UTC(), Level: name, Message: message, Fields: fields})
}

// open makes a bound lease reachable and begins to watch it.
func (n *Node) open(l *lease) {
	l.mu.Lock()
	l.tenant = l.sb.Tenant
	sb := l.sb
	l.timer = time.AfterFunc(time.Until(sb.EndAt), func() { n.expire(l) })
	l.mu.Unlock()
	l.log(slog.LevelInfo, "sandbox started", map[string]string{"template": sb.Template})
	n.mu.Lock()
	n.live[sb.ID] = l
	n.mu.Unlock()
	go n.watch(l)
}

// watch ends the lease when its box dies by itself.
func (n *Node) watch(l *lease) {
	l.begin()
	select {
	case <-l.box.Gone():
		n.end(context.Background(), l, n.autopsy(l.box))
	case <-l.ended:
	}
}

// expire ends a lease whose time is over, unless it was extended meanwhile.
func (n *Node) expire(l *lease) {
	sb := l.sandbox()
	if left := time.Until(sb.EndAt); left > 0 {
		l.mu.Lock()
		l.timer.Reset(left)
		l.mu.Unlock()
		return
	}
	ttl := sb.EndAt.Sub(sb.StartedAt)
	n.end(context.Background(), l, bulkhead.End{
		Cause: bulkhead.CauseExpired, Limit: ttl.Milliseconds(),
		Detail: fmt.Sprintf("its time to live of %s was over", ttl.Round(time.Second)),
	})
}

// autopsy says why a box died by itself.
func (n *Node) autopsy(box *pool.Box) bulkhead.End {
	usage, err := box.Part.Usage()
	if err == nil && usage.Limit.Cause != "" {
		return usage.Limit
	}
	return bulkhead.End{
		Cause: bulkhead.CauseCrashed, Peak: usage.MemoryPeak,
		Detail: "the box's main process died without having reached a limit",
	}
}

// end ends a lease once: it is unreachable at once, its end is durable when end
// returns, and its box is torn down in the background. It reports whether this
// call was the one.
func (n *Node) end(ctx context.Context, l *lease, end bulkhead.End) bool {
	end.At = time.Now().UTC()
	l.mu.Lock()
	if !l.sb.State.May(bulkhead.StateEnding) {
		l.mu.Unlock()
		return false
	}
	l.sb.State, l.sb.End = bulkhead.StateEnding, &end
	sb := l.sb
	if l.timer != nil {
		l.timer.Stop()
	}
	close(l.ended)
	l.mu.Unlock()

	n.mu.Lock()
	delete(n.live, sb.ID)
	n.mu.Unlock()
	l.read(true)
	n.teardowns.Add(1)
	go n.tearDown(l) //nolint:gosec // longer than the request

	// The row says that it ended even if the caller has gone away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	var usage sync.WaitGroup
	defer usage.Wait()
	usage.Go(func() { n.account(ctx, l) }) // beside the row, so that they share a commit
	if err := n.cfg.Store.EndSandbox(ctx, sb.ID, end); err != nil {
		// The next start finds a live row without a box, and ends it.
		n.cfg.Log.ErrorContext(ctx, "record end", "sandbox", sb.ID, "err", err)
	}
	n.cfg.Log.InfoContext(ctx, "sandbox ended", "sandbox", sb.ID, "tenant", sb.Tenant, "cause", string(end.Cause),
		"limit", end.Limit, "peak", end.Peak, "detail", end.Detail, "lived", end.At.Sub(sb.StartedAt))
	return true
}

// recordTimeout bounds a write to the store that no caller waits for.
const recordTimeout = 10 * time.Second

// tearDown destroys the lease's box, then gives its booking back.
func (n *Node) tearDown(l *lease) {
	defer n.teardowns.Done()
	n.tearing <- struct{}{}
	defer func() { <-n.tearing }()
	grown := l.grown()
	if err := l.box.Release(context.Background()); err != nil {
		n.cfg.Log.Error("tear down box", "box", l.box.ID, "err", err)
	}
	l.booking.Return(time.Now())
	if l.admitted.Ended != nil {
		l.admitted.Ended(grown)
	}
}

// abandon undoes a lease that could not be bound.
func (n *Node) abandon(ctx context.Context, l *lease) {
	if l.recorded {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		end := bulkhead.End{Cause: bulkhead.CauseCrashed, At: time.Now().UTC(), Detail: "it could not be started"}
		if err := n.cfg.Store.EndSandbox(ctx, l.sb.ID, end); err != nil {
			n.cfg.Log.ErrorContext(ctx, "record end", "sandbox", l.sb.ID, "err", err)
		}
	}
	n.teardowns.Add(1)
	go n.tearDown(l) //nolint:gosec // longer than the request
}
