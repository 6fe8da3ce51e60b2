package netslot

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// zone is what the world's name server knows.
var zone = map[string][]string{
	"api.example.com.":     {"api.example.com. 60 IN A " + worldPublic},
	"alias.example.com.":   {"alias.example.com. 60 IN CNAME edge.cdn.net.", "edge.cdn.net. 60 IN A " + worldPublic},
	"rebind.example.com.":  {"rebind.example.com. 1 IN A " + worldPrivate, "rebind.example.com. 1 IN A " + worldMetadata, "rebind.example.com. 1 IN A " + hostLAN},
	"foreign.example.com.": {"foreign.example.com. 60 IN A " + worldPublic, "elsewhere.net. 60 IN A " + worldOther},
	"other.org.":           {"other.org. 60 IN A " + worldOther},
}

// nameServer serves zone on addr in the namespace and counts the queries.
func nameServer(t *testing.T, ns, addr string) *atomic.Int64 {
	t.Helper()
	var pc net.PacketConn
	var l net.Listener
	must(t, within(ns, func() (err error) {
		if pc, err = net.ListenPacket("udp4", addr); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", addr)
		return err
	}))
	asked := new(atomic.Int64)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Name == "long.example.com." && w.LocalAddr().Network() == "udp" {
			m.Truncated = true // over TCP it fits
		}
		records := zone[strings.ToLower(q.Question[0].Name)]
		if q.Question[0].Name == "long.example.com." {
			records = zone["api.example.com."]
			records = []string{strings.ReplaceAll(records[0], "api", "long")}
		}
		if records == nil {
			m.Rcode = dns.RcodeNameError
		}
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Error(err)
			}
			if !m.Truncated {
				m.Answer = append(m.Answer, rr)
			}
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		t.Cleanup(func() {
			pc.Close()
			l.Close()
			<-done
		})
	}
	return asked
}

