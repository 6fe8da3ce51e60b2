package netslot

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// Egress says what a box may reach. The zero value is nothing at all.
type Egress struct {
	// Internet opens every public address.
	Internet bool
	// DNS opens the allocator's [Config.Resolvers].
	DNS bool
	// Allow opens these prefixes, Deny closes them; where both hold, Allow wins.
	// Neither opens anything private or special. IPv4, at most 64 of each.
	Allow, Deny []netip.Prefix
	// Domains opens the addresses that these names resolve to, and the resolution
	// of these names alone, by the allocator's own forwarder; with it, DNS must be
	// false. As in [bulkhead.Egress], at most 64.
	Domains []string
	// Conns bounds the connections to the outside that the box may have open, if it
	// is lower than [Config.MaxConns]; 0 means no bound of its own. At most 2^20.
	// Connections that are open when it changes count; the room that they leave is
	// there within two seconds.
	Conns int
}

// The bounds of an Egress.
const (
	maxPrefixes = bulkhead.MaxPrefixes
	maxDomains  = bulkhead.MaxDomains
)

// check validates e and brings its lists into the form that the sets take:
// masked, sorted, none inside another.
func (e Egress) check() (Egress, error) {
	for _, list := range []struct {
		name string
		p    *[]netip.Prefix
	}{{"allow", &e.Allow}, {"deny", &e.Deny}} {
		if len(*list.p) > maxPrefixes {
			return e, fmt.Errorf("egress %s has %d prefixes; at most %d are possible", list.name, len(*list.p), maxPrefixes)
		}
		for _, p := range *list.p {
			if !p.IsValid() || !p.Addr().Is4() {
				return e, fmt.Errorf("egress %s has %v; it must be an IPv4 prefix", list.name, p)
			}
		}
		*list.p = distinct(*list.p)
	}
	if len(e.Domains) > maxDomains {
		return e, fmt.Errorf("egress has %d domains; at most %d are possible", len(e.Domains), maxDomains)
	}
	if e.Conns < 0 || e.Conns > maxConns {
		return e, fmt.Errorf("egress Conns is %d; it must be between 0 and %d", e.Conns, maxConns)
	}
	if len(e.Domains) > 0 && (e.DNS || e.Internet) {
		return e, errors.New("egress has domains beside DNS or Internet; where all is open, domains open nothing")
	}
	return e, nil
}

// nothing reports whether e opens nothing.
func (e Egress) nothing() bool {
	return !e.Internet && !e.DNS && len(e.Allow) == 0 && len(e.Domains) == 0
}

// distinct returns the prefixes masked and sorted, without those that another
// one contains. Prefixes nest or are disjoint, so that one pass suffices.
func distinct(in []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.CompactFunc(out, func(a, b netip.Prefix) bool { return a.Overlaps(b) })
}

// special are the IPv4 ranges that are not public, after IANA's registry of
// special-purpose addresses, with multicast, the reserved last /4 and the one
// public address at which a cloud (Azure) gives secrets to its machines.
var special = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
	"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
}

// closed returns the ranges that no box reaches: the special ones and the
// operator's.
func closed(deny []netip.Prefix) []netip.Prefix {
	all := slices.Clone(deny)
	for _, s := range special {
		all = append(all, netip.MustParsePrefix(s))
	}
	return distinct(all)
}

// ruleset is the rule table and what its sets hold. The kernel's copy is only
// written, from this one, so that it can be made anew when someone flushes it.
type ruleset struct {
	host  hostNS
	plan  plan
	cfg   Config
	table *nftables.Table
	sets  sets
	// closed is what is in the set of that name; forwarder is the port that answers
	// the queries of boxes with domains.
	closed    []netip.Prefix
	forwarder uint16

	mu    sync.Mutex
	conn  *nftables.Conn                   // nil until needed and after an error
	slots map[int]Egress                   // registered slots and what is open for them
	caps  map[int]int                      // how many of them have that bound of their own
	pins  map[int]map[netip.Addr]time.Time // addresses of names, open for a slot until then
	// census is of the slots that had connections when their bound changed.
	census map[int]*census
}

