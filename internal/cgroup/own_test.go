package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// On a v2 host that is a folder: what is written, and what comes back.
func TestProtectV2(t *testing.T) {
	dir := files(t, map[string]string{
		"cgroup.procs": "1\n", "bulkhead-server/cpu.weight": "100\n", "bulkhead-server/memory.low": "0\n", "bulkhead-server/cgroup.procs": "",
	})
	p := &protection{}
	own, err := p.move(dir, "/bulkhead-server")
	must(t, err)
	must(t, p.set(own, "cpu.weight", "400"))
	must(t, p.set(own, "no.such.file", "1"))
	read := func(name string) string {
		t.Helper()
		s, err := readFile(dir, name)
		must(t, err)
		return s
	}
	if w, procs := read("bulkhead-server/cpu.weight"), read("bulkhead-server/cgroup.procs"); w != "400" || procs == "" {
		t.Errorf("weight %q, processes %q", w, procs)
	}
	must(t, p.undo())
	must(t, p.undo())
	if w, procs := read("bulkhead-server/cpu.weight"), read("cgroup.procs"); w != "100" || procs == "1" {
		t.Errorf("after undo: weight %q, processes at the root %q", w, procs)
	}
}

func TestOOM(t *testing.T) {
	for was, want := range map[string]string{"0": "-500", "200": "-500", "-900": "-900"} {
		dir := files(t, map[string]string{"oom_score_adj": was + "\n"})
		p := &protection{}
		must(t, p.oom(filepath.Join(dir, "oom_score_adj")))
		if got, _ := readFile(dir, "oom_score_adj"); got != want {
			t.Errorf("from %s: %s, want %s", was, got, want)
		}
		must(t, p.undo())
		if got, _ := readFile(dir, "oom_score_adj"); got != was {
			t.Errorf("after undo: %s, want %s", got, was)
		}
	}
}

// protectEnv makes the test program protect itself and say what it sees, since what
// it does holds for the whole process.
const protectEnv = "BULKHEAD_TEST_PROTECT"

// On this host, as it is: a process gets a larger share and a lower rank, boxes can
// still be started, and nothing of it is left after undo.
func TestProtect(t *testing.T) {
	testenv.Need(t, "root")
	if os.Getenv(protectEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProtect$", "-test.v")
		cmd.Env = append(os.Environ(), protectEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "protected") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	layout, err := Detect()
	must(t, err)
	tree, err := New(Config{Layout: layout, Root: "/bulkhead-protect-test"})
	must(t, err)
	defer func() { must(t, tree.Close()) }()
	mount, was, err := tree.ownGroup()
	must(t, err)
	undo, err := tree.Protect(64)
	must(t, err)
	_, own, err := tree.ownGroup()
	must(t, err)
	shares, err := readFile(filepath.Join(mount, own), map[bool]string{true: "cpu.weight", false: "cpu.shares"}[layout.Mode == ModeV2])
	must(t, err)
	rank, err := os.ReadFile("/proc/self/oom_score_adj")
	must(t, err)
	lower := os.WriteFile("/proc/self/oom_score_adj", []byte("-500"), 0o600) == nil // as far as this host allows
	want := map[bool]string{true: "400", false: "4096"}[layout.Mode == ModeV2]
	if layout.Mode != ModeV2 && was == "/" {
		want = strconv.Itoa(4096 * runtime.NumCPU())
	}
	if shares != want || lower && strings.TrimSpace(string(rank)) != "-500" {
		t.Errorf("shares %s, rank %s", shares, rank)
	}
	g, err := tree.Create("box", limits, Extra{})
	must(t, err)
	if names, err := tree.List(); err != nil || len(names) != 1 {
		t.Errorf("groups of boxes: %q, %v; want one", names, err)
	}
	cmd := exec.CommandContext(t.Context(), "true")
	must(t, g.Start(cmd))
	must(t, cmd.Wait())
	must(t, g.Delete(t.Context()))
	must(t, undo())
	if _, now, err := tree.ownGroup(); err != nil || now != was {
		t.Errorf("after undo in %s, %v; was in %s", now, err, was)
	}
	if was == "/" {
		if _, err := os.Stat(filepath.Join(mount, own)); err == nil {
			t.Error("the group is left")
		}
	}
	if rank, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || strings.TrimSpace(string(rank)) == "-500" {
		t.Errorf("rank after undo %s, %v", rank, err)
	}
	t.Log("protected")
}
