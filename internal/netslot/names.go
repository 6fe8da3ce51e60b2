package netslot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/nftables"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/resolver"
)

// Boxes with [Egress.Domains] have their queries to [Config.Resolvers] redirected
// to a forwarder in this process, which listens on a port of its own choice that
// only they can reach. An address that it answers is pinned: open to that box for
// as long as the kernel keeps an element of the set "pins". When this process
// dies, nobody answers and the pins run out.

var _ resolver.Gate = (*Allocator)(nil)

// maxPins bounds the addresses that are open to one box by name.
const maxPins = 1024

// listen opens the forwarder's port on the host.
func (a *Allocator) listen() error {
	return a.host.do(func() error {
		ctx := context.Background()
		var lc net.ListenConfig
		for range 16 { // until both protocols have the same one
			l, err := lc.Listen(ctx, "tcp4", ":0")
			if err != nil {
				return fmt.Errorf("open the forwarder's port: %w", err)
			}
			port := l.Addr().(*net.TCPAddr).Port //nolint:errcheck,forcetypeassert // it is one
			pc, err := lc.ListenPacket(ctx, "udp4", ":"+strconv.Itoa(port))
			if err != nil {
				_ = l.Close()
				continue
			}
			a.names.tcp, a.names.udp, a.names.port = l, pc, uint16(port) //nolint:gosec // a port
			return nil
		}
		return errors.New("open the forwarder's port: no number is free for both TCP and UDP")
	})
}

// names is the forwarder's part of an [Allocator].
type names struct {
	tcp  net.Listener
	udp  net.PacketConn
	port uint16
}

// close closes what listen opened.
func (n names) close() {
	if n.tcp != nil {
		_ = n.tcp.Close()
		_ = n.udp.Close()
	}
}

// resolve answers boxes' queries until ctx is done.
func (a *Allocator) resolve(ctx context.Context) error {
	r, err := resolver.New(resolver.Config{
		Gate: a, Upstreams: a.cfg.Resolvers, Log: a.cfg.Log,
		Dial: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = a.host.do(func() (err error) {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	})
	if err != nil {
		return err
	}
	return r.Serve(ctx, a.names.udp, a.names.tcp)
}

// Domains implements [resolver.Gate].
func (a *Allocator) Domains(box netip.Addr) []string {
	n, ok := a.plan.ofBox(box)
	if !ok {
		return nil
	}
	a.rules.mu.Lock()
	defer a.rules.mu.Unlock()
	return a.rules.slots[n].Domains
}

// Public implements [resolver.Gate].
func (a *Allocator) Public(addr netip.Addr) bool {
	for _, p := range a.cfg.Open {
		if p.Contains(addr) {
			return true
		}
	}
	for _, p := range a.rules.closed {
		if p.Contains(addr) {
			return false
		}
	}
	return addr.Is4()
}

// Pin implements [resolver.Gate].
func (a *Allocator) Pin(box netip.Addr, addrs []netip.Addr, lifetime time.Duration) error {
	n, ok := a.plan.ofBox(box)
	if !ok {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "%s is no box's address", box)
	}
	return a.rules.pin(n, addrs, lifetime)
}

// pin opens addresses to slot n for that long; those that are open already, for
// that long from now.
func (r *ruleset) pin(n int, addrs []netip.Addr, lifetime time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.slots[n].Domains) == 0 {
		return bulkhead.Errorf(bulkhead.CodeConflict, "slot %d may resolve no names any more", n)
	}
	now := time.Now()
	pins := r.pins[n]
	for addr, until := range pins {
		if now.After(until) {
			delete(pins, addr)
		}
	}
	if len(pins)+len(addrs) > maxPins {
		return bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "slot %d has %d addresses open by name; at most %d are possible", n, len(pins), maxPins)
	}
	var elems []nftables.SetElement
	src := r.plan.box(n).AsSlice()
	for _, addr := range addrs {
		elems = append(elems, nftables.SetElement{Key: append(src[:4:4], addr.AsSlice()...), Timeout: lifetime})
	}
	if err := r.replaceLocked(elems, true); err != nil {
		return fmt.Errorf("open addresses for slot %d: %w", n, err)
	}
	if pins == nil {
		pins = map[netip.Addr]time.Time{}
		r.pins[n] = pins
	}
	for _, addr := range addrs {
		pins[addr] = now.Add(lifetime)
	}
	return nil
}

// unpinLocked closes what is open to slot n by name.
func (r *ruleset) unpinLocked(n int) error {
	if len(r.pins[n]) == 0 {
		return nil
	}
	var elems []nftables.SetElement
	src := r.plan.box(n).AsSlice()
	for addr := range r.pins[n] {
		elems = append(elems, nftables.SetElement{Key: append(src[:4:4], addr.AsSlice()...), Timeout: time.Minute})
	}
	if err := r.replaceLocked(elems, false); err != nil {
		return fmt.Errorf("close addresses of slot %d: %w", n, err)
	}
	delete(r.pins, n)
	return nil
}

// replaceLocked removes pins, and puts fresh ones in their place if asked. The
// kernel drops them by its own clock, so that each is added first in order to be
// there to be removed.
func (r *ruleset) replaceLocked(elems []nftables.SetElement, again bool) error {
	d := delta{r.sets.pins: elems}
	return r.transactLocked(func(c *nftables.Conn) error {
		err := errors.Join(d.send(c, (*nftables.Conn).SetAddElements), d.send(c, (*nftables.Conn).SetDeleteElements))
		if again {
			err = errors.Join(err, d.send(c, (*nftables.Conn).SetAddElements))
		}
		return err
	})
}
