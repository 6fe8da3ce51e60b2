package netslot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// TestTry expects this machine to have every ability, and no trace of the try.
func TestTry(t *testing.T) {
	testenv.Need(t, "root")
	if diff := cmp.Diff(Trial{}, Try(), cmpopts.EquateErrors()); diff != "" {
		t.Errorf("abilities (-want +got):\n%s", diff)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(mounts), "bulkhead-doctor") {
		t.Error("a mount is left")
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "bulkhead-doctor-*")) //nolint:usetesting // where the trial works
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestForeignDrops(t *testing.T) {
	l := newLab(t)
	drops := func() (out []string) {
		must(t, within(l.host, func() (err error) {
			out, err = ForeignDrops()
			return err
		}))
		return out
	}
	if got := drops(); len(got) > 0 {
		t.Errorf("on a bare host: %v", got)
	}
	docker(t, l, true)
	if got := drops(); !slices.Equal(got, []string{"filter FORWARD"}) {
		t.Errorf("beside Docker: %v; want filter FORWARD", got)
	}
}
