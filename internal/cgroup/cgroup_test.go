package cgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// spun is what a spinning child writes to.
var spun atomic.Int64

// TestMain makes this binary the programs that the tests run in groups.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "child-eat": // touch memory without end
			for hold := [][]byte{}; ; {
				b := make([]byte, 1<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				hold = append(hold, b)
				_ = hold
			}
		case "child-fork": // start children until that fails, then stay
			for {
				if err := exec.Command("/proc/self/exe", "child-wait").Start(); err != nil {
					break
				}
			}
			select {}
		case "child-bomb": // start more of itself, for ever
			for {
				_ = exec.Command("/proc/self/exe", "child-bomb").Start()
			}
		case "child-spin":
			for n := 0; ; n++ {
				spun.Store(int64(n))
			}
		case "child-wait":
			time.Sleep(time.Hour)
		case "child-guard": // what the admission guard takes for the memory there is
			p, err := guard.OpenProbe("/")
			if err != nil {
				panic(err)
			}
			r, err := p.Read(true)
			if err != nil {
				panic(err)
			}
			fmt.Println(r.Source, r.Limit>>20, r.Used > 0 && r.Used < r.Limit)
			os.Exit(0)
		case "child-where":
			b, _ := os.ReadFile("/proc/self/cgroup")
			_, _ = os.Stdout.Write(b)
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// child is one of the programs above.
func child(t testing.TB, what string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe, "child-"+what)
	cmd.Env = []string{"GOMAXPROCS=1"}
	return cmd
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a tree on this host that is gone after the test, with all in it.
func tree(t testing.TB) *Tree {
	t.Helper()
	testenv.Need(t, "root")
	l, err := Detect()
	must(t, err)
	testenv.Have(t, "cgroup", l.Has(Memory) && l.Has(Pids) && l.Has(CPU), "no memory, pids and cpu controllers")
	tr, err := New(Config{
		Layout: l, Root: fmt.Sprintf("/bulkhead-test-%d", os.Getpid()),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if _, err := tr.Reap(ctx, nil); err != nil {
			t.Errorf("Reap: %v", err)
		}
		if err := tr.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tr
}

var limits = bulkhead.Limits{CPU: 0.5, MemoryMB: 64, Pids: 40}

func create(t testing.TB, tr *Tree, name string) *Group {
	t.Helper()
	g, err := tr.Create(name, limits, Extra{})
	must(t, err)
	return g
}

// TestLimits reads back what Create and Update have set.
func TestLimits(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	s, err := g.Stat()
	must(t, err)
	if s.MemoryLimit != 64<<20 || s.PidsLimit != 40 {
		t.Errorf("limits are %d bytes, %d pids; want %d, 40", s.MemoryLimit, s.PidsLimit, 64<<20)
	}
	must(t, g.Update(bulkhead.Limits{CPU: 2, MemoryMB: 256, Pids: 100}, Extra{PidsOverhead: 20}))
	s, err = g.Stat()
	must(t, err)
	if s.MemoryLimit != 256<<20 || s.PidsLimit != 120 {
		t.Errorf("raised limits are %d bytes, %d pids; want %d, 120", s.MemoryLimit, s.PidsLimit, 256<<20)
	}
	if tr.layout.Mode != ModeV2 {
		quota, err := readFile(g.in(CPU), "cpu.cfs_quota_us")
		must(t, err)
		if quota != "40000" { // of 20 ms
			t.Errorf("quota is %s; want 40000", quota)
		}
	}
	must(t, g.Update(limits, Extra{}))
	if s, err = g.Stat(); err != nil || s.MemoryLimit != 64<<20 {
		t.Errorf("lowered limit is %d, %v; want %d", s.MemoryLimit, err, 64<<20)
	}
	if _, err := tr.Create("box", limits, Extra{}); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("second Create: %v; want a conflict", err)
	}
	must(t, g.Delete(t.Context()))
	must(t, g.Delete(t.Context()))
	if _, err := g.Stat(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat of a deleted group: %v", err)
	}
	if _, err := tr.Open("box"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of a deleted group: %v", err)
	}
}

// TestRefusals lists what Create does not take.
func TestRefusals(t *testing.T) {
	tr := tree(t)
	for _, tt := range []struct {
		name string
		l    bulkhead.Limits
		x    Extra
	}{
		{"../escape", limits, Extra{}},
		{"", limits, Extra{}},
		{"..", limits, Extra{}},
		{"a/b", limits, Extra{}},
		{"nolimits", bulkhead.Limits{}, Extra{}},
		{"tiny", bulkhead.Limits{CPU: 0.001, MemoryMB: 64, Pids: 40}, Extra{}},
		{"overhead", limits, Extra{PidsOverhead: -1}},
	} {
		if _, err := tr.Create(tt.name, tt.l, tt.x); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("Create(%q): %v; want invalid", tt.name, err)
		}
	}
	names, err := tr.List()
	must(t, err)
	if len(names) > 0 {
		t.Errorf("refused groups were made: %v", names)
	}
}

// TestStart looks at where a child is from its own point of view.
func TestStart(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	cmd := child(t, "where")
	var out strings.Builder
	cmd.Stdout = &out
	must(t, g.Start(cmd))
	must(t, cmd.Wait())
	for _, c := range controllers {
		if tr.layout.V1[c] == "" {
			continue
		}
		if !strings.Contains(out.String(), ":"+string(c)+":"+g.CgroupsPath()+"\n") {
			t.Errorf("child is not in the %s group:\n%s", c, out.String())
		}
	}
	if tr.layout.V2 != "" && !strings.Contains(out.String(), "0::"+g.CgroupsPath()+"\n") {
		t.Errorf("child is not in the v2 group:\n%s", out.String())
	}
	if err := g.Start(exec.Command("/nonexistent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start of nothing: %v", err)
	}
}

// TestCanCloneInto tells a group from what is none.
func TestCanCloneInto(t *testing.T) {
	tr := tree(t)
	if tr.layout.V2 == "" {
		t.Skip("no v2 tree")
	}
	if dir := create(t, tr, "box").unified(); !canCloneInto(dir) {
		t.Errorf("no child can be started in %s", dir)
	}
	for _, dir := range []string{t.TempDir(), "/nonexistent"} {
		if canCloneInto(dir) {
			t.Errorf("%s is taken for a group", dir)
		}
	}
}

// TestThreadsComeBack starts many children in parallel, into several groups,
// and then looks at every thread of this process.
func TestThreadsComeBack(t *testing.T) {
	tr := tree(t)
	home, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	var wg sync.WaitGroup
	for i := range 4 {
		g := create(t, tr, "box"+strconv.Itoa(i))
		for range 10 {
			wg.Go(func() {
				cmd := child(t, "where")
				if err := g.Start(cmd); err != nil {
					t.Error(err)
					return
				}
				_ = cmd.Wait()
			})
		}
	}
	wg.Wait()
	tasks, err := filepath.Glob("/proc/self/task/*/cgroup")
	must(t, err)
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err == nil && string(b) != string(home) {
			t.Errorf("%s: %s; want %s", file, b, home)
		}
	}
}

