// Package netslot gives each box a network of its own: a slot is a network
// namespace, a veth pair into it, addresses, a default route, packet rules and
// traffic shaping. Slots are made ahead, handed out and used again.
//
// # What a box can reach
//
// One nftables table, "inet bulkhead", holds the rules for all slots; a slot is
// an element of its sets, so that a change of policy is one small transaction.
// From a box: nothing on the host itself but answers to connections that the
// host opened; no other box; no private or special address; the public internet
// only where [Egress] says so, by address or by name, then behind the host's
// address. Each box may only
// send from its own address, IPv4 only. To a box: whatever the host sends, and
// answers to what the box asked. A refusal is an ICMP answer, so that a program
// fails at once instead of hanging; a forged source address is dropped silently.
//
// A drop in nftables is final, an accept is not: it ends the judgement of our
// own chain only. So no other firewall on the host can open what is closed
// here, but a foreign forward chain that drops by policy also stops boxes.
// Docker's iptables chain (nftables flavour) is therefore given two accepting
// rules of ours, see [Allocator.Run]. Chains that belong to someone else, such
// as firewalld's, are left alone and logged: there the operator lets the
// allocator's prefix pass (firewall-cmd --zone=trusted --add-source=10.213.0.0/16).
//
// # What is changed on the host
//
// net.ipv4.ip_forward is switched on when it is off, which is logged, and is not
// switched off again, since others may have come to rely on it. Reverse path
// filtering needs no change: the table's own first chain is stricter.
//
// # Threads
//
// Work inside a namespace happens on a locked OS thread, which goes back to the
// scheduler only when it is back in its own namespace, and dies otherwise.
//
// All methods may be called concurrently. Nothing here spawns a program.
package netslot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// ErrExhausted is wrapped by the error of [Allocator.Acquire] when every
// address of the prefix is in use.
var ErrExhausted = errors.New("no network slot is free")

// Allocator makes, hands out and takes back slots. See [New].
type Allocator struct {
	cfg   Config
	plan  plan
	host  hostNS
	nl    *netlink.Handle
	tc    map[int]*nl.SocketHandle // for what nl cannot say
	rules *ruleset
	lock  *os.File
	names names
	wake  chan struct{} // a nudge for Run, capacity 1
	sysfs string        // where the links of the host's namespace are shown

	mu      sync.Mutex
	closed  bool
	taken   map[int]bool // made, being made or leased
	ready   []int        // oldest first
	cooling []cooling    // released, not yet clean
	next    int          // where the search for a free index goes on
}

