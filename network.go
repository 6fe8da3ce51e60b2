package bulkhead

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Network is what a sandbox wishes to reach outside, in E2B's words. The zero
// value leaves it to AllowInternet alone.
type Network struct {
	// AllowOut opens IPv4 addresses, prefixes (CIDR) and domains; "*.example.com"
	// is every name below example.com, not itself. What is allowed is open even
	// where DenyOut closes it. A domain needs everything else to be closed: no
	// AllowInternet, or "0.0.0.0/0" in DenyOut.
	AllowOut []string `json:"allowOut,omitempty"`
	// DenyOut closes addresses and prefixes; "0.0.0.0/0" is everything.
	DenyOut []string `json:"denyOut,omitempty"`
}

// AllTraffic in [Network].DenyOut closes everything that is not allowed.
const AllTraffic = "0.0.0.0/0"

// Bounds of an [Egress].
const (
	// MaxPrefixes is how many prefixes each list may hold, MaxDomains how many
	// domains.
	MaxPrefixes = 64
	MaxDomains  = 64
)

// Egress is what a sandbox may reach outside, checked. Private and special
// ranges stay closed whatever it says. The zero value opens nothing.
type Egress struct {
	// Internet opens every public address.
	Internet bool
	// Allow opens prefixes, Deny closes them; where both hold, Allow wins. IPv4.
	Allow, Deny []netip.Prefix
	// Domains open the addresses that their names resolve to, for as long as the
	// answer is valid: "example.com", or "*.example.com" for every name below it.
	// In lower case, without a dot at the end.
	Domains []string
}

// DNS reports whether names can be resolved at all: every name where the
// internet is open, those of Domains where there are any.
func (e Egress) DNS() bool { return e.Internet || len(e.Domains) > 0 }

// Egress checks n and returns what it means; internet is the sandbox's
// AllowInternet. The error is an *[Error] with [CodeInvalid] that names the
// entry.
func (n Network) Egress(internet bool) (Egress, error) {
	e := Egress{Internet: internet}
	for _, entry := range n.DenyOut {
		p, six, err := parsePrefix(entry)
		switch {
		case err != nil:
			return Egress{}, Errorf(CodeInvalid, "network.denyOut has %.100q; it must be an IPv4 address or prefix such as 203.0.113.0/24", entry)
		case six: // a sandbox has no IPv6, so that it is closed already
		case p.Bits() == 0:
			e.Internet = false
		default:
			e.Deny = append(e.Deny, p)
		}
	}
	for _, entry := range n.AllowOut {
		p, six, err := parsePrefix(entry)
		switch {
		case six:
			return Egress{}, Errorf(CodeInvalid, "network.allowOut has %.100q; a sandbox has no IPv6", entry)
		case err == nil:
			e.Allow = append(e.Allow, p)
			continue
		}
		name, ok := domain(entry)
		if !ok {
			return Egress{}, Errorf(CodeInvalid,
				"network.allowOut has %.100q; it must be an IPv4 address, a prefix such as 203.0.113.0/24, or a domain such as example.com or *.example.com", entry)
		}
		e.Domains = append(e.Domains, name)
	}
	slices.Sort(e.Domains)
	e.Domains = slices.Compact(e.Domains)
	if len(e.Domains) > 0 && e.Internet {
		return Egress{}, Errorf(CodeInvalid, "network.allowOut names the domain %q, which needs %q in network.denyOut: else everything is open",
			e.Domains[0], AllTraffic)
	}
	for _, l := range []struct {
		name, what string
		n, limit   int
	}{
		{"network.allowOut", "prefixes", len(e.Allow), MaxPrefixes},
		{"network.denyOut", "prefixes", len(e.Deny), MaxPrefixes},
		{"network.allowOut", "domains", len(e.Domains), MaxDomains},
	} {
		if l.n > l.limit {
			return Egress{}, &Error{Code: CodeInvalid, Msg: fmt.Sprintf("%s has %d %s; at most %d are possible", l.name, l.n, l.what, l.limit)}
		}
	}
	return e, nil
}

// parsePrefix reads an address or a prefix and says whether it is of IPv6. What is
// of IPv4 is so in IPv6's writing, too.
func parsePrefix(s string) (p netip.Prefix, six bool, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), a.Is6(), nil
	}
	p, err = netip.ParsePrefix(s)
	if mapped := 128 - 32; err == nil && p.Addr().Is4In6() && p.Bits() >= mapped {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked(), err == nil && p.Addr().Is6(), err
}

// domain reads a domain, which may begin with "*.", in its one form.
func domain(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	labels := strings.Split(strings.TrimPrefix(s, "*."), ".")
	// A name of one label, or one that looks like an address, is a mistake.
	if len(s) > 253 || len(labels) < 2 || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || l[0] == '-' || l[len(l)-1] == '-' {
			return "", false
		}
	}
	return s, true
}

// MatchDomain reports whether name, in lower case and without a dot at the end,
// is one of the domains of an [Egress].
func MatchDomain(domains []string, name string) bool {
	return slices.ContainsFunc(domains, func(d string) bool {
		if below, wild := strings.CutPrefix(d, "*"); wild {
			return len(name) > len(below) && strings.HasSuffix(name, below)
		}
		return d == name
	})
}
