package main

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/script"
)

func TestFetchPolicy(t *testing.T) {
	p, err := newFetchPolicy(&config.Config{
		ScriptFetch: []string{"api.example.com", "198.51.100.7", "acme=*.acme.com", "all=0.0.0.0/0"},
		OpenPrivate: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
		DenyEgress:  []netip.Prefix{netip.MustParsePrefix("8.8.4.0/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tenant, url string
		allowed     bool
	}{
		{"any", "https://api.example.com/x", true},
		{"any", "https://API.example.com./x", true},
		{"any", "https://other.example.com/", false},
		{"any", "https://x.acme.com/", false},
		{"acme", "https://x.acme.com/", true},
		{"acme", "https://acme.com/", false},
		{"acme", "https://api.example.com/", true},
		{"any", "http://198.51.100.7:8080/", true},
		{"any", "http://198.51.100.8/", false},
		{"all", "https://whatever.org/", true},
		{"all", "http://127.0.0.1/", true}, // the address is refused when it is dialed
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		err = p.allow(t.Context(), script.Tenant{ID: c.tenant}, u)
		if (err == nil) != c.allowed || err != nil && bulkhead.CodeOf(err) != bulkhead.CodeForbidden {
			t.Errorf("%s for %s: %v, want allowed %v", c.url, c.tenant, err, c.allowed)
		}
	}
	for a, want := range map[string]bool{
		"8.8.8.8": true, "8.8.4.4": false, "10.9.1.1": true, "10.8.1.1": false, "127.0.0.1": false, "169.254.169.254": false,
		"::ffff:127.0.0.1": false, "::1": false, "2001:4860:4860::8888": false, "100.64.0.1": false,
	} {
		if got := p.reachable(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is reachable: %v, want %v", a, got, want)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:1/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := p.client().Do(req); err == nil || !strings.Contains(err.Error(), "no public address") {
		if err == nil {
			_ = resp.Body.Close()
		}
		t.Errorf("a name that leads to this host gave %v", err)
	}
}

func TestFetchPolicyErrors(t *testing.T) {
	if p, err := newFetchPolicy(&config.Config{}); p != nil || err != nil {
		t.Errorf("without the option: %v, %v", p, err)
	}
	if _, err := newFetchPolicy(&config.Config{ScriptFetch: []string{"not a host"}}); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("error %v, want invalid", err)
	}
}