// TestMemoryLimit has a program eat more than it may.
func TestMemoryLimit(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	before, err := g.Stat()
	must(t, err)
	cmd := child(t, "eat")
	must(t, g.Start(cmd))
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the eater ended with %v; want SIGKILL", err)
	}
	after, err := g.Stat()
	must(t, err)
	if cpu, err := g.CPUTime(); err != nil || cpu <= 0 || cpu < after.CPU {
		t.Errorf("CPUTime is %v, %v; Stat said %v before", cpu, err, after.CPU)
	}
	cause, limit, peak := Evidence(before, after)
	if cause != bulkhead.CauseMemoryLimit || limit != 64<<20 || peak < 60<<20 || peak > 65<<20 {
		t.Errorf("evidence is %s, limit %d, peak %d; want memory_limit, %d and a peak near it", cause, limit, peak, 64<<20)
	}
}

// TestMemoryOfAll has a program eat less than it may, but more than there is for all
// boxes together: it ends, and not for its own limit.
func TestMemoryOfAll(t *testing.T) {
	tr := tree(t)
	file := "memory.limit_in_bytes"
	if tr.layout.Mode == ModeV2 {
		file = "memory.max"
	}
	must(t, writeFile(filepath.Join(tr.layout.dir(Memory), tr.root), file, strconv.Itoa(64<<20)))
	g, err := tr.Create("box", bulkhead.Limits{CPU: 1, MemoryMB: 1024, Pids: 40}, Extra{})
	must(t, err)
	before, err := g.Stat()
	must(t, err)
	cmd := child(t, "eat")
	must(t, g.Start(cmd))
	_ = cmd.Wait()
	after, err := g.Stat()
	must(t, err)
	if cause, limit, _ := Evidence(before, after); after.OOMKills == before.OOMKills || cause != "" {
		t.Errorf("%+v is evidence of %q, limit %d; want a kill that is none", after, cause, limit)
	}
	if m, err := tr.Memory(); err != nil || m.Total != 64<<20 {
		t.Errorf("all boxes may have %d bytes, %v; want %d", m.Total, err, 64<<20)
	}
}

