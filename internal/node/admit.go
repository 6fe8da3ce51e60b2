package node

import (
	"context"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// Ask is a sandbox that has its place and is about to be made.
type Ask struct {
	// Tenant and Priority say for whom.
	Tenant   string
	Priority bulkhead.Priority
	// Template and Limits say what.
	Template bulkhead.Template
	Limits   bulkhead.Limits
}

// Admitted is what an admission wants to know of a sandbox. Both functions are
// called at most once; Made only if it was made.
type Admitted struct {
	// Made says that it runs.
	Made func()
	// Ended says that it is gone, and by how many bytes its box grew while it was
	// leased; -1 when that is not known.
	Ended func(grown int64)
}

// admit asks whether there is memory to make a sandbox now.
func (n *Node) admit(ctx context.Context, req bulkhead.CreateRequest, t bulkhead.Template, l bulkhead.Limits) (Admitted, error) {
	if n.cfg.Admit == nil {
		return Admitted{Made: func() {}, Ended: func(int64) {}}, nil
	}
	return n.cfg.Admit(ctx, Ask{Tenant: req.Tenant, Priority: req.Priority, Template: t, Limits: l})
}

// held returns the memory, in bytes, that a usage says cannot be taken back, and
// the most that ever could not.
func held(u pool.Usage) (now, peak int64) {
	now = max(0, u.Memory-u.Cache)
	return now, max(now, u.MemoryPeak-u.Cache)
}

// begin notes what the box holds as the lease begins.
func (l *lease) begin() {
	usage, err := l.box.Part.Usage()
	if err != nil {
		return
	}
	now, _ := held(usage)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = now
}

// grown returns by how many bytes the box grew since begin, -1 when not known.
func (l *lease) grown() int64 {
	usage, err := l.box.Part.Usage()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.holds == 0 {
		return -1
	}
	_, peak := held(usage)
	return max(0, peak-l.holds)
}
