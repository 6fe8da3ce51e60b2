package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// healthy are the facts of a host with nothing to complain about.
func healthy() Facts {
	return Facts{
		Kernel: "6.1.0-18-amd64", Machine: "amd64", CPUs: 8, Capabilities: 1<<41 - 1,
		Memory: cgroup.HostMem{Total: 32 << 30, Available: 30 << 30},
		Layout: cgroup.Layout{Mode: cgroup.ModeV2, V2: "/sys/fs/cgroup", V2Controllers: []cgroup.Controller{
			cgroup.CPU, cgroup.Memory, cgroup.Pids,
		}},
		SwapLimited: true, KillFile: true, Forwarding: true,
		Disk:           Disk{Path: "/var/lib/bulkhead", Free: 80 << 30, Total: 100 << 30, FreeFiles: 900, TotalFiles: 1000},
		SeccompActions: []string{"kill_process", "trap", "errno", "allow"},
		Runtime:        Runtime{Asked: true, Version: "gVisor 1", Took: 150 * time.Millisecond},
		Programs:       map[string]string{"mkfs.erofs": "/usr/bin/mkfs.erofs", "mmdebstrap": "/usr/bin/mmdebstrap"},
		ShmemHuge:      "advise", OpenFiles: 1 << 20, ClockSource: "tsc", ClockSynced: true,
		Numbers: map[string]int64{
			"vm/max_map_count": 1 << 22, "user/max_user_namespaces": 1000, "kernel/pid_max": 1 << 22, "kernel/threads-max": 1 << 18,
			"fs/file-max": 1 << 30, "fs/nr_open": 1 << 20, "fs/inotify/max_user_instances": 1024, "fs/inotify/max_user_watches": 1 << 20,
			"net/netfilter/nf_conntrack_max": 1 << 18,
		},
	}
}

// TestHealthy expects no complaint, and every finding complete.
func TestHealthy(t *testing.T) {
	r := Judge(healthy())
	names := map[string]bool{}
	for _, f := range r.Findings {
		if f.Status != OK || f.Disables != "" || f.Mend != "" {
			t.Errorf("complaint about a healthy host: %+v", f)
		}
		if f.Name == "" || f.Found == "" || f.How == "" || strings.HasSuffix(f.Found, ".") {
			t.Errorf("incomplete: %+v", f)
		}
		if names[f.Name] {
			t.Errorf("two findings are called %q", f.Name)
		}
		names[f.Name] = true
	}
	if r.Worst() != OK || r.ExitCode() != 0 {
		t.Errorf("worst is %s, exit code %d; want ok, 0", r.Worst(), r.ExitCode())
	}
}

