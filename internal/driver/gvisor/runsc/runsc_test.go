package runsc

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTellSize(t *testing.T) {
	dir := t.TempDir()
	config := `{"linux":{"resources":{"memory":{"limit":268435456},"cpu":{"quota":350000,"period":100000}}}}`
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := "--spec-fd=" + strconv.Itoa(int(file.Fd()))
	for _, tt := range []struct {
		name      string
		args, out []string
	}{
		{
			"replaces and adds",
			[]string{"runsc-sandbox", "--root=/r", "boot", fd, "--total-memory", "99", "box"},
			[]string{"runsc-sandbox", "--root=/r", "boot", "--cpu-num", "4", fd, "--total-memory", "268435456", "box"},
		},
		{"not boot", []string{"runsc", "create", "box"}, []string{"runsc", "create", "box"}},
		{"no spec", []string{"runsc", "boot", "box"}, []string{"runsc", "boot", "box"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.out, tellSize(tt.args)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestIs(t *testing.T) {
	for argv0, want := range map[string]bool{
		"runsc": true, "/usr/bin/runsc": true, "runsc-sandbox": true, "runsc-gofer": true, "/proc/self/exe": true, "bulkhead": false, "runc": false,
	} {
		if got := Is(argv0); got != want {
			t.Errorf("Is(%q) = %v", argv0, got)
		}
	}
}
