package runc_test

import (
	"os/exec"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/driver/drivertest"
	"github.com/bulkheadhq/bulkhead/internal/driver/runc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func TestContract(t *testing.T) {
	testenv.Need(t, "runc")
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	f := drivertest.Real(t)
	dir := t.TempDir()
	drivertest.Run(t, f, func(t *testing.T) pool.Driver {
		t.Helper()
		d, err := runc.New(runc.Config{Dir: dir, Runc: path})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
