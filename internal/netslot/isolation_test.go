package netslot

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// TestReach is the table of who reaches whom.
func TestReach(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	closed, dns, internet, lists := acquire(t, a), acquire(t, a), acquire(t, a), acquire(t, a)
	must(t, dns.SetEgress(Egress{DNS: true}))
	must(t, internet.SetEgress(Egress{Internet: true}))
	must(t, lists.SetEgress(Egress{
		Internet: true,
		Allow:    []netip.Prefix{netip.MustParsePrefix(worldOther + "/32"), netip.MustParsePrefix("10.0.0.0/8")},
		Deny:     []netip.Prefix{netip.MustParsePrefix("12.0.0.0/8"), netip.MustParsePrefix("11.1.1.0/24")},
	}))
	for _, ip := range []string{worldPublic, worldOther, worldPrivate, worldMetadata, worldLAN} {
		echo(t, l.world, ip+":80")
		echo(t, l.world, ip+":53")
	}
	echo(t, l.host, "0.0.0.0:80")
	echo(t, l.host, hostLAN+":53")
	for _, s := range []*Slot{closed, internet} {
		echo(t, s.Path(), "0.0.0.0:8080")
	}

	for _, tt := range []struct {
		name, from, to string
		want           string // the peer that the far end sees; "" for a refusal
	}{
		{"box with nothing to public", closed.Path(), worldPublic + ":80", ""},
		{"box with nothing to resolver", closed.Path(), worldPrivate + ":53", ""},
		{"box to its gateway", internet.Path(), internet.Gateway().String() + ":80", ""},
		{"box to host", internet.Path(), hostLAN + ":80", ""},
		{"box to another's gateway", internet.Path(), closed.Gateway().String() + ":80", ""},
		{"box to box", internet.Path(), closed.Addr().String() + ":8080", ""},
		{"box to itself", internet.Path(), internet.Addr().String() + ":8080", internet.Addr().String()},
		{"box to metadata", internet.Path(), worldMetadata + ":80", ""},
		{"box to private", internet.Path(), worldPrivate + ":80", ""},
		{"box to LAN", internet.Path(), worldLAN + ":80", ""},
		{"box without DNS to resolver", internet.Path(), worldPrivate + ":53", ""},
		{"box to public", internet.Path(), worldPublic + ":80", hostLAN},
		{"DNS to resolver", dns.Path(), worldPrivate + ":53", hostLAN},
		{"DNS to resolver on the host", dns.Path(), hostLAN + ":53", dns.Addr().String()},
		{"DNS to other port of resolver", dns.Path(), worldPrivate + ":80", ""},
		{"DNS to other address, same port", dns.Path(), worldPublic + ":53", ""},
		{"allow wins over deny", lists.Path(), worldOther + ":80", hostLAN},
		{"deny wins over internet", lists.Path(), worldPublic + ":80", ""},
		{"allow does not open private", lists.Path(), worldPrivate + ":80", ""},
		{"host to box", l.host, closed.Addr().String() + ":8080", closed.Gateway().String()},
		{"host to public", l.host, worldPublic + ":80", hostLAN},
	} {
		for _, network := range []string{"tcp4", "udp4"} {
			t.Run(tt.name+"/"+network, func(t *testing.T) {
				got, err := ask(tt.from, network, tt.to)
				got = strings.TrimSpace(got)
				if tt.want == "" && !refused(err) {
					t.Errorf("%s: got %q, %v; want a refusal", tt.to, got, err)
				}
				if tt.want != "" && (err != nil || got != tt.want) {
					t.Errorf("%s: got %q, %v; want %q", tt.to, got, err, tt.want)
				}
			})
		}
	}
}

// TestWorldReachesNoBox has a neighbour of the host route to a box.
func TestWorldReachesNoBox(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	must(t, s.SetEgress(Egress{Internet: true}))
	echo(t, s.Path(), "0.0.0.0:8080")
	must(t, within(l.world, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(a.cfg.Prefix.Addr(), 16), Gw: net.ParseIP(hostLAN)})
	}))
	if got, err := ask(l.world, "tcp4", s.Addr().String()+":8080"); err == nil {
		t.Errorf("a neighbour reached a box: %q", got)
	}
}

