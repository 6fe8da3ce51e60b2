package netslot

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// docker makes iptables' filter table (nftables flavour) as Docker leaves it: a
// forward chain that drops by policy, after asking DOCKER-USER.
func docker(t *testing.T, l lab, user bool) {
	t.Helper()
	must(t, within(l.host, func() error {
		c := &nftables.Conn{}
		table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
		drop := nftables.ChainPolicyDrop
		forward := c.AddChain(&nftables.Chain{
			Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
		})
		if user {
			chain := c.AddChain(&nftables.Chain{Table: table, Name: "DOCKER-USER"})
			c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: jump(chain)})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		}
		return c.Flush()
	}))
}

// foreignRules counts the rules of an iptables chain.
func foreignRules(t *testing.T, l lab, chain string) int {
	t.Helper()
	n := 0
	must(t, within(l.host, func() error {
		table := &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}
		rules, err := (&nftables.Conn{}).GetRules(table, &nftables.Chain{Table: table, Name: chain})
		n = len(rules)
		return err
	}))
	return n
}

// TestDocker starts Docker before and after the allocator, with and without its
// chain for users.
func TestDocker(t *testing.T) {
	for _, tt := range []struct {
		name, chain string
		user, first bool
		before      int // rules in chain without ours
	}{
		{"DOCKER-USER, Docker first", "DOCKER-USER", true, true, 1},
		{"DOCKER-USER, Docker later", "DOCKER-USER", true, false, 1},
		{"plain policy", "FORWARD", false, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			echo(t, l.world, worldPublic+":80")
			if tt.first {
				docker(t, l, tt.user)
			}
			cfg := l.config(t)
			a, err := New(cfg)
			must(t, err)
			open, closed := acquire(t, a), acquire(t, a)
			must(t, open.SetEgress(Egress{Internet: true}))
			if !tt.first {
				docker(t, l, tt.user)
				if _, err := ask(open.Path(), "tcp4", worldPublic+":80"); err == nil {
					t.Fatal("Docker's policy does not drop, so that this test proves nothing")
				}
				must(t, a.restore())
			}
			must(t, a.restore()) // adds nothing twice
			if _, err := ask(open.Path(), "tcp4", worldPublic+":80"); err != nil {
				t.Errorf("open box beside Docker: %v", err)
			}
			if _, err := ask(closed.Path(), "tcp4", worldPublic+":80"); !refused(err) {
				t.Errorf("closed box beside Docker: %v", err)
			}
			if got := foreignRules(t, l, tt.chain); got != tt.before+2 {
				t.Errorf("%s has %d rules; want %d", tt.chain, got, tt.before+2)
			}
			must(t, a.Close())
			if got := foreignRules(t, l, tt.chain); got != tt.before {
				t.Errorf("after Close %s has %d rules; want %d", tt.chain, got, tt.before)
			}
		})
	}
}
