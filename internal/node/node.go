// Package node runs sandboxes on this host.
//
// It is the composer of the layers below it: it takes boxes from a pool, binds
// them to what was asked for, records them before it acknowledges them, watches
// them, and ends each with one typed cause. A Node is safe for concurrent use.
//
// What survives what: a sandbox is a process tree of its own and outlives the
// server. [Node.Recover], called once before requests are served, takes back
// every sandbox that still runs, ends the rows of those that do not, and removes
// what belongs to nobody.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// Store keeps sandboxes durably.
type Store interface {
	// PutSandbox records a sandbox that has not ended; durable when it returns.
	PutSandbox(ctx context.Context, sb bulkhead.Sandbox) error
	// EndSandbox records how a sandbox ended; durable when it returns.
	EndSandbox(ctx context.Context, id string, end bulkhead.End) error
	// AddUsage records what sandboxes used; durable when it returns.
	AddUsage(ctx context.Context, metered []bulkhead.Metered) error
	// Meter returns the last recorded reading of a sandbox's meter, with a zero At
	// if there is none.
	Meter(ctx context.Context, sandbox string) (bulkhead.Meter, error)
	// Sandboxes returns what the filter selects, newest first.
	Sandboxes(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error)
}

// Templates finds templates.
type Templates interface {
	// Get returns the template of that name or ID, or CodeNotFound.
	Get(nameOrID string) (bulkhead.Template, error)
	// List returns all of them.
	List() ([]bulkhead.Template, error)
}

// Config is what a Node needs. Zero fields take the value in brackets.
type Config struct {
	// Pool, Store, Templates and Log are required.
	Pool      *pool.Pool
	Store     Store
	Templates Templates
	Log       *slog.Logger
	// Nameservers become /etc/resolv.conf in each box; none leaves it alone.
	Nameservers []string
	// MaxSandboxes is how many may live at once without a Book [500].
	MaxSandboxes int
	// CreateTimeout bounds the making of one sandbox [60 s].
	CreateTimeout time.Duration
	// SampleEvery is the time between two measurements of a sandbox [5 s].
	SampleEvery time.Duration
	// Book decides who gets a place; nil makes one that bounds their number only.
	Book *quota.Book
	// Tenants knows what each may use; nil lets everybody use everything.
	Tenants Tenants
	// Wait is how long a request that names no time waits for a place on the host;
	// for its own tenant's sandboxes to end it waits only when it asks to [0].
	Wait time.Duration
	// Processors reads the host's processor time since it was started, over all cores;
	// nil lets all sandboxes compete by weight alone, see [quota.TakeTurns].
	Processors func() (busy, idle time.Duration, err error)
	// Admit, when set, is asked before a sandbox that has its place is made whether
	// there is memory for that now. It may wait. Its error is the answer.
	Admit func(ctx context.Context, a Ask) (Admitted, error)
	// Dial connects to a box's envd; nil means over TCP.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
}

// Node runs sandboxes on this host.
type Node struct {
	cfg       Config
	client    *http.Client
	teardowns sync.WaitGroup
	tearing   chan struct{} // one token per teardown under way
	drained   chan struct{} // closed when the node drains

	unrecorded unrecorded
	turns      turns

	mu       sync.RWMutex
	live     map[string]*lease
	draining bool
}

// teardownsAtOnce bounds how many boxes are destroyed at the same time; each
// runs the runtime once, which takes a core for 20 ms.
const teardownsAtOnce = 4

// New checks cfg and starts nothing.
func New(cfg Config) (*Node, error) {
	if cfg.Pool == nil || cfg.Store == nil || cfg.Templates == nil || cfg.Log == nil {
		return nil, errors.New("node: Pool, Store, Templates and Log are required")
	}
	if cfg.MaxSandboxes <= 0 {
		cfg.MaxSandboxes = 500
	}
	if cfg.CreateTimeout <= 0 {
		cfg.CreateTimeout = time.Minute
	}
	if cfg.SampleEvery <= 0 {
		cfg.SampleEvery = 5 * time.Second
	}
	if cfg.Book == nil {
		cfg.Book = quota.New(quota.Config{})
		none := quota.Amounts{int64(cfg.MaxSandboxes), quota.Unlimited, quota.Unlimited, quota.Unlimited}
		cfg.Book.See(time.Now(), quota.Host{Most: none, Free: none})
	}
	if cfg.Dial == nil {
		cfg.Dial = dialBox
	}
	return &Node{
		cfg:     cfg,
		client:  boxClient(cfg.Dial),
		tearing: make(chan struct{}, teardownsAtOnce),
		drained: make(chan struct{}),
		live:    map[string]*lease{},

		unrecorded: unrecorded{leases: map[*lease]bool{}},
	}, nil
}

// Run measures the sandboxes until ctx is done.
func (n *Node) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { each(ctx, n.cfg.SampleEvery, func(time.Time) { n.sample(ctx) }) })
	loops.Go(func() { each(ctx, measureEvery, n.measure) })
	if n.cfg.Processors != nil {
		loops.Go(func() { each(ctx, turnsEvery, n.takeTurns) })
	}
	loops.Wait()
	return nil
}