// TestEgressIsLive opens and closes the internet under an open connection.
func TestEgressIsLive(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	echo(t, l.world, worldPublic+":80")
	var c net.Conn
	must(t, within(s.Path(), func() (err error) {
		c, err = net.Dial("udp4", worldPublic+":80")
		return err
	}))
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 64)
	for i, open := range []bool{true, false, true, false} {
		must(t, s.SetEgress(Egress{Internet: open}))
		_, werr := c.Write([]byte("?"))
		_, rerr := c.Read(buf)
		if err := errors.Join(werr, rerr); (err == nil) != open || (!open && !refused(err)) {
			t.Errorf("step %d: open %v, got %v", i, open, err)
		}
	}
}

// TestClosedBothWays has the far end of an open connection send on after the
// policy closed it, and the host keep a connection of its own meanwhile.
func TestClosedBothWays(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	must(t, s.SetEgress(Egress{Internet: true}))
	var far net.PacketConn
	must(t, within(l.world, func() (err error) {
		far, err = net.ListenPacket("udp4", worldPublic+":80")
		return err
	}))
	defer far.Close()
	var box net.Conn
	must(t, within(s.Path(), func() (err error) {
		box, err = net.Dial("udp4", worldPublic+":80")
		return err
	}))
	defer box.Close()
	for _, c := range []interface{ SetDeadline(time.Time) error }{far, box} {
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	}
	buf := make([]byte, 64)
	_, err := box.Write([]byte("?"))
	must(t, err)
	_, peer, err := far.ReadFrom(buf)
	must(t, err)

	ln := listen(t, s.Path(), "0.0.0.0:8080")
	var ours net.Conn
	must(t, within(l.host, func() (err error) {
		ours, err = net.DialTimeout("tcp4", s.Addr().String()+":8080", 5*time.Second)
		return err
	}))
	defer ours.Close()
	theirs, err := ln.Accept()
	must(t, err)
	defer theirs.Close()

	for _, step := range []struct {
		e    Egress
		send string
	}{{Egress{}, "closed"}, {Egress{Internet: true, Deny: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")}}, "denied"}, {Egress{Internet: true}, "open"}} {
		must(t, s.SetEgress(step.e))
		_, err := far.WriteTo([]byte(step.send), peer)
		must(t, err)
	}
	n, err := box.Read(buf)
	if err != nil || string(buf[:n]) != "open" {
		t.Errorf("the box got %q, %v first; want only what was sent while it was open", buf[:n], err)
	}
	must(t, theirs.SetDeadline(time.Now().Add(5*time.Second)))
	must(t, ours.SetDeadline(time.Now().Add(5*time.Second)))
	if _, err := theirs.Write([]byte("still")); err != nil {
		t.Error(err)
	}
	if n, err := ours.Read(buf); err != nil || string(buf[:n]) != "still" {
		t.Errorf("the host's connection to the box: %q, %v", buf[:n], err)
	}
}

// TestSpoofedSource sends from a foreign address; only the own one may leave.
func TestSpoofedSource(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s, other := acquire(t, a), acquire(t, a)
	must(t, s.SetEgress(Egress{Internet: true}))
	must(t, other.SetEgress(Egress{Internet: true}))
	var pc net.PacketConn
	must(t, within(l.world, func() (err error) {
		pc, err = net.ListenPacket("udp4", worldPublic+":99")
		return err
	}))
	defer pc.Close()
	must(t, pc.SetDeadline(time.Now().Add(5*time.Second)))
	for _, src := range []netip.Addr{other.Addr(), netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr(hostLAN), s.Gateway(), s.Addr()} {
		must(t, sendFrom(s.Path(), src, worldPublic, 99, src.String()))
	}
	// The one honest packet was sent last, so that it must also arrive first.
	buf := make([]byte, 64)
	n, _, err := pc.ReadFrom(buf)
	must(t, err)
	if got := string(buf[:n]); got != s.Addr().String() {
		t.Errorf("first packet to arrive claims %s; want only %s", got, s.Addr())
	}
}

// sendFrom sends one UDP packet with a source address of the sender's choice.
func sendFrom(ns string, src netip.Addr, dst string, port uint16, payload string) error {
	return within(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		udp := make([]byte, 8, 8+len(payload))
		udp[0], udp[1], udp[2], udp[3] = 0x12, 0x34, byte(port>>8), byte(port)
		udp[5] = byte(8 + len(payload))
		udp = append(udp, payload...)
		ip := make([]byte, 20, 20+len(udp))
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
		d := netip.MustParseAddr(dst).As4()
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], d[:])
		return unix.Sendto(fd, append(ip, udp...), 0, &unix.SockaddrInet4{Addr: d})
	})
}

