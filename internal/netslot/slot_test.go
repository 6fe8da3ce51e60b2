package netslot

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// TestReuse takes a slot back after a runtime has stripped it and its box has
// talked, and finds it as good as new.
func TestReuse(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	echo(t, l.world, worldPublic+":80")
	s := acquire(t, a)
	must(t, s.SetEgress(Egress{Internet: true}))
	must(t, s.SetBandwidth(1000, 0))
	if _, err := ask(s.Path(), "udp4", worldPublic+":80"); err != nil {
		t.Fatalf("fresh slot: %v", err)
	}
	strip(t, s)
	if _, err := ask(s.Path(), "udp4", worldPublic+":80"); !errors.Is(err, unix.ENETUNREACH) {
		t.Fatalf("stripped slot: %v; want no route", err)
	}
	must(t, s.Prepare())
	if _, err := ask(s.Path(), "udp4", worldPublic+":80"); err != nil {
		t.Fatalf("prepared slot: %v", err)
	}
	strip(t, s)
	must(t, s.Release())
	must(t, s.Release())
	recycle(t, a)
	if err := s.SetEgress(Egress{Internet: true}); !errors.Is(err, ErrReleased) {
		t.Errorf("SetEgress after Release: %v; want ErrReleased", err)
	}

	again := acquire(t, a)
	if again.Index() != s.Index() {
		t.Fatalf("slot %d was not used again: got %d", s.Index(), again.Index())
	}
	if _, err := ask(again.Path(), "udp4", worldPublic+":80"); !refused(err) {
		t.Errorf("slot used again: egress is still open: %v", err)
	}
	if got := qdiscs(t, l, again.Link()); len(got) != 0 {
		t.Errorf("slot used again: still shaped by %v", got)
	}
	flows, err := a.nl.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(t, err)
	for _, f := range flows {
		if f.Forward.SrcIP.String() == s.Addr().String() {
			t.Errorf("slot used again: the host remembers %v", f)
		}
	}
	must(t, again.SetEgress(Egress{Internet: true}))
	if _, err := ask(again.Path(), "udp4", worldPublic+":80"); err != nil {
		t.Errorf("slot used again, opened: %v", err)
	}
}

// recycle does what Run does until no released slot is left.
func recycle(t *testing.T, a *Allocator) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 10 * maxTries {
		<-tick.C
		if a.recycle(); a.Stats().Cooling == 0 {
			return
		}
	}
	t.Fatal("released slots stay unclean")
}

// strip does what runsc does to a slot, and adds what a box might.
func strip(t *testing.T, s *Slot) {
	t.Helper()
	must(t, within(s.Path(), func() error {
		link, err := netlink.LinkByName(boxLink)
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrDel(link, &netlink.Addr{IPNet: slotNet(s.Addr())}),
			netlink.AddrAdd(link, address(t, "172.31.0.9/24")),
			netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParseAddr("9.0.0.0"), 8)}),
		)
	}))
}

// qdiscs lists the kinds of queueing that a link of the host has.
func qdiscs(t *testing.T, l lab, name string) []string {
	t.Helper()
	var kinds []string
	must(t, within(l.host, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		qs, err := netlink.QdiscList(link)
		for _, q := range qs {
			if q.Type() != "noqueue" {
				kinds = append(kinds, q.Type())
			}
		}
		return err
	}))
	return kinds
}

// TestUsedSlotIsNotReused leaves a socket open in the namespace, as the process
// of an earlier box would.
func TestUsedSlotIsNotReused(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	var pc net.PacketConn
	must(t, within(s.Path(), func() (err error) {
		pc, err = net.ListenPacket("udp4", "0.0.0.0:9")
		return err
	}))
	defer pc.Close()
	must(t, s.Release())
	recycle(t, a)
	if _, err := os.Stat(s.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace is still there: %v", err)
	}
	if got := a.Stats(); got.Ready != 0 || got.Leased != 0 {
		t.Errorf("stats are %+v; want none ready, none leased", got)
	}
}

