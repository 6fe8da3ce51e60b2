package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
	"github.com/bulkheadhq/bulkhead/internal/script"
)

// fetchPolicy says what the scripts of a tenant may fetch. Its client holds
// whatever a name resolves to against the same rules as a box's traffic.
type fetchPolicy struct {
	everybody bulkhead.Egress
	tenants   map[string]bulkhead.Egress
	open      []netip.Prefix // private, and open all the same
	deny      []netip.Prefix
}

// newFetchPolicy reads the options. It returns nil where nobody may fetch.
func newFetchPolicy(cfg *config.Config) (*fetchPolicy, error) {
	if len(cfg.ScriptFetch) == 0 {
		return nil, nil //nolint:nilnil // nobody may
	}
	entries := map[string][]string{}
	for _, e := range cfg.ScriptFetch {
		tenant, entry, named := strings.Cut(e, "=")
		if !named {
			tenant, entry = "", e
		}
		entries[tenant] = append(entries[tenant], entry)
	}
	p := &fetchPolicy{tenants: map[string]bulkhead.Egress{}, open: cfg.OpenPrivate, deny: cfg.DenyEgress}
	for tenant, list := range entries {
		internet := slices.Contains(list, bulkhead.AllTraffic)
		list = slices.DeleteFunc(list, func(e string) bool { return e == bulkhead.AllTraffic || internet })
		e, err := bulkhead.Network{AllowOut: list}.Egress(internet)
		if err != nil {
			return nil, fmt.Errorf("--script-fetch: %w", err)
		}
		if tenant == "" {
			p.everybody = e
		} else {
			p.tenants[tenant] = e
		}
	}
	return p, nil
}

// allow decides about one address.
func (p *fetchPolicy) allow(_ context.Context, t script.Tenant, u *url.URL) error {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	for _, e := range []bulkhead.Egress{p.everybody, p.tenants[t.ID]} {
		if e.Internet {
			return nil
		}
		if a, err := netip.ParseAddr(host); err == nil {
			if slices.ContainsFunc(e.Allow, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) }) {
				return nil
			}
		} else if bulkhead.MatchDomain(e.Domains, host) {
			return nil
		}
	}
	return bulkhead.Errorf(bulkhead.CodeForbidden, "%.200s is not open to this tenant: the operator opens hosts with --script-fetch", host)
}

// reachable decides about the address that a name resolved to.
func (p *fetchPolicy) reachable(a netip.Addr) bool {
	a = a.Unmap()
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return !in(p.deny) && (netslot.Public(a) || in(p.open))
}

// client does the requests.
func (p *fetchPolicy) client() *http.Client {
	dialer := &net.Dialer{
		Timeout: 10 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !p.reachable(ap.Addr()) {
				return bulkhead.Errorf(bulkhead.CodeForbidden, "%s is closed: it is no public address, or one that the operator denies", address)
			}
			return nil
		},
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp4", addr) // as for boxes, there is no IPv6
		},
		MaxIdleConns: 64, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}
