package runsc

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/usage"
)

// TestFollowMemory changes a limit as the server does, and finds the size changed
// that a sentry reports.
func TestFollowMemory(t *testing.T) {
	t.Setenv(memoryVariable, "") // put back after the test
	file := filepath.Join(t.TempDir(), "limit")
	write := func(limit string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(limit + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	const told, overhead = 512 << 20, 64 << 20
	write("603979776") // both
	openMemory(file, told)
	followMemory()
	write("max      ") // no limit is no size
	write("335544320") // 256 MiB and the overhead
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 5000 {
		if usage.TotalMemory(0, 0) == 256<<20 {
			return
		}
		<-tick.C
	}
	t.Errorf("the sentry reports %d bytes; want %d", usage.TotalMemory(0, 0), 256<<20)
}

func TestOpenMemoryRefuses(t *testing.T) {
	t.Setenv(memoryVariable, "")
	openMemory(filepath.Join(t.TempDir(), "missing"), 1)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, []byte("100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	openMemory(small, 200) // less than the box was told: another group's
	if v := os.Getenv(memoryVariable); v != "" {
		t.Errorf("opened: %q", v)
	}
}
