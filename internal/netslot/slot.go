package netslot

import (
	"errors"
	"fmt"
	"net"
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
	talked   bool // may have had connections to the outside
	opened   bool // something was open before
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
// the next packet either way, also of connections that are already open. Only a
// connection to an address of an allowed name outlives the name's answer, until
// the next SetEgress. Connections that are open count for a new bound, and until they
// are counted (10 ms) new ones wait. Where names follow something that was open, all is closed
// for the 10 ms in which the host forgets the box's connections, and stays closed
// if that fails. A wrong list is an error with [bulkhead.CodeInvalid].
func (s *Slot) SetEgress(e Egress) error {
	e, err := e.check()
	if err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "set egress", Msg: err.Error()}
	}
	return s.use(func() error {
		s.talked = true
		if s.opened && len(e.Domains) > 0 {
			err := s.a.rules.set(s.n, Egress{}, nil)
			if err == nil {
				err = s.a.forget([]cooling{{n: s.n, talked: true}})
			}
			if err != nil {
				return opError(s.n, "close egress", err)
			}
		}
		var flows finder
		if s.opened {
			flows = s.a.flows
		}
		if err := s.a.rules.set(s.n, e, flows); err != nil {
			return opError(s.n, "set egress", err)
		}
		s.opened = s.opened || !e.nothing()
		return nil
	})
}

// SetBandwidth limits the box to kbps kbit/s each way, 64 to 100,000,000, and to
// pps packets per second each way, 100 to 10,000,000; 0 means no limit, and
// without the first there is none of the second. It may be repeated; a number out
// of range is an error with [bulkhead.CodeInvalid].
func (s *Slot) SetBandwidth(kbps, pps int64) error {
	if err := checkRates(kbps, pps); err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "set bandwidth", Msg: err.Error()}
	}
	return s.use(func() error { return s.a.shape(s.n, kbps, pps) })
}

// Release gives the slot back and closes its egress at once. Before it is used
// again its bandwidth is unlimited and its connections are forgotten, which
// [Allocator.Run] does for all released slots together. Every process of the box
// must be gone: a slot in whose namespace a socket is still open is not used
// again but removed. Release may be called twice; the error is for the log.
func (s *Slot) Release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return nil
	}
	s.released = true
	a := s.a
	a.mu.Lock()
	closed := a.closed
	a.mu.Unlock()
	if closed {
		return nil // Close or Detach has decided over it
	}
	if err := a.rules.set(s.n, Egress{}, nil); err != nil {
		_, gone := a.destroy(s.n)
		return errors.Join(opError(s.n, "close egress", err), gone)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.cooling = append(a.cooling, cooling{n: s.n, talked: s.talked})
	}
	return nil
}

// cooling is a released slot.
type cooling struct {
	n      int
	talked bool
	tries  int // how often it was found in use
}

// maxTries is how often a released slot may be found in use, a quarter of a
// second apart: the kernel counts a closed socket for some 50 ms more.
const maxTries = 8

// recycle makes the released slots as good as new and shelves as many as are
// wanted. The rest, and those that cannot be cleaned, are destroyed.
func (a *Allocator) recycle() {
	a.mu.Lock()
	batch := a.cooling
	a.cooling = nil
	room := max(a.cfg.Ready, 1) - len(a.ready)
	a.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	failed := a.forget(batch)
	var drop []int
	var again []cooling
	for _, c := range batch {
		if failed != nil || room <= 0 {
			drop = append(drop, c.n)
			continue
		}
		switch err := a.clean(c.n); {
		case err == nil:
			room--
		case errors.Is(err, errInUse) && c.tries < maxTries:
			again = append(again, cooling{n: c.n, tries: c.tries + 1})
		default:
			a.cfg.Log.Warn("remove a network slot that cannot be used again", "slot", c.n, "error", err)
			drop = append(drop, c.n)
		}
	}
	a.mu.Lock()
	if !a.closed {
		a.cooling = append(a.cooling, again...)
	}
	a.mu.Unlock()
	_, err := a.destroy(drop...)
	if err := errors.Join(failed, err); err != nil {
		a.cfg.Log.Warn("clean up released network slots", "error", err)
	}
}

// errInUse says that a slot's namespace has an open socket.
var errInUse = errors.New("a process still has a socket in the namespace")

// clean checks that nobody is left in slot n, resets it and shelves it.
func (a *Allocator) clean(n int) error {
	used, err := a.inUse(n)
	if err != nil {
		return err
	}
	if used {
		return opError(n, "clean", errInUse)
	}
	if err := errors.Join(a.shape(n, 0, 0), a.prepare(n)); err != nil {
		return err
	}
	return a.shelve(n)
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

// forget removes the host's memory of the connections of released slots, so
// that nothing sent to an old box reaches the next one. The kernel walks its
// whole table for it (10 ms for 262,144 buckets), however many slots there are.
func (a *Allocator) forget(batch []cooling) error {
	boxes := addresses{}
	for _, c := range batch {
		if c.talked {
			boxes[a.plan.box(c.n)] = true
		}
	}
	if len(boxes) == 0 {
		return nil
	}
	if _, err := a.nl.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, boxes); err != nil {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// addresses selects the connections of any of some boxes.
type addresses map[netip.Addr]bool

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (s addresses) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP} {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && s[a] {
			return true
		}
	}
	return false
}
