package guard_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
)

func TestDetect(t *testing.T) {
	if version, err := os.ReadFile("/proc/version"); err == nil && strings.Contains(string(version), "gvisor") {
		t.Skip("in gVisor there is nothing to detect")
	}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  guard.Usage
		fails bool
	}{
		{"version 2", map[string]string{
			"memory.current": "1000\n", "memory.stat": "anon 5\ninactive_file 300\nactive_file 7\n", "pids.current": "12\n",
		}, guard.Usage{Memory: 700, Tasks: 12}, false},
		{"version 1", map[string]string{
			"memory/memory.usage_in_bytes": "1000\n", "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 400\n", "pids/pids.current": "3\n",
		}, guard.Usage{Memory: 600, Tasks: 3}, false},
		{"more to drop than there is", map[string]string{
			"memory.current": "10\n", "memory.stat": "inactive_file 300\n", "pids.current": "1\n",
		}, guard.Usage{Tasks: 1}, false},
		{"nothing", nil, guard.Usage{}, true},
		{"no tasks", map[string]string{"memory.current": "1\n", "memory.stat": ""}, guard.Usage{}, true},
		{"no number", map[string]string{"memory.current": "max\n", "memory.stat": "", "pids.current": "1\n"}, guard.Usage{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range test.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m, err := guard.Detect(dir)
			if test.fails {
				if err == nil {
					t.Errorf("a meter was found: %v", m)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := m.Measure(); err != nil || got != test.want {
				t.Errorf("usage = %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}
