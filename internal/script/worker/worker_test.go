package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// TestMain makes this test binary its own worker.
func TestMain(m *testing.M) {
	if Is(os.Args[0]) {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// host is a [engine.Host] that records.
type host struct {
	mu     sync.Mutex
	lines  []string
	logged func() // called for each line, unless nil
}

func (h *host) Log(l engine.LogLine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, l.Level+" "+l.Message)
	if h.logged != nil {
		h.logged()
	}
}

func (h *host) Call(op string, payload []byte) ([]byte, error) {
	if op == "kv.get" {
		return payload, nil
	}
	return nil, errors.New("no " + op)
}

// newPool returns a running pool with at least one worker ready.
func newPool(tb testing.TB, cfg Config) *Pool {
	tb.Helper()
	testenv.Need(tb, "root")
	if cfg.Cgroup == "" {
		cfg.Cgroup = "bulkhead-test-" + strings.ToLower(strings.NewReplacer("/", "-").Replace(tb.Name()))
	}
	cfg.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	p, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			tb.Errorf("pool: %v", err)
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait() })
	return p
}

func do(tb testing.TB, p *Pool, source string, change func(*Task)) engine.Outcome {
	tb.Helper()
	task := Task{Source: source, Input: engine.Input{Limits: engine.DefaultLimits(), Host: &host{}}}
	if change != nil {
		change(&task)
	}
	out, err := p.Do(tb.Context(), task)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestRun(t *testing.T) {
	p := newPool(t, Config{})
	h := &host{}
	out := do(t, p, `console.log("hello", {a: 1}); ({n: input.n + 1, kv: kv.get("k").key})`, func(task *Task) {
		task.Input.JSON = json.RawMessage(`{"n":41}`)
		task.Input.Host = h
	})
	if got := string(out.Result); got != `{"n":42,"kv":"k"}` {
		t.Errorf("result %s, outcome %+v", got, out)
	}
	if got := strings.Join(h.lines, ";"); got != `info hello {"a":1}` {
		t.Errorf("lines %q", got)
	}
	if s := p.Stats(); !s.Confined || !s.Cgroup {
		t.Errorf("workers are not confined: %+v", s)
	}
	if out := do(t, p, `let = = 1`, nil); out.Failure == nil || out.Failure.Name != "SyntaxError" {
		t.Errorf("a syntax error gave %+v", out)
	}
	if out := do(t, p, `kv.set("a", 1)`, nil); out.Failure == nil || !strings.Contains(out.Failure.Message, "no kv.set") {
		t.Errorf("a failing call gave %+v", out)
	}
}

func TestEnds(t *testing.T) {
	p := newPool(t, Config{})
	for _, s := range []struct {
		name, source string
		want         bulkhead.Cause
		lost         bool
	}{
		{"interruptible memory", `const a = []; for (;;) a.push([1, 2, 3])`, bulkhead.CauseMemoryLimit, false},
		{"charged memory", `"x".repeat(2 ** 40)`, bulkhead.CauseMemoryLimit, false},
		{"memory that nothing but the cgroup stops", `let a = ["xxxxxxxx"]; for (let i = 0; i < 40; i++) a = [a, a]; JSON.stringify(a)`, bulkhead.CauseMemoryLimit, true},
		{"an iterator of built-ins", `[...{[Symbol.iterator]: () => ({next: Object})}]`, bulkhead.CauseMemoryLimit, true},
		{"interruptible time", `for (;;);`, bulkhead.CauseTimeLimit, false},
		{"time that only a kill ends", `/^(?=a)(a+)+$/.test("a".repeat(60) + "!")`, bulkhead.CauseTimeLimit, true},
		{"huge BigInt", `2n ** (2n ** 40n)`, bulkhead.CauseMemoryLimit, true},
		{"deep source", `eval("(".repeat(5e6))`, bulkhead.CauseMemoryLimit, true},
		{"result", `"x".repeat(6 << 20)`, bulkhead.CauseOutputLimit, false},
		{"console", `for (;;) console.log("x".repeat(1000))`, bulkhead.CauseOutputLimit, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			lost := p.Stats().Lost
			begin := time.Now()
			out := do(t, p, s.source, func(task *Task) {
				if s.want == bulkhead.CauseTimeLimit {
					task.Input.Limits.TimeMS = 1500
				} else {
					task.Input.Limits.TimeMS = engine.MostTimeMS
				}
			})
			t.Logf("%v after %v, peak %d MiB", out.End, time.Since(begin), out.Usage.PeakBytes>>20)
			if out.End.Cause != s.want {
				t.Errorf("cause %v, want %v", out.End.Cause, s.want)
			}
			if out.End.Limit == 0 || out.End.Peak < out.End.Limit {
				t.Errorf("evidence limit %d peak %d", out.End.Limit, out.End.Peak)
			}
			if out := do(t, p, `1 + 1`, nil); string(out.Result) != "2" {
				t.Errorf("the next run gave %+v", out)
			}
			if s.lost && p.Stats().Lost == lost {
				t.Error("the worker was kept")
			}
		})
	}
}

