package gvisor_test

import (
	"os"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/driver/drivertest"
	"github.com/bulkheadhq/bulkhead/internal/driver/gvisor"
	"github.com/bulkheadhq/bulkhead/internal/driver/gvisor/runsc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// TestMain makes the test binary its own runsc, as cmd/bulkhead is.
func TestMain(m *testing.M) {
	if runsc.Is(os.Args[0]) {
		runsc.Main()
	}
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	f := drivertest.Real(t)
	dir := t.TempDir()
	drivertest.Run(t, f, func(t *testing.T) pool.Driver {
		t.Helper()
		d, err := gvisor.New(gvisor.Config{Dir: dir, Runsc: "/proc/self/exe"})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