// New checks cfg, takes the exclusive lock of its directory, switches IPv4
// forwarding on and puts a fresh rule table in place of any older one, in one
// transaction. Slots of an earlier server stay as they are and are cut off from
// the network until [Allocator.Adopt] or [Allocator.Reap]. It needs root.
func New(cfg Config) (*Allocator, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil { //nolint:gosec // names of namespaces are no secret
		return nil, fmt.Errorf("make %s: %w", cfg.Dir, err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	host, err := openHostNS(cfg.HostNS)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	a := &Allocator{
		cfg: cfg, plan: plan{name: cfg.Name, prefix: cfg.Prefix}, host: host, lock: lock,
		wake: make(chan struct{}, 1), taken: map[int]bool{}, sysfs: "/sys/class/net",
	}
	if err := a.setUp(); err != nil {
		return nil, errors.Join(err, a.shut())
	}
	return a, nil
}

// setUp prepares the host side: handle, forwarding, rules.
func (a *Allocator) setUp() error {
	err := a.host.do(func() (err error) {
		a.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		a.tc = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
		changed, err := enableForwarding()
		if changed {
			a.cfg.Log.Info("switched IPv4 forwarding on", "sysctl", forwardFile)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := a.checkPrefix(); err != nil {
		return err
	}
	if a.cfg.MTU == 0 {
		a.cfg.MTU = a.uplinkMTU()
	}
	if err := a.listen(); err != nil {
		return err
	}
	a.rules = newRuleset(a.host, a.plan, a.cfg, a.names.port)
	if err := a.rules.install(); err != nil {
		return fmt.Errorf("install packet rules: %w", err)
	}
	return a.passForeign()
}

// Run keeps [Config.Ready] slots made ahead, cleans released ones four times a
// second, all at once, and looks every two seconds whether
// the rule table is still there and Docker's forward chain lets boxes through; it
// restores both with all that the slots were allowed, as others' firewalls flush
// what is not theirs. It answers the name queries of boxes with [Egress.Domains].
// It returns nil when ctx ends.
func (a *Allocator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.resolve(ctx) })
	g.Go(func() error { return a.tend(ctx) })
	return g.Wait() //nolint:wrapcheck // wrapped where it happens
}

// tend is the part of [Allocator.Run] that looks after slots and rules.
func (a *Allocator) tend(ctx context.Context) error {
	look, cool := time.NewTicker(2*time.Second), time.NewTicker(250*time.Millisecond)
	defer look.Stop()
	defer cool.Stop()
	for {
		for a.short() && ctx.Err() == nil {
			if err := a.stock(); err != nil {
				a.cfg.Log.WarnContext(ctx, "make a network slot ahead", "error", err)
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-cool.C:
			a.recycle()
		case <-look.C:
			if err := a.restore(); err != nil {
				a.cfg.Log.WarnContext(ctx, "look after packet rules", "error", err)
			}
		}
	}
}

// restore puts back what others have removed of the packet rules.
func (a *Allocator) restore() error {
	ok, err := a.rules.intact()
	if err != nil {
		return err
	}
	if !ok {
		a.cfg.Log.Error("the packet rules were gone and are put back: boxes were not isolated meanwhile", "table", a.rules.table.Name)
		if err := a.rules.install(); err != nil {
			return fmt.Errorf("put packet rules back: %w", err)
		}
		if err := a.recount(); err != nil {
			return err
		}
	}
	if err := a.settle(); err != nil {
		return err
	}
	return a.passForeign()
}

// short reports whether fewer slots are ready than Run shall keep.
func (a *Allocator) short() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.closed && len(a.ready) < a.cfg.Ready
}

// stock makes one slot and puts it among the ready ones.
func (a *Allocator) stock() error {
	n, err := a.build()
	if err != nil {
		return err
	}
	return a.shelve(n)
}

// shelve puts a clean slot among the ready ones, or destroys it after the end.
func (a *Allocator) shelve(n int) error {
	a.mu.Lock()
	closed := a.closed
	if !closed {
		a.ready = append(a.ready, n)
	}
	a.mu.Unlock()
	if closed {
		_, err := a.destroy(n)
		return err
	}
	return nil
}

// nudge wakes Run.
func (a *Allocator) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Acquire returns a slot with address and route, no egress and no bandwidth
// limit: one made ahead, which takes microseconds, else a new one, which takes
// milliseconds. The error has [bulkhead.CodeUnavailable] and wraps
// [ErrExhausted] when the prefix is used up.
func (a *Allocator) Acquire(ctx context.Context) (*Slot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	defer a.nudge()
	a.mu.Lock()
	if len(a.ready) > 0 {
		n := a.ready[0]
		a.ready = slices.Delete(a.ready, 0, 1)
		a.mu.Unlock()
		return a.slot(n), nil
	}
	a.mu.Unlock()
	n, err := a.build()
	if errors.Is(err, ErrExhausted) {
		a.recycle()
		n, err = a.build()
	}
	if err != nil {
		return nil, err
	}
	return a.slot(n), nil
}

// reserve books a free index.
func (a *Allocator) reserve() (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return 0, bulkhead.Errorf(bulkhead.CodeUnavailable, "the network allocator is closed")
	}
	size := a.plan.size()
	for range size {
		n := a.next
		a.next = (a.next + 1) % size
		if !a.taken[n] {
			a.taken[n] = true
			return n, nil
		}
	}
	return 0, &bulkhead.Error{
		Code: bulkhead.CodeUnavailable, Op: "acquire network slot",
		Msg: fmt.Sprintf("all %d network slots of this host are in use", size), Err: ErrExhausted,
	}
}

// free gives an index back.
func (a *Allocator) free(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.taken, n)
}

// Adopt takes over slot n of an earlier server for the box that still uses it.
// Its egress is closed until [Slot.SetEgress]; its bandwidth limit stays. The
// error wraps [os.ErrNotExist] when the slot is gone and is an
// [bulkhead.CodeConflict] when it is already owned.
func (a *Allocator) Adopt(n int) (*Slot, error) {
	if n < 0 || n >= a.plan.size() {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "network slot %d; it must be between 0 and %d", n, a.plan.size()-1)
	}
	a.mu.Lock()
	owned := a.taken[n] || a.closed
	if !owned {
		a.taken[n] = true
	}
	a.mu.Unlock()
	if owned {
		return nil, bulkhead.Errorf(bulkhead.CodeConflict, "network slot %d is already owned", n)
	}
	err := a.inspect(n)
	if err == nil {
		err = a.rules.add(n)
	}
	if err != nil {
		a.free(n)
		return nil, fmt.Errorf("adopt network slot %d: %w", n, err)
	}
	return &Slot{a: a, n: n, talked: true}, nil
}

