package netslot

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// passForeign lets boxes through iptables' forward chain (nftables flavour) when
// it drops by policy, as Docker sets it: through DOCKER-USER where that exists.
// Other chains that drop are only logged. What boxes may do is decided by our
// own table, whatever is accepted here.
func (a *Allocator) passForeign() error {
	return a.host.do(func() error {
		c := &nftables.Conn{}
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list foreign chains: %w", err)
		}
		var iptables *nftables.Chain
		dropping := false
		for _, ch := range chains {
			if ours(ch, a.cfg.Name) {
				continue
			}
			if isIPTables(ch, "DOCKER-USER") || (iptables == nil && isIPTables(ch, "FORWARD")) {
				iptables = ch
			}
			if !drops(ch) {
				continue
			}
			if isIPTables(ch, "FORWARD") {
				dropping = true
				continue
			}
			a.cfg.Log.Warn("a foreign chain drops what it does not know; boxes reach the internet only if it lets their addresses pass",
				"table", ch.Table.Name, "chain", ch.Name, "prefix", a.cfg.Prefix.String())
		}
		if !dropping {
			return nil
		}
		return a.pass(c, iptables)
	})
}

// pass adds the two rules to an iptables chain unless it has them.
func (a *Allocator) pass(c *nftables.Conn, ch *nftables.Chain) error {
	mine, err := a.passRules(c, ch)
	if err != nil || len(mine) > 0 {
		return err
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		c.InsertRule(&nftables.Rule{
			Table: ch.Table, Chain: ch,
			Exprs:    append(linkIs(key, a.cfg.Name), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			UserData: userdata.AppendString(nil, userdata.TypeComment, a.cfg.Name),
		})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add rules to %s %s: %w", ch.Table.Name, ch.Name, err)
	}
	a.cfg.Log.Info("let boxes through a foreign forward chain", "table", ch.Table.Name, "chain", ch.Name)
	return nil
}

// unpassForeign removes the rules that passForeign added.
func (a *Allocator) unpassForeign() error {
	return a.host.do(func() error {
		c := &nftables.Conn{}
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list foreign chains: %w", err)
		}
		var errs []error
		for _, ch := range chains {
			if !isIPTables(ch, "DOCKER-USER") && !isIPTables(ch, "FORWARD") {
				continue
			}
			rules, err := a.passRules(c, ch)
			errs = append(errs, err)
			for _, r := range rules {
				errs = append(errs, c.DelRule(r))
			}
		}
		return errors.Join(append(errs, c.Flush())...)
	})
}

// passRules lists our rules in a foreign chain.
func (a *Allocator) passRules(c *nftables.Conn, ch *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return nil, fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
	}
	var mine []*nftables.Rule
	for _, r := range rules {
		if s, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && s == a.cfg.Name {
			mine = append(mine, r)
		}
	}
	return mine, nil
}

func ours(ch *nftables.Chain, name string) bool {
	return ch.Table.Name == name && ch.Table.Family == nftables.TableFamilyINet
}

func isIPTables(ch *nftables.Chain, name string) bool {
	return ch.Table.Family == nftables.TableFamilyIPv4 && ch.Table.Name == "filter" && ch.Name == name
}

// drops reports whether ch is a forward hook for IPv4 that drops by policy.
func drops(ch *nftables.Chain) bool {
	v4 := ch.Table.Family == nftables.TableFamilyIPv4 || ch.Table.Family == nftables.TableFamilyINet
	return v4 && ch.Hooknum != nil && uint32(*ch.Hooknum) == unix.NF_INET_FORWARD &&
		ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
}