// TestJudge breaks one thing after another and expects just the findings that
// follow from it.
func TestJudge(t *testing.T) {
	broken := errors.New("it is broken")
	v1 := func(cs ...cgroup.Controller) cgroup.Layout {
		l := cgroup.Layout{Mode: cgroup.ModeHybrid, V2: "/sys/fs/cgroup/unified", V1: map[cgroup.Controller]string{}}
		for _, c := range cs {
			l.V1[c] = "/sys/fs/cgroup/" + string(c)
		}
		return l
	}
	for _, tt := range []struct {
		name  string
		spoil func(f *Facts)
		want  map[string]Status
	}{
		{"old kernel", func(f *Facts) { f.Kernel = "3.10.0-1160.el7" }, map[string]Status{"kernel": Fail}},
		{"odd kernel name", func(f *Facts) { f.Kernel = "custom" }, nil},
		{"processor", func(f *Facts) { f.Machine = "riscv64" }, map[string]Status{"processor": Fail}},
		{"user", func(f *Facts) { f.UID = 1000 }, map[string]Status{"root": Fail}},
		{"capabilities", func(f *Facts) { f.Capabilities &^= 1 << 12 }, map[string]Status{"root": Fail}},
		{"mounts", func(f *Facts) { f.OwnMounts = true }, map[string]Status{"mount table": Warn}},
		{"memory", func(f *Facts) { f.Memory.Available = 500 << 20 }, map[string]Status{"memory": Warn}},
		{"memory unreadable", func(f *Facts) { f.MemoryErr = broken }, map[string]Status{"memory": Warn}},
		{"no cgroups", func(f *Facts) { f.Layout = cgroup.Layout{Mode: cgroup.ModeNone} }, map[string]Status{
			"cgroups": Fail, "memory limit": Fail, "pids limit": Fail, "cpu limit": Fail, "cpu shares": Fail,
		}},
		{"hybrid", func(f *Facts) { f.Layout = v1(cgroup.CPU, cgroup.Memory, cgroup.Pids) }, nil},
		{"v1 without memory", func(f *Facts) { f.Layout = v1(cgroup.CPU, cgroup.Pids) }, map[string]Status{"memory limit": Fail}},
		{"v2 without pids", func(f *Facts) { f.Layout.V2Controllers = f.Layout.V2Controllers[:2] }, map[string]Status{"pids limit": Fail}},
		{"groups fail", func(f *Facts) { f.Groups = broken }, map[string]Status{
			"memory limit": Fail, "pids limit": Fail, "cpu limit": Fail, "cpu shares": Fail,
		}},
		{"no freezer", func(f *Facts) { f.Freeze = broken }, map[string]Status{"freezer": Warn}},
		{"swap not limited", func(f *Facts) { f.SwapLimited, f.Memory.SwapTotal = false, 1<<30 }, map[string]Status{"swap limit": Warn}},
		{"no swap at all", func(f *Facts) { f.SwapLimited = false }, nil},
		{"no single kill", func(f *Facts) { f.KillFile = false }, nil},
		{"no nftables", func(f *Facts) {
			f.Network = netslot.Trial{Rules: broken, Veth: netslot.ErrNotTried, Shaping: netslot.ErrNotTried, Forget: netslot.ErrNotTried}
		}, map[string]Status{"packet rules": Fail, "network links": Fail, "traffic shaping": Warn, "connection table": Warn}},
		{"no namespaces", func(f *Facts) { f.Network.Namespace = broken }, map[string]Status{"network namespaces": Fail}},
		{"no shaping", func(f *Facts) { f.Network.Shaping = broken }, map[string]Status{"traffic shaping": Warn}},
		{"few connections", func(f *Facts) { f.Numbers["net/netfilter/nf_conntrack_max"] = 8192 }, map[string]Status{"connections": Warn}},
		{"no forwarding", func(f *Facts) { f.Forwarding = false }, nil},
		{"docker", func(f *Facts) { f.ForeignDrops = []string{"filter FORWARD"} }, nil},
		{"other firewall", func(f *Facts) { f.ForeignDrops = []string{"filter FORWARD", "firewalld filter_FORWARD"} }, map[string]Status{"other firewalls": Warn}},
		{"legacy iptables", func(f *Facts) { f.LegacyTables = []string{"nat", "filter"} }, map[string]Status{"other firewalls": Warn}},
		{"firewalls unreadable", func(f *Facts) { f.ForeignErr = broken }, map[string]Status{"other firewalls": Warn}},
		{"disk low", func(f *Facts) { f.Disk.Free = 5 << 30 }, map[string]Status{"disk": Warn}},
		{"disk full", func(f *Facts) { f.Disk.Free = 100 << 20 }, map[string]Status{"disk": Fail}},
		{"no files left", func(f *Facts) { f.Disk.FreeFiles = 3 }, map[string]Status{"disk": Warn}},
		{"file system that counts no files", func(f *Facts) { f.Disk.FreeFiles, f.Disk.TotalFiles = 0, 0 }, nil},
		{"disk unwritable", func(f *Facts) { f.Disk.Err = unix.EROFS }, map[string]Status{"disk": Fail}},
		{"no erofs, overlay, loop", func(f *Facts) { f.Erofs, f.Overlay, f.Loop = broken, broken, broken }, map[string]Status{
			"erofs": Warn, "overlayfs": Warn, "loop devices": Warn,
		}},
		{"no user namespaces", func(f *Facts) { f.UserNS = broken }, map[string]Status{"user namespaces": Fail}},
		{"few user namespaces", func(f *Facts) { f.Numbers["user/max_user_namespaces"] = 100 }, map[string]Status{"user namespace limit": Warn}},
		{"no seccomp", func(f *Facts) { f.SeccompActions = nil }, map[string]Status{"seccomp": Fail}},
		{"kvm", func(f *Facts) { f.KVM = true }, nil},
		{"runtime", func(f *Facts) { f.Runtime.Err = broken }, map[string]Status{"runtime": Fail}},
		{"no template tools", func(f *Facts) { delete(f.Programs, "mmdebstrap") }, map[string]Status{"template tools": Warn}},
		{"no PSI", func(f *Facts) { f.PSI = broken }, map[string]Status{"pressure": Warn}},
		{"no huge pages", func(f *Facts) { f.ShmemHuge = "never" }, map[string]Status{"huge pages": Warn}},
		{"few maps", func(f *Facts) { f.Numbers["vm/max_map_count"] = 65530 }, map[string]Status{"memory maps": Warn}},
		{"few numbers", func(f *Facts) { f.Numbers["kernel/pid_max"] = 32768 }, map[string]Status{"process numbers": Warn}},
		{"few files", func(f *Facts) { f.OpenFiles = 1024 }, map[string]Status{"open files": Warn}},
		{"slow clock", func(f *Facts) { f.ClockSource = "hpet" }, map[string]Status{"clock source": Warn}},
		{"wrong clock", func(f *Facts) { f.ClockSynced = false }, map[string]Status{"clock": Warn}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := healthy()
			tt.spoil(&f)
			got := map[string]Status{}
			for _, x := range Judge(f).Findings {
				if x.Status == OK {
					continue
				}
				got[x.Name] = x.Status
				if x.Disables == "" || x.Mend == "" {
					t.Errorf("%s: no word on what it disables or how to mend it: %+v", x.Name, x)
				}
			}
			if tt.want == nil {
				tt.want = map[string]Status{}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("complaints (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNothingKnown judges the facts of a probe that learned nothing.
func TestNothingKnown(t *testing.T) {
	r := Judge(Facts{})
	if r.ExitCode() != 1 || len(r.Findings) < 20 {
		t.Errorf("%d findings, exit code %d; want many and a failure", len(r.Findings), r.ExitCode())
	}
}

func TestRendering(t *testing.T) {
	r := Report{Findings: []Finding{
		{Name: "one", Status: OK, Found: "fine", How: "looked"},
		{Name: "number two", Status: Warn, Found: "slow", How: "timed it", Disables: "speed", Mend: "wait"},
	}}
	var b strings.Builder
	must(t, r.WriteTable(&b, false))
	want := `ok    one         fine
warn  number two  slow

number two: slow
  looked at  timed it
  disables   speed
  to mend    wait

1 ok, 1 to look at, 0 failed
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	b.Reset()
	must(t, r.WriteTable(&b, true))
	if !strings.Contains(b.String(), "one: fine\n  looked at  looked\n") {
		t.Errorf("the full table has no details of what is fine:\n%s", b.String())
	}
	b.Reset()
	must(t, r.WriteJSON(&b))
	var back struct {
		Status   Status    `json:"status"`
		Findings []Finding `json:"findings"`
	}
	must(t, json.Unmarshal([]byte(b.String()), &back))
	if diff := cmp.Diff(r.Findings, back.Findings); diff != "" || back.Status != Warn {
		t.Errorf("JSON: status %s, findings (-want +got):\n%s", back.Status, diff)
	}
	if r.ExitCode() != 0 {
		t.Error("a warning gives an exit code")
	}
	if err := r.WriteTable(failing{}, false); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteTable to a closed writer: %v", err)
	}
	if err := r.WriteJSON(failing{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteJSON to a closed writer: %v", err)
	}
}

// failing is a writer that takes nothing.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestProbe looks at this machine, which can run sandboxes, and leaves nothing.
func TestProbe(t *testing.T) {
	testenv.Need(t, "root")
	asked := false
	f := Probe(t.Context(), Deps{
		Data: filepath.Join(t.TempDir(), "not", "there", "yet"),
		Runtime: func(ctx context.Context) (string, error) {
			_, limited := ctx.Deadline()
			asked = limited
			return "v", nil
		},
	})
	if !asked || f.Runtime.Version != "v" {
		t.Error("the runtime was not tried, or without a deadline")
	}
	for _, x := range Judge(f).Findings {
		if x.Status == Fail && x.Name != "disk" {
			t.Errorf("fails here: %+v", x)
		}
	}
	for _, pattern := range []string{
		fmt.Sprintf("/sys/fs/cgroup/*/bulkhead-doctor-%d", os.Getpid()), filepath.Join(f.Disk.Path, "bulkhead-doctor-*"),
	} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// TestRead reads settings below a root of its own.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"proc/self/status":             "Name:\tx\nCapPrm:\t00\nCapEff:\t0000000000201000\n",
		"proc/sys/net/ipv4/ip_forward": "1\n",
	} {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	d := Deps{Root: dir}
	if got := d.capabilities(); got != 1<<21|1<<12 {
		t.Errorf("capabilities are %#x; want 0x201000", got)
	}
	if got := d.read("/proc/sys/net/ipv4/ip_forward"); got != "1" {
		t.Errorf("ip_forward is %q; want 1", got)
	}
	if got := d.read("/proc/none"); got != "" {
		t.Errorf("a missing file reads as %q", got)
	}
	for in, want := range map[string]string{
		"always within_size advise [never] deny force": "never", "[always]": "always", "": "", "none": "",
	} {
		if got := chosen(in); got != want {
			t.Errorf("chosen(%q) = %q; want %q", in, got, want)
		}
	}
}

// TestRunsc tries runtimes that work, fail and are not there.
func TestRunsc(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	must(t, os.WriteFile(good, []byte("#!/bin/sh\nexit 0\n"), 0o700))
	bad := filepath.Join(t.TempDir(), "bad")
	must(t, os.WriteFile(bad, []byte("#!/bin/sh\necho first; echo 'no platform' >&2; exit 3\n"), 0o700))
	if v, err := Runsc(good, "v1")(t.Context()); v != "v1" || err != nil {
		t.Errorf("working runtime: %q, %v", v, err)
	}
	if _, err := Runsc(bad, "v1")(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "no platform") {
		t.Errorf("failing runtime: %v; want its last words", err)
	}
	if _, err := Runsc("/nonexistent", "v1")(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing runtime: %v", err)
	}
}

func FuzzKernelAtLeast(f *testing.F) {
	f.Add("6.1.0-18-amd64")
	f.Add("5")
	f.Fuzz(func(_ *testing.T, s string) { _ = kernelAtLeast(s, 5, 14) })
}
