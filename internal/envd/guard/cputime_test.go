package guard_test

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// TestCPUTime ends what uses processor time, in whatever process of its tree, and
// leaves what only waits.
func TestCPUTime(t *testing.T) {
	g := running(t, guard.Config{})
	const limit = 500 * time.Millisecond
	if err := g.SetLimits(guard.Limits{CPUTime: limit}); err != nil {
		t.Fatal(err)
	}
	idle := start(t, g, "sleep 20; exit")
	began := time.Now()
	for name, line := range map[string]string{
		"itself":             "while :; do :; done",
		"its child":          "bash -c 'while :; do :; done'; exit",
		"one after another":  "while :; do (for i in {1..3000}; do :; done); done",
		"two at a time":      "(while :; do :; done) & while :; do :; done",
		"another's session":  "setsid -w bash -c 'while :; do :; done'; exit",
		"deaf to its signal": "trap '' XCPU TERM; while :; do :; done",
	} {
		cmd := start(t, g, line)
		if status := wait(t, cmd); status.Signal() != syscall.SIGKILL {
			t.Errorf("%s: ended by %v", name, status)
		}
		end, ok := g.Verdict(cmd.Process.Pid)
		if !ok || end.Cause != bulkhead.CauseTimeLimit || end.Limit != limit.Milliseconds() || end.Peak < end.Limit {
			t.Errorf("%s: verdict %+v, %v", name, end, ok)
		}
	}
	if _, ok := g.Verdict(idle.Process.Pid); ok {
		t.Errorf("a program that waited for %s was ended", time.Since(began))
	}
}

// TestCPUTimeOfRuns counts from the begin of each run of a program that lives on.
func TestCPUTimeOfRuns(t *testing.T) {
	g := running(t, guard.Config{})
	// A program that is no one's but the test's, with two processes' worth of time
	// behind it.
	cmd := exec.Command("bash", "-c", "read; while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Spawn(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proctree.Kill("/proc", cmd.Process.Pid) })
	if err := g.SetLimits(guard.Limits{CPUTime: 300 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // runs of nothing
		g.Watch(cmd.Process.Pid).Release()
	}
	if _, ok := g.Verdict(cmd.Process.Pid); ok {
		t.Error("runs of nothing used up the time")
	}
	run := g.Watch(cmd.Process.Pid)
	defer run.Release()
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	wait(t, cmd)
	if end, ok := g.Verdict(cmd.Process.Pid); !ok || end.Cause != bulkhead.CauseTimeLimit {
		t.Errorf("verdict %+v, %v", end, ok)
	}
}