// sets are the table's sets.
type sets struct {
	slots     *nftables.Set // link and source address that belong together
	closed    *nftables.Set // destinations that are never open
	resolvers *nftables.Set // destination, protocol and port of Config.Resolvers
	dns       *nftables.Set // sources that may use them
	internet  *nftables.Set // sources that may reach public addresses
	allow     *nftables.Set // source and destination range, open
	deny      *nftables.Set // source and destination range, closed
	conns     *nftables.Set // connections counted by source, filled by the kernel
	caps      *nftables.Set // sources with a bound of their own, and the chain that holds it
	opened    *nftables.Set // destinations that the operator opens though they are special
	filtered  *nftables.Set // sources that may resolve some names only
	pins      *nftables.Set // source and destination, open for a while
	queries   *nftables.Set // name queries counted by source, filled by the kernel
}

func (s sets) all() []*nftables.Set {
	return []*nftables.Set{
		s.slots, s.closed, s.resolvers, s.dns, s.internet, s.allow, s.deny, s.conns,
		s.opened, s.filtered, s.pins, s.queries, s.caps,
	}
}

// concat is the type of a key of several parts. The parts are constants of this
// package and never too many.
func concat(types ...nftables.SetDatatype) nftables.SetDatatype {
	t, err := nftables.ConcatSetType(types...)
	if err != nil {
		panic(err)
	}
	return t
}

func newRuleset(host hostNS, p plan, cfg Config, forwarder uint16) *ruleset {
	t := &nftables.Table{Name: p.name, Family: nftables.TableFamilyINet}
	pair := concat(nftables.TypeIPAddr, nftables.TypeIPAddr)
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key, KeyByteOrder: binaryutil.BigEndian}
	}
	r := &ruleset{
		host: host, plan: p, cfg: cfg, table: t, closed: closed(cfg.Deny), forwarder: forwarder,
		slots: map[int]Egress{}, caps: map[int]int{}, pins: map[int]map[netip.Addr]time.Time{}, census: map[int]*census{},
	}
	r.sets = sets{
		slots:     set("slots", concat(nftables.TypeIFName, nftables.TypeIPAddr)),
		closed:    set("closed", nftables.TypeIPAddr),
		resolvers: set("resolvers", concat(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)),
		dns:       set("dns", nftables.TypeIPAddr),
		internet:  set("internet", nftables.TypeIPAddr),
		allow:     set("allow", pair),
		deny:      set("deny", pair),
		conns:     set("conns", nftables.TypeIPAddr),
		opened:    set("opened", nftables.TypeIPAddr),
		filtered:  set("filtered", nftables.TypeIPAddr),
		pins:      set("pins", pair),
		queries:   set("queries", nftables.TypeIPAddr),
		caps:      set("caps", nftables.TypeIPAddr),
	}
	r.sets.caps.IsMap, r.sets.caps.DataType = true, nftables.TypeVerdict
	r.sets.slots.Concatenation, r.sets.resolvers.Concatenation, r.sets.pins.Concatenation = true, true, true
	r.sets.closed.Interval, r.sets.opened.Interval = true, true
	r.sets.pins.HasTimeout = true
	for _, s := range []*nftables.Set{r.sets.allow, r.sets.deny} {
		s.Concatenation, s.Interval = true, true
	}
	for _, s := range []*nftables.Set{r.sets.conns, r.sets.queries} {
		s.Dynamic = true
		s.Size = uint32(p.size()) //nolint:gosec // at most 2^20
	}
	for i, s := range r.sets.all() {
		s.ID = uint32(i + 1)
	}
	return r
}

// transactLocked sends what fn collects as one transaction: all of it takes
// effect at once, or nothing. The connection is kept, since closing one waits
// for the kernel to dispose of what was deleted (10 ms and more).
func (r *ruleset) transactLocked(fn func(c *nftables.Conn) error) error {
	if r.conn == nil {
		err := r.host.do(func() (err error) {
			r.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
				return c.SetWriteBuffer(4 << 20)
			}))
			return err
		})
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
	}
	err := fn(r.conn)
	if err == nil {
		err = r.conn.Flush()
	}
	if err != nil {
		// What is collected or unread would spoil the next transaction.
		return errors.Join(err, r.closeLocked())
	}
	return nil
}

// closeLocked closes the connection.
func (r *ruleset) closeLocked() error {
	if r.conn == nil {
		return nil
	}
	err := r.conn.CloseLasting()
	r.conn = nil
	if err != nil {
		return fmt.Errorf("close nftables: %w", err)
	}
	return nil
}

// close ends the connection and leaves the table as it is.
func (r *ruleset) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closeLocked()
}

