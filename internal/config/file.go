package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"

	"github.com/bulkheadhq/bulkhead"
)

// Load reads a YAML file whose keys are the options' names without dashes in
// front, and returns what resolves flags from it. An option that does not exist
// is an error when the command line is parsed.
//
// It is a [kong.ConfigurationLoader].
func Load(r io.Reader) (kong.Resolver, error) {
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalWithOptions(data, &values, yaml.Strict()); err != nil && !errors.Is(err, io.EOF) {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "read configuration: %s", yaml.FormatError(err, false, true))
	}
	return &file{values: values}, nil
}

type file struct{ values map[string]any }

// Validate refuses keys that are no option of any command.
func (f *file) Validate(app *kong.Application) error {
	known := map[string]bool{}
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			known[flag.Name] = true
		}
		return next(nil)
	})
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		if !known[key] {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "configuration: unknown option %q", key)
		}
	}
	return nil
}

// Resolve returns the file's value for a flag, in the form kong parses.
func (f *file) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f.values[flag.Name]
	for _, env := range flag.Envs { // kong would put the file before the environment
		if _, set := os.LookupEnv(env); set {
			ok = false
		}
	}
	if !ok {
		return nil, nil //nolint:nilnil // kong's way to say that it is not here
	}
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = fmt.Sprint(e)
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+"="+fmt.Sprint(v[k]))
		}
		return strings.Join(parts, ";"), nil
	}
	return fmt.Sprint(v), nil
}

// Nameserver lines of a resolv.conf, as the host has them.
const resolvConf = "/etc/resolv.conf"

// HostNameservers returns the name servers in the host's resolv.conf that a box
// could reach: none on the loopback, where the host's own resolver listens.
func HostNameservers() ([]netip.Addr, error) {
	data, err := os.ReadFile(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	var out []netip.Addr
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.Is4() && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out, nil
}