// TestCallerGoesAway ends the call of a run that is under way: the run is over
// then, not only forgotten.
func TestCallerGoesAway(t *testing.T) {
	p := newPool(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, err := p.Do(ctx, Task{
		Source: `console.log("running"); for (;;);`,
		Input:  engine.Input{Limits: engine.Limits{TimeMS: engine.MostTimeMS}.Or(engine.DefaultLimits()), Host: &host{logged: cancel}},
	})
	if err != nil || out.End.Cause != bulkhead.CauseKilled || out.Usage.WallMS >= engine.MostTimeMS {
		t.Errorf("outcome %+v, error %v", out, err)
	}
	if out := do(t, p, `1 + 1`, nil); string(out.Result) != "2" {
		t.Errorf("the next run gave %+v", out)
	}
}

func TestBuild(t *testing.T) {
	p := newPool(t, Config{})
	b, err := p.Build(t.Context(), `enum E { A = 3 } function f(x: number): E { return x as E } f(E.A)`)
	if err != nil {
		t.Fatal(err)
	}
	if out := do(t, p, b.Code, nil); string(out.Result) != "3" {
		t.Errorf("result %s of %s", out.Result, b.Code)
	}
	if b, err = p.Build(t.Context(), "const n: number = await 3\nreturn n"); err != nil || b.Head == 0 {
		t.Fatalf("a source that returns: %+v, %v", b, err)
	}
	if out := do(t, p, b.Code, nil); string(out.Result) != "3" {
		t.Errorf("result %s of %s", out.Result, b.Code)
	}
	var s *engine.SyntaxError
	if _, err := p.Build(t.Context(), `let x: = 3`); !errors.As(err, &s) || !strings.Contains(s.Error(), "script.ts:1:8") {
		t.Errorf("error %v, want a syntax error with its place", err)
	}
	if _, err := p.Build(t.Context(), "return 1; let x: = 3"); !errors.As(err, &s) || !strings.Contains(s.Error(), "script.ts:1:18") {
		t.Errorf("error %v, want that behind the return", err)
	}
	if _, err := p.Build(t.Context(), strings.Repeat("(", 4<<20)); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("error %v for a source that only has parentheses", err)
	}
	if out := do(t, p, `2`, nil); string(out.Result) != "2" {
		t.Errorf("the next run gave %+v", out)
	}
}

// TestSmallRunAfterLarge gives a worker that holds another run's garbage one whose hard
// limit is below that: it must not be that one's fault.
func TestSmallRunAfterLarge(t *testing.T) {
	p := newPool(t, Config{Idle: 1, Max: 1})
	for range 10 {
		bomb := do(t, p, `const a = []; for (;;) a.push({n: a.length})`, func(task *Task) {
			task.Input.Limits.MemoryMB, task.Input.Limits.TimeMS = 16, 60_000
		})
		if bomb.End.Cause != bulkhead.CauseMemoryLimit {
			t.Fatalf("the large run gave %+v", bomb)
		}
		out := do(t, p, `1`, func(task *Task) { task.Input.Limits.MemoryMB = 1 })
		if string(out.Result) != "1" {
			t.Fatalf("a small run gave %+v", out)
		}
	}
	if s := p.Stats(); s.Lost > 0 {
		t.Errorf("%d workers count as lost", s.Lost)
	}
}

