package pool

import (
	"context"
	"net/netip"
	"os/exec"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Parts makes what a box needs from the host besides its driver: a network slot
// and a cgroup. It is safe for concurrent use.
type Parts interface {
	// Acquire makes the parts of a new box and names the box. CodeUnavailable when
	// the host has no more.
	Acquire(ctx context.Context, l bulkhead.Limits) (Part, error)
	// Adopt takes over the parts of a box that an earlier server made.
	Adopt(ctx context.Context, box string) (Part, error)
	// Reap removes all parts of boxes for which inUse is false.
	Reap(ctx context.Context, inUse func(box string) bool) error
}

// Part is one box's share of the host.
type Part interface {
	// Box is the name of the box, unique on this host for all time.
	Box() string
	// Netns is the path of its network namespace, Addr its address in there.
	Netns() string
	Addr() netip.Addr
	// Bind puts limits and egress in force, within a millisecond.
	Bind(ctx context.Context, l bulkhead.Limits, e bulkhead.Egress) error
	// Background lets all other boxes go first on the processors, or no longer. Its
	// error is [errors.ErrUnsupported] where the host cannot.
	Background(on bool) error
	// CPUTime is the processor time the box has used, in some 10 µs.
	CPUTime() (time.Duration, error)
	// Usage measures the box.
	Usage() (Usage, error)
	// Meter reads the counters that what is used is told by, in some 50 µs.
	Meter() (bulkhead.Meter, error)
	// Release ends every process that is left in the box and returns the parts. It
	// may be repeated.
	Release(ctx context.Context) error
}

// Grouped is a Part whose cgroup a driver can start processes in.
type Grouped interface {
	// Start starts cmd as a member of the box's cgroup from its first instruction.
	Start(cmd *exec.Cmd) error
	// CgroupsPath is the cgroup's name in an OCI bundle.
	CgroupsPath() string
	// MemoryLimitFile is the kernel's file with the cgroup's memory limit in bytes.
	MemoryLimitFile() string
}

// Usage is what a box's cgroup has counted since it was made.
type Usage struct {
	// CPU is processor time.
	CPU time.Duration
	// Memory, MemoryPeak and Cache are bytes; Cache, which is part of Memory, is
	// what the kernel can take back.
	Memory, MemoryPeak, Cache int64
	// Pids and PidsPeak are tasks on the host, the sentry's own among them.
	Pids, PidsPeak int64
	// Limit, when a limit ended something, is which, with its value and the peak.
	Limit bulkhead.End
}
