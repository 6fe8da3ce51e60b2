package node

import (
	"context"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// meter counts what a lease used and was not recorded yet. What a warm box used
// before it was leased is nobody's: the count starts with a reading.
type meter struct {
	mu      sync.Mutex
	last    bulkhead.Meter   // the last reading; its At is zero before the first
	memory  int64            // bytes that were in use then, -1 when that is not known
	started bool             // something of the sandbox is recorded
	metered bulkhead.Metered // what is not recorded; its To.At is zero when nothing is
	closed  bool             // the last reading was the sandbox's last
}

// start begins to count at a reading. started says that the store knows of earlier
// ones.
func (m *meter) start(reading bulkhead.Meter, started bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.memory, m.started = reading, -1, started
}

// read counts what part used since the last reading, where the box has memory
// bytes in use now. last says that there will be no other reading.
func (m *meter) read(part pool.Part, memory int64, last bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed = last
	now, err := part.Meter()
	if err != nil {
		return // the next reading has it
	}
	if m.last.At.IsZero() {
		m.last, m.memory = now, memory
		return
	}
	if m.memory < 0 {
		m.memory = memory
	}
	took := now.At.Sub(m.last.At)
	used := bulkhead.Metered{
		First: !m.started, From: m.last.At, To: now,
		// Counters never go back; if one does, it was reset and nothing is known.
		CPU: max(now.CPU-m.last.CPU, 0), Egress: max(now.Egress-m.last.Egress, 0), Ingress: max(now.Ingress-m.last.Ingress, 0),
		MemoryMiBMillis: int64(float64(m.memory+memory) / 2 / (1 << 20) * float64(took) / float64(time.Millisecond)),
	}
	if !m.metered.To.At.IsZero() {
		used = m.metered.Add(used)
	}
	m.metered, m.last, m.memory, m.started = used, now, memory, true
}

// take returns what is not recorded and counts it as recorded.
func (m *meter) take() (bulkhead.Metered, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.metered
	m.metered = bulkhead.Metered{}
	return out, !out.To.At.IsZero()
}

// giveBack makes what take returned count as not recorded again.
func (m *meter) giveBack(used bulkhead.Metered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.metered.To.At.IsZero() {
		used = used.Add(m.metered)
	}
	m.metered = used
}

// read takes a reading of l.
func (l *lease) read(last bool) {
	if usage, err := l.box.Part.Usage(); err == nil {
		l.meter.read(l.box.Part, usage.Memory-usage.Cache, last)
	}
}

// account records what the leases used since they were recorded last. What cannot
// be recorded now is tried again with the next sample.
func (n *Node) account(ctx context.Context, leases ...*lease) {
	n.unrecorded.Lock()
	for l := range n.unrecorded.leases {
		leases = append(leases, l)
	}
	clear(n.unrecorded.leases)
	n.unrecorded.Unlock()

	var of []*lease
	var used []bulkhead.Metered
	for _, l := range leases {
		if m, ok := l.meter.take(); ok { // only one of a lease that is here twice
			sb := l.sandbox()
			m.Sandbox, m.Tenant = sb.ID, sb.Tenant
			of, used = append(of, l), append(used, m)
		}
	}
	if len(used) == 0 {
		return
	}
	err := n.cfg.Store.AddUsage(ctx, used)
	if err == nil {
		return
	}
	n.cfg.Log.ErrorContext(ctx, "record usage", "sandboxes", len(used), "err", err)
	n.unrecorded.Lock()
	defer n.unrecorded.Unlock()
	for i, l := range of {
		l.meter.giveBack(used[i])
		if len(n.unrecorded.leases) < maxUnrecorded {
			n.unrecorded.leases[l] = true
		}
	}
}

// maxUnrecorded bounds how many leases that ended are remembered while their usage
// cannot be recorded.
const maxUnrecorded = 100_000

// unrecorded are leases whose usage could not be recorded.
type unrecorded struct {
	sync.Mutex

	leases map[*lease]bool
}

// settle records what a box used that had died before it could be taken over.
func (n *Node) settle(ctx context.Context, sb bulkhead.Sandbox, box *pool.Box) {
	l := &lease{box: box, sb: sb}
	if n.resume(ctx, l) {
		l.read(true)
		n.account(ctx, l)
	}
}

// resume lets the meter of a lease that was taken over count on from what the
// server before recorded, if it did.
func (n *Node) resume(ctx context.Context, l *lease) bool {
	reading, err := n.cfg.Store.Meter(ctx, l.sb.ID)
	if err != nil {
		n.cfg.Log.ErrorContext(ctx, "read the last reading", "sandbox", l.sb.ID, "err", err)
	}
	known := err == nil && !reading.At.IsZero()
	if !known {
		if reading, err = l.box.Part.Meter(); err != nil {
			return false
		}
	}
	l.meter.start(reading, known)
	return known
}
