package netslot

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// boxLink is the name of the link inside every namespace.
const boxLink = "eth0"

// plan computes the names and addresses of slots from their index. Each slot
// has four addresses: network, host side, box side, broadcast.
type plan struct {
	name   string
	prefix netip.Prefix
}

// size is the number of slots in the prefix.
func (p plan) size() int { return 1 << (30 - p.prefix.Bits()) }

// offset returns the i-th of slot n's four addresses.
func (p plan) offset(n, i int) netip.Addr {
	b := p.prefix.Addr().As4()
	base := binary.BigEndian.Uint32(b[:])
	binary.BigEndian.PutUint32(b[:], base+uint32(4*n+i)) //nolint:gosec // below 2^24 by the range of n
	return netip.AddrFrom4(b)
}

func (p plan) gateway(n int) netip.Addr { return p.offset(n, 1) }
func (p plan) box(n int) netip.Addr     { return p.offset(n, 2) }

// hostLink, shapeLink and file are the slot's names on the host.
func (p plan) hostLink(n int) string  { return p.name + strconv.Itoa(n) }
func (p plan) shapeLink(n int) string { return p.name + "i" + strconv.Itoa(n) }
func (p plan) file(n int) string      { return p.name + "-" + strconv.Itoa(n) }

// gatewayMAC and boxMAC are unicast, locally administered and made from the
// address, so that a slot's neighbours are known without asking.
func (p plan) gatewayMAC(n int) net.HardwareAddr { return mac(0xbd, p.gateway(n)) }
func (p plan) boxMAC(n int) net.HardwareAddr     { return mac(0xbe, p.box(n)) }

func mac(kind byte, a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, kind, b[0], b[1], b[2], b[3]}
}

// ofLink returns the index of the slot that a host link belongs to.
func (p plan) ofLink(link string) (int, bool) {
	rest, ok := strings.CutPrefix(link, p.name)
	if !ok {
		return 0, false
	}
	return p.parse(strings.TrimPrefix(rest, "i"))
}

// ofBox returns the index of the slot that a box's address belongs to.
func (p plan) ofBox(addr netip.Addr) (int, bool) {
	if !addr.Is4() || !p.prefix.Contains(addr) {
		return 0, false
	}
	a, b := addr.As4(), p.prefix.Addr().As4()
	off := binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(b[:])
	return int(off / 4), off%4 == 2
}

// ofFile returns the index of the slot that a namespace file belongs to.
func (p plan) ofFile(name string) (int, bool) {
	rest, ok := strings.CutPrefix(name, p.name+"-")
	if !ok {
		return 0, false
	}
	return p.parse(rest)
}

// parse reads an index in the one form that the names above have.
func (p plan) parse(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n >= p.size() || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}

// ipNet converts an address of a slot for the netlink package.
func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}

// slotNet is ipNet with the mask of a slot.
func slotNet(a netip.Addr) *net.IPNet { return ipNet(a, 30) }

// opError names the slot and the step in an error.
func opError(n int, step string, err error) error {
	return fmt.Errorf("network slot %d: %s: %w", n, step, err)
}
