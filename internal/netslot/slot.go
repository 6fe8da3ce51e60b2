package netslot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// ErrReleased is returned by the methods of a slot that was released.
var ErrReleased = errors.New("the network slot was released")

// Slot is one lease of a network slot. Its methods may be called concurrently.
type Slot struct {
	a *Allocator
	n int

	mu       sync.Mutex
	released bool
}

// slot makes the handle of a new lease.
func (a *Allocator) slot(n int) *Slot { return &Slot{a: a, n: n} }

// Index is the slot's number, by which a later server adopts it.
func (s *Slot) Index() int { return s.n }

// Path is the file to which the slot's network namespace is bound.
func (s *Slot) Path() string { return s.a.path(s.n) }

// Addr is the box's address, as the host reaches it.
func (s *Slot) Addr() netip.Addr { return s.a.plan.box(s.n) }

// Gateway is the host's address on the slot's link.
func (s *Slot) Gateway() netip.Addr { return s.a.plan.gateway(s.n) }

// Link is the name of the slot's link on the host.
func (s *Slot) Link() string { return s.a.plan.hostLink(s.n) }

// use runs fn while the slot is leased.
func (s *Slot) use(fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return opError(s.n, "use", ErrReleased)
	}
	return fn()
}

// Prepare gives the box's side its address, default route and neighbour again
// and removes any other. Acquire returns prepared slots; a runtime such as runsc
// takes all three off the link when a box starts, so that a slot in which a box
// was started needs Prepare before the next start. It may be repeated.
func (s *Slot) Prepare() error {
	return s.use(func() error { return s.a.prepare(s.n) })
}

// prepare is prepareWith by a handle of its own.
func (a *Allocator) prepare(n int) error {
	err := within(a.path(n), func() error {
		inner, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer inner.Close()
		return a.prepareWith(inner, n)
	})
	if err != nil {
		return opError(n, "prepare", err)
	}
	return nil
}

// SetEgress replaces what the box may reach, in one transaction that holds for
// the next packet, also of connections that are already open. A wrong list is an
// error with [bulkhead.CodeInvalid].
func (s *Slot) SetEgress(e Egress) error {
	e, err := e.check()
	if err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "set egress", Msg: err.Error()}
	}
	return s.use(func() error {
		if err := s.a.rules.set(s.n, e); err != nil {
			return opError(s.n, "set egress", err)
		}
		return nil
	})
}

// SetBandwidth limits the box to kbps kbit/s each way, 64 to 100,000,000; 0 means
// no limit. It may be repeated; a number out of range is an error with
// [bulkhead.CodeInvalid].
func (s *Slot) SetBandwidth(kbps int64) error {
	if err := checkBandwidth(kbps); err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "set bandwidth", Msg: err.Error()}
	}
	return s.use(func() error { return s.a.shape(s.n, kbps) })
}

// Release gives the slot back, with its egress closed, its bandwidth unlimited
// and its connections forgotten. Every process of the box must be gone: a slot
// in whose namespace a socket is still open is not used again but removed.
// Release may be called twice; an error means that something of the slot may be
// left on the host, which the next Reap after a restart removes.
func (s *Slot) Release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return nil
	}
	s.released = true
	defer s.a.nudge()
	return s.a.recycle(s.n)
}

// recycle makes slot n as good as new and shelves it, or destroys it when that
// does not work or no more are wanted.
func (a *Allocator) recycle(n int) error {
	a.mu.Lock()
	closed, full := a.closed, len(a.ready) >= max(a.cfg.Ready, 1)
	a.mu.Unlock()
	if closed {
		return nil // Close or Detach has decided over it
	}
	err := errors.Join(a.rules.set(n, Egress{}), a.forget(n))
	if err == nil && !full {
		var used bool
		if used, err = a.inUse(n); err == nil && !used {
			err = errors.Join(a.shape(n, 0), a.prepare(n))
			if err == nil {
				return a.shelve(n)
			}
		}
	}
	if err != nil {
		a.cfg.Log.Warn("remove a network slot that cannot be used again", "slot", n, "error", err)
	}
	return a.destroy(n)
}

// inUse reports whether a socket is open in slot n's namespace.
func (a *Allocator) inUse(n int) (bool, error) {
	var b []byte
	err := within(a.path(n), func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/sockstat")
		return err
	})
	if err != nil {
		return false, opError(n, "count sockets", err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return first != "sockets: used 0", nil
}

// forget removes the host's memory of slot n's connections, so that nothing
// sent to the old box reaches the next one.
func (a *Allocator) forget(n int) error {
	box := a.plan.box(n).AsSlice()
	from, to := &netlink.ConntrackFilter{}, &netlink.ConntrackFilter{}
	err := errors.Join(
		from.AddIP(netlink.ConntrackOrigSrcIP, box),
		to.AddIP(netlink.ConntrackOrigDstIP, box),
	)
	if err == nil {
		_, err = a.nl.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, from, to)
	}
	if err != nil {
		return opError(n, "forget connections", err)
	}
	return nil
}
