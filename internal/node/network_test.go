package node_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

// TestNetwork gives a sandbox a policy, changes it, fails to change it, and finds
// it in force after a restart.
func TestNetwork(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	allow := func(domain string) bulkhead.Network {
		return bulkhead.Network{AllowOut: []string{domain}, DenyOut: []string{bulkhead.AllTraffic}}
	}
	bound := func(sb bulkhead.Sandbox, want ...string) {
		t.Helper()
		if d := cmp.Diff(bulkhead.Egress{Domains: want}, w.parts.Part(sb.Box).Egress()); d != "" {
			t.Errorf("in force, -want +got:\n%s", d)
		}
	}
	sb, err := n.Create(t.Context(), bulkhead.CreateRequest{Tenant: "t1", Template: "base", TTL: time.Hour, AllowInternet: true, Network: allow("a.example.com")})
	if err != nil {
		t.Fatal(err)
	}
	bound(sb, "a.example.com")
	if sb, err = n.SetNetwork(t.Context(), "t1", sb.ID, true, allow("b.example.com")); err != nil {
		t.Fatal(err)
	}
	bound(sb, "b.example.com")
	for name, call := range map[string]func() error{
		"another tenant's": func() error { _, err := n.SetNetwork(t.Context(), "t2", sb.ID, true, bulkhead.Network{}); return err },
		"wrong": func() error {
			_, err := n.SetNetwork(t.Context(), "t1", sb.ID, true, bulkhead.Network{AllowOut: []string{"x.example.com"}})
			return err
		},
		"not possible": func() error {
			w.parts.Fail("Bind", errors.New("planned"))
			defer w.parts.Fail("Bind", nil)
			_, err := n.SetNetwork(t.Context(), "t1", sb.ID, true, bulkhead.Network{})
			return err
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
		bound(sb, "b.example.com")
	}
	n = w.node()
	if _, err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	bound(sb, "b.example.com")
	got, err := n.Get(t.Context(), "t1", sb.ID)
	if err != nil || cmp.Diff(allow("b.example.com"), got.Network) != "" {
		t.Errorf("after the restart: %+v, %v", got.Network, err)
	}
}