// TestGuardInGroup looks at the memory of a group as the admission guard does, from
// inside.
func TestGuardInGroup(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	cmd := child(t, "guard")
	var out, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problem
	must(t, g.Start(cmd))
	err := cmd.Wait()
	want := "cgroup1 64 true\n"
	if tr.layout.Mode == ModeV2 {
		want = "cgroup2 64 true\n"
	}
	if err != nil || out.String() != want {
		t.Errorf("the guard sees %q, %v %s; want %q", out.String(), err, problem.String(), want)
	}
}

// TestPidsLimit has a program fork more than it may, and the group killed.
func TestPidsLimit(t *testing.T) {
	tr := tree(t)
	g, err := tr.Create("box", bulkhead.Limits{CPU: 2, MemoryMB: 512, Pids: 40}, Extra{})
	must(t, err)
	cmd := child(t, "fork")
	must(t, g.Start(cmd))
	go func() { _ = cmd.Wait() }()
	var s Stat
	wait(t, func() bool {
		s, err = g.Stat()
		return err != nil || s.PidsHits > 0
	})
	must(t, err)
	cause, limit, peak := Evidence(Stat{}, s)
	if cause != bulkhead.CausePidsLimit || limit != 40 || peak < 39 || peak > 41 {
		t.Errorf("evidence is %s, limit %d, peak %d; want pids_limit, 40, 40", cause, limit, peak)
	}
	must(t, g.Kill(t.Context()))
	pids, err := g.Procs()
	if err != nil || len(pids) > 0 {
		t.Errorf("after Kill: %v, %v", pids, err)
	}
}

// wait polls a condition for a minute.
func wait(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 12000 {
		if ok() {
			return
		}
		<-tick.C
	}
	t.Fatal("the condition did not come true within a minute")
}

// TestKillForkBomb ends a program that starts itself all the time, with and
// without the v2 tree's single step.
func TestKillForkBomb(t *testing.T) {
	for _, unified := range []bool{true, false} {
		t.Run(fmt.Sprintf("unified=%v", unified), func(t *testing.T) {
			tr := tree(t)
			if !unified {
				if tr.layout.Mode != ModeHybrid {
					t.Skip("needs a hybrid host: only there are two ways to kill")
				}
				tr.layout.V2 = ""
			}
			g, err := tr.Create("box", bulkhead.Limits{CPU: 1, MemoryMB: 512, Pids: 100}, Extra{})
			must(t, err)
			cmd := child(t, "bomb")
			must(t, g.Start(cmd))
			go func() { _ = cmd.Wait() }()
			wait(t, func() bool { s, err := g.Stat(); return err == nil && s.PidsHits > 0 })
			start := time.Now()
			must(t, g.Kill(t.Context()))
			t.Logf("killed in %v", time.Since(start))
			must(t, g.Delete(t.Context()))
		})
	}
}

