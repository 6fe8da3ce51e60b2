package e2e

import (
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// reach is a program in a box that connects by name or address and says who
// answered.
const reach = `python3 -c 'import socket, sys
for target in sys.argv[1:]:
    try:
        with socket.create_connection((target, 80), timeout=5) as s: print(target, s.recv(100).decode().strip())
    except OSError as e: print(target, "failed")' `

// visits runs reach for the targets and reports which were reached.
func visits(t *testing.T, sb *client.Sandbox, targets ...string) map[string]bool {
	t.Helper()
	out, err := sb.Exec(t.Context(), shell(reach+strings.Join(targets, " ")), nil)
	if err != nil {
		t.Fatal(err)
	}
	reached := map[string]bool{}
	for line := range strings.Lines(string(out.Stdout)) {
		target, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		reached[target] = strings.HasPrefix(said, "hello")
	}
	if len(reached) != len(targets) {
		t.Fatalf("visits: %+v", out)
	}
	return reached
}

// Names and addresses are open as the policy says, in a real box, from its first
// moment, after a change and after the server was killed.
func TestEgress(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	targets := []string{worldAPI, "api.example.test", worldOther, "other.example.net", "inside.example.test", "meta.example.test", "169.254.169.254"}
	none := bulkhead.Network{DenyOut: []string{bulkhead.AllTraffic}}
	named := bulkhead.Network{AllowOut: []string{"*.example.test"}, DenyOut: []string{bulkhead.AllTraffic}}
	for _, tt := range []struct {
		name     string
		internet bool
		network  bulkhead.Network
		want     string
	}{
		{"internet", true, bulkhead.Network{}, worldAPI + " api.example.test " + worldOther + " other.example.net"},
		{"nothing", false, bulkhead.Network{}, ""},
		{"all denied", true, none, ""},
		{"one denied", true, bulkhead.Network{DenyOut: []string{worldAPI}}, worldOther + " other.example.net"},
		{"one allowed", false, bulkhead.Network{AllowOut: []string{worldOther + "/32"}}, worldOther},
		// The first is tried before any name is resolved.
		{"names", true, named, "api.example.test"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sb := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: tt.internet, Network: tt.network})
			for target, reached := range visits(t, sb, targets...) {
				if want := strings.Contains(" "+tt.want+" ", " "+target+" "); reached != want {
					t.Errorf("%s: reached %v, want %v", target, reached, want)
				}
			}
		})
	}
	t.Run("changes", func(t *testing.T) {
		sb := s.sandbox(t, bulkhead.CreateRequest{})
		if err := s.client.SetNetwork(t.Context(), sb.ID(), false, named); err != nil {
			t.Fatal(err)
		}
		check := func(when string) {
			t.Helper()
			if got := visits(t, sb, worldOther, "api.example.test", "other.example.net", worldAPI); got[worldOther] || !got["api.example.test"] || got["other.example.net"] || !got[worldAPI] {
				t.Errorf("%s: %v", when, got)
			}
		}
		check("after a change")
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.start(bin); err != nil {
			t.Fatal(err)
		}
		check("after the server was killed")
		if err := s.client.SetNetwork(t.Context(), sb.ID(), true, none); err != nil {
			t.Fatal(err)
		}
		if got := visits(t, sb, worldAPI, "api.example.test"); got[worldAPI] || got["api.example.test"] {
			t.Errorf("after all was closed: %v", got)
		}
	})
}
