package netslot

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The packet filter counts a connection for a bound when it sees its first packet,
// and never again. So what a box has open when its bound changes, or when the rules
// are made anew, is counted by us in the host's table of connections: the box may
// have as many more as the bound leaves, and room that one of the counted leaves is
// given when we look again. The filter counts the new ones for the bound, too, so
// that when the last of the others has ended it knows of all and needs no help.

// flow is a connection of a box.
type flow struct {
	proto    uint8
	from, to netip.AddrPort
}

// census is what is known of the connections of one slot.
type census struct {
	seen      map[flow]bool // open when they were counted
	uncounted map[flow]bool // of those, the ones of which the bound's set knows nothing
	left      int           // how many more there may be
	serial    int           // of the chain in force
}

// gone reports whether some of those that were seen have ended.
func (c *census) gone(open map[flow]bool) bool {
	for f := range c.seen {
		if !open[f] {
			return true
		}
	}
	return false
}

// flows returns the connections to the outside that slots have open. ICMP, which has
// no ports, is left out: what it opens lasts for seconds. The kernel shows its whole
// table for it (10 ms for 262,144 buckets).
func (a *Allocator) flows(slots map[netip.Addr]int) (map[int]map[flow]bool, error) {
	var all []*netlink.ConntrackFlow
	var err error = netlink.ErrDumpInterrupted
	for tries := 0; tries < 5 && errors.Is(err, netlink.ErrDumpInterrupted); tries++ { // the table changed meanwhile
		all, err = a.nl.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	}
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	found := map[int]map[flow]bool{}
	for _, c := range all {
		src, _ := netip.AddrFromSlice(c.Forward.SrcIP.To4())
		dst, _ := netip.AddrFromSlice(c.Forward.DstIP.To4())
		n, ok := slots[src]
		if !ok || c.Forward.Protocol == unix.IPPROTO_ICMP || ended(c) {
			continue
		}
		if found[n] == nil {
			found[n] = map[flow]bool{}
		}
		found[n][flow{c.Forward.Protocol, netip.AddrPortFrom(src, c.Forward.SrcPort), netip.AddrPortFrom(dst, c.Forward.DstPort)}] = true
	}
	return found, nil
}

// ended reports whether the kernel only remembers a connection of TCP, as it does
// for a while, and no longer counts it.
func ended(c *netlink.ConntrackFlow) bool {
	tcp, ok := c.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && (tcp.State == nl.TCP_CONNTRACK_TIME_WAIT || tcp.State == nl.TCP_CONNTRACK_CLOSE)
}

// recount counts the connections of all slots with a bound of their own: the rules
// are new and know of none.
func (a *Allocator) recount() error {
	a.rules.mu.Lock()
	defer a.rules.mu.Unlock()
	var bounded []int
	for n, e := range a.rules.slots {
		if e.Conns > 0 {
			bounded = append(bounded, n)
		}
	}
	return a.rules.recountLocked(bounded, a.flows)
}

// settle gives the room that counted connections have left.
func (a *Allocator) settle() error {
	r := a.rules
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.census) == 0 {
		return nil
	}
	open, err := a.flows(r.addresses(slices.Collect(maps.Keys(r.census))))
	if err != nil {
		return err
	}
	var changed []int
	for n, c := range r.census {
		if c.gone(open[n]) {
			changed = append(changed, n)
		}
	}
	return r.recountLocked(changed, a.flows)
}

// addresses are those of some slots.
func (r *ruleset) addresses(slots []int) map[netip.Addr]int {
	all := map[netip.Addr]int{}
	for _, n := range slots {
		all[r.plan.box(n)] = n
	}
	return all
}

// holdChain is the name of the chain that lets new connections wait: their first
// packet is dropped, and sent again.
const holdChain = "hold"

// finder finds the connections that slots have open, by their addresses.
type finder func(slots map[netip.Addr]int) (map[int]map[flow]bool, error)

// recountLocked holds new connections of slots up for the moment that it takes to
// count those that are open, so that none is missed.
func (r *ruleset) recountLocked(slots []int, flows finder) error {
	if len(slots) == 0 {
		return nil
	}
	if err := r.sendLocked(slots, func(int) string { return holdChain }, nil); err != nil {
		return err
	}
	if err := r.countLocked(slots, flows); err != nil {
		return errors.Join(err, r.sendLocked(slots, r.chainOf, nil))
	}
	return nil
}

