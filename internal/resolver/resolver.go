// Package resolver answers name queries of boxes that may reach only some
// domains. It is a forwarder: what a box may ask goes to the host's own name
// servers, and the addresses in the answer are opened for that box, before it
// has the answer, for as long as the answer is valid.
//
// It cannot be used to get around a policy. Names that are not allowed are said
// not to exist, and no query for them leaves the host. Addresses in private or
// special ranges are taken out of answers. What goes upstream is a query of our
// own making: one name, one type of a short list, no options. A box has a rate of
// queries, and only so many may wait at once.
//
// A [Resolver] may be used from many goroutines.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"
	"golang.org/x/time/rate"

	"github.com/bulkheadhq/bulkhead"
)

// Gate knows the boxes and opens addresses to them.
type Gate interface {
	// Domains returns what the box may resolve, as in [bulkhead.Egress]; none for an
	// address that is no box's.
	Domains(box netip.Addr) []string
	// Public reports whether a box may ever reach addr.
	Public(addr netip.Addr) bool
	// Pin opens addrs to the box for that long. It returns when they are open. It
	// fails when the box has too many, or may not resolve anything any more.
	Pin(box netip.Addr, addrs []netip.Addr, lifetime time.Duration) error
}

// Config is what a Resolver works with.
type Config struct {
	// Gate is required.
	Gate Gate
	// Upstreams are asked in this order. Without any, no name has an answer.
	Upstreams []netip.AddrPort
	// Dial reaches them; nil is [net.Dialer.DialContext].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log takes what goes wrong. Default: none.
	Log *slog.Logger
}

// Bounds.
const (
	// queriesPerSecond and queryBurst are what one box may ask.
	queriesPerSecond = 50
	queryBurst       = 200
	// waiting is how many queries of one box may be under way.
	waiting = 32
	// known bounds the boxes whose rate is remembered.
	known = 4096
	// maxName bounds a name, in bytes: a longer one carries data.
	maxName = 200
	// maxAddresses bounds the addresses of one answer.
	maxAddresses = 32
	// upstreamTimeout bounds one question to one upstream.
	upstreamTimeout = 2 * time.Second
	// leastTTL and mostTTL bound how long an address is open; slack is added for a
	// program that connects a moment after its copy of the answer ran out.
	leastTTL = 30 * time.Second
	mostTTL  = time.Hour
	slack    = 15 * time.Second
	// udpSize is what upstreams may answer in one packet, in bytes.
	udpSize = 1232
)

// types are what may be asked. Others, among them those that carry addresses for
// a client to use on its own, exist for no name.
var types = []uint16{dns.TypeA, dns.TypeCNAME, dns.TypeMX, dns.TypeSRV, dns.TypeTXT, dns.TypeNS, dns.TypeSOA, dns.TypeCAA}

// Resolver answers queries. See [New].
type Resolver struct {
	cfg   Config
	boxes *lru.Cache[netip.Addr, *asker]
}

// asker is what a box may ask at this moment.
type asker struct {
	rate    *rate.Limiter
	waiting chan struct{}
}

// New checks cfg and starts nothing.
func New(cfg Config) (*Resolver, error) {
	if cfg.Gate == nil {
		return nil, errors.New("resolver: Gate is required")
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	boxes, err := lru.New[netip.Addr, *asker](known)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	return &Resolver{cfg: cfg, boxes: boxes}, nil
}

// Serve answers what comes in on pc and l until ctx is done, then closes both.
func (r *Resolver) Serve(ctx context.Context, pc net.PacketConn, l net.Listener) error {
	servers := []*dns.Server{
		{PacketConn: pc, Net: "udp", UDPSize: 4096},
		{Listener: l, Net: "tcp", MaxTCPQueries: 64},
	}
	ended := make(chan error, len(servers))
	for _, s := range servers {
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { r.serve(ctx, w, q) })
		go func() { ended <- s.ActivateAndServe() }()
	}
	var err error
	left := len(servers)
	select {
	case <-ctx.Done():
	case err = <-ended:
		left--
	}
	_ = pc.Close() // ends the servers, also one that has not begun
	_ = l.Close()
	for range left {
		<-ended //nolint:errcheck // what ended first says why
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to stop
	}
	return fmt.Errorf("answer name queries: %w", err)
}

// serve answers one query, or drops it.
func (r *Resolver) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	peer, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	answer := r.answer(ctx, peer.Addr().Unmap(), q)
	if answer == nil {
		return
	}
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		}
		answer.Truncate(size)
	}
	_ = w.WriteMsg(answer) // the box asks again
}