// each calls f at intervals until ctx is done.
func each(ctx context.Context, every time.Duration, f func(now time.Time)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			f(now)
		case <-ctx.Done():
			return
		}
	}
}

// Drain refuses new sandboxes from now on with CodeUnavailable.
func (n *Node) Drain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.draining {
		n.draining = true
		close(n.drained)
	}
}

// Shutdown drains the node, ends every sandbox and waits until nothing is left
// of them, or ctx is done.
func (n *Node) Shutdown(ctx context.Context) error {
	n.Drain()
	var ends sync.WaitGroup
	for _, l := range n.leases() {
		ends.Go(func() {
			n.end(ctx, l, bulkhead.End{Cause: bulkhead.CauseKilled, Detail: "the server was shut down"})
		})
	}
	ends.Wait()
	return n.Wait(ctx)
}

// Wait blocks until no teardown is under way, or ctx is done.
func (n *Node) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		n.teardowns.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for teardowns: %w", ctx.Err())
	}
}

// leases returns the live ones, in no order.
func (n *Node) leases() []*lease {
	n.mu.RLock()
	defer n.mu.RUnlock()
	out := make([]*lease, 0, len(n.live))
	for _, l := range n.live {
		out = append(out, l)
	}
	return out
}

// find returns a live lease of the tenant ("" is any), or CodeNotFound.
func (n *Node) find(tenant, id string) (*lease, error) {
	n.mu.RLock()
	l := n.live[id]
	n.mu.RUnlock()
	if l == nil || tenant != "" && l.tenant != tenant {
		return nil, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q does not exist", id)
	}
	return l, nil
}

// Route returns a live sandbox for the data plane, from memory, and a channel
// that is closed when it ends.
func (n *Node) Route(id string) (sb bulkhead.Sandbox, ended <-chan struct{}, ok bool) {
	l, err := n.find("", id)
	if err != nil {
		return bulkhead.Sandbox{}, nil, false
	}
	return l.sandbox(), l.ended, true
}

// Get returns a live sandbox of the tenant ("" is any), or CodeNotFound.
func (n *Node) Get(_ context.Context, tenant, id string) (bulkhead.Sandbox, error) {
	l, err := n.find(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	return l.sandbox(), nil
}

// List returns what the filter selects, newest first. Live sandboxes come from
// memory; ended ones, when the filter asks for them, from the store.
func (n *Node) List(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error) {
	if slices.Contains(f.States, bulkhead.StateEnded) {
		list, err := n.cfg.Store.Sandboxes(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		return list, nil
	}
	var out []bulkhead.Sandbox
	for _, l := range n.leases() {
		if sb := l.sandbox(); selects(f, sb) {
			out = append(out, sb)
		}
	}
	slices.SortFunc(out, func(a, b bulkhead.Sandbox) int {
		if c := b.StartedAt.Compare(a.StartedAt); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	return out, nil
}

func selects(f bulkhead.Filter, sb bulkhead.Sandbox) bool {
	if f.Tenant != "" && f.Tenant != sb.Tenant ||
		f.Template != "" && f.Template != sb.Template && f.Template != sb.TemplateID ||
		len(f.States) > 0 && !slices.Contains(f.States, sb.State) ||
		!sb.StartedAt.After(f.StartedAfter) {
		return false
	}
	for k, v := range f.Metadata {
		if got, ok := sb.Metadata[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// SetDeadline moves a sandbox's end to at, or to where its tenant's longest time to
// live ends if that is sooner; with extendOnly only to later. It returns when the
// change is durable.
func (n *Node) SetDeadline(ctx context.Context, tenant, id string, at time.Time, extendOnly bool) (bulkhead.Sandbox, error) {
	l, err := n.find(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	tier, err := n.tier(ctx, l.tenant)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ttl := tier.Quota.TTLSeconds; ttl > 0 {
		if last := l.sb.StartedAt.Add(time.Duration(ttl) * time.Second); at.After(last) {
			at = last
		}
	}
	if l.sb.State != bulkhead.StateRunning {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q does not exist", id)
	}
	if extendOnly && !at.After(l.sb.EndAt) {
		return l.sb, nil
	}
	sb := l.sb
	sb.EndAt = at
	// Held over the write, so that two calls are recorded in the order in which
	// they take effect; a lease has no other hurry.
	if err := n.cfg.Store.PutSandbox(ctx, sb); err != nil {
		return bulkhead.Sandbox{}, fmt.Errorf("record deadline: %w", err)
	}
	l.sb = sb
	l.timer.Reset(time.Until(at))
	return sb, nil
}

// Kill ends a sandbox of the tenant. When it returns the end is durable and no
// request reaches the sandbox; its box is torn down right after.
func (n *Node) Kill(ctx context.Context, tenant, id string) error {
	l, err := n.find(tenant, id)
	if err != nil {
		return err
	}
	if !n.end(ctx, l, bulkhead.End{Cause: bulkhead.CauseKilled, Detail: "its owner ended it"}) {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q does not exist", id)
	}
	return nil
}

// Templates returns the templates that sandboxes can be made of.
func (n *Node) Templates() Templates { return n.cfg.Templates }