// TestCPULimit lets a program spin on a tenth of a core for 50 periods, a second
// at least: the kernel lets a period overrun by a tick and takes it from the next.
func TestCPULimit(t *testing.T) {
	tr := tree(t)
	g, err := tr.Create("box", bulkhead.Limits{CPU: 0.1, MemoryMB: 64, Pids: 40}, Extra{})
	must(t, err)
	cmd := child(t, "spin")
	start := time.Now()
	must(t, g.Start(cmd))
	defer func() { _ = cmd.Wait() }()
	var s Stat
	wait(t, func() bool { s, err = g.Stat(); return err != nil || s.Throttles >= 50 })
	must(t, err)
	if rate := s.CPU.Seconds() / s.At.Sub(start).Seconds(); rate > 0.15 || s.Throttled == 0 {
		t.Errorf("used %.2f cores, throttled for %v; want at most about 0.1", rate, s.Throttled)
	}
	must(t, g.Kill(t.Context()))
}

// Who is in the background has next to nothing of the processors that others want,
// stays there when its limits change, and is an equal again afterwards.
func TestBackground(t *testing.T) {
	tr := tree(t)
	cores := float64(runtime.NumCPU())
	limits := bulkhead.Limits{CPU: cores, MemoryMB: 256, Pids: 100}
	front, back := create(t, tr, "front"), create(t, tr, "back")
	for _, g := range []*Group{front, back} {
		must(t, g.Update(limits, Extra{}))
		for range runtime.NumCPU() {
			must(t, g.Start(child(t, "spin")))
		}
	}
	err := back.Background(true)
	testenv.Have(t, "cgroup", !errors.Is(err, errors.ErrUnsupported), "this kernel has no cpu.idle")
	must(t, err)
	// part is what back has of two seconds that both had together: whoever else is on
	// the host makes it take longer.
	part := func() float64 {
		t.Helper()
		f, b := cpuTime(t, front), cpuTime(t, back)
		wait(t, func() bool { return cpuTime(t, front)+cpuTime(t, back)-f-b > 2*time.Second })
		f, b = cpuTime(t, front)-f, cpuTime(t, back)-b
		return b.Seconds() / (f + b).Seconds()
	}
	// With a third group that wants a core, the kernel at times leaves the one beside
	// it to the background for a while, though front could use it.
	if got := part(); got > 0.25 {
		t.Errorf("in the background it had %.0f %% of the processors", 100*got)
	}
	limits.CPU /= 2
	must(t, back.Update(limits, Extra{}))
	if got := part(); got > 0.25 {
		t.Errorf("in the background with other limits it had %.0f %% of the processors", 100*got)
	}
	must(t, back.Background(false))
	limits.CPU = cores
	must(t, back.Update(limits, Extra{}))
	if got := part(); got < 0.25 || got > 0.75 {
		t.Errorf("with equal weights it had %.0f %% of the processors, want about half", 100*got)
	}
	if err := (&Group{t: tr, name: "none"}).Background(true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a group that does not exist: %v", err)
	}
}

func cpuTime(t *testing.T, g *Group) time.Duration {
	t.Helper()
	used, err := g.CPUTime()
	must(t, err)
	return used
}

// TestFreeze stops a spinning program and lets it go on.
func TestFreeze(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	cmd := child(t, "spin")
	must(t, g.Start(cmd))
	defer func() { _ = g.Kill(t.Context()); _ = cmd.Wait() }()
	cpu := func() time.Duration {
		s, err := g.Stat()
		must(t, err)
		return s.CPU
	}
	wait(t, func() bool { return cpu() > 20*time.Millisecond })
	must(t, g.Freeze())
	var last time.Duration
	wait(t, func() bool { now := cpu(); still := now == last; last = now; return still })
	if err := g.Start(child(t, "wait")); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("Start in a frozen group: %v; want a conflict", err)
	}
	must(t, g.Thaw())
	wait(t, func() bool { return cpu() > last })
}