// lookup asks a server for a name's addresses from a namespace.
func lookup(ns, network, server, name string) (addrs []string, rcode int, err error) {
	q := new(dns.Msg)
	q.SetQuestion(name, dns.TypeA)
	var in *dns.Msg
	err = within(ns, func() (err error) {
		c := dns.Client{Net: network, Timeout: 2 * time.Second}
		in, _, err = c.Exchange(q, server)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	for _, rr := range in.Answer {
		if a, ok := rr.(*dns.A); ok {
			addrs = append(addrs, a.A.String())
		}
	}
	slices.Sort(addrs)
	return addrs, in.Rcode, nil
}

// running lets an allocator do its work until the test ends.
func running(t *testing.T, a *Allocator) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// named is a lab with a slot that may reach example.com's names only.
type named struct {
	lab
	a     *Allocator
	s     *Slot
	asked *atomic.Int64
}

const nameServerAddr = worldPrivate + ":53"

func newNamed(t *testing.T) named {
	t.Helper()
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	running(t, a)
	n := named{lab: l, a: a, s: acquire(t, a), asked: nameServer(t, l.world, nameServerAddr)}
	must(t, n.s.SetEgress(Egress{Domains: []string{"*.example.com"}}))
	for _, ip := range []string{worldPublic, worldOther, worldPrivate, worldMetadata} {
		echo(t, l.world, ip+":80")
	}
	return n
}

func (n named) reaches(t *testing.T, ip string, want bool) {
	t.Helper()
	for _, network := range []string{"tcp4", "udp4"} {
		_, err := ask(n.s.Path(), network, ip+":80")
		if want && err != nil || !want && !refused(err) {
			t.Errorf("%s over %s: %v; want reached %v", ip, network, err, want)
		}
	}
}

// TestDomains resolves an allowed name and only then reaches its address.
func TestDomains(t *testing.T) {
	n := newNamed(t)
	n.reaches(t, worldPublic, false) // by address alone
	for _, name := range []string{"api.example.com.", "API.Example.com.", "alias.example.com.", "long.example.com."} {
		for _, network := range []string{"udp", "tcp"} {
			got, rcode, err := lookup(n.s.Path(), network, nameServerAddr, name)
			if err != nil || rcode != dns.RcodeSuccess || !slices.Equal(got, []string{worldPublic}) {
				t.Errorf("%s over %s: %v, %s, %v", name, network, got, dns.RcodeToString[rcode], err)
			}
		}
	}
	n.reaches(t, worldPublic, true)
	n.reaches(t, worldOther, false)
	// What is open to one box is not open to another.
	other := acquire(t, n.a)
	must(t, other.SetEgress(Egress{Domains: []string{"*.example.com"}}))
	if _, err := ask(other.Path(), "tcp4", worldPublic+":80"); !refused(err) {
		t.Errorf("another box reaches an address that it did not resolve: %v", err)
	}
}

// TestOtherNames are said not to exist, without a query that leaves the host.
func TestOtherNames(t *testing.T) {
	n := newNamed(t)
	secret := strings.Repeat(strings.Repeat("x", 40)+".", 5) + "example.com."
	for _, name := range []string{"other.org.", "example.com.", "api.example.com.other.org.", "xexample.com.", secret, "."} {
		if got, rcode, err := lookup(n.s.Path(), "udp", nameServerAddr, name); err != nil || rcode != dns.RcodeNameError {
			t.Errorf("%s: %v, %s, %v", name, got, dns.RcodeToString[rcode], err)
		}
	}
	if q := n.asked.Load(); q != 0 {
		t.Errorf("%d queries left the host", q)
	}
	n.reaches(t, worldOther, false)
}

// TestRebinding has an allowed name resolve to what no box may reach, and a name
// server slip in an address of another name.
func TestRebinding(t *testing.T) {
	n := newNamed(t)
	if got, rcode, err := lookup(n.s.Path(), "udp", nameServerAddr, "rebind.example.com."); err != nil || rcode != dns.RcodeSuccess || len(got) != 0 {
		t.Errorf("private addresses in the answer: %v, %s, %v", got, dns.RcodeToString[rcode], err)
	}
	n.reaches(t, worldPrivate, false)
	n.reaches(t, worldMetadata, false)
	if got, _, err := lookup(n.s.Path(), "udp", nameServerAddr, "foreign.example.com."); err != nil || !slices.Equal(got, []string{worldPublic}) {
		t.Errorf("answer with a foreign record: %v, %v", got, err)
	}
	n.reaches(t, worldOther, false)
}

// TestOtherResolvers are closed, and the forwarder serves nobody else.
func TestOtherResolvers(t *testing.T) {
	n := newNamed(t)
	nameServer(t, n.world, worldOther+":53")
	for _, network := range []string{"udp", "tcp"} {
		if got, _, err := lookup(n.s.Path(), network, worldOther+":53", "api.example.com."); !refused(err) {
			t.Errorf("another resolver over %s: %v, %v", network, got, err)
		}
	}
	plain := acquire(t, n.a)
	must(t, plain.SetEgress(Egress{Internet: true}))
	forwarder := netip.AddrPortFrom(plain.Gateway(), n.a.names.port).String()
	if got, _, err := lookup(plain.Path(), "udp", forwarder, "api.example.com."); !refused(err) {
		t.Errorf("a box without domains asks the forwarder: %v, %v", got, err)
	}
	forwarder = netip.AddrPortFrom(netip.MustParseAddr(hostLAN), n.a.names.port).String()
	if got, _, err := lookup(n.world, "tcp", forwarder, "api.example.com."); err == nil {
		t.Errorf("the world asks the forwarder: %v", got)
	}
}

// TestNamesFollowThePolicy keeps a connection over the end of its address, and
// ends it with the policy.
func TestNamesFollowThePolicy(t *testing.T) {
	n := newNamed(t)
	_, _, err := lookup(n.s.Path(), "udp", nameServerAddr, "api.example.com.")
	must(t, err)
	var c net.Conn
	must(t, within(n.s.Path(), func() (err error) {
		c, err = net.Dial("udp4", worldPublic+":80")
		return err
	}))
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	talk := func() error {
		_, werr := c.Write([]byte("?"))
		_, rerr := c.Read(make([]byte, 64))
		return errors.Join(werr, rerr)
	}
	must(t, talk())
	// What the end of its time does to an address, at once.
	n.a.rules.mu.Lock()
	err = n.a.rules.unpinLocked(n.s.n)
	n.a.rules.mu.Unlock()
	must(t, err)
	n.reaches(t, worldPublic, false)
	if err := talk(); err != nil {
		t.Errorf("an open connection ended with its address's time: %v", err)
	}
	must(t, n.s.SetEgress(Egress{Domains: []string{"other.org"}}))
	if err := talk(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("an open connection outlived its policy: %v", err)
	}
	if _, rcode, err := lookup(n.s.Path(), "udp", nameServerAddr, "api.example.com."); err != nil || rcode != dns.RcodeNameError {
		t.Errorf("a name of the old policy: %s, %v", dns.RcodeToString[rcode], err)
	}
	must(t, n.s.SetEgress(Egress{Internet: true}))
	must(t, talk())
	must(t, n.s.SetEgress(Egress{Domains: []string{"*.example.com"}}))
	if err := talk(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a connection that no name opened outlived its policy: %v", err)
	}
}

// TestPinsEnd lets the kernel close an address, then opens it anew; and finds
// nothing open in a slot that is used again.
func TestPinsEnd(t *testing.T) {
	n := newNamed(t)
	addr := []netip.Addr{netip.MustParseAddr(worldPublic)}
	must(t, n.a.Pin(n.s.Addr(), addr, time.Hour))
	must(t, n.a.Pin(n.s.Addr(), addr, 100*time.Millisecond)) // replaces the longer one
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		if _, err := ask(n.s.Path(), "tcp4", worldPublic+":80"); refused(err) {
			break
		}
		<-tick.C
	}
	n.reaches(t, worldPublic, false)
	must(t, n.a.Pin(n.s.Addr(), addr, time.Hour))
	n.reaches(t, worldPublic, true)
	must(t, n.s.SetEgress(Egress{Domains: []string{"*.example.com"}}))
	n.reaches(t, worldPublic, false)
	if err := n.a.Pin(n.s.Gateway(), addr, time.Hour); err == nil {
		t.Error("an address that is no box's was pinned")
	}
	many := make([]netip.Addr, maxPins+1)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{20, 0, byte(i >> 8), byte(i)})
	}
	if err := n.a.Pin(n.s.Addr(), many, time.Hour); err == nil {
		t.Error("more addresses than are possible were pinned")
	}
}