// answer is what the box gets to hear; nil is silence.
func (r *Resolver) answer(ctx context.Context, box netip.Addr, q *dns.Msg) *dns.Msg {
	domains := r.cfg.Gate.Domains(box)
	if len(domains) == 0 {
		return nil
	}
	a := r.asker(box)
	if !a.rate.Allow() {
		return nil
	}
	out := new(dns.Msg)
	out.SetReply(q)
	out.RecursionAvailable = true
	if q.IsEdns0() != nil {
		out.SetEdns0(udpSize, false)
	}
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		out.Rcode = dns.RcodeNotImplemented
		return out
	}
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	if len(name) > maxName || !bulkhead.MatchDomain(domains, name) {
		out.Rcode = dns.RcodeNameError
		refused(out)
		return out
	}
	if !slices.Contains(types, q.Question[0].Qtype) {
		return out // the name exists, and has nothing of that type: a box has no IPv6
	}
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		out.Rcode = dns.RcodeServerFailure
		return out
	}
	in, err := r.ask(ctx, name, q.Question[0].Qtype)
	if err != nil {
		r.cfg.Log.DebugContext(ctx, "resolve", "box", box, "name", name, "error", err)
		out.Rcode = dns.RcodeServerFailure
		return out
	}
	out.Rcode = in.Rcode
	answer, addrs, lifetime := r.filter(name, in.Answer)
	if len(addrs) > 0 {
		if err := r.cfg.Gate.Pin(box, addrs, lifetime); err != nil {
			r.cfg.Log.WarnContext(ctx, "open addresses of a name", "box", box, "name", name, "error", err)
			out.Rcode = dns.RcodeServerFailure
			return out
		}
	}
	out.Answer = answer
	// The question's own spelling, which some clients check.
	for _, rr := range out.Answer {
		if strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
			rr.Header().Name = q.Question[0].Name
		}
	}
	return out
}

// refused says why, to those who can hear it.
func refused(out *dns.Msg) {
	if opt := out.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{
			InfoCode: dns.ExtendedErrorCodeBlocked, ExtraText: "the sandbox's network policy does not allow this name",
		})
	}
}

// asker returns the box's, made when missing.
func (r *Resolver) asker(box netip.Addr) *asker {
	if a, ok := r.boxes.Get(box); ok {
		return a
	}
	fresh := &asker{rate: rate.NewLimiter(queriesPerSecond, queryBurst), waiting: make(chan struct{}, waiting)}
	if a, ok, _ := r.boxes.PeekOrAdd(box, fresh); ok {
		return a
	}
	return fresh
}

// filter takes out of an answer what a box must not see: records of other names
// than the one asked and those it is an alias of, and addresses that are not
// public. It returns the addresses that are left and how long they hold.
func (r *Resolver) filter(name string, in []dns.RR) (out []dns.RR, addrs []netip.Addr, lifetime time.Duration) {
	names := map[string]bool{name: true}
	for range in { // a chain of aliases, in any order
		for _, rr := range in {
			if alias, ok := rr.(*dns.CNAME); ok && names[canonical(alias.Hdr.Name)] {
				names[canonical(alias.Target)] = true
			}
		}
	}
	lifetime = mostTTL
	for _, rr := range in {
		h := rr.Header()
		if !names[canonical(h.Name)] || h.Class != dns.ClassINET || !slices.Contains(types, h.Rrtype) {
			continue
		}
		h.Ttl = min(h.Ttl, uint32(mostTTL/time.Second))
		if a, ok := rr.(*dns.A); ok {
			addr, ok := netip.AddrFromSlice(a.A.To4())
			if !ok || !r.cfg.Gate.Public(addr) || len(addrs) == maxAddresses {
				continue
			}
			addrs = append(addrs, addr)
			lifetime = min(lifetime, time.Duration(h.Ttl)*time.Second)
		}
		out = append(out, rr)
	}
	return out, addrs, max(lifetime, leastTTL) + slack
}

// canonical is a name's one form.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// ask puts a question of our own to the upstreams.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	err := errors.New("there is no name server to ask")
	for _, up := range r.cfg.Upstreams {
		var in *dns.Msg
		if in, err = r.askOne(ctx, up, name, qtype); err == nil {
			return in, nil
		}
	}
	return nil, err
}

func (r *Resolver) askOne(ctx context.Context, up netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(name), qtype) // with a random number
		q.SetEdns0(udpSize, false)
		in, err := r.exchange(ctx, network, up, q)
		if err != nil {
			return nil, fmt.Errorf("ask %s over %s: %w", up, network, err)
		}
		if in.Truncated && network == "udp" {
			continue
		}
		switch in.Rcode {
		case dns.RcodeSuccess, dns.RcodeNameError:
			return in, nil
		}
		return nil, fmt.Errorf("ask %s: it answered %s", up, dns.RcodeToString[in.Rcode])
	}
	return nil, fmt.Errorf("ask %s: the answer is cut off", up)
}

func (r *Resolver) exchange(ctx context.Context, network string, up netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	conn, err := r.cfg.Dial(ctx, network, up.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &dns.Client{Net: network, Timeout: upstreamTimeout, UDPSize: udpSize}
	in, _, err := c.ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn, UDPSize: udpSize})
	if err != nil {
		return nil, err
	}
	// The library checks the number; an answer to another question is none.
	if len(in.Question) != 1 || !strings.EqualFold(in.Question[0].Name, q.Question[0].Name) || in.Question[0].Qtype != q.Question[0].Qtype {
		return nil, errors.New("the answer is to another question")
	}
	return in, nil
}
