package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSetNetwork replaces all of a sandbox's policy with each call.
func TestSetNetwork(t *testing.T) {
	b := newBench(t)
	id := b.create(`{"templateID":"base"}`)
	for _, tt := range []struct {
		body     string
		internet bool
		want     map[string]any
	}{
		{
			`{"allowOut":["example.org","1.1.1.0/24"],"denyOut":["0.0.0.0/0"]}`, false,
			map[string]any{"allowOut": []any{"example.org", "1.1.1.0/24"}, "denyOut": []any{"0.0.0.0/0"}, "allowPublicTraffic": true},
		},
		{
			`{"allowOut":["example.org"],"allow_internet_access":false}`, false,
			map[string]any{"allowOut": []any{"example.org"}, "denyOut": []any{"0.0.0.0/0"}, "allowPublicTraffic": true},
		},
		{`{"denyOut":["9.9.9.9"]}`, true, map[string]any{"denyOut": []any{"9.9.9.9"}, "allowPublicTraffic": true}},
		{`{}`, true, map[string]any{"allowPublicTraffic": true}},
	} {
		if r := b.call("PUT /sandboxes/"+id+"/network", tt.body); r.status != 204 {
			t.Fatalf("%s: %d %s", tt.body, r.status, r.body)
		}
		got := b.call("GET /sandboxes/"+id, "").object(t)
		if diff := cmp.Diff(tt.want, got["network"]); diff != "" || got["allowInternetAccess"] != tt.internet {
			t.Errorf("%s: allowInternetAccess %v, -want +got:\n%s", tt.body, got["allowInternetAccess"], diff)
		}
	}
	for body, want := range map[string]struct {
		status int
		text   string
	}{
		`{"allowOut":["example.org"]}`:                  {400, "needs \"0.0.0.0/0\""},
		`{"allowOut":["not a host"],"denyOut":["0/0"]}`: {400, "network.denyOut has \"0/0\""},
		`{"allowPublicTraffic":false}`:                  {400, "network.allowPublicTraffic is set"},
		`{"rules":{"a.b":[{}]}}`:                        {501, "network.rules"},
		`{"later":true}`:                                {501, "network.later"},
		`{"allow_internet_access":"no"}`:                {400, "allow_internet_access"},
		``:                                              {400, ""},
	} {
		if r := b.call("PUT /sandboxes/"+id+"/network", body); r.status != want.status || !strings.Contains(r.message(t), want.text) {
			t.Errorf("%s: %d %s; want %d with %q", body, r.status, r.body, want.status, want.text)
		}
	}
	if r := b.call("PUT /sandboxes/i00000000000000000099/network", "{}"); r.status != 404 {
		t.Errorf("no such sandbox: %d %s", r.status, r.body)
	}
}