// TestNoIPv6 looks for any trace of IPv6 on a slot.
func TestNoIPv6(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	must(t, s.SetBandwidth(1000, 0))
	for _, ns := range []string{s.Path(), l.host} {
		must(t, within(ns, func() error {
			b, err := os.ReadFile("/proc/thread-self/net/if_inet6")
			if len(b) > 0 {
				t.Errorf("IPv6 addresses in %s:\n%s", ns, b)
			}
			return err
		}))
	}
}

// TestConnectionLimit opens more connections than a box may have, by the bound of
// all boxes and by its own.
func TestConnectionLimit(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.MaxConns = 5
	a := l.allocator(t, cfg)
	listen(t, l.world, worldPublic+":80")
	slots := []*Slot{acquire(t, a), acquire(t, a), acquire(t, a), acquire(t, a)}
	check := func(s *Slot, want int) {
		t.Helper()
		open := 0
		var last error
		for range 10 {
			last = within(s.Path(), func() error {
				c, err := net.Dial("tcp4", worldPublic+":80")
				if err == nil {
					t.Cleanup(func() { c.Close() })
				}
				return err
			})
			if last == nil {
				open++
			}
		}
		if open != want || !refused(last) {
			t.Errorf("%d connections were possible, then %v; want %d, then a refusal", open, last, want)
		}
	}
	for i, conns := range []int{0, 3, 3, 7} {
		must(t, slots[i].SetEgress(Egress{Internet: true, Conns: conns}))
	}
	check(slots[0], 5)
	check(slots[1], 3)
	must(t, slots[1].SetEgress(Egress{})) // the last but one with this bound
	must(t, a.rules.install())
	check(slots[2], 3)
	check(slots[3], 5) // no more than the operator's
	must(t, slots[2].SetEgress(Egress{Internet: true}))
	if len(a.rules.caps) != 0 {
		t.Errorf("bounds that no slot has are kept: %v", a.rules.caps)
	}
	if err := slots[0].SetEgress(Egress{Conns: -1}); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("a negative bound: %v", err)
	}
}