// countLocked counts the connections of slots, whose new ones are held up, for their
// bounds, and lets new ones through as far as these leave room.
func (r *ruleset) countLocked(slots []int, flows finder) error {
	open, err := flows(r.addresses(slots))
	if err != nil {
		return err
	}
	before, after := maps.Clone(r.census), maps.Clone(r.census)
	for _, n := range slots {
		c, old := &census{seen: open[n], uncounted: open[n], left: max(0, r.slots[n].Conns-len(open[n]))}, before[n]
		if old != nil {
			c.serial, c.uncounted = old.serial+1, maps.Clone(old.uncounted)
			maps.DeleteFunc(c.uncounted, func(f flow, _ bool) bool { return !open[n][f] })
		}
		if delete(after, n); len(c.uncounted) > 0 {
			after[n] = c
		}
	}
	r.census = after
	err = r.sendLocked(slots, r.chainOf, func(c *nftables.Conn, made bool) error {
		for _, n := range slots {
			switch {
			case !made && before[n] != nil:
				r.uncensus(c, n, before[n])
			case made && after[n] != nil:
				if err := r.addCensus(c, n, after[n]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		r.census = before
	}
	return err
}

// chainOf is the name of the chain that holds slot n's bound.
func (r *ruleset) chainOf(n int) string {
	if c := r.census[n]; c != nil {
		return c.name(n)
	}
	return capName(r.slots[n].Conns)
}

// sendLocked sends the new connections of slots to other chains. with, unless it is
// nil, is called twice within the transaction: to make what is needed before, and to
// remove what is not needed after it.
func (r *ruleset) sendLocked(slots []int, to func(n int) string, with func(c *nftables.Conn, made bool) error) error {
	return r.transactLocked(func(c *nftables.Conn) error {
		if with != nil {
			if err := with(c, true); err != nil {
				return err
			}
		}
		old, fresh := delta{}, delta{}
		for _, n := range slots {
			key := r.plan.box(n).AsSlice()
			old.put(r.sets.caps, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: r.chainOf(n)}})
			fresh.put(r.sets.caps, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: to(n)}})
		}
		if err := old.send(c, (*nftables.Conn).SetDeleteElements); err != nil {
			return err
		}
		if err := fresh.send(c, (*nftables.Conn).SetAddElements); err != nil {
			return err
		}
		if with != nil {
			return with(c, false)
		}
		return nil
	})
}

// name is that of the census's chain and of the set in which it counts.
func (c *census) name(n int) string { return fmt.Sprintf("left_%d_%d", n, c.serial) }

// set is the one in which connections beyond those of the census are counted.
func (r *ruleset) leftSet(n int, c *census) *nftables.Set {
	return &nftables.Set{
		Table: r.table, Name: c.name(n), KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian,
		Dynamic: true, Size: leftSize, ID: uint32(leftSets + n), //nolint:gosec // at most 2^21
	}
}

// leftSize is how many entries of the one box a set has room for. There is one that
// counts. The kernel throws an entry without connections away within a second, and
// until it has the entry takes up room, and another counts.
const leftSize = 64

// leftSets is where the ids of these sets begin, above those of the bounds.
const leftSets = 1000 + maxConns + 1

// addCensus adds the chain that refuses what the bound does not leave.
func (r *ruleset) addCensus(c *nftables.Conn, n int, of *census) error {
	chain := &nftables.Chain{Table: r.table, Name: of.name(n)}
	limit := r.slots[n].Conns
	_, counted := r.capped(limit)
	c.AddChain(chain)
	refuse := jump(&nftables.Chain{Name: refuseChain})
	rule := func(parts ...match) {
		c.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	rule(source(reg0), countOver(counted, limit), refuse)
	if of.left == 0 {
		rule(refuse)
		return nil
	}
	left := r.leftSet(n, of)
	if err := c.AddSet(left, nil); err != nil {
		return fmt.Errorf("set %s: %w", left.Name, err)
	}
	rule(source(reg0), countOver(left, of.left), refuse)
	return nil
}

// uncensus removes what addCensus added.
func (r *ruleset) uncensus(c *nftables.Conn, n int, of *census) {
	chain := &nftables.Chain{Table: r.table, Name: of.name(n)}
	c.FlushChain(chain)
	c.DelChain(chain)
	if of.left > 0 {
		c.DelSet(r.leftSet(n, of))
	}
}
