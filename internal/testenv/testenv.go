// Package testenv gates integration tests on what the machine really has.
//
// A test names what it needs; where that is missing the test is skipped with the
// reason, unless the environment variable BULKHEAD_TEST_REQUIRE lists the need
// (comma separated, or "all"): then the test fails. CI sets it, so that nothing
// is skipped there for want of something.
//
// Not even "all" asks for what no single machine has, and a plain skip says so:
// cgroups of version 1, version 2 and both at once (internal/cgroup; `make cgroups`
// has a second kernel for each), what a driver or a language's kernel cannot do
// (drivertest, internal/interp), and being outside gVisor (internal/envd/guard). Nor does it undo -short, which leaves the
// long tests to `make soak`.
package testenv

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Need skips t, or fails it when the need is required, unless the machine has
// the named thing: "root", or the name of a program on PATH such as "runc".
// Needs with a condition of their own pass it to [Have].
func Need(t testing.TB, name string) {
	t.Helper()
	switch name {
	case "root":
		Have(t, name, os.Geteuid() == 0, "not running as root")
	default:
		_, err := exec.LookPath(name)
		Have(t, name, err == nil, name+" is not on PATH")
	}
}

// Have is [Need] with the caller's own condition; reason says what is missing.
func Have(t testing.TB, name string, ok bool, reason string) {
	t.Helper()
	if ok {
		return
	}
	required := strings.Split(os.Getenv("BULKHEAD_TEST_REQUIRE"), ",")
	if slices.Contains(required, name) || slices.Contains(required, "all") {
		t.Fatalf("%s is required here: %s", name, reason)
	}
	t.Skipf("needs %s: %s", name, reason)
}
