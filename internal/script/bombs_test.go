package script

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// bomb is one program of testdata/bombs.
type bomb struct {
	name, code, end string
	limits          engine.Limits
}

// bombs reads the corpus.
func bombs(tb testing.TB) []bomb {
	tb.Helper()
	files, err := filepath.Glob("testdata/bombs/*.js")
	if err != nil {
		tb.Fatal(err)
	}
	var list []bomb
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		b := bomb{name: strings.TrimSuffix(filepath.Base(f), ".js"), code: string(data), limits: engine.Limits{TimeMS: engine.MostTimeMS, MemoryMB: 64}}
		for line := range strings.Lines(b.code) {
			if end, ok := strings.CutPrefix(line, "// end: "); ok {
				b.end = strings.TrimSpace(end)
			}
			for prefix, limit := range map[string]*int64{"// time: ": &b.limits.TimeMS, "// memory: ": &b.limits.MemoryMB} {
				if n, ok := strings.CutPrefix(line, prefix); ok {
					if *limit, err = strconv.ParseInt(strings.TrimSpace(n), 10, 64); err != nil {
						tb.Fatalf("%s: %v", f, err)
					}
				}
			}
		}
		if b.end == "" {
			tb.Fatalf("%s names no end", f)
		}
		list = append(list, b)
	}
	if len(list) < 60 {
		tb.Fatalf("%d bombs, want at least 60", len(list))
	}
	return list
}

// ending is how a result reads in the head of a bomb.
func ending(res Result) string {
	if res.End.Cause != bulkhead.CauseExited {
		return string(res.End.Cause)
	}
	s := fmt.Sprintf("exited %d", res.End.ExitCode)
	if res.Failure != nil {
		s += " " + res.Failure.Name
	}
	return s
}

// rss returns this process's resident memory in bytes.
func rss() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// watch calls f and returns how far the resident memory of this process, which
// is the server, rose above where it was.
func watch(f func()) int64 {
	debug.FreeOSMemory()
	before := rss()
	var peak atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			peak.Store(max(peak.Load(), rss()))
			<-tick.C
		}
	})
	f()
	cancel()
	wg.Wait()
	return peak.Load() - before
}

// allowedRise is the server's budget for one run in process, and half of it.
const allowedRise = engine.InProcessMemory * 3 / 2

// patient is a tenant whose runs may take so long that only a bomb's own doing ends
// it, on however busy a machine.
var patient = Tenant{ID: "patient", Tier: bulkhead.Tier{Multiplier: 5}}

// TestBombs runs the whole corpus through both lanes: each bomb as if it had been
// quick before, so that it begins in process if it may, and then straight in a worker.
// A short run takes two at a time, and leaves out of the second half what ended in a
// worker already.
func TestBombs(t *testing.T) {
	list, atOnce := bombs(t), 1
	if testing.Short() {
		atOnce = 2
	}
	var mu sync.Mutex
	var left []bomb // for the workers' lane alone
	t.Run("server", func(t *testing.T) {
		s := newService(t, nil)
		inside := 0
		explode(t, s, list, atOnce, func(b bomb, res Result) {
			mu.Lock()
			defer mu.Unlock()
			if res.Reason == "" || strings.HasPrefix(res.Reason, "it runs") || strings.HasPrefix(res.Reason, "it allocates") {
				inside++
			}
			if !testing.Short() || res.Lane != engine.LaneWorker.String() {
				left = append(left, b)
			}
		})
		t.Logf("%d began in process; %+v", inside, s.cfg.Pool.Stats())
	})
	t.Run("worker", func(t *testing.T) {
		s := newService(t, func(c *Config, _ *worker.Config) { c.WorkersOnly = true })
		explode(t, s, left, atOnce, func(b bomb, res Result) {
			if res.Lane != engine.LaneWorker.String() {
				t.Errorf("%s ended in the lane %s", b.name, res.Lane)
			}
		})
	})
}

