// Command script measures scripts on this machine, in one run: a small program in
// process and in a worker, next to bare goja and Node's vm; what the memory guard
// costs; what 100,000 objects need. It writes OUT/script.json in the form of the
// other suites. Absolute figures are this machine's; the ratios are what counts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"

	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

func main() {
	if worker.Is(os.Args[0]) {
		os.Exit(worker.Main(os.Args[1:])) //nolint:forbidigo // this is main
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench/script:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// tiny is the program of the throughput figures: input, arrays, a string.
const (
	tiny      = `({total: input.items.map(x => x.n * 2).reduce((a, b) => a + b, 0), name: input.name.toUpperCase()})`
	tinyInput = `{"items":[{"n":1},{"n":2},{"n":3}],"name":"abc"}`
	// tinyWorker is the same, and may not run in process.
	tinyWorker = tiny + "; eval('0'); " + tiny
	// objects makes the 100,000 objects of the document that the guard is built
	// after, and returns them.
	objects = `const a = []; for (let i = 0; i < 100000; i++) a.push({id: i, name: "user " + i, active: i % 2 === 0}); a`
)

// row is one line of the result; see bench/report.go.
type row struct {
	Name     string  `json:"name"`
	P50      float64 `json:"p50"`
	P95      float64 `json:"p95"`
	P99      float64 `json:"p99"`
	Unit     string  `json:"unit"`
	Peer     string  `json:"peer,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"`
	Failures int     `json:"failures"`
	N        int     `json:"n"`
}

// report is the result of the suite.
type report struct {
	Name string `json:"name"`
	Rows []row  `json:"rows"`
	out  io.Writer
}

func (r *report) add(x row) {
	r.Rows = append(r.Rows, x)
	_, _ = fmt.Fprintf(r.out, "   %-48s p50 %10.3f  p95 %10.3f  p99 %10.3f %-4s", x.Name, x.P50, x.P95, x.P99, x.Unit)
	if x.Peer != "" {
		_, _ = fmt.Fprintf(r.out, "  %.2f x %s", x.Ratio, x.Peer)
	}
	if x.Failures > 0 {
		_, _ = fmt.Fprintf(r.out, "  %d FAILED", x.Failures)
	}
	_, _ = fmt.Fprintln(r.out)
}

// single is a figure that was taken once.
func single(name, unit string, v float64, n int) row {
	return row{Name: name, P50: v, P95: v, P99: v, Unit: unit, N: n}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	f := flag.NewFlagSet("script", flag.ContinueOnError)
	out := f.String("out", "bench/out", "folder for results")
	seconds := f.Float64("seconds", 3, "length of each throughput measurement")
	node := f.String("node", "node", "Node.js program; left out where it is not there")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *seconds < 0.1 || *seconds > 60 {
		return fmt.Errorf("-seconds is %v; it must be between 0.1 and 60", *seconds)
	}
	length := time.Duration(*seconds * float64(time.Second))
	s, stop, err := start(ctx)
	if err != nil {
		return err
	}
	defer stop()
	r := &report{Name: "script", out: stdout}
	_, _ = fmt.Fprintf(stdout, "\n== script (%d cores, %v a figure)\n", runtime.GOMAXPROCS(0), length)
	peers(ctx, r, s, length, *node)
	if err := guardCost(ctx, r, s, length); err != nil {
		return err
	}
	if err := memory(ctx, r, s, *node); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o750); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "script.json"), append(data, '\n'), 0o644) //nolint:gosec // results are public
}

// services are one service with the guard on and one with it off, on the same
// engine and workers.
type services struct{ on, off *script.Service }