// install puts a fresh table with all registered slots in place of any other of
// its name.
func (r *ruleset) install() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.census)
	return r.transactLocked(func(c *nftables.Conn) error {
		c.AddTable(r.table)
		c.DelTable(r.table)
		c.AddTable(r.table)
		for _, s := range r.sets.all() {
			if err := c.AddSet(s, nil); err != nil {
				return fmt.Errorf("set %s: %w", s.Name, err)
			}
		}
		r.chains(c)
		if err := add(c, r.sets.closed, intervals(r.closed)); err != nil {
			return err
		}
		if err := add(c, r.sets.opened, intervals(distinct(r.cfg.Open))); err != nil {
			return err
		}
		if err := add(c, r.sets.resolvers, services(r.cfg.Resolvers)); err != nil {
			return err
		}
		for limit := range r.caps {
			if err := r.cap(c, limit); err != nil {
				return err
			}
		}
		d := delta{}
		for n, e := range r.slots {
			d.slot(r, n)
			d.egress(r, n, e, r.chainOf(n))
		}
		return d.send(c, (*nftables.Conn).SetAddElements)
	})
}

// intact reports whether the table is there.
func (r *ruleset) intact() (bool, error) {
	err := r.host.do(func() error {
		_, err := (&nftables.Conn{}).ListTableOfFamily(r.table.Name, r.table.Family)
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for table %s: %w", r.table.Name, err)
	}
	return true, nil
}

// remove deletes the table.
func (r *ruleset) remove() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.slots)
	clear(r.pins)
	clear(r.caps)
	clear(r.census)
	err := r.transactLocked(func(c *nftables.Conn) error {
		c.AddTable(r.table) // so that there is one to delete
		c.DelTable(r.table)
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove packet rules: %w", err)
	}
	return nil
}

// add registers slot n with nothing open.
func (r *ruleset) add(n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.slots[n]; ok {
		return fmt.Errorf("slot %d is already registered", n)
	}
	d := delta{}
	d.slot(r, n)
	if err := r.commitLocked(nil, d, nil, nil, nil); err != nil {
		return err
	}
	r.slots[n] = Egress{}
	return nil
}

// drop takes slots out. One that is not registered is fine.
func (r *ruleset) drop(ns []int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := delta{}
	var caps []int
	for _, n := range ns {
		if e, ok := r.slots[n]; ok {
			d.slot(r, n)
			d.egress(r, n, e, r.chainOf(n))
			caps = append(caps, e.Conns)
		}
	}
	for _, n := range ns {
		if err := r.unpinLocked(n); err != nil {
			return err
		}
	}
	if err := r.commitLocked(d, nil, caps, nil, ns); err != nil {
		return fmt.Errorf("drop packet rules: %w", err)
	}
	for _, n := range ns {
		delete(r.slots, n)
		delete(r.pins, n)
	}
	return nil
}

// set changes what is open for slot n, to a checked Egress. If that brings another
// bound, the connections that flows finds are counted for it; nil is for a slot that
// has none.
func (r *ruleset) set(n int, e Egress, flows finder) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.slots[n]
	if !ok {
		return fmt.Errorf("slot %d is not registered", n)
	}
	if e.Conns >= r.cfg.MaxConns {
		e.Conns = 0
	}
	if err := r.unpinLocked(n); err != nil {
		return err
	}
	if flows == nil || e.Conns == 0 || e.Conns == old.Conns && r.census[n] == nil {
		return r.putLocked(n, old, e, capName(e.Conns))
	}
	if err := r.putLocked(n, old, e, holdChain); err != nil {
		return err
	}
	if err := r.countLocked([]int{n}, flows); err != nil {
		return errors.Join(err, r.putLocked(n, e, old, capName(old.Conns)))
	}
	return nil
}

// putLocked puts to in force for slot n in the place of from, with its bound, if any,
// held by chain.
func (r *ruleset) putLocked(n int, from, to Egress, chain string) error {
	del, add := delta{}, delta{}
	del.egress(r, n, from, r.chainOf(n))
	add.egress(r, n, to, chain)
	if err := r.commitLocked(del, add, []int{from.Conns}, []int{to.Conns}, []int{n}); err != nil {
		return err
	}
	r.slots[n] = to
	return nil
}