// TestBandwidth sends both ways at two rates and compares.
func TestBandwidth(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	echo(t, s.Path(), "0.0.0.0:8080")
	for _, kbps := range []int64{4_000, 40_000, 400_000} {
		must(t, s.SetBandwidth(kbps, 0))
		for _, dir := range []string{"to box", "from box"} {
			from, to := l.host, s.Path()
			addr := s.Addr().String()
			if dir == "from box" {
				from, to = to, from
			}
			got := throughput(t, from, to, addr, dir == "from box")
			ratio := got / float64(kbps)
			t.Logf("%s at %d kbit/s: %.0f kbit/s", dir, kbps, got)
			if ratio < 0.6 || ratio > 1.3 {
				t.Errorf("%s: %.0f kbit/s; want about %d", dir, got, kbps)
			}
		}
	}
	must(t, s.SetBandwidth(0, 0))
	if got := qdiscs(t, l, s.Link()); len(got) != 0 {
		t.Errorf("unlimited, but shaped by %v", got)
	}
	if got := throughput(t, l.host, s.Path(), s.Addr().String(), false); got < 200_000 {
		t.Errorf("unlimited, but only %.0f kbit/s", got)
	}
	for _, kbps := range []int64{-1, 63, 100_000_001} {
		if err := s.SetBandwidth(kbps, 0); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("SetBandwidth(%d) = %v; want an invalid error", kbps, err)
		}
	}
}

// throughput moves bytes over one TCP connection that the host opened, for
// about half a second, and returns kbit/s as the receiver saw it. The listener
// is always in the box, which may not connect to the host.
func throughput(t *testing.T, from, to, addr string, reverse bool) float64 {
	t.Helper()
	box, host := to, from
	if reverse {
		box, host = from, to
	}
	var ln net.Listener
	must(t, within(box, func() (err error) {
		ln, err = net.Listen("tcp4", addr+":0")
		return err
	}))
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	var c net.Conn
	must(t, within(host, func() (err error) {
		c, err = net.DialTimeout("tcp4", ln.Addr().String(), 5*time.Second)
		return err
	}))
	defer c.Close()
	b, ok := <-accepted
	if !ok {
		t.Fatal("accept")
	}
	defer b.Close()
	src, dst := c, b
	if reverse {
		src, dst = b, c
	}
	stop := time.Now().Add(700 * time.Millisecond)
	_ = src.SetDeadline(stop)
	_ = dst.SetDeadline(stop)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := src.Write(buf); err != nil {
				return
			}
		}
	}()
	start := time.Now()
	n, _ := io.Copy(io.Discard, dst)
	return float64(n) * 8 / 1000 / time.Since(start).Seconds()
}

// TestExhausted uses a prefix up.
func TestExhausted(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.Prefix = netip.MustParsePrefix("10.213.0.0/28")
	a := l.allocator(t, cfg)
	var slots []*Slot
	for range 4 {
		slots = append(slots, acquire(t, a))
	}
	_, err := a.Acquire(t.Context())
	if !errors.Is(err, ErrExhausted) || bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("fifth slot of four: %v; want unavailable, exhausted", err)
	}
	must(t, slots[2].Release())
	recycle(t, a)
	acquire(t, a)
}

// TestOverlap refuses a prefix that the host itself uses.
func TestOverlap(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.Prefix = netip.MustParsePrefix("192.168.0.0/16")
	_, err := New(cfg)
	if err == nil || !strings.Contains(err.Error(), "up0") {
		t.Errorf("New with the host's own network: %v; want an error that names up0", err)
	}
}

// TestStock lets Run make slots ahead and stop with its context.
func TestStock(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.Ready = 3
	a := l.allocator(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	eventually(t, func() bool { return a.Stats().Ready == 3 })
	s := acquire(t, a)
	eventually(t, func() bool { st := a.Stats(); return st.Ready == 3 && st.Leased == 1 })
	must(t, s.Release()) // three wait already: this one goes
	eventually(t, func() bool { return a.Stats() == Stats{Ready: 3, Size: 1 << 14} })
	cancel()
	must(t, <-done)
}

// eventually polls a condition of a background goroutine, for a minute.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 12000 {
		if ok() {
			return
		}
		<-tick.C
	}
	t.Fatal("the condition did not come true within a minute")
}

// TestFlushedRules has another firewall flush everything.
func TestFlushedRules(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s, other := acquire(t, a), acquire(t, a)
	must(t, s.SetEgress(Egress{Internet: true}))
	echo(t, l.world, worldPublic+":80")
	echo(t, l.host, hostLAN+":80")
	must(t, a.rules.host.do(func() error { return flushRuleset() }))
	if _, err := ask(other.Path(), "tcp4", hostLAN+":80"); err != nil {
		t.Fatalf("without rules the host must be open, or this test proves nothing: %v", err)
	}
	must(t, a.restore())
	if _, err := ask(other.Path(), "tcp4", hostLAN+":80"); !refused(err) {
		t.Errorf("box to host after the rules are back: %v", err)
	}
	if _, err := ask(s.Path(), "tcp4", worldPublic+":80"); err != nil {
		t.Errorf("open box to public after the rules are back: %v", err)
	}
	if _, err := ask(other.Path(), "tcp4", worldPublic+":80"); !refused(err) {
		t.Errorf("closed box to public after the rules are back: %v", err)
	}
}