// Reap removes every slot under this allocator's name that it does not own and
// that inUse (which may be nil) does not claim: namespace, links, rules. It
// returns the indexes removed, in order, also next to an error. inUse is called
// under a lock and must not call back. The connections of adopted slots, of which the
// fresh rules know nothing, count for bounds of their own from then on.
func (a *Allocator) Reap(ctx context.Context, inUse func(n int) bool) ([]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	found, err := a.present()
	if err != nil {
		return nil, fmt.Errorf("list network slots: %w", err)
	}
	var mine []int
	a.mu.Lock()
	for _, n := range found {
		if !a.closed && !a.taken[n] && (inUse == nil || !inUse(n)) {
			a.taken[n] = true
			mine = append(mine, n)
		}
	}
	a.mu.Unlock()
	gone, err := a.destroy(mine...)
	return gone, errors.Join(err, a.recount())
}

// Stats counts an allocator's slots.
type Stats struct {
	// Ready are made and wait; Cooling were released and are cleaned next;
	// Leased are in use, being made or being removed.
	Ready, Cooling, Leased int
	// Size is how many there can be.
	Size int
}

// Stats returns the counts of this moment.
func (a *Allocator) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	idle := len(a.ready) + len(a.cooling)
	return Stats{Ready: len(a.ready), Cooling: len(a.cooling), Leased: len(a.taken) - idle, Size: a.plan.size()}
}

// Close removes every slot, leased ones too, the rule table and all else this
// package put on the host except IPv4 forwarding. It may be called twice.
func (a *Allocator) Close() error {
	owned := a.stop()
	if owned == nil {
		return nil
	}
	_, err := a.destroy(slices.Collect(maps.Keys(owned))...)
	return errors.Join(err, a.unpassForeign(), a.rules.remove(), a.shut())
}

// Detach lets go of everything and leaves leased slots and rules in place, for
// the boxes that outlive this server and the server that will [Allocator.Adopt]
// them. Slots that wait are removed. It may be called twice.
func (a *Allocator) Detach() error {
	a.mu.Lock()
	idle := slices.Clone(a.ready)
	for _, c := range a.cooling {
		idle = append(idle, c.n)
	}
	a.mu.Unlock()
	if a.stop() == nil {
		return nil
	}
	_, err := a.destroy(idle...)
	return errors.Join(err, a.shut())
}

// stop refuses new work and returns what is owned; nil when already stopped.
func (a *Allocator) stop() map[int]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	a.ready, a.cooling = nil, nil
	return maps.Clone(a.taken)
}

// shut closes the files and sockets.
func (a *Allocator) shut() error {
	if a.nl != nil {
		a.nl.Close()
	}
	for _, s := range a.tc {
		s.Close()
	}
	a.names.close()
	var errs []error
	if a.rules != nil {
		errs = append(errs, a.rules.close())
	}
	if a.host.ns != netns.None() {
		errs = append(errs, a.host.ns.Close())
	}
	return errors.Join(append(errs, a.lock.Close())...)
}

// lockDir takes the lock that keeps two allocators out of one directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: another server uses it: %w", dir, err)
	}
	return f, nil
}
