package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	path, digest, err := Install(dir)
	if errors.Is(err, ErrMissing) {
		if _, err := bin.ReadFile("bin/envd"); err == nil {
			t.Fatal("envd is there and reported missing")
		}
		t.Skip("needs envd: built without it")
	}
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(path, "envd"))
	if err != nil || st.Mode().Perm() != 0o755 {
		t.Fatalf("envd: %v, %v", st, err)
	}
	again, digest2, err := Install(dir)
	if err != nil || again != path || digest2 != digest {
		t.Errorf("again: %s, %s, %v", again, digest2, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("folder: %v, %v", entries, err)
	}
}
