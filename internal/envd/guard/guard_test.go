package guard_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// residents measures what the test's own children use, as if they were a box.
type residents struct{}

func (residents) Measure() (guard.Usage, error) {
	all, err := proctree.List("/proc")
	if err != nil {
		return guard.Usage{}, err
	}
	var u guard.Usage
	for _, p := range proctree.Descendants(all, os.Getpid()) {
		u.Memory += p.Resident
		u.Tasks += p.Threads
	}
	return u, nil
}

// running returns a guard whose Run ends with the test.
func running(t *testing.T, cfg guard.Config) *guard.Guard {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g
}

// start runs a program of one line of shell in a session of its own.
func start(t *testing.T, g *guard.Guard, line string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-c", line}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	watch, err := g.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proctree.Kill("/proc", cmd.Process.Pid)
		_ = cmd.Wait() // it may have been waited for
		watch.Release()
		watch.Release()
	})
	return cmd
}

// wait waits for cmd for at most ten seconds.
func wait(t *testing.T, cmd *exec.Cmd) syscall.WaitStatus {
	t.Helper()
	kill := time.AfterFunc(10*time.Second, func() { proctree.Kill("/proc", cmd.Process.Pid) })
	_ = cmd.Wait() // the status says how
	if !kill.Stop() {
		t.Fatalf("the guard did not end %v", cmd)
	}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status
}

// hog grows by 1 MiB at a time to 400 MiB and then waits.
const hog = `x=$(head -c 1048576 /dev/zero | tr '\0' x); for i in $(seq 400); do a[i]=$x; done; sleep 20`

func TestMemoryLimitEndsTheLargest(t *testing.T) {
	g := running(t, guard.Config{Meter: residents{}})
	if err := g.SetLimits(guard.Limits{MemoryBytes: 200 << 20}); err != nil {
		t.Fatal(err)
	}
	small := start(t, g, "sleep 20")
	// The hog is a child of what was started: both are told why.
	parent := start(t, g, "bash -c \"$1\"; exit $?", "bash", hog)
	if code := wait(t, parent).ExitStatus(); code != 128+9 {
		t.Errorf("exit code = %d; want 137", code)
	}
	end, ok := g.Verdict(parent.Process.Pid)
	if !ok || end.Cause != bulkhead.CauseMemoryLimit || end.Limit != 200<<20 {
		t.Fatalf("verdict = %+v, %v", end, ok)
	}
	if least := end.Limit - guard.Margin(end.Limit); end.Peak < least || end.Peak > end.Limit {
		t.Errorf("peak = %d MiB; want %d to %d", end.Peak>>20, least>>20, end.Limit>>20)
	}
	if !strings.Contains(end.Detail, "of its 200 MiB") || !strings.Contains(end.Detail, "bash") {
		t.Errorf("detail = %q", end.Detail)
	}
	if _, ok := g.Verdict(small.Process.Pid); ok {
		t.Error("the small program has a verdict")
	}
	if err := syscall.Kill(small.Process.Pid, 0); err != nil {
		t.Errorf("the small program was ended: %v", err)
	}
}

// TestMemoryInFilesEndsNobody: what is not held by programs is not brought back
// by ending them.
func TestMemoryInFilesEndsNobody(t *testing.T) {
	looked := make(chan struct{}, 100)
	g := running(t, guard.Config{Meter: meter(func() (guard.Usage, error) {
		select {
		case looked <- struct{}{}:
		default:
		}
		return guard.Usage{Memory: 1 << 40}, nil
	})})
	if err := g.SetLimits(guard.Limits{MemoryBytes: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	cmd := start(t, g, "sleep 20")
	<-looked
	<-looked
	if _, ok := g.Verdict(cmd.Process.Pid); ok {
		t.Error("a program was ended for memory that it does not hold")
	}
}

type meter func() (guard.Usage, error)

func (m meter) Measure() (guard.Usage, error) { return m() }

func TestPidsLimitEndsTheTree(t *testing.T) {
	for _, test := range []struct {
		name   string
		cgroup bool
		meter  guard.Meter
	}{
		{"counted by a meter", false, residents{}},
		{"counted in the process table", false, nil},
		{"pids controller", true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := guard.Config{Meter: test.meter}
			if test.cgroup {
				testenv.Need(t, "root")
				cfg.CgroupDir = filepath.Join(t.TempDir(), "pids")
			}
			g := running(t, cfg)
			if err := g.SetLimits(guard.Limits{Pids: 40}); err != nil {
				t.Fatal(err)
			}
			other := start(t, g, "sleep 20 & sleep 20 & sleep 20")
			// Half the children are in groups of their own.
			many := start(t, g, "set -m; for i in $(seq 60); do sleep 20 & done 2>/dev/null; wait")
			if status := wait(t, many); !status.Signaled() {
				t.Errorf("status = %v; want a signal", status)
			}
			end, ok := g.Verdict(many.Process.Pid)
			if !ok || end.Cause != bulkhead.CausePidsLimit || end.Limit != 40 || end.Peak < 40 {
				t.Errorf("verdict = %+v, %v", end, ok)
			}
			if test.cgroup && end.Peak > 41 {
				t.Errorf("peak = %d; the controller lets nothing beyond 40 start", end.Peak)
			}
			if _, ok := g.Verdict(other.Process.Pid); ok {
				t.Error("the other tree has a verdict")
			}
			// The box is usable again.
			after := start(t, g, "exit 0")
			if status := wait(t, after); status.ExitStatus() != 0 {
				t.Errorf("the next program ended with %v", status)
			}
		})
	}
}

// TestRunningProgramsAreBounded: programs started before the limit are in the
// controller too.
func TestRunningProgramsAreBounded(t *testing.T) {
	testenv.Need(t, "root")
	dir := filepath.Join(t.TempDir(), "pids")
	g := running(t, guard.Config{CgroupDir: dir})
	before := start(t, g, "sleep 20")
	if err := g.SetLimits(guard.Limits{Pids: 40}); err != nil {
		t.Fatal(err)
	}
	groups, err := filepath.Glob(filepath.Join(dir, "bulkhead-programs-"+strconv.Itoa(os.Getpid()), "cgroup.procs"))
	if err != nil || len(groups) != 1 {
		t.Fatalf("groups = %v, %v", groups, err)
	}
	procs, err := os.ReadFile(groups[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := " " + strings.Join(strings.Fields(string(procs)), " ") + " "; !strings.Contains(want, " "+strconv.Itoa(before.Process.Pid)+" ") {
		t.Errorf("programs in the group are%sand not %d", want, before.Process.Pid)
	}
}

func TestErrors(t *testing.T) {
	if _, err := guard.New(guard.Config{}); err == nil {
		t.Error("New without a log gave no error")
	}
	g := running(t, guard.Config{})
	if err := g.SetLimits(guard.Limits{MemoryBytes: -1}); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("negative limit: %v", err)
	}
	if _, err := g.Start(exec.Command("/no/such/program")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start of a missing program: %v", err)
	}
	if _, err := g.Usage(); err == nil {
		t.Error("Usage without a meter gave no error")
	}
	if _, ok := g.Verdict(1); ok {
		t.Error("process 1 has a verdict")
	}
}
