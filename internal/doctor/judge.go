package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
)

// The kernel's bit numbers of the capabilities that serving needs.
var neededCapabilities = []struct {
	bit  uint
	name string
}{{12, "CAP_NET_ADMIN"}, {18, "CAP_SYS_CHROOT"}, {19, "CAP_SYS_PTRACE"}, {21, "CAP_SYS_ADMIN"}}

// Sizes and thresholds.
const (
	gib         = 1 << 30
	oldestMajor = 4 // 4.14.77 is the oldest kernel that gVisor supports
	oldestMinor = 14
)

// judge collects findings.
type judge struct {
	facts    Facts
	findings []Finding
}

// Judge makes findings of facts. It does nothing else.
func Judge(f Facts) Report {
	j := &judge{facts: f}
	j.machine()
	j.groups()
	j.network()
	j.storage()
	j.isolation()
	j.tuning()
	return Report{Findings: j.findings}
}

// detail is what a finding says beside what was found; only how when it is OK.
type detail struct{ how, disables, mend string }

// add appends a finding.
func (j *judge) add(name string, status Status, found string, d detail) {
	f := Finding{Name: name, Status: status, Found: found, How: d.how}
	if status != OK {
		f.Disables, f.Mend = d.disables, d.mend
	}
	j.findings = append(j.findings, f)
}

// tried appends a finding of something that was tried: good when it worked,
// else the error with the status bad.
func (j *judge) tried(name string, err error, bad Status, good string, d detail) {
	if err == nil {
		j.add(name, OK, good, d)
		return
	}
	if errors.Is(err, netslot.ErrNotTried) {
		d.mend = "see the findings above first"
	}
	j.add(name, bad, oneLine(err), d)
}

// oneLine is an error's text without line ends, which joined errors have.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// when is bad if the condition holds, else OK.
func when(cond bool, bad Status) Status {
	if cond {
		return bad
	}
	return OK
}