// TestQueryFlood has a box send more queries than it may.
func TestQueryFlood(t *testing.T) {
	n := newNamed(t)
	q := new(dns.Msg)
	q.SetQuestion("api.example.com.", dns.TypeA)
	b, err := q.Pack()
	must(t, err)
	const sent = 4000
	began := time.Now()
	must(t, within(n.s.Path(), func() error {
		c, err := net.Dial("udp4", nameServerAddr)
		if err != nil {
			return err
		}
		defer c.Close()
		for range sent {
			if _, err := c.Write(b); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		return nil
	}))
	limit := int64(queryBurst + queryPackets*time.Since(began).Seconds() + 1)
	if got := n.asked.Load(); got > limit {
		t.Errorf("%d of %d queries left the host; want at most %d", got, sent, limit)
	}
	other := acquire(t, n.a)
	must(t, other.SetEgress(Egress{Domains: []string{"api.example.com"}}))
	if got, _, err := lookup(other.Path(), "udp", nameServerAddr, "api.example.com."); err != nil || len(got) != 1 {
		t.Errorf("a neighbour's query beside a flood: %v, %v", got, err)
	}
}

// TestOpenPrivate opens one private prefix by the operator's wish.
func TestOpenPrivate(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.Open = []netip.Prefix{netip.MustParsePrefix(worldPrivate + "/32")}
	a := l.allocator(t, cfg)
	internet, lists := acquire(t, a), acquire(t, a)
	must(t, internet.SetEgress(Egress{Internet: true}))
	must(t, lists.SetEgress(Egress{Allow: []netip.Prefix{netip.MustParsePrefix(worldPublic + "/32")}}))
	echo(t, l.world, worldPrivate+":80")
	echo(t, l.world, worldLAN+":80")
	if got, err := ask(internet.Path(), "tcp4", worldPrivate+":80"); err != nil || strings.TrimSpace(got) != hostLAN {
		t.Errorf("the opened prefix: %q, %v", got, err)
	}
	if _, err := ask(internet.Path(), "tcp4", worldLAN+":80"); !refused(err) {
		t.Errorf("another private address: %v", err)
	}
	if _, err := ask(lists.Path(), "tcp4", worldPrivate+":80"); !refused(err) {
		t.Errorf("the opened prefix, from a box whose list does not name it: %v", err)
	}
	for _, bad := range []string{"169.254.0.0/16", "10.213.0.0/24", "0.0.0.0/0", "127.0.0.1/32"} {
		cfg := cfg
		cfg.Open = []netip.Prefix{netip.MustParsePrefix(bad)}
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("Open takes %s", bad)
		}
	}
}
