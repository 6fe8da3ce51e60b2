package main

import (
	"context"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script"
)

// guardCost measures what the guard adds: one decision, and a whole run with it
// on and off, in alternation so that the machine's mood falls on both.
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
	// One pair is a short stretch with the guard on and one with it off, by the
	// processor time of this process; the median of many pairs, each the other way
	// round than the last, is not disturbed by what else the machine does.
	const pairs, stretch = 400, 200
	timed := func(sv *script.Service) (float64, error) {
		began := processTime()
		for range stretch {
			if err := s.execute(ctx, sv, tiny); err != nil {
				return 0, err
			}
		}
		return float64(processTime() - began), nil
	}
	var added []float64
	for i := range pairs {
		first, second := s.off, s.on
		if i%2 == 1 {
			first, second = second, first
		}
		a, err := timed(first)
		if err != nil {
			return err
		}
		b, err := timed(second)
		if err != nil {
			return err
		}
		if i%2 == 1 {
			a, b = b, a
		}
		added = append(added, 100*(b/a-1))
	}
	slices.Sort(added)
	r.Add(results.Row{
		Name: "guard: processor time it adds to a tiny run", P50: added[pairs/2], P95: added[pairs*95/100], P99: added[pairs*99/100],
		Unit: "%", N: 2 * pairs * stretch,
	}, nil)
	return nil
}

// batch is how many decisions are timed at once.
const batch = 1000

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
