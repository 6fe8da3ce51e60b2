package netslot

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/nftables"
)

func TestPlan(t *testing.T) {
	p := plan{name: "bulkhead", prefix: netip.MustParsePrefix("10.213.0.0/16")}
	if p.size() != 16384 {
		t.Errorf("size is %d; want 16384", p.size())
	}
	seen := map[string]int{}
	for n := range p.size() {
		for _, s := range []string{
			p.gateway(n).String(), p.box(n).String(), p.boxMAC(n).String(), p.gatewayMAC(n).String(),
			p.hostLink(n), p.shapeLink(n), p.file(n),
		} {
			if other, ok := seen[s]; ok {
				t.Fatalf("slots %d and %d share %s", other, n, s)
			}
			seen[s] = n
		}
		if len(p.shapeLink(n)) > 15 {
			t.Fatalf("%s is too long for a link", p.shapeLink(n))
		}
		if !p.prefix.Contains(p.box(n)) || slotNet(p.box(n)).String() == "" {
			t.Fatalf("%v is outside %v", p.box(n), p.prefix)
		}
		if p.boxMAC(n)[0]&3 != 2 {
			t.Fatalf("%v is not a unicast, locally administered address", p.boxMAC(n))
		}
		for _, link := range []string{p.hostLink(n), p.shapeLink(n)} {
			if got, ok := p.ofLink(link); !ok || got != n {
				t.Fatalf("ofLink(%s) = %d, %v; want %d", link, got, ok, n)
			}
		}
		if got, ok := p.ofFile(p.file(n)); !ok || got != n {
			t.Fatalf("ofFile(%s) = %d, %v; want %d", p.file(n), got, ok, n)
		}
	}
	if got := p.box(16383).String(); got != "10.213.255.254" {
		t.Errorf("last box is %s; want 10.213.255.254", got)
	}
}

func TestForeignNames(t *testing.T) {
	p := plan{name: "bulkhead", prefix: netip.MustParsePrefix("10.213.0.0/16")}
	for _, link := range []string{"bulkhead", "bulkheadi", "bulkheadx1", "bulkhead16384", "bulkhead-1", "bulkhead01", "bulkhead+1", "eth0", "bulkheadii1"} {
		if n, ok := p.ofLink(link); ok {
			t.Errorf("ofLink(%s) = %d; it is not ours", link, n)
		}
	}
	for _, file := range []string{".lock", "bulkhead-", "bulkhead-x", "bulkhead-007", "bulkhead-16384", "other-1"} {
		if n, ok := p.ofFile(file); ok {
			t.Errorf("ofFile(%s) = %d; it is not ours", file, n)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("bulkhead12")
	f.Add("bulkheadi9")
	f.Add("bulkhead-3")
	p := plan{name: "bulkhead", prefix: netip.MustParsePrefix("10.213.0.0/16")}
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := p.ofLink(s); ok && p.hostLink(n) != s && p.shapeLink(n) != s {
			t.Errorf("%q is taken for slot %d", s, n)
		}
		if n, ok := p.ofFile(s); ok && p.file(n) != s {
			t.Errorf("%q is taken for slot %d", s, n)
		}
	})
}

func TestConfig(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, tt := range []struct {
		name string
		cfg  Config
		want string // part of the error, "" for none
	}{
		{"zero", Config{}, ""},
		{"all", Config{
			Dir: "/x", Name: "a", Prefix: prefix("172.16.0.0/12"), Ready: 5, MTU: 1400, MaxConns: 1,
			Resolvers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}, Deny: []netip.Prefix{prefix("8.0.0.0/8")},
		}, ""},
		{"relative dir", Config{Dir: "x"}, "Dir"},
		{"name ends in a digit", Config{Name: "box1"}, "Name"},
		{"long name", Config{Name: "abcdefghij"}, "Name"},
		{"name with a dash", Config{Name: "a-b"}, "Name"},
		{"public prefix", Config{Prefix: prefix("11.0.0.0/16")}, "Prefix"},
		{"prefix with host bits", Config{Prefix: prefix("10.1.2.3/16")}, "Prefix"},
		{"IPv6 prefix", Config{Prefix: prefix("fd00::/64")}, "Prefix"},
		{"large prefix", Config{Prefix: prefix("10.0.0.0/8")}, "Prefix"},
		{"long name for the prefix", Config{Name: "abcdefghi", Prefix: prefix("10.192.0.0/12")}, "Name"},
		{"small prefix", Config{Prefix: prefix("10.0.0.0/30")}, "Prefix"},
		{"ready", Config{Ready: -1}, "Ready"},
		{"MTU", Config{MTU: 576}, "MTU"},
		{"connections", Config{MaxConns: -1}, "MaxConns"},
		{"loopback resolver", Config{Resolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53")}}, "Resolvers"},
		{"resolver without port", Config{Resolvers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:0")}}, "Resolvers"},
		{"IPv6 deny", Config{Deny: []netip.Prefix{prefix("fd00::/64")}}, "Deny"},
	} {
		_, err := tt.cfg.withDefaults()
		if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want+" ")) {
			t.Errorf("%s: %v; want an error about %q", tt.name, err, tt.want)
		}
	}
}

func TestEgressCheck(t *testing.T) {
	list := func(ss ...string) (out []netip.Prefix) {
		for _, s := range ss {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	got, err := Egress{
		Allow: list("1.2.3.4/24", "1.2.3.0/24", "1.2.3.128/25", "1.2.0.0/16", "9.9.9.9/32"),
		Deny:  list("0.0.0.0/0", "8.8.8.8/32"),
	}.check()
	must(t, err)
	want := Egress{Allow: list("1.2.0.0/16", "9.9.9.9/32"), Deny: list("0.0.0.0/0")}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("checked (-want +got):\n%s", diff)
	}
	for _, bad := range []Egress{
		{Allow: list("::/0")},
		{Deny: []netip.Prefix{{}}},
		{Deny: make([]netip.Prefix, maxPrefixes+1)},
	} {
		if _, err := bad.check(); err == nil {
			t.Errorf("%+v passes the check", bad)
		}
	}
}

// TestIntervals checks membership of the set's intervals against the prefixes.
func TestIntervals(t *testing.T) {
	ps := closed([]netip.Prefix{netip.MustParsePrefix("8.8.8.0/24"), netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("11.0.0.0/8")})
	elems := intervals(ps)
	in := func(a netip.Addr) bool {
		i, found := slices.BinarySearchFunc(elems, a, func(e nftables.SetElement, a netip.Addr) int {
			k, _ := netip.AddrFromSlice(e.Key)
			return k.Compare(a)
		})
		if found {
			return !elems[i].IntervalEnd
		}
		return i > 0 && !elems[i-1].IntervalEnd
	}
	for _, s := range []string{
		"0.0.0.0", "0.255.255.255", "1.0.0.0", "8.8.7.255", "8.8.8.0", "8.8.8.255", "8.8.9.0", "9.255.255.255", "10.0.0.0",
		"10.255.255.255", "11.0.0.0", "11.255.255.255", "12.0.0.0", "100.64.0.1", "100.128.0.0", "127.0.0.1", "168.63.129.15", "168.63.129.16", "168.63.129.17", "169.254.169.254",
		"172.31.255.255", "172.32.0.0", "223.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
	} {
		a := netip.MustParseAddr(s)
		want := slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
		if in(a) != want {
			t.Errorf("%s in the closed set: %v; want %v", s, !want, want)
		}
	}
}
