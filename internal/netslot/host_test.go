package netslot

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// The addresses of the test's world, which stands for everything beyond the host.
const (
	worldPublic   = "11.1.1.1"
	worldOther    = "12.2.2.2"
	worldPrivate  = "10.99.0.1"
	worldMetadata = "169.254.169.254"
	worldLAN      = "192.168.77.1"
	hostLAN       = "192.168.77.2"
)

// lab is a host and a world in namespaces of their own, so that no test touches
// the machine's network and none sees another's.
type lab struct {
	dir         string
	host, world string // namespace files
}

// newLab makes both namespaces and a link between them.
func newLab(t testing.TB) lab {
	t.Helper()
	testenv.Need(t, "root")
	l := lab{dir: t.TempDir()}
	l.host, l.world = filepath.Join(l.dir, "host"), filepath.Join(l.dir, "world")
	host, hostNS := namespace(t, l.host)
	world, worldNS := namespace(t, l.world)
	defer hostNS.Close()
	defer worldNS.Close()
	defer host.Close()
	defer world.Close()

	attrs := netlink.NewLinkAttrs()
	// The kernel activates a pair of links at once only if their indexes differ.
	attrs.Name, attrs.Index = "up0", 100
	up := netlink.NewVeth(attrs)
	up.PeerName, up.PeerNamespace = "eth0", netlink.NsFd(worldNS)
	must(t, host.LinkAdd(up))
	must(t, host.LinkSetUp(up))
	must(t, host.AddrAdd(up, address(t, hostLAN+"/24")))
	must(t, host.RouteAdd(&netlink.Route{LinkIndex: up.Index, Gw: net.ParseIP(worldLAN)}))

	eth, err := world.LinkByName("eth0")
	must(t, err)
	must(t, world.LinkSetUp(eth))
	must(t, world.AddrAdd(eth, address(t, worldLAN+"/24")))
	lo, err := world.LinkByName("lo")
	must(t, err)
	for _, ip := range []string{worldPublic, worldOther, worldPrivate, worldMetadata} {
		must(t, world.AddrAdd(lo, address(t, ip+"/32")))
	}
	// The kernel holds ICMP errors back by default, which would look like silence.
	must(t, within(l.host, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0o600)
	}))
	waitUp(t, l.host, "up0")
	waitUp(t, l.world, "eth0")
	return l
}

// waitUp waits until the kernel has activated a link, which it does some
// milliseconds after the link was set up.
func waitUp(t testing.TB, ns, name string) {
	t.Helper()
	events, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer close(done)
	must(t, within(ns, func() error {
		return netlink.LinkSubscribeWithOptions(events, done, netlink.LinkSubscribeOptions{ListExisting: true})
	}))
	limit := time.After(5 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Attrs().Name == name && e.Attrs().OperState == netlink.OperUp {
				return
			}
		case <-limit:
			t.Fatalf("%s does not come up", name)
		}
	}
}

// namespace makes a bound namespace and removes it after the test.
func namespace(t testing.TB, path string) (*netlink.Handle, netns.NsHandle) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	h, ns, err := newNamespace(path)
	must(t, err)
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	return h, ns
}

func address(t testing.TB, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	must(t, err)
	return a
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// config is the lab's configuration of an allocator.
func (l lab) config(t testing.TB) Config {
	return Config{
		Dir: filepath.Join(l.dir, "netns"), HostNS: l.host,
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort(worldPrivate + ":53"), netip.MustParseAddrPort(hostLAN + ":53")},
		Log:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// allocator starts one on the lab's host and checks that it leaves nothing.
func (l lab) allocator(t testing.TB, cfg Config) *Allocator {
	t.Helper()
	a, err := New(cfg)
	must(t, err)
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		l.checkClean(t, cfg)
	})
	return a
}

// checkClean fails the test when anything of an allocator is left.
func (l lab) checkClean(t testing.TB, cfg Config) {
	t.Helper()
	entries, err := os.ReadDir(cfg.Dir)
	must(t, err)
	for _, e := range entries {
		if e.Name() != ".lock" {
			t.Errorf("left in %s: %s", cfg.Dir, e.Name())
		}
	}
	must(t, within(l.host, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, x := range links {
			if n := x.Attrs().Name; n != "lo" && n != "up0" {
				t.Errorf("left link %s", n)
			}
		}
		return nil
	}))
	r := newRuleset(hostNS{ns: netns.None()}, plan{name: DefaultName, prefix: netip.MustParsePrefix("10.213.0.0/16")}, Config{}, 0)
	must(t, within(l.host, func() error {
		ok, err := r.intact()
		if ok {
			t.Error("left the rule table")
		}
		return err
	}))
}

// acquire leases a slot and waits until packets pass.
func acquire(t testing.TB, a *Allocator) *Slot {
	t.Helper()
	s, err := a.Acquire(t.Context())
	must(t, err)
	waitUp(t, a.cfg.HostNS, s.Link())
	return s
}

// echo serves TCP and UDP on addr in the namespace: every connection or packet
// is answered with the peer's address. It ends with the test.
func echo(t testing.TB, ns, addr string) {
	t.Helper()
	var ln net.Listener
	var pc net.PacketConn
	must(t, within(ns, func() (err error) {
		if ln, err = net.Listen("tcp4", addr); err != nil {
			return err
		}
		pc, err = net.ListenPacket("udp4", addr)
		return err
	}))
	t.Cleanup(func() { ln.Close(); pc.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
		}
	}()
}

// ask connects from a namespace and returns what the far end saw as the peer,
// or the error. A refusal must come at once: the time-out is an error of its own.
func ask(ns, network, addr string) (string, error) {
	var answer string
	err := within(ns, func() error {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if network == "udp4" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			buf := make([]byte, 64)
			n, err := c.Read(buf)
			answer = string(buf[:n])
			return err
		}
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	return answer, err
}

// refused says whether err is an answer, not silence. Every address and port
// that the tests try has a listener, so that it can only be the firewall's.
func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// flushRuleset is "nft flush ruleset".
func flushRuleset() error {
	c := &nftables.Conn{}
	c.FlushRuleset()
	return c.Flush()
}
