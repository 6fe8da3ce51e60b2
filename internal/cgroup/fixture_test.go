package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/procfs"

	"github.com/bulkheadhq/bulkhead"
)

// files writes a tree of files below a temporary directory.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// TestDetect reads mount tables as they are on the three kinds of hosts.
func TestDetect(t *testing.T) {
	const v2 = "30 23 0:26 / DIR/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	const v1 = "31 23 0:27 / DIR/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n" +
		"32 23 0:28 /docker/x DIR/cgroup/memory rw shared:6 - cgroup cgroup rw,memory\n" +
		"33 23 0:29 / DIR/cgroup/pids rw shared:7 - cgroup cgroup rw,pids\n" +
		"34 23 0:30 / DIR/cgroup/systemd rw shared:8 - cgroup cgroup rw,xattr,name=systemd\n"
	const hybrid = "35 23 0:31 / DIR/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
	for _, tt := range []struct {
		name, mounts, controllers string
		want                      Layout
	}{
		{"none", "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "", Layout{Mode: ModeNone}},
		{"v2", v2, "cpuset cpu io memory hugetlb pids rdma misc\n", Layout{
			Mode: ModeV2, V2: "DIR/cgroup", V2Controllers: []Controller{CPU, Memory, Pids},
		}},
		{"v2 without delegation", v2, "\n", Layout{Mode: ModeV2, V2: "DIR/cgroup"}},
		{"v1", v1, "", Layout{Mode: ModeV1, V1: map[Controller]string{
			CPU: "DIR/cgroup/cpu", CPUAcct: "DIR/cgroup/cpuacct", Memory: "DIR/cgroup/memory", Pids: "DIR/cgroup/pids",
		}}},
		{"hybrid", v1 + hybrid, "hugetlb\n", Layout{Mode: ModeHybrid, V2: "DIR/cgroup/unified", V1: map[Controller]string{
			CPU: "DIR/cgroup/cpu", CPUAcct: "DIR/cgroup/cpuacct", Memory: "DIR/cgroup/memory", Pids: "DIR/cgroup/pids",
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := files(t, map[string]string{
				"cgroup/cgroup.controllers": tt.controllers, "cgroup/unified/cgroup.controllers": tt.controllers,
				"cgroup/cpu,cpuacct/tasks": "", "cgroup/memory/tasks": "", "cgroup/pids/tasks": "",
			})
			for _, c := range []string{"cpu", "cpuacct"} {
				must(t, os.Symlink("cpu,cpuacct", filepath.Join(dir, "cgroup", c)))
			}
			must(t, os.MkdirAll(filepath.Join(dir, "self"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "self", "mountinfo"), []byte(strings.ReplaceAll(tt.mounts, "DIR", dir)), 0o644))
			fs, err := procfs.NewFS(dir)
			must(t, err)
			mounts, err := fs.GetMounts()
			must(t, err)
			got, err := detect(mounts)
			must(t, err)
			tt.want.V2 = strings.Replace(tt.want.V2, "DIR", dir, 1)
			for c, d := range tt.want.V1 {
				tt.want.V1[c] = strings.Replace(d, "DIR", dir, 1)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(Layout{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("layout (-want +got):\n%s", diff)
			}
			if got.Mode == ModeV1 && got.roots[Memory] != "/docker/x" {
				t.Errorf("root of memory is %q; want /docker/x", got.roots[Memory])
			}
			if want := tt.name != "none" && tt.name != "v2 without delegation"; got.Has(Memory) != want {
				t.Errorf("Has(memory) = %v; want %v", !want, want)
			}
			if _, err := New(Config{Layout: got}); err == nil && !got.Has(Memory) {
				t.Error("New without a memory controller: no error")
			}
		})
	}
}

// v2Tree is a tree over files as a v2 host has them.
func v2Tree(t *testing.T) (*Group, string) {
	t.Helper()
	dir := files(t, map[string]string{
		"cgroup.controllers":              "cpu memory pids\n",
		"cgroup.subtree_control":          "",
		"bulkhead/cgroup.subtree_control": "",
		"bulkhead/memory.swap.max":        "max\n",
		"bulkhead/box/cgroup.freeze":      "0\n",
		"bulkhead/box/cgroup.procs":       "",
		"bulkhead/box/cpu.stat":           "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 20\nnr_throttled 3\nthrottled_usec 250000\n",
		"bulkhead/box/cpu.max":            "",
		"bulkhead/box/cpu.weight":         "",
		"bulkhead/box/memory.current":     "104857600\n",
		"bulkhead/box/memory.peak":        "209715200\n",
		"bulkhead/box/memory.max":         "268435456\n",
		"bulkhead/box/memory.high":        "max\n",
		"bulkhead/box/memory.swap.max":    "",
		"bulkhead/box/memory.oom.group":   "0\n",
		"bulkhead/box/memory.stat":        "anon 4096\nfile 99999\ninactive_file 3000\nactive_file 1000\n",
		"bulkhead/box/memory.events":      "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n",
		"bulkhead/box/memory.pressure":    "some avg10=1.50 avg60=0.75 avg300=0.10 total=123456\nfull avg10=0.50 avg60=0.25 avg300=0.00 total=1000\n",
		"bulkhead/box/cpu.pressure":       "some avg10=90.00 avg60=45.00 avg300=15.00 total=5000000\n",
		"bulkhead/box/io.pressure":        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"bulkhead/box/pids.current":       "7\n",
		"bulkhead/box/pids.peak":          "9\n",
		"bulkhead/box/pids.max":           "64\n",
		"bulkhead/box/pids.events":        "max 4\n",
	})
	tr, err := New(Config{Layout: Layout{Mode: ModeV2, V2: dir, V2Controllers: []Controller{CPU, Memory, Pids}}})
	must(t, err)
	g, err := tr.Open("box")
	must(t, err)
	return g, filepath.Join(dir, "bulkhead", "box")
}

var ignoreAt = cmpopts.IgnoreFields(Stat{}, "At")

func TestStatV2(t *testing.T) {
	g, dir := v2Tree(t)
	got, err := g.Stat()
	must(t, err)
	want := Stat{
		CPU: 1500 * time.Millisecond, Throttled: 250 * time.Millisecond, Throttles: 3,
		Memory: 100 << 20, MemoryPeak: 200 << 20, MemoryLimit: 256 << 20, Cache: 4000, MemoryHits: 12, OOMs: 2, OOMKills: 1,
		Pids: 7, PidsPeak: 9, PidsLimit: 64, PidsHits: 4,
	}
	if diff := cmp.Diff(want, got, ignoreAt); diff != "" {
		t.Errorf("stat (-want +got):\n%s", diff)
	}
	// An older kernel, without limits.
	for _, f := range []string{"memory.peak", "pids.peak", "pids.events"} {
		must(t, os.Remove(filepath.Join(dir, f)))
	}
	must(t, writeFile(dir, "memory.max", "max\n"))
	must(t, writeFile(dir, "pids.max", "max\n"))
	got, err = g.Stat()
	must(t, err)
	want.MemoryPeak, want.PidsPeak, want.PidsHits, want.MemoryLimit, want.PidsLimit = 0, 0, 0, 0, 0
	if diff := cmp.Diff(want, got, ignoreAt); diff != "" {
		t.Errorf("stat of an older kernel (-want +got):\n%s", diff)
	}
	must(t, writeFile(dir, "memory.current", "many\n"))
	if _, err := g.Stat(); err == nil || !strings.Contains(err.Error(), "memory.current") {
		t.Errorf("Stat with a broken file: %v; want an error that names it", err)
	}
}

// TestUpdateV2 looks at what is written where.
func TestUpdateV2(t *testing.T) {
	g, dir := v2Tree(t)
	must(t, g.Update(bulkhead.Limits{CPU: 1.5, MemoryMB: 512, Pids: 100}, Extra{PidsOverhead: 28, KillTogether: true}))
	for name, want := range map[string]string{
		"cpu.max": "30000 20000", "cpu.weight": "59", "memory.max": "536870912", "memory.swap.max": "0",
		"memory.oom.group": "1", "pids.max": "128",
	} {
		if got, err := readFile(dir, name); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	for _, above := range []string{"..", "../.."} {
		if got, err := readFile(filepath.Join(dir, above), "cgroup.subtree_control"); err != nil || got != "+cpu +memory +pids" {
			t.Errorf("subtree_control in %s is %q, %v", above, got, err)
		}
	}
	must(t, g.Freeze())
	if got, _ := readFile(dir, "cgroup.freeze"); got != "1" {
		t.Errorf("cgroup.freeze is %q after Freeze", got)
	}
	if frozen, err := g.frozen(); !frozen || err != nil {
		t.Errorf("frozen() = %v, %v after Freeze", frozen, err)
	}
	must(t, g.Thaw())
}

func TestPressure(t *testing.T) {
	g, dir := v2Tree(t)
	got, err := g.Pressure()
	must(t, err)
	want := Pressure{
		CPU:    Stall{Some10: 90, Some60: 45, Total: 5 * time.Second},
		Memory: Stall{Some10: 1.5, Some60: 0.75, Full10: 0.5, Total: 123456 * time.Microsecond},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pressure (-want +got):\n%s", diff)
	}
	must(t, os.Remove(filepath.Join(dir, "io.pressure")))
	if _, err := g.Pressure(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Pressure without PSI: %v; want unsupported", err)
	}
	g.t.layout.V2 = ""
	if _, err := g.Pressure(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Pressure without a v2 tree: %v; want unsupported", err)
	}
}

func TestStatV1(t *testing.T) {
	dir := files(t, map[string]string{
		"cpuacct/bulkhead/box/cpuacct.usage":            "1500000000\n",
		"cpu/bulkhead/box/cpu.stat":                     "nr_periods 20\nnr_throttled 3\nthrottled_time 250000000\n",
		"memory/bulkhead/box/memory.usage_in_bytes":     "104857600\n",
		"memory/bulkhead/box/memory.max_usage_in_bytes": "209715200\n",
		"memory/bulkhead/box/memory.limit_in_bytes":     "9223372036854771712\n",
		"memory/bulkhead/box/memory.failcnt":            "5\n",
		"memory/bulkhead/box/memory.memsw.failcnt":      "7\n",
		"memory/bulkhead/box/memory.stat":               "cache 99999\ntotal_inactive_file 3000\ntotal_active_file 1000\n",
		"memory/bulkhead/box/memory.oom_control":        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"memory/bulkhead/memory.memsw.limit_in_bytes":   "9223372036854771712\n",
		"memory/bulkhead/box/cgroup.procs":              "12\n7\n",
		"pids/bulkhead/box/cgroup.procs":                "7\n0\n12\n",
		"pids/bulkhead/box/pids.current":                "7\n",
		"pids/bulkhead/box/pids.max":                    "max\n",
		"cpu/bulkhead/box/cgroup.procs":                 "",
		"cpuacct/bulkhead/box/cgroup.procs":             "7\n",
	})
	l := Layout{Mode: ModeV1, V1: map[Controller]string{}}
	for _, c := range []Controller{CPU, CPUAcct, Memory, Pids} {
		l.V1[c] = filepath.Join(dir, string(c))
	}
	tr, err := New(Config{Layout: l})
	must(t, err)
	g, err := tr.Open("box")
	must(t, err)
	got, err := g.Stat()
	must(t, err)
	want := Stat{
		CPU: 1500 * time.Millisecond, Throttled: 250 * time.Millisecond, Throttles: 3,
		Memory: 100 << 20, MemoryPeak: 200 << 20, Cache: 4000, MemoryHits: 12, OOMKills: 2, Pids: 7,
	}
	if diff := cmp.Diff(want, got, ignoreAt); diff != "" {
		t.Errorf("stat (-want +got):\n%s", diff)
	}
	pids, err := g.Procs()
	must(t, err)
	if diff := cmp.Diff([]int{7, 12}, pids); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
	if err := g.Freeze(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Freeze without a freezer: %v; want unsupported", err)
	}
}

func TestEvidence(t *testing.T) {
	base := Stat{OOMs: 1, OOMKills: 1, PidsHits: 2, MemoryLimit: 100, MemoryPeak: 90, PidsLimit: 10, PidsPeak: 8}
	oom, host, pids := base, base, base
	oom.OOMs, oom.OOMKills, oom.PidsHits, oom.MemoryPeak = 2, 2, 3, 100
	host.OOMKills = 2
	noPeak := oom
	noPeak.Memory, noPeak.MemoryPeak = 7, 0
	pids.PidsHits, pids.PidsPeak = 5, 10
	for _, tt := range []struct {
		name        string
		after       Stat
		cause       bulkhead.Cause
		limit, peak int64
	}{
		{"nothing", base, "", 0, 0},
		{"memory of the host", host, "", 0, 0},
		{"memory of a kernel without peaks", noPeak, bulkhead.CauseMemoryLimit, 100, 100},
		{"memory before pids", oom, bulkhead.CauseMemoryLimit, 100, 100},
		{"pids", pids, bulkhead.CausePidsLimit, 10, 10},
	} {
		if cause, limit, peak := Evidence(base, tt.after); cause != tt.cause || limit != tt.limit || peak != tt.peak {
			t.Errorf("%s: %q, %d, %d; want %q, %d, %d", tt.name, cause, limit, peak, tt.cause, tt.limit, tt.peak)
		}
	}
}

func TestHost(t *testing.T) {
	dir := files(t, map[string]string{
		"meminfo": "MemTotal:       24683520 kB\nMemFree:        20000000 kB\nMemAvailable:   23000000 kB\nSwapTotal:      1000 kB\nSwapFree:       400 kB\n",
		"stat":    "cpu  100 10 50 1000 40 5 5 20 30 0\ncpu0 100 10 50 1000 40 5 5 20 30 0\nintr 1 2\nctxt 5\nbtime 1700000000\nprocesses 9\nprocs_running 1\nprocs_blocked 0\nsoftirq 1 1 1 1 1 1 1 1 1 1 1\n",
		"loadavg": "1.25 0.75 0.50 1/100 4242\n",
	})
	mem, err := hostMemory(dir)
	must(t, err)
	if diff := cmp.Diff(HostMem{Total: 24683520 << 10, Available: 23000000 << 10, SwapTotal: 1000 << 10, SwapFree: 400 << 10}, mem); diff != "" {
		t.Errorf("memory (-want +got):\n%s", diff)
	}
	cpu, err := hostProcessors(dir)
	must(t, err)
	if diff := cmp.Diff(HostCPU{Busy: 1700 * time.Millisecond, Idle: 10400 * time.Millisecond, Stolen: 200 * time.Millisecond, Load1: 1.25}, cpu,
		cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("processors (-want +got):\n%s", diff)
	}
	if _, err := hostMemory(filepath.Join(dir, "none")); err == nil {
		t.Error("hostMemory of a missing /proc: no error")
	}
	// The real ones answer, whatever they say.
	if m, err := HostMemory(); err != nil || m.Available <= 0 || m.Available > m.Total {
		t.Errorf("HostMemory() = %+v, %v", m, err)
	}
	if c, err := HostProcessors(); err != nil || c.Busy <= 0 {
		t.Errorf("HostProcessors() = %+v, %v", c, err)
	}
	if _, err := HostPressure(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("HostPressure: %v", err)
	}
}

func FuzzReaders(f *testing.F) {
	f.Add("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=nan total=-1")
	f.Add("oom_kill 1\nmax 9223372036854775807\n\n a b")
	f.Fuzz(func(_ *testing.T, s string) {
		_ = parseStall(s)
		_ = pairs(s)
		r := reader{}
		_ = r.parse("x", s)
	})
}

// The boxes have what the tightest limit above them leaves, page cache included.
func TestMemoryWithinALimit(t *testing.T) {
	host := HostMem{Total: 8000, Available: 6000}
	for _, tt := range []struct {
		name  string
		v2    bool
		files map[string]string
		want  HostMem
		fails bool
	}{
		{name: "v1, unlimited", files: map[string]string{"memory.limit_in_bytes": "9223372036854771712"}, want: host},
		{name: "v1, above the host", files: map[string]string{"memory.limit_in_bytes": "9000"}, want: host},
		{name: "v1", files: map[string]string{
			"memory.limit_in_bytes": "4000", "memory.usage_in_bytes": "3000", "memory.stat": "total_inactive_file 300\ntotal_active_file 200\n",
		}, want: HostMem{Total: 4000, Available: 1500}},
		{name: "v2, the root group", v2: true, files: map[string]string{"memory.stat": "file 1\n"}, want: host},
		{name: "v2, unlimited", v2: true, files: map[string]string{"memory.max": "max"}, want: host},
		{name: "v2", v2: true, files: map[string]string{
			"memory.max": "4000", "memory.current": "3000", "memory.stat": "inactive_file 300\nactive_file 200\n",
		}, want: HostMem{Total: 4000, Available: 1500}},
		{name: "the host has less", v2: true, files: map[string]string{
			"memory.max": "7900", "memory.current": "10", "memory.stat": "",
		}, want: HostMem{Total: 7900, Available: 6000}},
		{name: "full", v2: true, files: map[string]string{
			"memory.max": "4000", "memory.current": "4100", "memory.stat": "",
		}, want: HostMem{Total: 4000}},
		{name: "no usage", v2: true, files: map[string]string{"memory.max": "4000", "memory.stat": ""}, fails: true},
	} {
		var r reader
		got := within(host, &r, files(t, tt.files), tt.v2)
		if (r.err != nil) != tt.fails || !tt.fails && got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, r.err, tt.want)
		}
	}
}
