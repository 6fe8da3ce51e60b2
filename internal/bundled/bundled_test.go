package bundled

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func TestInstall(t *testing.T) {
	for _, program := range []string{Envd, Runsc} {
		t.Run(program, func(t *testing.T) {
			dir := t.TempDir()
			path, digest, err := Install(dir, program)
			if errors.Is(err, ErrMissing) {
				if _, err := bin.ReadFile("bin/" + program); err == nil {
					t.Fatal("it is there and reported missing")
				}
				testenv.Have(t, program, false, "built without it: make build")
			}
			if err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(filepath.Join(path, program))
			if err != nil || st.Mode().Perm() != 0o755 {
				t.Fatalf("installed: %v, %v", st, err)
			}
			again, digest2, err := Install(dir, program)
			if err != nil || again != path || digest2 != digest {
				t.Errorf("again: %s, %s, %v", again, digest2, err)
			}
			if err := os.Truncate(filepath.Join(path, program), 10); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Install(dir, program); err != nil {
				t.Errorf("over a damaged one: %v", err)
			}
			if mended, err := os.Stat(filepath.Join(path, program)); err != nil || mended.Size() != st.Size() {
				t.Errorf("over a damaged one: %v, %v", mended, err)
			}
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "older"), 0o700), Prune(dir, path)); err != nil {
				t.Error(err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
				t.Errorf("folder: %v, %v", entries, err)
			}
		})
	}
	if _, _, err := Install(t.TempDir(), "nothing"); !errors.Is(err, ErrMissing) {
		t.Errorf("a program that is not carried: %v", err)
	}
}

func TestVersion(t *testing.T) {
	_, err := read(Runsc)
	testenv.Have(t, Runsc, err == nil, "built without it: make build")
	if v := Version(Runsc, "gvisor.dev/gvisor"); !strings.HasPrefix(v, "v0.0.0-") {
		t.Errorf("gVisor's version: %q", v)
	}
	if v := Version(Runsc, "example.com/none"); v != "unknown" {
		t.Errorf("version of nothing: %q", v)
	}
}
