package netslot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// forwardFile is the switch that makes the host forward IPv4.
const forwardFile = "/proc/sys/net/ipv4/ip_forward"

// enableForwarding switches IPv4 forwarding on and reports whether it was off.
func enableForwarding() (bool, error) {
	b, err := os.ReadFile(forwardFile)
	if err != nil {
		return false, fmt.Errorf("read IPv4 forwarding: %w", err)
	}
	if strings.TrimSpace(string(b)) == "1" {
		return false, nil
	}
	if err := os.WriteFile(forwardFile, []byte("1"), 0o644); err != nil { //nolint:gosec // a sysctl
		return false, fmt.Errorf("switch IPv4 forwarding on: %w", err)
	}
	return true, nil
}

// disableIPv6 keeps IPv6 off an interface of the current thread's namespace, or
// off "all" and "default". A kernel without IPv6 has nothing to switch off.
func disableIPv6(link string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0o644) //nolint:gosec // a sysctl
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("switch IPv6 off: %w", err)
	}
	return nil
}

// checkPrefix refuses a prefix that overlaps an address of another link.
func (a *Allocator) checkPrefix() error {
	links, err := a.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	own := map[int]bool{}
	name := map[int]string{}
	for _, l := range links {
		_, ours := a.plan.ofLink(l.Attrs().Name)
		own[l.Attrs().Index], name[l.Attrs().Index] = ours, l.Attrs().Name
	}
	addrs, err := a.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, x := range addrs {
		ip, ok := netip.AddrFromSlice(x.IP.To4())
		bits, _ := x.Mask.Size()
		if ok && !own[x.LinkIndex] && netip.PrefixFrom(ip, bits).Overlaps(a.cfg.Prefix) {
			return fmt.Errorf("netslot: Prefix %v overlaps address %v/%d of %s", a.cfg.Prefix, ip, bits, name[x.LinkIndex])
		}
	}
	return nil
}

// uplinkMTU returns the MTU of the default route's link, at least 1280.
func (a *Allocator) uplinkMTU() int {
	const fallback = 1500
	routes, err := a.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_DST)
	if err != nil || len(routes) == 0 {
		return fallback
	}
	link, err := a.nl.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return fallback
	}
	return max(link.Attrs().MTU, 1280)
}

// path is the file that slot n's namespace is bound to.
func (a *Allocator) path(n int) string { return filepath.Join(a.cfg.Dir, a.plan.file(n)) }

// build makes a slot on a free index: clean, prepared, registered. What an
// earlier crash left in its place is removed first.
func (a *Allocator) build() (int, error) {
	n, err := a.reserve()
	if err != nil {
		return 0, err
	}
	err = a.assemble(n)
	if errors.Is(err, os.ErrExist) {
		if _, err = a.dismantle([]int{n}); err == nil {
			err = a.assemble(n)
		}
	}
	if err != nil {
		_, cleanup := a.destroy(n)
		return 0, errors.Join(err, cleanup)
	}
	return n, nil
}

// assemble makes all of slot n. It leaves what it made in place on an error.
func (a *Allocator) assemble(n int) error {
	f, err := os.OpenFile(a.path(n), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444) //nolint:gosec // a mount point
	if err != nil {
		return opError(n, "make namespace file", err)
	}
	_ = f.Close()
	inner, ns, err := newNamespace(a.path(n))
	if err != nil {
		return opError(n, "make namespace", err)
	}
	defer inner.Close()
	defer ns.Close() //nolint:errcheck // only a reference
	if err := a.plug(n, ns); err != nil {
		return err
	}
	if err := a.prepareWith(inner, n); err != nil {
		return err
	}
	if err := a.rules.add(n); err != nil {
		return opError(n, "register", err)
	}
	return nil
}

// newNamespace makes a network namespace without IPv6, with its loopback up,
// bound to the file at path. The caller closes the netlink handle into it and
// the reference.
func newNamespace(path string) (*netlink.Handle, netns.NsHandle, error) {
	var inner *netlink.Handle
	ns := netns.None()
	err := onThread(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := errors.Join(disableIPv6("all"), disableIPv6("default")); err != nil {
			return err
		}
		if inner, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		// Index 1 is the loopback link of every namespace.
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}
		if err := inner.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set loopback up: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		return nil
	})
	if err != nil {
		if inner != nil {
			inner.Close()
		}
		if ns.IsOpen() {
			_ = ns.Close()
		}
		return nil, netns.None(), err
	}
	return inner, ns, nil
}

