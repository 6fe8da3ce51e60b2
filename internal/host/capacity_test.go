package host_test

import (
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/host"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// The book is told what this host has, less the reserve, and follows it.
func TestCapacity(t *testing.T) {
	mem, err := cgroup.HostMemory()
	if err != nil {
		t.Fatal(err)
	}
	b := quota.New(quota.Config{})
	cfg := host.CapacityConfig{
		Book: b, Sandboxes: 7, CPUOvercommit: 3, ReserveMemoryMB: mem.Total >> 21, ReserveDiskMB: 1 << 40,
		DiskDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
	}
	if _, err := host.NewCapacity(cfg); err != nil {
		t.Fatal(err)
	}
	v := b.Host()
	if v.Capacity.Sandboxes != 7 || v.Capacity.CPU != float64(3*runtime.NumCPU()) {
		t.Errorf("%+v", v.Capacity)
	}
	if most := mem.Total>>20 - mem.Total>>21; v.Capacity.MemoryMB > most || v.Load.Memory <= 0 || v.Load.Memory >= 1 {
		t.Errorf("%d MiB of memory promised, load %v, with half of %d MiB kept back", v.Capacity.MemoryMB, v.Load.Memory, mem.Total>>20)
	}
	r := quota.Request{Tenant: "t", Defaults: bulkhead.DefaultLimits(), TTL: time.Minute}
	if _, err := b.Offer(time.Now(), r); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("a disk that is all reserve: %v", err)
	}
	cfg.ReserveDiskMB = 0
	if _, err := host.NewCapacity(cfg); err != nil {
		t.Fatal(err)
	}
	if v := b.Host(); v.Capacity.DiskMB <= 0 {
		t.Errorf("no disk: %+v", v.Capacity)
	}
	if _, err := host.NewCapacity(host.CapacityConfig{}); err == nil {
		t.Error("no book, no error")
	}
	cfg.DiskDir = "/nonexistent"
	if _, err := host.NewCapacity(cfg); err == nil {
		t.Error("no such disk, no error")
	}
}
