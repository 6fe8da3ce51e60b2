package bulkhead_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestNetworkEgress(t *testing.T) {
	var many []string
	for i := range bulkhead.MaxPrefixes + 1 {
		many = append(many, fmt.Sprintf("20.0.%d.0/24", i))
	}
	for _, tt := range []struct {
		name     string
		internet bool
		n        bulkhead.Network
		want     bulkhead.Egress
		err      string
	}{
		{name: "nothing"},
		{name: "internet", internet: true, want: bulkhead.Egress{Internet: true}},
		{
			name: "deny all", internet: true, n: bulkhead.Network{DenyOut: []string{"0.0.0.0/0", "::/0"}},
		},
		{
			name: "addresses and prefixes", internet: true,
			n: bulkhead.Network{AllowOut: []string{"1.1.1.1", "8.8.8.9/24"}, DenyOut: []string{"9.0.0.0/8", "2001:db8::/32"}},
			want: bulkhead.Egress{
				Internet: true, Allow: prefixes("1.1.1.1/32", "8.8.8.0/24"), Deny: prefixes("9.0.0.0/8"),
			},
		},
		{
			name: "IPv4 in IPv6's writing", internet: true,
			n: bulkhead.Network{AllowOut: []string{"::ffff:1.1.1.1", "::ffff:8.8.8.9/120"}, DenyOut: []string{"::ffff:9.0.0.0/104"}},
			want: bulkhead.Egress{
				Internet: true, Allow: prefixes("1.1.1.1/32", "8.8.8.0/24"), Deny: prefixes("9.0.0.0/8"),
			},
		},
		{
			name: "domains", internet: true,
			n:    bulkhead.Network{AllowOut: []string{"*.Example.com", "example.org.", "example.org"}, DenyOut: []string{bulkhead.AllTraffic}},
			want: bulkhead.Egress{Domains: []string{"*.example.com", "example.org"}},
		},
		{name: "domains without internet", n: bulkhead.Network{AllowOut: []string{"a.b"}}, want: bulkhead.Egress{Domains: []string{"a.b"}}},
		{name: "domain beside internet", internet: true, n: bulkhead.Network{AllowOut: []string{"a.b"}}, err: `"a.b"`},
		{name: "IPv6 allowed", n: bulkhead.Network{AllowOut: []string{"2001:db8::1"}}, err: "no IPv6"},
		{name: "domain denied", n: bulkhead.Network{DenyOut: []string{"example.com"}}, err: "denyOut has"},
		{name: "one label", n: bulkhead.Network{AllowOut: []string{"localhost"}}, err: "allowOut has"},
		{name: "bare star", n: bulkhead.Network{AllowOut: []string{"*"}}, err: "allowOut has"},
		{name: "star for a top level", n: bulkhead.Network{AllowOut: []string{"*.com"}}, err: "allowOut has"},
		{name: "star in the middle", n: bulkhead.Network{AllowOut: []string{"a.*.com"}}, err: "allowOut has"},
		{name: "almost an address", n: bulkhead.Network{AllowOut: []string{"1.2.3.256"}}, err: "allowOut has"},
		{name: "scheme", n: bulkhead.Network{AllowOut: []string{"https://example.com"}}, err: "allowOut has"},
		{name: "too many", n: bulkhead.Network{AllowOut: many}, err: "at most 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.n.Egress(tt.internet)
			if tt.err != "" {
				if bulkhead.CodeOf(err) != bulkhead.CodeInvalid || !strings.Contains(bulkhead.Message(err), tt.err) {
					t.Errorf("error: %v; want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMatchDomain(t *testing.T) {
	domains := []string{"*.example.com", "example.org"}
	for name, want := range map[string]bool{
		"example.org": true, "a.example.org": false, "xexample.org": false, "example.org.evil.net": false,
		"example.com": false, "a.example.com": true, "b.a.example.com": true, "xexample.com": false, ".example.com": false, "": false,
	} {
		if got := bulkhead.MatchDomain(domains, name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
