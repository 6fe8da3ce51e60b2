package main

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script"
)

// guardCost measures what the guard adds: one decision, and a whole run with it
// on and off.
func guardCost(ctx context.Context, r *results.Report, s *services, length time.Duration) error {
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
	learner, err := guard.NewLearner(16)
	if err != nil {
		return err
	}
	decide := func(cost int64) error {
		grant, err := g.Acquire(ctx, cost, guard.PriorityNormal)
		if err == nil {
			grant.Release()
		}
		return err
	}
	for _, x := range []struct {
		name string
		one  func() error
	}{
		{"guard: one Acquire and Release", func() error { return decide(64 << 10) }},
		{"guard: the same at a learned cost", func() error {
			known := learner.Kind("program", 100)
			cost, _ := known.Estimate(1 << 20)
			defer known.Observe(1 << 16)
			return decide(cost)
		}},
	} {
		took, err := batches(length/2, x.one)
		if err != nil {
			return err
		}
		at := func(q float64) float64 { return took[int(q*float64(len(took)-1))] }
		r.Add(results.Row{
			Name: x.name, P50: at(.5), P95: at(.95), P99: at(.99), Unit: "µs", N: batch * len(took),
			Peer: "the seed's 110 µs", Ratio: 110 / at(.5),
		}, nil)
	}
	own, err := guard.OpenProbe("/") // the other is the guard's
	if err != nil {
		return err
	}
	defer func() { _ = own.Close() }()
	look, err := batches(length/4, func() error { _, err := own.Read(false); return err })
	if err != nil {
		return err
	}
	r.Add(single("guard: one look at the memory, every 20 to 80 ms", "µs", look[len(look)/2], batch*len(look)), nil)
	return s.guardShare(ctx, r)
}

// guardShare measures what the guard adds to a tiny run, in percent of the
// processor time of the thread that does it. A measurement is two short stretches
// with the guard on between two with it off, or the other way round, with no
// garbage collection in between: the median of many is hardly disturbed by what
// else the machine does. Both services are made anew again and again.
func (s *services) guardShare(ctx context.Context, r *results.Report) error {
	const measurements, stretch, collect, renew = 12_000, 10, 100, 300
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	timed := func(sv *script.Service) (time.Duration, error) {
		began := threadTime()
		for range stretch {
			if err := s.execute(ctx, sv, tiny); err != nil {
				return 0, err
			}
		}
		return threadTime() - began, nil
	}
	var added []float64
	for i := range measurements {
		if i%renew == 0 {
			if err := s.renew(); err != nil {
				return err
			}
			for _, sv := range []*script.Service{s.on, s.off} {
				for range stretch { // the first runs are in a worker
					if err := s.execute(ctx, sv, tiny); err != nil {
						return err
					}
				}
			}
		}
		if i%collect == 0 {
			runtime.GC()
		}
		outer, inner := s.off, s.on
		if i%2 == 1 {
			outer, inner = inner, outer
		}
		var took [2]time.Duration
		for k, sv := range []*script.Service{outer, inner, inner, outer} {
			t, err := timed(sv)
			if err != nil {
				return err
			}
			took[(k+1)/2%2] += t
		}
		off, on := float64(took[0]), float64(took[1])
		if i%2 == 1 {
			off, on = on, off
		}
		added = append(added, 100*(on/off-1))
	}
	slices.Sort(added)
	// The ranks between which the median of all possible measurements lies.
	wide := int(1.96 * math.Sqrt(measurements) / 2)
	const n = measurements * 4 * stretch
	r.Add(single("guard: processor time it adds to a tiny run", "%", added[measurements/2], n), nil)
	r.Add(single("   at least, with 95 % confidence", "%", added[measurements/2-wide], n), nil)
	r.Add(single("   at most, with 95 % confidence", "%", added[measurements/2+wide], n), nil)
	return nil
}

// threadTime returns the processor time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// batch is how many decisions are timed at once.
const batch = 100

// batches calls f again and again for a time, and returns how many microseconds it
// took, on average over each batch, in order.
func batches(length time.Duration, f func() error) ([]float64, error) {
	var took []float64
	for began := time.Now(); time.Since(began) < length; {
		t := time.Now()
		for range batch {
			if err := f(); err != nil {
				return nil, err
			}
		}
		took = append(took, float64(time.Since(t))/batch/1e3)
	}
	slices.Sort(took)
	return took, nil
}