// start starts everything and waits until a worker is ready.
func start(ctx context.Context) (*services, func(), error) {
	e, err := engine.New()
	if err != nil {
		return nil, nil, err
	}
	pool, err := worker.New(worker.Config{Cgroup: "bulkhead-bench-scripts"})
	if err != nil {
		return nil, nil, err
	}
	probe, err := guard.OpenProbe("/")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	service := func(disabled bool) (*script.Service, error) {
		g, err := guard.New(guard.Config{Disabled: disabled, MaxConcurrent: 64}, probe, nil)
		if err != nil {
			return nil, err
		}
		if !disabled { // a probe belongs to one guard; the other never reads
			wg.Go(func() { _ = g.Run(ctx) })
		}
		m := script.NewMemory()
		return script.New(script.Config{
			Engine: e, Pool: pool, Guard: g, Store: m, KeyValue: m,
			Tenant: func(context.Context) (script.Tenant, error) { return script.Tenant{ID: "bench"}, nil },
		})
	}
	var s services
	if s.on, err = service(false); err == nil {
		s.off, err = service(true)
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	wg.Go(func() { _ = s.on.Run(ctx) })
	stop := func() { cancel(); wg.Wait(); _ = probe.Close() }
	if err := s.execute(ctx, s.on, tinyWorker); err != nil {
		stop()
		return nil, nil, err
	}
	return &s, stop, nil
}

var tenant = script.Tenant{ID: "bench"}

// execute runs a program once.
func (*services) execute(ctx context.Context, s *script.Service, code string) error {
	res, err := s.Execute(ctx, tenant, script.Request{Code: code, Input: json.RawMessage(tinyInput)}, nil)
	if err == nil && res.End.ExitCode != 0 {
		err = errors.New(res.End.String())
	}
	return err
}

// loaded is how one kind of run went under load.
type loaded struct {
	perSecond float64
	times     []time.Duration
	failures  int
}

// load calls f from as many goroutines as there are processors for a time.
func load(length time.Duration, f func() error) loaded {
	var l loaded
	var mu sync.Mutex
	var failed atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var own []time.Duration
			for time.Since(began) < length {
				t := time.Now()
				if f() != nil {
					failed.Add(1)
				}
				own = append(own, time.Since(t))
			}
			mu.Lock()
			l.times = append(l.times, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	l.perSecond = float64(len(l.times)) / time.Since(began).Seconds()
	l.failures = int(failed.Load())
	slices.Sort(l.times)
	return l
}

// both records throughput and latency of one kind of run, next to a peer's
// throughput.
func (r *report) both(name string, l loaded, peer string, other float64) {
	x := single(name+", throughput", "1/s", l.perSecond, len(l.times))
	x.Failures = l.failures
	if other > 0 {
		x.Peer, x.Ratio = fmt.Sprintf("%s %.0f/s", peer, other), l.perSecond/other
	}
	r.add(x)
	at := func(q float64) float64 { return float64(l.times[int(q*float64(len(l.times)-1))]) / 1e3 }
	r.add(row{Name: name + ", latency", P50: at(.5), P95: at(.95), P99: at(.99), Unit: "µs", Failures: l.failures, N: len(l.times)})
}

// peers measures the small program here, in bare goja and in Node.
func peers(ctx context.Context, r *report, s *services, length time.Duration, node string) {
	bare := load(length, bareGoja())
	r.both("bare goja, new runtime, cached program", bare, "", 0)
	own := load(length, func() error { return s.execute(ctx, s.on, tiny) })
	r.both("cached tiny script in process", own, "bare goja", bare.perSecond)
	r.both("the same in a worker", load(length, func() error { return s.execute(ctx, s.on, tinyWorker) }), "in process", own.perSecond)
	if nodeRate, err := nodeThroughput(ctx, node, length); err == nil {
		x := single("Node vm, new context, cached script", "1/s", nodeRate, 1)
		x.Peer, x.Ratio = fmt.Sprintf("in process %.0f/s", own.perSecond), nodeRate/own.perSecond
		r.add(x)
	} else {
		_, _ = fmt.Fprintln(r.out, "   Node is left out:", err)
	}
}

// bareGoja returns the small program on goja as it is.
func bareGoja() func() error {
	p := goja.MustCompile("", tiny, false)
	return func() error {
		rt := goja.New()
		parse, _ := goja.AssertFunction(rt.Get("JSON").ToObject(rt).Get("parse"))
		in, err := parse(goja.Undefined(), rt.ToValue(tinyInput))
		if err != nil {
			return err
		}
		if err := rt.Set("input", in); err != nil {
			return err
		}
		v, err := rt.RunProgram(p)
		if err != nil {
			return err
		}
		_, err = json.Marshal(v)
		return err
	}
}

// nodeThroughput runs the small program in new contexts of two Node processes.
func nodeThroughput(ctx context.Context, node string, length time.Duration) (float64, error) {
	source := fmt.Sprintf(`
		const vm = require("vm"), script = new vm.Script(%q), input = %q;
		const run = () => JSON.stringify(script.runInContext(vm.createContext({ input: JSON.parse(input) })));
		for (let i = 0; i < 50; i++) run();
		let n = 0; const end = Date.now() + %d, begin = process.hrtime.bigint();
		while (Date.now() < end) { run(); n++ }
		console.log(n / (Number(process.hrtime.bigint() - begin) / 1e9));`, tiny, tinyInput, length.Milliseconds())
	var mu sync.Mutex
	var sum float64
	var errs []error
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var rate float64
			out, err := exec.CommandContext(ctx, node, "-e", source).Output() //nolint:gosec // the operator names it
			if err == nil {
				_, err = fmt.Sscan(string(out), &rate)
			}
			mu.Lock()
			defer mu.Unlock()
			sum += rate
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return sum, errors.Join(errs...)
}

// guardCost measures what the guard adds: one decision, and a whole run with it
// on and off, in alternation so that the machine's mood falls on both.
func guardCost(ctx context.Context, r *report, s *services, length time.Duration) error {
	probe, err := guard.OpenProbe("/")
	if err != nil {
		return err
	}
	defer func() { _ = probe.Close() }()
	g, err := guard.New(guard.Config{}, probe, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { _ = g.Run(ctx) }()
	const batch = 1000
	var decisions []float64
	for began := time.Now(); time.Since(began) < length; {
		t := time.Now()
		for range batch {
			grant, err := g.Acquire(ctx, 64<<10, guard.PriorityNormal)
			if err != nil {
				return err
			}
			grant.Release()
		}
		decisions = append(decisions, float64(time.Since(t))/batch/1e3)
	}
	slices.Sort(decisions)
	at := func(q float64) float64 { return decisions[int(q*float64(len(decisions)-1))] }
	r.add(row{
		Name: "guard: one Acquire and Release", P50: at(.5), P95: at(.95), P99: at(.99), Unit: "µs", N: batch * len(decisions),
		Peer: "the seed's 110 µs", Ratio: 110 / at(.5),
	})
	// One pair is a short stretch with the guard on and one with it off; the
	// median of many pairs is not disturbed by what else the machine does.
	const pairs, stretch = 100, 300
	timed := func(sv *script.Service) (float64, error) {
		t := time.Now()
		for range stretch {
			if err := s.execute(ctx, sv, tiny); err != nil {
				return 0, err
			}
		}
		return float64(time.Since(t)), nil
	}
	var added []float64
	for range pairs {
		off, err := timed(s.off)
		if err != nil {
			return err
		}
		on, err := timed(s.on)
		if err != nil {
			return err
		}
		added = append(added, 100*(on/off-1))
	}
	slices.Sort(added)
	r.add(row{
		Name: "guard: time it adds to a tiny run", P50: added[pairs/2], P95: added[pairs*95/100], P99: added[pairs*99/100],
		Unit: "%", N: 2 * pairs * stretch,
	})
	return nil
}

// memory measures what 100,000 objects need here, in bare goja with its export,
// and in Node.
func memory(ctx context.Context, r *report, s *services, node string) error {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rt := goja.New()
	v, err := rt.RunString(objects)
	if err != nil {
		return err
	}
	exported := v.Export()
	text, err := json.Marshal(exported)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	bare := float64(after.TotalAlloc-before.TotalAlloc) / (1 << 20)
	live := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	runtime.KeepAlive(v)
	runtime.KeepAlive(exported)
	runtime.KeepAlive(text)
	r.add(single("100,000 objects, bare goja and Export: allocated", "MiB", bare, 1))
	r.add(single("100,000 objects, bare goja and Export: heap", "MiB", live, 1))
	res, err := s.on.Execute(ctx, tenant, script.Request{Code: objects, Limits: engine.Limits{MemoryMB: 256, TimeMS: 60_000, ResultBytes: 32 << 20}}, nil)
	if err == nil && res.End.ExitCode != 0 {
		err = errors.New(res.End.String())
	}
	if err != nil {
		return err
	}
	x := single("100,000 objects here: peak ("+res.Lane+")", "MiB", float64(res.Usage.PeakBytes)/(1<<20), 1)
	x.Peer, x.Ratio = "the seed's 140 MB", 140/(float64(res.Usage.PeakBytes)/1e6)
	r.add(x)
	for _, mb := range []int64{24, 32, 40, 48, 64, 80, 96, 128, 192} {
		res, err := s.on.Execute(ctx, tenant, script.Request{Code: objects, Limits: engine.Limits{MemoryMB: mb, TimeMS: 60_000, ResultBytes: 32 << 20}}, nil)
		if err != nil {
			return err
		}
		if res.End.ExitCode == 0 {
			x := single("100,000 objects here: least limit that does", "MiB", float64(mb), 1)
			x.Peer, x.Ratio = "the seed's 140 MB", 140/(float64(mb)*1.048576)
			r.add(x)
			break
		}
	}
	r.add(single("100,000 objects here: size of the result", "MiB", float64(len(res.Outcome.Result))/(1<<20), 1))
	out, err := exec.CommandContext(ctx, node, "--expose-gc", "-e", `gc(); const b = process.memoryUsage().heapUsed;
		const v = require("vm").runInNewContext(`+"`"+objects+"`"+`); const t = JSON.stringify(v);
		console.log((process.memoryUsage().heapUsed - b) / 1048576)`).Output()
	var used float64
	if err == nil {
		_, err = fmt.Sscan(string(out), &used)
	}
	if err != nil {
		_, _ = fmt.Fprintln(r.out, "   Node is left out:", err)
		return nil
	}
	r.add(single("100,000 objects, Node vm: heap", "MiB", used, 1))
	return nil
}