// plug makes slot n's veth pair and sets its host side up.
func (a *Allocator) plug(n int, ns netns.NsHandle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.plan.hostLink(n), a.cfg.MTU, a.plan.gatewayMAC(n)
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = boxLink, a.plan.boxMAC(n), netlink.NsFd(ns)
	veth.PeerMTU, veth.PeerNumTxQueues, veth.PeerNumRxQueues = uint32(a.cfg.MTU), 1, 1 //nolint:gosec // at most 65535
	if err := a.nl.LinkAdd(veth); err != nil {
		return opError(n, "make veth", err)
	}
	if err := a.host.do(func() error { return disableIPv6(attrs.Name) }); err != nil {
		return opError(n, "host link", err)
	}
	// Both ends know each other's hardware address, so ARP is switched off: a box
	// cannot fill the host's neighbour table with made-up senders.
	err := errors.Join(
		a.nl.LinkSetARPOff(veth),
		a.nl.LinkSetUp(veth),
		a.nl.AddrAdd(veth, &netlink.Addr{IPNet: slotNet(a.plan.gateway(n))}),
		a.nl.NeighSet(neighbour(veth.Attrs().Index, a.plan.box(n), a.plan.boxMAC(n))),
	)
	if err != nil {
		return opError(n, "set host link up", err)
	}
	return nil
}

func neighbour(link int, ip netip.Addr, hw net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: ip.AsSlice(), HardwareAddr: hw,
	}
}

// prepareWith brings the box's side of slot n to exactly its address, default
// route and neighbour, whatever a runtime took away or a box added.
func (a *Allocator) prepareWith(inner *netlink.Handle, n int) error {
	link, err := inner.LinkByName(boxLink)
	if err != nil {
		return opError(n, "find box link", err)
	}
	if err := inner.LinkSetUp(link); err != nil {
		return opError(n, "set box link up", err)
	}
	want := slotNet(a.plan.box(n))
	addrs, err := inner.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return opError(n, "list box addresses", err)
	}
	for _, x := range addrs {
		if x.IPNet.String() == want.String() {
			continue
		}
		if err := inner.AddrDel(link, &x); err != nil {
			return opError(n, "remove foreign address", err)
		}
	}
	routes, err := inner.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return opError(n, "list box routes", err)
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		if err := inner.RouteDel(&r); err != nil {
			return opError(n, "remove route", err)
		}
	}
	err = errors.Join(
		inner.AddrReplace(link, &netlink.Addr{IPNet: want}),
		inner.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: a.plan.gateway(n).AsSlice()}),
		inner.NeighSet(neighbour(link.Attrs().Index, a.plan.gateway(n), a.plan.gatewayMAC(n))),
	)
	if err != nil {
		return opError(n, "give address and route", err)
	}
	return nil
}

// inspect checks that slot n's namespace and link are there.
func (a *Allocator) inspect(n int) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.path(n), &fs); err != nil {
		return fmt.Errorf("namespace %s: %w", a.path(n), err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("namespace %s is not bound: %w", a.path(n), os.ErrNotExist)
	}
	if _, err := a.nl.LinkByName(a.plan.hostLink(n)); err != nil {
		return fmt.Errorf("link %s: %w: %w", a.plan.hostLink(n), err, os.ErrNotExist)
	}
	return nil
}

// present lists the indexes of all slots of which anything is on the host.
func (a *Allocator) present() ([]int, error) {
	seen := map[int]bool{}
	entries, err := os.ReadDir(a.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", a.cfg.Dir, err)
	}
	for _, e := range entries {
		if n, ok := a.plan.ofFile(e.Name()); ok {
			seen[n] = true
		}
	}
	links, err := a.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if n, ok := a.plan.ofLink(l.Attrs().Name); ok {
			seen[n] = true
		}
	}
	var out []int
	for n := range seen {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// destroy removes all of the given slots, whatever exists of them, and frees
// their indexes, on an error too: whoever gets one next removes what is left
// before building. It returns the slots that are gone.
func (a *Allocator) destroy(ns ...int) ([]int, error) {
	if len(ns) == 0 {
		return nil, nil
	}
	gone, err := a.dismantle(ns)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range ns {
		delete(a.taken, n)
	}
	return gone, err
}

// doomed is the group that links are put into to be deleted all at once: the
// kernel waits some 20 ms for each deletion, with its one lock of all links held.
const doomed = 0x62756c6b

// dismantle removes the slots from the host: rules, links, namespaces.
func (a *Allocator) dismantle(ns []int) ([]int, error) {
	err := errors.Join(a.rules.drop(ns), a.unplug(ns))
	var gone []int
	for _, n := range ns {
		e := unbind(a.path(n))
		if e != nil {
			err = errors.Join(err, opError(n, "remove namespace", e))
		} else {
			gone = append(gone, n)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("remove network slots: %w", err)
	}
	return gone, nil
}

// unplug deletes the host links of the slots, and with them the boxes' links.
func (a *Allocator) unplug(ns []int) error {
	marked := 0
	for _, n := range ns {
		for _, name := range []string{a.plan.hostLink(n), a.plan.shapeLink(n)} {
			link, err := a.nl.LinkByName(name)
			if err == nil {
				err = a.nl.LinkSetGroup(link, doomed)
			}
			// A link goes by itself when the last process of its namespace does.
			if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) {
				continue
			}
			if err != nil {
				return opError(n, "mark "+name, err)
			}
			marked++
		}
	}
	if marked == 0 {
		return nil
	}
	return a.host.do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomed)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete links: %w", err)
		}
		return nil
	})
}

// unbind lets go of the namespace at path.
func unbind(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not a mount point, or no file
		return fmt.Errorf("unmount: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
