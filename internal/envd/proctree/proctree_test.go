package proctree_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// table writes a process table of the given /proc/PID/stat lines.
func table(t *testing.T, stats ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, stat := range stats {
		pid, _, _ := strings.Cut(stat, " ")
		if err := os.MkdirAll(filepath.Join(dir, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, pid, "stat"), []byte(stat), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stat is a line with the given pid, parent, group and session; 4 threads, 3 resident pages and 10
// ticks of processor time.
func stat(ids [4]int, name string, state byte) string {
	return fmt.Sprintf("%d (%s) %c %d %d %d 0 -1 0 0 0 0 0 1 2 3 4 20 0 4 0 100 4096 3 99\n",
		ids[0], name, state, ids[1], ids[2], ids[3])
}

func pids(all []proctree.Process) []int {
	var list []int
	for _, p := range all {
		list = append(list, p.Pid)
	}
	slices.Sort(list)
	return list
}

func TestList(t *testing.T) {
	dir := table(t, stat([4]int{7, 1, 7, 7}, "a) R 9 (b", 'S'), "8 (short) S 1 8", "9 no name at all")
	if err := os.Mkdir(filepath.Join(dir, "self"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := proctree.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []proctree.Process{{
		Pid: 7, Parent: 1, Group: 7, Session: 7, Threads: 4, Resident: 3 * int64(os.Getpagesize()), Name: "a) R 9 (b",
		CPU: 100 * time.Millisecond,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := proctree.List(filepath.Join(dir, "none")); err == nil {
		t.Error("List of a missing directory gave no error")
	}
}

func TestMembers(t *testing.T) {
	dir := table(t,
		stat([4]int{1, 0, 1, 1}, "envd", 'S'),
		stat([4]int{10, 1, 10, 10}, "bash", 'S'),
		stat([4]int{11, 10, 11, 10}, "job", 'S'),    // a job of its own in the session
		stat([4]int{12, 1, 12, 10}, "orphan", 'S'),  // its parent is gone
		stat([4]int{5, 12, 5, 5}, "setsid", 'S'),    // left the session, its parent is a member
		stat([4]int{13, 10, 10, 10}, "zombie", 'Z'), // has ended
		stat([4]int{20, 1, 20, 20}, "other", 'S'),   // another tree
		stat([4]int{30, 1, 30, 30}, "daemon", 'S'),  // once of 10, and left it
		stat([4]int{31, 30, 30, 30}, "daemon's", 'S'),
	)
	all, err := proctree.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{5, 10, 11, 12}, pids(proctree.Members(all, 10))); diff != "" {
		t.Error("Members:", diff)
	}
	if diff := cmp.Diff([]int{5, 10, 11, 12, 20, 30, 31}, pids(proctree.Descendants(all, 1))); diff != "" {
		t.Error("Descendants:", diff)
	}
	if got := proctree.Members(all, 99); got != nil {
		t.Errorf("Members of nobody = %v", got)
	}
}

// TestKill ends a real tree: a shell with a job in a group of its own, a child
// that ignores SIGTERM and a child in a session of its own.
func TestKill(t *testing.T) {
	cmd := exec.Command("bash", "-c", `
		(trap '' TERM; echo ignores; sleep 20; true) &
		setsid sh -c 'echo session; sleep 20; true' &
		set -m; sleep 20 & echo group
		wait`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	for range 3 {
		if !lines.Scan() {
			t.Fatal("the tree did not start")
		}
	}
	if n := proctree.Kill("/proc", cmd.Process.Pid); n < 4 {
		t.Errorf("Kill ended %d processes; want at least 4", n)
	}
	// Every process of the tree holds the pipe, so its end is their end.
	if rest, err := io.ReadAll(out); err != nil || len(rest) != 0 {
		t.Errorf("rest of the output = %q, %v", rest, err)
	}
	err = cmd.Wait()
	if status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); err == nil || status.Signal() != syscall.SIGKILL {
		t.Errorf("the leader ended with %v", cmd.ProcessState)
	}
	if n := proctree.Kill("/proc", os.Getpid()); n != 0 {
		t.Errorf("Kill of oneself ended %d processes", n)
	}
	if n := proctree.Kill("/proc", 1); n != 0 {
		t.Errorf("Kill of process 1 ended %d processes", n)
	}
}