// explode lets bombs explode in s, so many at once, holds each to its end and the
// server to its memory, and reports every result.
func explode(t *testing.T, s *Service, list []bomb, atOnce int, ended func(bomb, Result)) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				b := list[i]
				t.Run(b.name, func(t *testing.T) {
					began := time.Now()
					var res Result
					rise := watch(func() {
						var err error
						s.trust(b.code)
						if res, err = s.Execute(t.Context(), patient, Request{Code: b.code, Limits: b.limits}, nil); err != nil {
							t.Fatal(err)
						}
					})
					if got := ending(res); got != b.end {
						t.Errorf("ended %s, want %s: %v %+v", got, b.end, res.End, res.Failure)
					}
					if limited := res.End.Cause != bulkhead.CauseExited; limited && (res.End.Limit == 0 || res.End.Peak < res.End.Limit) {
						t.Errorf("the evidence is a limit of %d and a peak of %d", res.End.Limit, res.End.Peak)
					}
					if allowed := int64(atOnce) * allowedRise; rise > allowed {
						t.Errorf("the server grew by %d MiB, allowed %d", rise>>20, allowed>>20)
					}
					ended(b, res)
					t.Logf("%-12s %-10s %8v, server +%d MiB, run %d MiB: %s", ending(res), res.Lane,
						time.Since(began).Round(time.Millisecond), rise>>20, res.Usage.PeakBytes>>20, res.Reason)
					if res := s.mustRun(t, Request{Code: "1 + 1"}); string(res.Result) != "2" {
						t.Errorf("after it, 1 + 1 is %s (%v)", res.Result, res.End)
					}
				})
			}
		})
	}
	wg.Wait()
}

// honest are the scripts that run beside bombs; the last needs a worker.
var honest = []struct{ code, want string }{
	{`({total: [1, 2, 3].map(x => x * 2).reduce((a, b) => a + b, 0)})`, `{"total":12}`},
	{`const words = "the quick brown fox".split(" "); words.map(w => w[0].toUpperCase() + w.slice(1)).join(" ")`, `"The Quick Brown Fox"`},
	{
		`const m = new Map(); for (let i = 0; i < 200; i++) m.set(i % 7, (m.get(i % 7) || 0) + i); [...m.values()]`,
		`[2842,2871,2900,2929,2758,2786,2814]`,
	},
	{`[...(function* () { for (let i = 0; i < 50; i++) yield i * i })()].length`, `50`},
}

// mallory is the tenant of the bombs.
var mallory = Tenant{ID: "mallory"}

// TestHonestBesideBombs lets the corpus explode, eight bombs at once, and runs
// honest scripts beside them, two at a time: every one of them must finish with its
// result, every bomb with a cause, and the server must stay within its budget. How
// fast the honest ones are is measured by bench/script. A short run has one half of
// the corpus here, and the other in the small host.
func TestHonestBesideBombs(t *testing.T) {
	const atOnce = 8
	s := newService(t, nil)
	list := bombs(t)
	if half := len(list) / 2; testing.Short() && os.Getenv(inSmallHost) == "" {
		list = list[:half]
	} else if testing.Short() {
		list = list[half:]
	}
	var next, exploded, runs, failed atomic.Int64
	var over atomic.Bool
	var bombing, working sync.WaitGroup
	one := func(b bomb) {
		res, err := s.Execute(t.Context(), mallory, Request{Code: b.code, Limits: engine.Limits{TimeMS: 400}}, nil)
		switch {
		case bulkhead.CodeOf(err) == bulkhead.CodeUnavailable: // admission may refuse it
		case err != nil || res.End.Cause == "" || res.End.Cause == bulkhead.CauseCrashed:
			t.Errorf("bomb %s: %v, %v", b.name, res.End, err)
		default:
			exploded.Add(1)
		}
	}
	rise := watch(func() {
		for range atOnce {
			bombing.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
					one(list[i])
				}
			})
		}
		for i := range 2 {
			working.Go(func() {
				for n := i; !over.Load() || n < 100; n += 2 {
					h := honest[n%len(honest)]
					res, err := s.Execute(t.Context(), alice, Request{Code: h.code}, nil)
					runs.Add(1)
					if err != nil || string(res.Result) != h.want {
						failed.Add(1)
						t.Errorf("honest script %s: %s, %v, %v", h.code, res.Result, res.End, err)
					}
				}
			})
		}
		bombing.Wait()
		over.Store(true)
		working.Wait()
	})
	t.Logf("%d honest runs, %d failed, beside %d bombs; server +%d MiB; %+v",
		runs.Load(), failed.Load(), exploded.Load(), rise>>20, s.cfg.Pool.Stats())
	if exploded.Load() < int64(len(list))/2 {
		t.Errorf("only %d of %d bombs were admitted", exploded.Load(), len(list))
	}
	// In process at once: two that are honest. The bombs in workers cost the server
	// what they say.
	const budget = 2*engine.InProcessMemory + atOnce*(5<<20)
	if rise > budget*3/2 {
		t.Errorf("the server grew by %d MiB; its budget and a half are %d", rise>>20, budget*3/2>>20)
	}
}

