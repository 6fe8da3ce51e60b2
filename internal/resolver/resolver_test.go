package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

var box = netip.MustParseAddr("10.213.0.2")

// gate lets one box resolve example.com's names and remembers what it opened.
type gate struct {
	fail error

	mu       sync.Mutex
	opened   []string
	lifetime time.Duration
}

func (g *gate) Domains(addr netip.Addr) []string {
	if addr == box {
		return []string{"example.com", "*.example.com"}
	}
	return nil
}

func (g *gate) Public(addr netip.Addr) bool { return !addr.IsPrivate() && !addr.IsLoopback() }

func (g *gate) Pin(_ netip.Addr, addrs []netip.Addr, lifetime time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range addrs {
		g.opened = append(g.opened, a.String())
	}
	g.lifetime = lifetime
	return g.fail
}

// upstream is a name server on this machine.
func upstream(t *testing.T, h dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe()
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// says answers every question with the same records.
func says(t *testing.T, records ...string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Error(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	}
}

func query(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	return q
}

func resolver(t *testing.T, g *gate, ups ...netip.AddrPort) *Resolver {
	t.Helper()
	r, err := New(Config{Gate: g, Upstreams: ups})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnswers(t *testing.T) {
	up := upstream(t, says(t,
		"example.com. 7200 IN CNAME edge.net.", "edge.net. 5 IN A 11.0.0.1", "edge.net. 5 IN A 10.0.0.1", "edge.net. 5 IN A 127.0.0.1",
		"foreign.net. 5 IN A 11.0.0.2", "example.com. 60 IN TXT \"x\"", "example.com. 60 IN HTTPS 1 . ipv4hint=11.0.0.3",
	))
	g := &gate{}
	out := resolver(t, g, up).answer(t.Context(), box, query("Example.COM.", dns.TypeA))
	var got []string
	for _, rr := range out.Answer {
		got = append(got, rr.String())
	}
	want := []string{"Example.COM.\t3600\tIN\tCNAME\tedge.net.", "edge.net.\t5\tIN\tA\t11.0.0.1", "Example.COM.\t60\tIN\tTXT\t\"x\""}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("answer, -want +got:\n%s", d)
	}
	if d := cmp.Diff([]string{"11.0.0.1"}, g.opened); d != "" || g.lifetime != leastTTL+slack {
		t.Errorf("opened for %s:\n%s", g.lifetime, d)
	}
}

// TestRefusals asks for what must not leave the host: the upstream fails the test.
func TestRefusals(t *testing.T) {
	up := upstream(t, func(_ dns.ResponseWriter, q *dns.Msg) { t.Errorf("the upstream was asked %v", q.Question) })
	r := resolver(t, &gate{}, up)
	chaos := query("example.com.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	two := query("example.com.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	update := new(dns.Msg)
	update.SetUpdate("example.com.")
	for name, tt := range map[string]struct {
		q     *dns.Msg
		rcode int
	}{
		"another name":   {query("example.org.", dns.TypeA), dns.RcodeNameError},
		"the root":       {query(".", dns.TypeNS), dns.RcodeNameError},
		"reverse lookup": {query("1.0.0.11.in-addr.arpa.", dns.TypePTR), dns.RcodeNameError},
		"IPv6":           {query("example.com.", dns.TypeAAAA), dns.RcodeSuccess},
		"null records":   {query("a.example.com.", dns.TypeNULL), dns.RcodeSuccess},
		"any":            {query("example.com.", dns.TypeANY), dns.RcodeSuccess},
		"chaos":          {chaos, dns.RcodeNotImplemented},
		"two questions":  {two, dns.RcodeNotImplemented},
		"update":         {update, dns.RcodeNotImplemented},
	} {
		out := r.answer(t.Context(), box, tt.q)
		if out == nil || out.Rcode != tt.rcode || len(out.Answer) != 0 {
			t.Errorf("%s: %v", name, out)
		}
	}
	if out := r.answer(t.Context(), netip.MustParseAddr("10.213.0.6"), query("example.com.", dns.TypeA)); out != nil {
		t.Errorf("an address that is no box's got %v", out)
	}
}

// TestNothingUnopenedIsTold fails to open an address, which the box must then not
// hear of.
func TestNothingUnopenedIsTold(t *testing.T) {
	g := &gate{fail: errors.New("too many")}
	out := resolver(t, g, upstream(t, says(t, "example.com. 60 IN A 11.0.0.1"))).answer(t.Context(), box, query("example.com.", dns.TypeA))
	if out.Rcode != dns.RcodeServerFailure || len(out.Answer) != 0 {
		t.Errorf("got %v", out)
	}
}

func TestUpstreams(t *testing.T) {
	silent := netip.MustParseAddrPort("127.0.0.1:9") // refuses
	liar := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Question[0].Name = "other.com."
		_ = w.WriteMsg(m)
	})
	good := upstream(t, says(t, "example.com. 60 IN A 11.0.0.1"))
	out := resolver(t, &gate{}, silent, liar, good).answer(t.Context(), box, query("example.com.", dns.TypeA))
	if len(out.Answer) != 1 {
		t.Errorf("after two bad upstreams: %v", out)
	}
	for _, ups := range [][]netip.AddrPort{nil, {liar}} {
		if out := resolver(t, &gate{}, ups...).answer(t.Context(), box, query("example.com.", dns.TypeA)); out.Rcode != dns.RcodeServerFailure {
			t.Errorf("%v: %v", ups, out)
		}
	}
}

// TestRate drops what a box asks beyond its rate.
func TestRate(t *testing.T) {
	r := resolver(t, &gate{})
	answered := 0
	for range 2 * queryBurst {
		if r.answer(t.Context(), box, query("example.org.", dns.TypeA)) != nil {
			answered++
		}
	}
	if answered < queryBurst || answered >= 2*queryBurst {
		t.Errorf("%d of %d queries were answered; want about %d", answered, 2*queryBurst, queryBurst)
	}
}

func TestServeEnds(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := resolver(t, &gate{}).Serve(ctx, pc, l); err != nil {
		t.Error(err)
	}
	if pc.Close() == nil {
		t.Error("the socket is open after the end")
	}
}

// FuzzAnswer feeds queries that a box made up and answers that a server made up.
func FuzzAnswer(f *testing.F) {
	q, err := query("a.example.com.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q, q)
	r, err := New(Config{Gate: &gate{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, q, answer []byte) {
		var m, in dns.Msg
		if m.Unpack(q) == nil {
			if out := r.answer(t.Context(), box, &m); out != nil {
				if _, err := out.Pack(); err != nil {
					t.Errorf("an answer that cannot be sent: %v", err)
				}
			}
		}
		if in.Unpack(answer) == nil {
			_, addrs, lifetime := r.filter("a.example.com", in.Answer)
			if len(addrs) > maxAddresses || lifetime < leastTTL || lifetime > mostTTL+slack {
				t.Errorf("%d addresses for %s", len(addrs), lifetime)
			}
		}
	})
}
