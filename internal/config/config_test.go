package config_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/config"
)

type grammar struct {
	Config kong.ConfigFlag `name:"config"`
	Serve  struct {
		config.Config
	} `cmd:""`
}

// parse runs a command line with a configuration file.
func parse(t *testing.T, yaml string, args ...string) (config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bulkhead.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var g grammar
	k, err := kong.New(&g, kong.Configuration(config.Load), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(append([]string{"serve", "--config", path}, args...)); err != nil {
		return g.Serve.Config, err
	}
	return g.Serve.Config, g.Serve.Config.Validate()
}

func TestPrecedence(t *testing.T) {
	t.Setenv("BULKHEAD_DOMAIN", "env.test")
	c, err := parse(t, "max-sandboxes: 7\ndomain: file.test\nnameserver: [10.0.0.1, 10.0.0.2]\nwarm: {base: 2/3}\n", "--listen=:1")
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxSandboxes != 7 || c.Domain != "env.test" || c.Listen != ":1" || c.Driver != "gvisor" {
		t.Errorf("got %+v", c)
	}
	if len(c.Nameservers) != 2 || c.Nameservers[1] != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("nameservers: %v", c.Nameservers)
	}
	targets, err := c.Targets()
	if err != nil || targets["base"].Warm != 2 || targets["base"].Cold != 3 {
		t.Errorf("targets: %v, %v", targets, err)
	}
}

func TestDatabaseAndPrices(t *testing.T) {
	c, err := parse(t, "data: /srv/x\nprice: {cpu-second: 0.00001, egress-gb: 0.09}\n")
	if err != nil || c.Database != "sqlite:///srv/x/bulkhead.db" {
		t.Errorf("database %q, %v", c.Database, err)
	}
	prices, err := c.PriceTable()
	if want := (bulkhead.Prices{CPUSecond: 0.00001, EgressGB: 0.09}); prices != want || err != nil {
		t.Errorf("prices %+v, %v; want %+v", prices, err, want)
	}
	t.Setenv("BULKHEAD_DATABASE", "postgres://db/bulkhead")
	t.Setenv("BULKHEAD_PRICES", "gb-second=2;sandbox-second=1")
	if c, err = parse(t, "database: other"); err != nil || c.Database != "postgres://db/bulkhead" || c.Prices["gb-second"] != 2 || c.Prices["sandbox-second"] != 1 {
		t.Errorf("from the environment: %q, %v, %v", c.Database, c.Prices, err)
	}
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct{ yaml, arg, want string }{
		"unknown option": {"max-sandboxen: 7", "", `unknown option "max-sandboxen"`},
		"unknown flag":   {"", "--max-sandboxen=7", "unknown flag"},
		"not yaml":       {"a: [", "", "read configuration"},
		"not a number":   {"max-sandboxes: many", "", "max-sandboxes"},
		"range":          {"max-sandboxes: 0", "", "--max-sandboxes is 0; it must be between 1 and 4000"},
		"ttl":            {"", "--max-ttl=1ms", "--max-ttl is 1ms"},
		"negative":       {"", "--reserve-disk-mb=-1", "--reserve-disk-mb is -1"},
		"subnet":         {"", "--subnet=8.8.0.0/16", "--subnet is 8.8.0.0/16"},
		"driver":         {"", "--driver=docker", "--driver"},
		"half a pair":    {"", "--tls-cert=x", "--tls-cert and --tls-key"},
		"warm":           {"", "--warm=base=lots", "--warm base=lots"},
		"price's name":   {"", "--price=gpu-second=1", "--price gpu-second: it must be cpu-second, egress-gb, gb-second, sandbox-second"},
		"price":          {"price: {cpu-second: -1}", "", "--price cpu-second=-1: it must be between 0 and 1000000"},
		"no address":     {"", "--listen=", ""},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{}
			if tt.arg != "" {
				args = append(args, tt.arg)
			}
			_, err := parse(t, tt.yaml, args...)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

var update = flag.Bool("update", false, "write docs/configuration.md anew")

// The reference says what the struct says.
func TestReference(t *testing.T) {
	const path = "../../docs/configuration.md"
	want := config.Reference()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/configuration.md is out of date; run go test ./internal/config -update\n%s", diff)
	}
}
