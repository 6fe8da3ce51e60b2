package netslot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Trial says of each ability that slots need why this host does not have it; nil
// means that it was used and worked. What could not be tried after an earlier
// failure has [ErrNotTried].
type Trial struct {
	// Namespace: making and binding a network namespace.
	Namespace error
	// Rules: the nftables table with its sets, and a change of egress.
	Rules error
	// Veth: a slot with its links, addresses and routes.
	Veth error
	// Shaping: token buckets both ways (tbf, ifb, u32, mirred).
	Shaping error
	// Forget: the removal of connections from the host's table.
	Forget error
}

// ErrNotTried stands in a [Trial] for what needs something that failed.
var ErrNotTried = errors.New("not tried, since something that it needs failed")

// Try makes a slot in a namespace that plays the host, uses it, and removes all
// of it. The machine's own network is not touched. It takes some 100 ms.
func Try() (t Trial) {
	t = Trial{Namespace: ErrNotTried, Rules: ErrNotTried, Veth: ErrNotTried, Shaping: ErrNotTried, Forget: ErrNotTried}
	dir, err := os.MkdirTemp("", "bulkhead-doctor-")
	if err != nil {
		t.Namespace = fmt.Errorf("make directory: %w", err)
		return t
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory of ours, empty by then
	host := filepath.Join(dir, "bulkhead-doctor")
	if t.Namespace = os.WriteFile(host, nil, 0o600); t.Namespace != nil {
		return t
	}
	inner, ns, err := newNamespace(host)
	if t.Namespace = err; err != nil {
		return t
	}
	inner.Close()
	_ = ns.Close()
	defer func() {
		if err := unix.Unmount(host, unix.MNT_DETACH); err != nil {
			t.Namespace = fmt.Errorf("unbind: %w", err)
		}
	}()
	t.inHost(Config{Dir: filepath.Join(dir, "netns"), HostNS: host})
	return t
}

// inHost tries everything but the namespace.
func (t *Trial) inHost(cfg Config) {
	a, err := New(cfg)
	if t.Rules = err; err != nil {
		return
	}
	defer func() {
		if err := a.Close(); err != nil && t.Veth == nil {
			t.Veth = fmt.Errorf("remove: %w", err)
		}
	}()
	s, err := a.Acquire(context.Background())
	if t.Veth = err; err != nil {
		return
	}
	t.Rules = s.SetEgress(Egress{Internet: true, Deny: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 1)}})
	t.Shaping = s.SetBandwidth(1000, 0)
	t.Forget = a.forget([]cooling{{n: s.n, talked: true}})
}

// ForeignDrops names the forward chains of other firewalls, as "table chain",
// that drop by policy what they do not know. iptables' own, where
// [Allocator.Run] passes boxes through, is among them.
func ForeignDrops() ([]string, error) {
	chains, err := (&nftables.Conn{}).ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []string
	for _, ch := range chains {
		if drops(ch) {
			out = append(out, ch.Table.Name+" "+ch.Name)
		}
	}
	return out, nil
}