// TestKilledByHost tells a worker's own limit from memory that was short above it:
// the kernel kills in both cases.
func TestKilledByHost(t *testing.T) {
	p := newPool(t, Config{HostOOM: func() { t.Error("a program's own limit was taken for the host's memory") }})
	out := do(t, p, `2n ** (2n ** 40n)`, func(task *Task) { task.Input.Limits.TimeMS = engine.MostTimeMS })
	if out.End.Cause != bulkhead.CauseMemoryLimit {
		t.Errorf("its own limit: %v", out.End)
	}
	g, err := p.groups.make(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := g.setLimit(64 << 20); err != nil {
		t.Fatal(err)
	}
	if !g.byHost(1) || g.byHost(0) {
		t.Error("a kill in a group that uses nothing is the host's")
	}
}

// TestConfinement looks at a worker from outside.
func TestConfinement(t *testing.T) {
	p := newPool(t, Config{Idle: 1})
	do(t, p, `1`, nil)
	p.mu.Lock()
	w := p.idle[0]
	p.mu.Unlock()
	pid, user := w.cmd.Process.Pid, itoa(1_800_000_000+w.slot)
	status, err := os.ReadFile("/proc/" + itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Uid:\t" + strings.Join([]string{user, user, user, user}, "\t"), "Gid:\t" + user, "Groups:\t \n",
		"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000",
	} {
		if !bytes.Contains(status, []byte(want)) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	if root, err := os.Readlink("/proc/" + itoa(pid) + "/root"); err != nil || root != p.root {
		t.Errorf("its root is %q (%v), want %q", root, err, p.root)
	}
	dev, err := os.ReadFile("/proc/" + itoa(pid) + "/net/dev")
	if err != nil || bytes.Count(dev, []byte(":")) != 1 || !bytes.Contains(dev, []byte("lo:")) {
		t.Errorf("its network is not empty: %v\n%s", err, dev)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestPoolLeavesNothing(t *testing.T) {
	testenv.Need(t, "root")
	p, err := New(Config{Cgroup: "bulkhead-test-leftover"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	do(t, p, `1`, nil)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{p.groups.dir + "/" + p.groups.name + "*", p.groups.cpu + "/" + p.groups.name + "*", p.root} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("%v are still there (%v)", left, err)
		}
	}
	if _, err := p.Do(t.Context(), Task{}); bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("a stopped pool gave %v", err)
	}
}

// TestPoolSweeps finds what a server that was killed has left.
func TestPoolSweeps(t *testing.T) {
	testenv.Need(t, "root")
	groups, err := newCgroups("bulkhead-test-sweep")
	testenv.Have(t, "memory controller", err == nil, fmt.Sprint(err))
	left := groups.dir + "/bulkhead-test-sweep-999999999-3"
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	p := newPool(t, Config{Cgroup: "bulkhead-test-sweep", Root: t.TempDir() + "/empty"})
	do(t, p, `1`, nil)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", left, err)
	}
}

func TestRootMustBeEmpty(t *testing.T) {
	testenv.Need(t, "root")
	p, err := New(Config{Root: "/", Cgroup: "bulkhead-test-root"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a root with something in it gave %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, cfg := range []Config{{Idle: 3, Max: 2}, {Idle: -1}, {Max: 5000}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("no error for %+v", cfg)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	var b bytes.Buffer
	_ = writeFrame(&b, kindLog, []byte(`{"level":"info"}`))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		k, payload, err := readFrame(bytes.NewReader(data), 1<<20)
		if err == nil && (len(payload) > 1<<20 || k != kind(data[4])) {
			t.Errorf("kind %c, %d bytes", k, len(payload))
		}
	})
}

func BenchmarkDo(b *testing.B) {
	p := newPool(b, Config{})
	do(b, p, `1`, nil)
	for b.Loop() {
		do(b, p, `({total: [1, 2, 3].map(x => x * 2).reduce((a, b) => a + b, 0)})`, nil)
	}
}

func BenchmarkStart(b *testing.B) {
	p := newPool(b, Config{Idle: 1})
	do(b, p, `1`, nil)
	for b.Loop() {
		p.mu.Lock()
		w := p.newWorkerLocked()
		p.mu.Unlock()
		if err := p.start(b.Context(), w); err != nil {
			b.Fatal(err)
		}
		p.end(w)
	}
}

// TestWorkerEndsWithItsServer takes the server away from a worker whose program does
// not end.
func TestWorkerEndsWithItsServer(t *testing.T) {
	p := newPool(t, Config{})
	w, err := p.acquire(t.Context(), ClassQuick)
	if err != nil {
		t.Fatal(err)
	}
	defer p.release(w, errWorn)
	limits := engine.DefaultLimits()
	limits.TimeMS = engine.MostTimeMS
	req := &runRequest{Source: `console.log("on"); for (;;);`, Limits: limits, Journal: engine.NewJournal()}
	if err := send(w.conn, kindRun, req); err != nil {
		t.Fatal(err)
	}
	if k, _, err := readFrame(w.conn, 1<<10); k != kindLog || err != nil {
		t.Fatalf("the program did not begin: %c, %v", k, err)
	}
	if err := w.conn.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.ended:
	case <-time.After(time.Minute):
		t.Error("the worker goes on")
	}
}
