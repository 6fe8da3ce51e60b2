package boxrpc

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bulkheadhq/bulkhead"
)

// The bounds of an [Init].
const (
	// MaxInitBytes bounds the JSON of an /init call.
	MaxInitBytes = 1 << 20
	// MaxEnvVars and MaxEnvBytes bound an environment, as a number of variables
	// and as the bytes of all of them. Linux itself refuses a single string
	// beyond 128 KiB.
	MaxEnvVars  = 4096
	MaxEnvBytes = 512 << 10
	// MaxTokenBytes bounds an access token.
	MaxTokenBytes = 512
	// MaxNameservers is how many a resolver asks.
	MaxNameservers = 3
	// MaxPathBytes is PATH_MAX without its closing NUL.
	MaxPathBytes = 4095
)

var (
	hostname  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)
	machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	boxID     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	userName  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?$`)
)

// ValidUser reports whether name may name a user. Whether there is such a user
// only the box knows.
func ValidUser(name string) bool { return userName.MatchString(name) }

// Validate checks every field against its range. An empty field passes. The
// error is an *[bulkhead.Error] with [bulkhead.CodeInvalid] that names the field.
func (i Init) Validate() error {
	for _, f := range []struct {
		name, value string
		form        *regexp.Regexp
		rule        string
	}{
		{"sandboxID", i.SandboxID, boxID, "1 to 128 letters, digits, '.', '_' or '-'"},
		{"templateID", i.TemplateID, boxID, "1 to 128 letters, digits, '.', '_' or '-'"},
		{"hostname", i.Hostname, hostname, "1 to 64 letters, digits, '-' or '.'"},
		{"machineID", i.MachineID, machineID, "32 lower-case hex digits"},
		{"defaultUser", i.DefaultUser, userName, "1 to 32 letters, digits, '_', '.' or '-'"},
	} {
		if f.value != "" && !f.form.MatchString(f.value) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %.80q; it must be %s", f.name, f.value, f.rule)
		}
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"memoryBytes", i.MemoryBytes}, {"pids", i.Pids}, {"outputBytes", i.OutputBytes}, {"outputBytesPerSecond", i.OutputBytesPerSecond}} {
		if f.value < 0 {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %d; it must be 0 or more", f.name, f.value)
		}
	}
	if len(i.Nameservers) > MaxNameservers {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "nameservers has %d addresses; at most %d are allowed", len(i.Nameservers), MaxNameservers)
	}
	for _, ns := range i.Nameservers {
		if _, err := netip.ParseAddr(ns); err != nil {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "nameservers has %.80q; each must be an IP address", ns)
		}
	}
	switch {
	case len(i.AccessToken) > MaxTokenBytes:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "accessToken has %d bytes; at most %d are allowed", len(i.AccessToken), MaxTokenBytes)
	case i.DefaultWorkdir != "" && !strings.HasPrefix(i.DefaultWorkdir, "/") && !strings.HasPrefix(i.DefaultWorkdir, "~"):
		return bulkhead.Errorf(bulkhead.CodeInvalid, "defaultWorkdir is %.80q; it must begin with '/' or '~'", i.DefaultWorkdir)
	case len(i.DefaultWorkdir) > MaxPathBytes || strings.ContainsRune(i.DefaultWorkdir, 0):
		return bulkhead.Errorf(bulkhead.CodeInvalid, "defaultWorkdir must hold at most %d bytes and no NUL", MaxPathBytes)
	case len(i.Seed) > 256:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "seed has %d bytes; at most 256 are allowed", len(i.Seed))
	}
	return ValidateEnv("envVars", i.Env)
}

// ValidateEnv checks an environment: names are not empty and hold neither "="
// nor NUL, values hold no NUL, and there are at most [MaxEnvVars] of them and
// [MaxEnvBytes] in total. field names the environment in the error, which is an
// *[bulkhead.Error] with [bulkhead.CodeInvalid].
func ValidateEnv(field string, env map[string]string) error {
	if len(env) > MaxEnvVars {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has %d variables; at most %d are allowed", field, len(env), MaxEnvVars)
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := env[name]
		total += len(name) + len(value) + 2 // "=" and NUL
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has the name %.80q; a name is not empty and holds neither '=' nor NUL", field, name)
		case strings.ContainsRune(value, 0):
			return bulkhead.Errorf(bulkhead.CodeInvalid, "the value of %.80q in %s holds a NUL", name, field)
		case !utf8.ValidString(name):
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has a name that is not UTF-8: %.80q", field, name)
		}
	}
	if total > MaxEnvBytes {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s takes %d bytes; at most %d are allowed", field, total, MaxEnvBytes)
	}
	return nil
}
