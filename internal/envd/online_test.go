package envd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// TestOnline tells programs the box's own number of processors, never more than
// its kernel has.
func TestOnline(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(online)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, online), []byte("0-3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := map[string]string{}
	s := &System{Root: root, Bind: func(file, over string) error { mounts[over] = file; return nil }}
	if err := s.Mark(); err != nil {
		t.Fatal(err)
	}
	shown := mounts[filepath.Join(root, online)]
	for _, tt := range []struct {
		cpus int64
		want string
	}{{0, "0-3\n"}, {2, "0-1\n"}, {1, "0\n"}, {9, "0-3\n"}} {
		if err := s.apply(boxrpc.Init{CPUs: tt.cpus}, boxrpc.Init{}.Timestamp); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(shown)
		if err != nil || string(got) != tt.want {
			t.Errorf("%d processors: %q, %v; want %q", tt.cpus, got, err, tt.want)
		}
	}
}