// inSmallHost names the environment variable that says the test already runs in
// its small cgroup.
const inSmallHost = "BULKHEAD_TEST_SMALL_HOST"

// smallHost makes a cgroup with 512 MiB for everything, on either version, and
// returns the file by which a process enters it and the one that knows its peak.
func smallHost(t *testing.T) (enter, peak string) {
	t.Helper()
	testenv.Need(t, "root")
	const name, size = "bulkhead-test-small-host", "512M"
	mkdir := func(dir string) string {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if mount := "/sys/fs/cgroup/memory"; exists(mount + "/memory.limit_in_bytes") {
		dir := mkdir(filepath.Join(mount, name))
		write(dir+"/memory.limit_in_bytes", size)
		return dir + "/cgroup.procs", dir + "/memory.max_usage_in_bytes"
	}
	mount := "/sys/fs/cgroup"
	testenv.Have(t, "memory controller", exists(mount+"/cgroup.controllers"), "no memory controller")
	write(mount+"/cgroup.subtree_control", "+memory")
	dir := mkdir(filepath.Join(mount, name))
	write(dir+"/memory.max", size)
	// The workers' groups stand beside the server's.
	return mkdir(dir+"/server") + "/cgroup.procs", dir + "/memory.peak"
}

// exists reports whether there is a file.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// inSmall runs tests of this binary with 512 MiB for everything, server, workers and
// all, and returns what they say.
func inSmall(t *testing.T, run string) string {
	t.Helper()
	enter, peak := smallHost(t)
	// A shell moves itself in before it becomes the test.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `echo $$ > "$0" && exec "$@"`, enter,
		os.Args[0], "-test.run", run, "-test.v", "-test.timeout", "20m", "-test.short="+strconv.FormatBool(testing.Short()))
	cmd.Env = append(os.Environ(), inSmallHost+"=1")
	out, err := cmd.CombinedOutput()
	if most, err := os.ReadFile(peak); err == nil {
		t.Logf("peak %s of 536870912 bytes", strings.TrimSpace(string(most)))
	}
	if err != nil {
		t.Errorf("in the small host: %v\n%s", err, out)
	}
	return string(out)
}

// TestSmallHost lets bombs explode beside honest scripts again, in a small host; in a
// long run the whole corpus before that.
func TestSmallHost(t *testing.T) {
	if os.Getenv(inSmallHost) != "" {
		t.Skip("this is the test in the small host")
	}
	run := "^(TestBombs|TestHonestBesideBombs)$/^server$"
	if testing.Short() {
		run = "^TestHonestBesideBombs$"
	}
	if out := inSmall(t, run); !strings.Contains(out, "--- PASS: TestHonestBesideBombs") {
		t.Errorf("it did not run:\n%s", out)
	}
}