// TestShrinkBelowUse asks for less than is in use.
func TestShrinkBelowUse(t *testing.T) {
	tr := tree(t)
	g, err := tr.Create("box", bulkhead.Limits{CPU: 1, MemoryMB: 1024, Pids: 40}, Extra{})
	must(t, err)
	cmd := child(t, "eat")
	must(t, g.Start(cmd))
	wait(t, func() bool { s, err := g.Stat(); return err != nil || s.Memory > 200<<20 })
	must(t, g.Freeze())
	err = g.Update(limits, Extra{})
	if bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("Update below what is in use: %v; want a conflict", err)
	}
	if s, err := g.Stat(); err != nil || s.MemoryLimit != 1024<<20 || s.OOMKills > 0 {
		t.Errorf("after the refusal: %+v, %v; want the limit as it was, and nobody killed", s, err)
	}
	must(t, g.Thaw())
	must(t, g.Kill(t.Context()))
	_ = cmd.Wait()
}

// TestReap removes what nobody claims, with processes in it, nested groups too.
func TestReap(t *testing.T) {
	tr := tree(t)
	kept, lost := create(t, tr, "kept"), create(t, tr, "lost")
	for _, dir := range lost.Paths() {
		must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	}
	cmd := child(t, "wait")
	must(t, lost.Start(cmd))
	go func() { _ = cmd.Wait() }()
	removed, err := tr.Reap(t.Context(), func(name string) bool { return name == "kept" })
	must(t, err)
	if diff := cmp.Diff([]string{"lost"}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	names, err := tr.List()
	must(t, err)
	if diff := cmp.Diff([]string{"kept"}, names); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	must(t, kept.Delete(t.Context()))
}

// TestAdd moves a process that runs already.
func TestAdd(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	cmd := child(t, "wait")
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	must(t, g.Add(cmd.Process.Pid))
	pids, err := g.Procs()
	must(t, err)
	if diff := cmp.Diff([]int{cmd.Process.Pid}, pids); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
}

// TestKillWithDeadline gives up on a group that cannot be emptied in time.
func TestKillWithDeadline(t *testing.T) {
	tr := tree(t)
	g := create(t, tr, "box")
	cmd := child(t, "wait")
	must(t, g.Start(cmd))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := g.Kill(ctx)
	_ = cmd.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Kill: %v", err)
	}
	must(t, g.Delete(t.Context()))
}

// TestKillWhileStarting kills a group into which children are being started:
// neither may the server's own thread be hit nor a child get away.
func TestKillWhileStarting(t *testing.T) {
	tr := tree(t)
	g, err := tr.Create("box", bulkhead.Limits{CPU: 8, MemoryMB: 512, Pids: 400}, Extra{})
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				cmd := child(t, "wait")
				if g.Start(cmd) == nil {
					defer func() { _ = cmd.Wait() }()
				}
			}
		})
	}
	for range 20 {
		must(t, g.Kill(t.Context()))
	}
	killer := make(chan struct{})
	go func() { wg.Wait(); close(killer) }()
	wait(t, func() bool {
		must(t, g.Kill(t.Context()))
		select {
		case <-killer:
			return true
		default:
			return false
		}
	})
}

func BenchmarkGroup(b *testing.B) {
	tr := tree(b)
	b.Run("CreateDelete", func(b *testing.B) {
		for b.Loop() {
			g := create(b, tr, "box")
			if err := g.Delete(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	g := create(b, tr, "box")
	b.Run("Stat", func(b *testing.B) {
		for b.Loop() {
			if _, err := g.Stat(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Update", func(b *testing.B) {
		for b.Loop() {
			if err := g.Update(limits, Extra{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := g.Update(bulkhead.Limits{CPU: 8, MemoryMB: 512, Pids: 400}, Extra{}); err != nil {
		b.Fatal(err)
	}
	b.Run("Start", func(b *testing.B) {
		for b.Loop() {
			cmd := child(b, "where")
			if err := g.Start(cmd); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = cmd.Wait()
			b.StartTimer()
		}
	})
	b.Run("PlainStart", func(b *testing.B) {
		for b.Loop() {
			cmd := child(b, "where")
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = cmd.Wait()
			b.StartTimer()
		}
	})
}