// mirror sends back what comes to the world's port 80.
func mirror(t *testing.T, l lab) {
	t.Helper()
	answering := listen(t, l.world, worldPublic+":80")
	go func() {
		for {
			c, err := answering.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
}

// TestConnectionLimitHolds opens all that a changed bound leaves, and closes it, again
// and again: the kernel throws away what it counted while nothing is open, and there
// is no moment in which it counts nothing.
func TestConnectionLimitHolds(t *testing.T) {
	const held, bound = 5, 20
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	mirror(t, l)
	s := acquire(t, a)
	open := func(most int) (all []net.Conn) {
		for range most {
			if within(s.Path(), func() error {
				c, err := net.Dial("tcp4", worldPublic+":80")
				if err == nil {
					all = append(all, c)
				}
				return err
			}) != nil {
				break
			}
		}
		return all
	}
	shut := func(all []net.Conn) {
		for _, c := range all {
			must(t, c.(*net.TCPConn).SetLinger(0))
			must(t, c.Close())
		}
	}
	must(t, s.SetEgress(Egress{Internet: true, Conns: bound / 2}))
	before := open(held)
	defer shut(before)
	must(t, s.SetEgress(Egress{Internet: true, Conns: bound}))
	most := 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		all := open(2 * bound)
		most = max(most, len(all))
		shut(all)
		time.Sleep(10 * time.Millisecond) // the kernel looks for closed ones once a tick
	}
	if len(before) != held || most != bound-held {
		t.Errorf("%d connections were possible beside %d of %d, want %d", most, len(before), bound, bound-held)
	}
}

// TestConnectionLimitIsLive changes the bound of a box that has connections open:
// each of them counts, none is lost, also when the rules are made anew and when
// another server takes the slot over.
func TestConnectionLimitIsLive(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.MaxConns = 20
	a := l.allocator(t, cfg)
	mirror(t, l)
	s := acquire(t, a)
	var held []net.Conn
	fill := func(when string, want int) {
		t.Helper()
		for range cfg.MaxConns + 5 {
			if err := within(s.Path(), func() error {
				c, err := net.Dial("tcp4", worldPublic+":80")
				if err == nil {
					held = append(held, c)
				}
				return err
			}); err != nil {
				break
			}
		}
		if len(held) != want {
			t.Errorf("%s: %d connections are open, want %d", when, len(held), want)
		}
		for i, c := range held {
			echo := []byte{byte(i)}
			if _, err := c.Write(echo); err != nil {
				t.Fatalf("%s: connection %d: %v", when, i, err)
			}
			if _, err := io.ReadFull(c, echo); err != nil || echo[0] != byte(i) {
				t.Fatalf("%s: connection %d: %v, %v", when, i, echo, err)
			}
		}
	}
	// A reset, so that the kernel does not hold the connection for a while more.
	closed := func(n int) {
		t.Helper()
		defer func() { must(t, a.settle()) }()
		for _, c := range held[:n] {
			must(t, c.(*net.TCPConn).SetLinger(0))
			must(t, c.Close())
		}
		held = held[n:]
	}
	t.Cleanup(func() { closed(len(held)) })
	allow := func(conns int) { must(t, s.SetEgress(Egress{Internet: true, Conns: conns})) }
	allow(4)
	fill("at first", 4)
	allow(9)
	fill("raised", 9)
	allow(6)
	fill("lowered below what is open", 9)
	closed(4)
	fill("with fewer open", 6)
	allow(9)
	fill("raised once more, to a bound that others had", 9)
	allow(0)
	fill("without a bound of its own", cfg.MaxConns)
	closed(5)
	allow(12)
	fill("with one again", 15)
	closed(5)
	fill("with fewer open again", 12)
	closed(12)
	if len(a.rules.census) != 0 {
		t.Errorf("the filter knows of all connections and is still helped: %+v", a.rules.census)
	}
	fill("with only connections that the filter knows of", 12)
	if len(a.rules.caps) != 1 {
		t.Errorf("bounds that no slot has are kept: %v", a.rules.caps)
	}

	must(t, a.rules.transactLocked(func(c *nftables.Conn) error {
		c.DelTable(a.rules.table)
		return nil
	}))
	must(t, a.restore())
	closed(2)
	fill("after another firewall flushed the rules", 12)

	must(t, a.Detach())
	index := s.Index()
	a = l.allocator(t, cfg)
	var err error
	if s, err = a.Adopt(index); err != nil {
		t.Fatal(err)
	}
	allow(12)
	if _, err := a.Reap(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	closed(1)
	fill("after another server took over", 12)
	must(t, s.Release())
	if len(a.rules.census)+len(a.rules.caps) != 0 {
		t.Errorf("left of a slot that was released: %v, %v", a.rules.census, a.rules.caps)
	}
}

// listen opens a TCP port in a namespace until the test ends.
func listen(t *testing.T, ns, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	must(t, within(ns, func() (err error) {
		ln, err = net.Listen("tcp4", addr)
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	return ln
}
