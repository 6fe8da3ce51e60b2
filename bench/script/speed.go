package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/bench/results"
)

// single is a figure that was taken once.
func single(name, unit string, v float64, n int) results.Row {
	return results.Row{Name: name, P50: v, P95: v, P99: v, Unit: unit, N: n}
}

// loaded is how one kind of run went under load.
type loaded struct {
	perSecond float64
	cpu       time.Duration // of this process, for one
	times     []time.Duration
	failures  int
}

// load calls f from as many goroutines as there are processors for a time.
func load(length time.Duration, f func() error) loaded {
	var l loaded
	var mu sync.Mutex
	var failed atomic.Int64
	var wg sync.WaitGroup
	before := processTime()
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
	l.cpu = (processTime() - before) / time.Duration(max(1, len(l.times)))
	l.perSecond = float64(len(l.times)) / time.Since(began).Seconds()
	l.failures = int(failed.Load())
	slices.Sort(l.times)
	return l
}

// processTime returns the processor time of this process, with its garbage
// collection.
func processTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// both records throughput and latency of one kind of run, next to a peer's
// throughput.
func both(r *results.Report, name string, l loaded, peer string, other float64) {
	x := single(name+", throughput", "1/s", l.perSecond, len(l.times))
	x.Failures = l.failures
	if other > 0 {
		x.Peer, x.Ratio = fmt.Sprintf("%s %.0f/s", peer, other), l.perSecond/other
	}
	r.Add(x, nil)
	at := func(q float64) float64 { return float64(l.times[int(q*float64(len(l.times)-1))]) / 1e3 }
	r.Add(results.Row{Name: name + ", latency", P50: at(.5), P95: at(.95), P99: at(.99), Unit: "µs", Failures: l.failures, N: len(l.times)}, nil)
}

// peers measures the small program here, in bare goja and in Node.
func peers(ctx context.Context, r *results.Report, s *services, length time.Duration, node string) error {
	bare := load(length, bareGoja())
	both(r, "bare goja, new runtime, cached program", bare, "", 0)
	own := load(length, func() error { return s.execute(ctx, s.on, tiny) })
	both(r, "cached tiny script in process", own, "bare goja", bare.perSecond)
	x := single("   processor time of one", "µs", float64(own.cpu)/1e3, len(own.times))
	x.Peer, x.Ratio = fmt.Sprintf("bare goja %.1f µs", float64(bare.cpu)/1e3), float64(bare.cpu)/float64(own.cpu)
	r.Add(x, nil)
	r.Add(single("   so that these many fit on two cores", "1/s", 2/own.cpu.Seconds(), len(own.times)), nil)
	both(r, "the same in a worker", load(length, func() error { return s.execute(ctx, s.on, tinyWorker) }), "in process", own.perSecond)
	if nodeRate, err := nodeThroughput(ctx, node, length); err == nil {
		x := single("Node vm, new context, cached script", "1/s", nodeRate, 1)
		x.Peer, x.Ratio = fmt.Sprintf("in process %.0f/s", own.perSecond), nodeRate/own.perSecond
		r.Add(x, nil)
	} else {
		r.Printf("   Node is left out: %v\n", err)
	}
	return ctx.Err()
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
			out, err := exec.CommandContext(ctx, node, "-e", source).Output()
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
