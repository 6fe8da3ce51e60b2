package fake_test

import (
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/driver/drivertest"
	"github.com/bulkheadhq/bulkhead/internal/driver/fake"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

func TestContract(t *testing.T) {
	for _, snapshots := range []bool{true, false} {
		d := fake.New(fake.Config{Snapshots: snapshots})
		drivertest.Run(t, drivertest.Fixture{}, func(*testing.T) pool.Driver { return d })
	}
}