// machine judges what everything else stands on.
func (j *judge) machine() {
	f := j.facts
	j.add("kernel", when(!kernelAtLeast(f.Kernel, oldestMajor, oldestMinor), Fail),
		fmt.Sprintf("Linux %s on %s", cmp.Or(f.Kernel, "of unknown release"), f.Machine),
		detail{"uname", "all sandboxes", fmt.Sprintf("run Linux %d.%d or later", oldestMajor, oldestMinor)})
	supported := f.Machine == "amd64" || f.Machine == "arm64"
	j.add("processor", when(!supported, Fail), fmt.Sprintf("%d cores, %s", f.CPUs, f.Machine),
		detail{"the Go runtime", "all sandboxes: gVisor has no build for this architecture", "use an amd64 or arm64 host"})

	var missing []string
	for _, c := range neededCapabilities {
		if f.Capabilities&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	found := fmt.Sprintf("user %d", f.UID)
	if len(missing) > 0 {
		found += " without " + strings.Join(missing, ", ")
	}
	j.add("root", when(f.UID != 0 || len(missing) > 0, Fail), found,
		detail{"effective user and capabilities of this process", "all sandboxes: network, groups and mounts need root", "run as root, in no container or in a privileged one"})

	mounts := "shared with process 1"
	if f.OwnMounts {
		mounts = "private to this process"
	}
	j.add("mount table", when(f.OwnMounts, Warn), mounts, detail{
		"/proc/self/ns/mnt against /proc/1/ns/mnt",
		"sandboxes that outlive a restart of the server: their network slots are found by mounts",
		"in the systemd unit, no PrivateTmp, ProtectSystem, ReadWritePaths or other option that makes a mount namespace",
	})

	if f.MemoryErr != nil {
		j.add("memory", Warn, oneLine(f.MemoryErr), detail{"/proc/meminfo", "admission by free memory", "mount /proc"})
		return
	}
	found = fmt.Sprintf("%.1f of %.1f GiB available", float64(f.Memory.Available)/gib, float64(f.Memory.Total)/gib)
	j.add("memory", when(f.Memory.Available < gib, Warn), found,
		detail{"/proc/meminfo", "more than a few sandboxes at a time", "free memory: a sandbox takes 50 to 200 MiB before its program asks for any"})
}

// groups judges control groups.
func (j *judge) groups() {
	f := j.facts
	mount := detail{"the mount table", "all limits of sandboxes", "mount /sys/fs/cgroup; in a container, start it with --cgroupns=host and the hierarchy writable"}
	where := map[cgroup.Mode]string{
		cgroup.ModeV1: "cgroup v1", cgroup.ModeHybrid: "cgroup v1 with a v2 tree beside it (hybrid)", cgroup.ModeV2: "cgroup v2",
	}[f.Layout.Mode]
	switch {
	case f.LayoutErr != nil:
		j.add("cgroups", Fail, oneLine(f.LayoutErr), mount)
	case where == "":
		j.add("cgroups", Fail, "no control groups are mounted", mount)
	default:
		j.add("cgroups", OK, where, detail{how: "the mount table"})
	}

	const how = "a group with limits was made, read back and given a process"
	for _, c := range []struct {
		name       string
		controller cgroup.Controller
		good       string
		disables   string
	}{
		{"memory limit", cgroup.Memory, "memory is limited", "the memory limit: one box could take the host down"},
		{"pids limit", cgroup.Pids, "processes and threads are limited", "the process limit: a fork bomb could take the host down"},
		{"cpu limit", cgroup.CPU, "processor time is limited", "the CPU limit: one box could take every core"},
		{"cpu shares", cgroup.CPU, "processor time is shared by weight", "fair shares of a busy host"},
	} {
		switch {
		case f.Layout.Has(c.controller):
			j.tried(c.name, f.Groups, Fail, c.good,
				detail{how, c.disables, "see the error; on v2 no process may be in the groups above Bulkhead's"})
		case f.Layout.Mode == cgroup.ModeV2:
			j.add(c.name, Fail, "the "+string(c.controller)+" controller is not available",
				detail{"cgroup.controllers", c.disables, "under systemd: Delegate=yes in the unit, or run outside a container"})
		default:
			j.add(c.name, Fail, "the "+string(c.controller)+" controller is not mounted",
				detail{"the mount table", c.disables, fmt.Sprintf("boot without cgroup_disable=%s and mount it", c.controller)})
		}
	}
	swap := "swap counts as memory"
	if !f.SwapLimited && f.Memory.SwapTotal == 0 {
		swap = "there is no swap"
	} else if !f.SwapLimited {
		swap = "swap is not limited"
	}
	j.add("swap limit", when(!f.SwapLimited && f.Memory.SwapTotal > 0, Warn), swap,
		detail{"the group's files", "the memory limit in part: a box can fill the swap space", "boot with swapaccount=1, or swapoff -a"})
	j.tried("freezer", f.Freeze, Warn, "boxes can be stopped and continued",
		detail{"a group was frozen and thawed", "pausing without a snapshot; killing a fork bomb takes longer", "mount the freezer controller"})
	kill := "a box is killed in one step"
	if !f.KillFile {
		kill = "a box is killed process by process"
	}
	j.add("group kill", OK, kill, detail{how: "kernel release and v2 tree"})
}

// network judges slots.
func (j *judge) network() {
	f, n := j.facts, j.facts.Network
	const how = "a network slot was made, used and removed in namespaces of its own"
	modules := "load the module (modprobe %s) or use a kernel that has it"
	j.tried("network namespaces", n.Namespace, Fail, "can be made and bound",
		detail{how, "all sandboxes", "run as root on a kernel with CONFIG_NET_NS, with /proc mounted"})
	j.tried("packet rules", n.Rules, Fail, "nftables has what isolation needs",
		detail{how, "isolation of the network, so all sandboxes", fmt.Sprintf(modules, "nf_tables nft_ct nft_masq nft_reject_inet nft_connlimit")})
	j.tried("network links", n.Veth, Fail, "veth pairs, addresses, routes",
		detail{how, "all sandboxes", fmt.Sprintf(modules, "veth")})
	j.tried("traffic shaping", n.Shaping, Warn, "bandwidth is limited both ways (tbf, ifb, mirred)",
		detail{how, "bandwidth limits: creating a sandbox that has one fails", fmt.Sprintf(modules, "sch_tbf ifb cls_u32 act_mirred sch_ingress")})
	j.tried("connection table", n.Forget, Warn, "connections of a used slot can be forgotten",
		detail{how, "using network slots again: each is removed instead", fmt.Sprintf(modules, "nf_conntrack_netlink")})

	if size, ok := f.Numbers["net/netfilter/nf_conntrack_max"]; ok {
		j.add("connections", when(size < 65536, Warn), fmt.Sprintf("the host tracks up to %d connections", size),
			detail{"sysctl", "many sandboxes with many connections at a time", "sysctl -w net.netfilter.nf_conntrack_max=262144"})
	}
	forward := "IPv4 forwarding is on"
	if !f.Forwarding {
		forward = "IPv4 forwarding is off; serve switches it on"
	}
	j.add("forwarding", OK, forward, detail{how: "sysctl net.ipv4.ip_forward"})
	j.firewalls()
}

// firewalls judges what others do to forwarded packets.
func (j *judge) firewalls() {
	f := j.facts
	const how = "the forward chains of nftables, and iptables' old tables"
	if f.ForeignErr != nil {
		j.add("other firewalls", Warn, oneLine(f.ForeignErr), detail{how, "knowing whether they stop boxes", "run as root"})
		return
	}
	var strange []string
	for _, c := range f.ForeignDrops {
		if c != "filter FORWARD" { // iptables: serve passes boxes through
			strange = append(strange, c)
		}
	}
	switch {
	case len(strange) > 0:
		j.add("other firewalls", Warn, "drops what it forwards by default: "+strings.Join(strange, ", "), detail{
			how,
			"the internet for boxes, unless that firewall lets them pass",
			"let the boxes' prefix (10.213.0.0/16) pass there; with firewalld: firewall-cmd --permanent --zone=trusted --add-source=10.213.0.0/16",
		})
	case slices.Contains(f.LegacyTables, "filter"):
		j.add("other firewalls", Warn, "iptables' old (legacy) flavour is in use, whose policy cannot be seen", detail{
			how,
			"the internet for boxes, if its FORWARD chain drops, as Docker sets it",
			"iptables-legacy -I FORWARD -i bulkhead+ -j ACCEPT; iptables-legacy -I FORWARD -o bulkhead+ -j ACCEPT",
		})
	case len(f.ForeignDrops) > 0:
		j.add("other firewalls", OK, "iptables drops what it forwards, as Docker sets it; serve passes boxes through",
			detail{how: how})
	default:
		j.add("other firewalls", OK, "none that stops forwarded packets", detail{how: how})
	}
}

// storage judges disks and file systems.
func (j *judge) storage() {
	f, d := j.facts, j.facts.Disk
	if d.Err != nil {
		j.add("disk", Fail, oneLine(d.Err),
			detail{"a directory was made in " + d.Path, "all sandboxes", "make the data directory writable"})
	} else {
		status := OK
		full := d.TotalFiles > 0 && d.FreeFiles < d.TotalFiles/50
		if d.Free < 10*gib || full {
			status = Warn
		}
		if d.Free < gib {
			status = Fail
		}
		found := fmt.Sprintf("%.0f of %.0f GiB free at %s", float64(d.Free)/gib, float64(d.Total)/gib, d.Path)
		if full {
			found += fmt.Sprintf(", but only %d more files are possible", d.FreeFiles)
		}
		j.add("disk", status, found,
			detail{"statfs of the data directory", "templates, snapshots and what boxes write", "free space, or put the data directory elsewhere (--data)"})
	}
	const forRunc = "the runc driver, and templates made by steps"
	j.tried("erofs", f.Erofs, Warn, "the kernel knows erofs",
		detail{"a mount was tried", forRunc, "modprobe erofs, or use the gvisor driver, which reads images by itself"})
	j.tried("overlayfs", f.Overlay, Warn, "works at the data directory",
		detail{"an overlay was mounted and written to", forRunc, "put the data directory on ext4, xfs or btrfs; modprobe overlay"})
	j.tried("loop devices", f.Loop, Warn, "available", detail{"a free one was asked for", forRunc, "modprobe loop"})
}

// isolation judges what keeps a box in.
func (j *judge) isolation() {
	f := j.facts
	j.tried("user namespaces", f.UserNS, Fail, "can be made",
		detail{"a child was started in one", "the gvisor driver", "sysctl -w user.max_user_namespaces=15000; boot without user_namespace.enable=0"})
	if n, ok := f.Numbers["user/max_user_namespaces"]; ok && f.UserNS == nil {
		j.add("user namespace limit", when(n < 256, Warn), strconv.FormatInt(n, 10),
			detail{"sysctl user.max_user_namespaces", "more than about " + strconv.FormatInt(n/2, 10) + " boxes", "sysctl -w user.max_user_namespaces=15000"})
	}
	trap := slices.Contains(f.SeccompActions, "trap")
	found := "filters with " + strings.Join(f.SeccompActions, " ")
	if len(f.SeccompActions) == 0 {
		found = "the kernel has no seccomp filters"
	}
	j.add("seccomp", when(!trap, Fail), found,
		detail{"sysctl kernel.seccomp.actions_avail", "the gvisor driver: its platform and its own confinement are made of it", "use a kernel with CONFIG_SECCOMP_FILTER"})
	kvm := "there is no /dev/kvm, and none is needed"
	if f.KVM {
		kvm = "/dev/kvm exists, and is not needed"
	}
	j.add("kvm", OK, kvm, detail{how: "looked for the device"})
	if f.Runtime.Asked {
		j.tried("runtime", f.Runtime.Err, Fail,
			fmt.Sprintf("%s ran a sandbox in %d ms", cmp.Or(f.Runtime.Version, "gVisor"), f.Runtime.Took.Milliseconds()),
			detail{"the embedded runtime ran a trivial sandbox", "the gvisor driver", "see the error; bulkhead serve --driver=runc runs boxes with less isolation"})
	}
	for _, p := range []struct{ name, use string }{{"runc", "the runc driver"}, {"docker", "nothing but comparisons in benchmarks"}} {
		found := "not installed, which only matters for " + p.use
		if path := f.Programs[p.name]; path != "" {
			found = path
		}
		j.add(p.name, OK, found, detail{how: "looked for on PATH"})
	}
	var absent []string
	for _, p := range []string{"mkfs.erofs", "mmdebstrap"} {
		if f.Programs[p] == "" {
			absent = append(absent, p)
		}
	}
	found = "mkfs.erofs and mmdebstrap are installed"
	if len(absent) > 0 {
		found = strings.Join(absent, " and ") + " not on PATH"
	}
	j.add("template tools", when(len(absent) > 0, Warn), found,
		detail{"looked for on PATH", "building templates on this host; running them needs neither", "apt-get install erofs-utils mmdebstrap"})
}

// tuning judges settings that make sandboxes faster or more numerous.
func (j *judge) tuning() {
	f := j.facts
	j.tried("pressure", f.PSI, Warn, "the kernel measures stalls (PSI)",
		detail{"/proc/pressure was read", "admission by stalls: it goes by use alone", "boot with psi=1"})
	huge := slices.Contains([]string{"always", "advise", "within_size", "force"}, f.ShmemHuge)
	j.add("huge pages", when(!huge, Warn), "shared memory: "+cmp.Or(f.ShmemHuge, "not supported"),
		detail{"transparent_hugepage/shmem_enabled", "about a quarter of the speed of starting a box from a snapshot", "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"})
	for _, s := range []struct {
		name, setting string
		least         int64
		disables      string
	}{
		{"memory maps", "vm/max_map_count", 262144, "boxes with a lot of memory in small pieces: the sentry can run out of mappings"},
		{"process numbers", "kernel/pid_max", 65536, "many boxes with many threads at a time"},
		{"threads", "kernel/threads-max", 65536, "many boxes with many threads at a time"},
		{"file table", "fs/file-max", 1 << 20, "many boxes with many open files"},
		{"inotify instances", "fs/inotify/max_user_instances", 512, "watching files in more than some hundred boxes of the runc driver"},
		{"inotify watches", "fs/inotify/max_user_watches", 65536, "watching large folders in boxes of the runc driver"},
	} {
		n, ok := f.Numbers[s.setting]
		if !ok {
			continue
		}
		key := strings.ReplaceAll(s.setting, "/", ".")
		j.add(s.name, when(n < s.least, Warn), strconv.FormatInt(n, 10),
			detail{"sysctl " + key, s.disables, fmt.Sprintf("sysctl -w %s=%d, and a line in /etc/sysctl.d", key, max(s.least, 4*n))})
	}
	j.add("open files", when(f.OpenFiles < 65536, Warn), fmt.Sprintf("this process may open %d", f.OpenFiles),
		detail{"RLIMIT_NOFILE", "more than some hundred boxes at a time", "LimitNOFILE=1048576 in the unit, or ulimit -n"})
	slow := slices.Contains([]string{"hpet", "acpi_pm", "jiffies", "refined-jiffies"}, f.ClockSource)
	j.add("clock source", when(slow, Warn), cmp.Or(f.ClockSource, "not known"),
		detail{"/sys/devices/system/clocksource", "speed: every look at the clock is a call into the kernel", "boot with tsc=reliable if the machine's TSC is"})
	synced := "follows a time server"
	if !f.ClockSynced {
		synced = "is not synchronised"
	}
	j.add("clock", when(!f.ClockSynced, Warn), synced,
		detail{"adjtimex", "agreement of expiry times and logs between nodes; TLS when it is far off", "run chrony or systemd-timesyncd"})
}
