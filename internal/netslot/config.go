package netslot

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// Config configures an [Allocator]. The zero value is usable.
type Config struct {
	// Dir holds one file per slot, a bound network namespace. Default
	// /run/bulkhead/netns. Made when missing.
	Dir string
	// Name begins the name of every link, namespace file and table. Default
	// "bulkhead"; at most 9 of [a-z0-9], a letter at both ends, fewer for large
	// prefixes. Two servers on one host need names of which neither begins with
	// the other.
	Name string
	// Prefix is what addresses are taken from, four to a slot: a private IPv4
	// prefix of 10 to 28 bits. Default 10.213.0.0/16, which is 16,384 slots.
	Prefix netip.Prefix
	// Ready is how many slots [Allocator.Run] keeps made ahead, 0 to 1024.
	Ready int
	// MTU of the boxes' links. 0 means that of the host's default route, else
	// 1500. At least 1280.
	MTU int
	// Resolvers are what a box with [Egress.DNS] may reach over UDP and TCP even
	// though it is private or on the host itself; their port is usually 53.
	Resolvers []netip.AddrPort
	// Deny are further prefixes that no box may reach, such as public addresses
	// that the operator's own network uses.
	Deny []netip.Prefix
	// Open are private or special prefixes that are treated as public ones, so that
	// boxes with [Egress.Internet] or a list that names them reach them. They open
	// neither the host itself nor another box, and what Deny names stays closed.
	Open []netip.Prefix
	// MaxConns bounds the connections that one box may have open to the
	// internet, so that it cannot fill the host's connection table. Default 4096.
	MaxConns int
	// HostNS is the network namespace that plays the host, as a file. Empty
	// means the one this process runs in.
	HostNS string
	// Log receives what is decided or repaired in the background. Default: none.
	Log *slog.Logger
}

// Defaults of [Config].
const (
	DefaultDir      = "/run/bulkhead/netns"
	DefaultName     = "bulkhead"
	defaultMaxConns = 4096
	maxConns        = 1 << 20
	maxReady        = 1024
)

var validName = regexp.MustCompile(`^[a-z]([a-z0-9]{0,7}[a-z])?$`)

// withDefaults fills the zero fields in and checks all of them.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		c.Dir = DefaultDir
	}
	if c.Name == "" {
		c.Name = DefaultName
	}
	if !c.Prefix.IsValid() {
		c.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, 0, 0}), 16)
	}
	if c.MaxConns == 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case !filepath.IsAbs(c.Dir):
		return c, fmt.Errorf("netslot: Dir is %q; it must be an absolute path", c.Dir)
	case !validName.MatchString(c.Name):
		return c, fmt.Errorf("netslot: Name is %q; it must be 1 to 9 of [a-z0-9] with a letter at both ends", c.Name)
	case !c.Prefix.Addr().Is4() || !c.Prefix.Addr().IsPrivate() || c.Prefix.Masked() != c.Prefix:
		return c, fmt.Errorf("netslot: Prefix is %v; it must be a private IPv4 network", c.Prefix)
	case c.Prefix.Bits() < 10 || c.Prefix.Bits() > 28:
		return c, fmt.Errorf("netslot: Prefix is %v; it must have 10 to 28 bits", c.Prefix)
	case len(plan{c.Name, c.Prefix}.shapeLink(plan{c.Name, c.Prefix}.size()-1)) >= unix.IFNAMSIZ:
		return c, fmt.Errorf("netslot: Name %q is too long for the links of %v; shorten it or take a smaller prefix", c.Name, c.Prefix)
	case c.Ready < 0 || c.Ready > maxReady:
		return c, fmt.Errorf("netslot: Ready is %d; it must be between 0 and %d", c.Ready, maxReady)
	case c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535):
		return c, fmt.Errorf("netslot: MTU is %d; it must be between 1280 and 65535", c.MTU)
	case c.MaxConns < 1 || c.MaxConns > maxConns:
		return c, fmt.Errorf("netslot: MaxConns is %d; it must be between 1 and %d", c.MaxConns, maxConns)
	}
	for _, r := range c.Resolvers {
		if !r.IsValid() || !r.Addr().Is4() || r.Port() == 0 || r.Addr().IsLoopback() {
			return c, fmt.Errorf("netslot: Resolvers has %v; it must be an IPv4 address and port that a box can reach", r)
		}
	}
	for _, p := range c.Deny {
		if !p.IsValid() || !p.Addr().Is4() {
			return c, fmt.Errorf("netslot: Deny has %v; it must be an IPv4 prefix", p)
		}
	}
	for _, p := range c.Open {
		if !p.IsValid() || !p.Addr().Is4() {
			return c, fmt.Errorf("netslot: Open has %v; it must be an IPv4 prefix", p)
		}
		for _, never := range neverOpen {
			if p.Overlaps(netip.MustParsePrefix(never)) {
				return c, fmt.Errorf("netslot: Open has %v, which overlaps %s; that cannot be opened", p, never)
			}
		}
		for _, other := range append([]netip.Prefix{c.Prefix}, c.Deny...) {
			if p.Overlaps(other) {
				return c, fmt.Errorf("netslot: Open has %v, which overlaps %v; that cannot be opened", p, other)
			}
		}
	}
	return c, nil
}

// neverOpen are prefixes that no operator opens by prefix: the host's own, the
// one where machines get their secrets, and what is no single machine's.
var neverOpen = []string{"0.0.0.0/8", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"}
