package oci

import (
	"os"
	"path"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// capabilities are what root in a box may do: what Docker grants by default,
// without raw sockets and device nodes. In gVisor they hold only against the
// sentry; under runc there is no user namespace, so nothing here lets a process
// touch the host.
func capabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_SETFCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE",
	}
}

// MemoryLimitFile is an annotation of our own on a bundle: the kernel's file with
// the memory limit of the box's cgroup.
const MemoryLimitFile = "dev.bulkhead.memory-limit-file"

// expendable is the boxes' oom_score_adj: on a host that is out of memory the kernel
// kills them before anything else.
const expendable = 500

// Spec is the bundle's config.json for a box, without what is the driver's own:
// the root, the capabilities it adds and its annotations.
func Spec(b pool.BoxSpec) *specs.Spec {
	caps := capabilities()
	files := uint64(b.Limits.OpenFiles) //nolint:gosec // validated: 64 to 2^20
	return &specs.Spec{
		Version:  "1.1.0",
		Hostname: b.Hostname,
		Process: &specs.Process{
			Args: []string{path.Join(boxrpc.GuestDir, "envd")},
			Env:  append([]string{"LANG=C.UTF-8", "HOME=/root"}, b.Env...),
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: caps, Effective: caps, Permitted: caps,
			},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Hard: files, Soft: files},
				{Type: "RLIMIT_CORE"},
			},
			OOMScoreAdj: new(expendable),
		},
		Root: &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777", "size=" + strconv.FormatInt(b.Limits.MemoryMB/4, 10) + "m"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: boxrpc.GuestDir, Type: "bind", Source: b.Guest, Options: []string{"rbind", "ro", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: b.Netns},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"},
		},
	}
}

// Resources are the limits in the words of an OCI bundle. The box's cgroup holds
// them already; runsc reads them to tell the box its size.
func Resources(l bulkhead.Limits) *specs.LinuxResources {
	const period = uint64(20_000) // µs, as in the cgroup
	quota := int64(l.CPU * float64(period))
	memory := l.MemoryMB << 20
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: new(period)},
	}
}

// List turns the box folders under dir into what a driver's List returns.
func List(dir string) ([]pool.BoxInfo, error) {
	boxes, err := Boxes(dir)
	if err != nil {
		return nil, err
	}
	infos := make([]pool.BoxInfo, 0, len(boxes))
	for _, b := range boxes {
		info := pool.BoxInfo{ID: b.ID, Pid: b.Pid()}
		info.Alive = info.Pid != 0
		if st, err := os.Stat(b.Dir); err == nil {
			info.CreatedAt = st.ModTime()
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Devices allow a box the harmless devices that every runtime makes, and no other.
func Devices() []specs.LinuxDeviceCgroup {
	allow := func(typ string, major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: typ, Major: &major, Minor: &minor, Access: "rwm"}
	}
	devices := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, minor := range []int64{3, 5, 7, 8, 9} { // null, zero, full, random, urandom
		devices = append(devices, allow("c", 1, minor))
	}
	return append(devices, allow("c", 5, 0), allow("c", 5, 2), // tty, ptmx
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(136)), Access: "rwm"}) // pts
}