// commitLocked removes and adds elements in one transaction, and with them the
// chains of bounds that slots had and get, and those of the census of some.
func (r *ruleset) commitLocked(del, add delta, had, get, uncounted []int) error {
	if len(del) == 0 && len(add) == 0 {
		return nil
	}
	caps := maps.Clone(r.caps)
	count(caps, had, -1)
	count(caps, get, 1)
	err := r.transactLocked(func(c *nftables.Conn) error {
		for limit := range caps {
			if r.caps[limit] == 0 {
				if err := r.cap(c, limit); err != nil {
					return err
				}
			}
		}
		if err := del.send(c, (*nftables.Conn).SetDeleteElements); err != nil {
			return err
		}
		if err := add.send(c, (*nftables.Conn).SetAddElements); err != nil {
			return err
		}
		for _, n := range uncounted {
			if of := r.census[n]; of != nil {
				r.uncensus(c, n, of)
			}
		}
		for limit := range r.caps {
			if caps[limit] == 0 {
				r.uncap(c, limit)
			}
		}
		return nil
	})
	if err == nil {
		r.caps = caps
		for _, n := range uncounted {
			delete(r.census, n)
		}
	}
	return err
}

// count adds by to the count of each limit that is one.
func count(caps map[int]int, limits []int, by int) {
	for _, limit := range limits {
		if limit == 0 {
			continue
		}
		if caps[limit] += by; caps[limit] == 0 {
			delete(caps, limit)
		}
	}
}

// delta collects elements by set.
type delta map[*nftables.Set][]nftables.SetElement

func (d delta) put(s *nftables.Set, e nftables.SetElement) { d[s] = append(d[s], e) }

// slot collects what registers slot n.
func (d delta) slot(r *ruleset, n int) {
	key := append(ifname(r.plan.hostLink(n)), r.plan.box(n).AsSlice()...)
	d.put(r.sets.slots, nftables.SetElement{Key: key})
}

// egress collects what e opens for slot n, whose bound, if any, chain holds.
func (d delta) egress(r *ruleset, n int, e Egress, chain string) {
	src := r.plan.box(n).AsSlice()
	if e.Internet {
		d.put(r.sets.internet, nftables.SetElement{Key: src})
	}
	if e.DNS {
		d.put(r.sets.dns, nftables.SetElement{Key: src})
	}
	if len(e.Domains) > 0 {
		d.put(r.sets.filtered, nftables.SetElement{Key: src})
	}
	if e.Conns > 0 {
		d.put(r.sets.caps, nftables.SetElement{
			Key: src, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain},
		})
	}
	for _, p := range e.Allow {
		d.put(r.sets.allow, pairRange(src, p))
	}
	for _, p := range e.Deny {
		d.put(r.sets.deny, pairRange(src, p))
	}
}

// send hands the elements to op, in messages that fit netlink's 64 KiB.
func (d delta) send(c *nftables.Conn, op func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	for s, all := range d {
		for part := range slices.Chunk(all, 400) {
			if err := op(c, s, part); err != nil {
				return fmt.Errorf("set %s: %w", s.Name, err)
			}
		}
	}
	return nil
}

// add fills a set that has elements from the start.
func add(c *nftables.Conn, s *nftables.Set, elems []nftables.SetElement) error {
	return delta{s: elems}.send(c, (*nftables.Conn).SetAddElements)
}

// ifname is a link's name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// pairRange is the element that joins one source with a range of destinations.
func pairRange(src []byte, p netip.Prefix) nftables.SetElement {
	return nftables.SetElement{
		Key:    slices.Concat(src, p.Addr().AsSlice()),
		KeyEnd: slices.Concat(src, last(p).AsSlice()),
	}
}

// last returns the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(b)
}

// intervals gives sorted, disjoint prefixes as half-open intervals, touching
// ones as one; the last one may have no end.
func intervals(ps []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	var end netip.Addr
	for _, p := range ps {
		if p.Addr() != end {
			if end.IsValid() {
				out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
			}
			out = append(out, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		end = last(p).Next()
	}
	if end.IsValid() {
		out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return out
}

// services gives each resolver over UDP and TCP. Every part of the key takes
// whole 4-byte registers.
func services(rs []netip.AddrPort) []nftables.SetElement {
	var out []nftables.SetElement
	for _, r := range rs {
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			key := slices.Concat(r.Addr().AsSlice(), []byte{proto, 0, 0, 0},
				binary.BigEndian.AppendUint16(nil, r.Port()), []byte{0, 0})
			out = append(out, nftables.SetElement{Key: key})
		}
	}
	return out
}
