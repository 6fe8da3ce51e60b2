package doctor

import (
	"time"

	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
)

// Facts is what a probe has found. An error field is nil when what it names was
// tried and worked.
type Facts struct {
	// Kernel is its release, Machine the processor architecture.
	Kernel, Machine string
	// CPUs is the number of cores this process may use.
	CPUs int
	// UID is the effective user, Capabilities its effective set as a bit mask.
	UID          int
	Capabilities uint64
	// Memory is the host's.
	Memory    cgroup.HostMem
	MemoryErr error

	// OwnMounts says that this process has a mount table of its own, other than
	// that of process 1.
	OwnMounts bool

	// Layout is where the control groups are.
	Layout    cgroup.Layout
	LayoutErr error
	// Groups is the trial of a group with limits, Freeze of stopping it.
	Groups, Freeze error
	// SwapLimited says that swap counts as memory, KillFile that a group can be
	// killed in one step.
	SwapLimited, KillFile bool

	// Network is the trial of a network slot.
	Network netslot.Trial
	// Forwarding says that IPv4 is forwarded already.
	Forwarding bool
	// ForeignDrops are other firewalls' chains that drop, LegacyTables the tables
	// of iptables' old flavour that are in use.
	ForeignDrops, LegacyTables []string
	ForeignErr                 error

	// Disk is the data directory's file system.
	Disk Disk
	// Erofs, Overlay and Loop are the trials of file systems and devices.
	Erofs, Overlay, Loop error

	// UserNS is the trial of a user namespace.
	UserNS error
	// SeccompActions are those that the kernel knows, none without seccomp.
	SeccompActions []string
	// KVM says that /dev/kvm exists.
	KVM bool

	// Runtime is the trial of the embedded runtime.
	Runtime Runtime
	// Programs are the paths of container programs on this host.
	Programs map[string]string

	// PSI is the trial of reading pressure.
	PSI error
	// ShmemHuge is the chosen policy of huge pages for shared memory.
	ShmemHuge string
	// Numbers are kernel settings by their path below /proc/sys. One that is
	// missing there is missing here.
	Numbers map[string]int64
	// OpenFiles is this process's hard limit.
	OpenFiles uint64
	// ClockSource is the kernel's, ClockSynced whether it follows a better clock.
	ClockSource string
	ClockSynced bool
}

// Disk is a file system. Sizes are in bytes.
type Disk struct {
	Path                  string
	Free, Total           int64
	FreeFiles, TotalFiles uint64
	Err                   error
}

// Runtime is the trial of the embedded runtime.
type Runtime struct {
	// Asked is false when there was no way to try it.
	Asked bool
	// Version is its own word, Took how long a trivial sandbox took.
	Version string
	Took    time.Duration
	Err     error
}
