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
	r.Add(results.Row{
		Name: "guard: one Acquire and Release", P50: at(.5), P95: at(.95), P99: at(.99), Unit: "µs", N: batch * len(decisions),
		Peer: "the seed's 110 µs", Ratio: 110 / at(.5),
	}, nil)
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
	r.Add(results.Row{
		Name: "guard: time it adds to a tiny run", P50: added[pairs/2], P95: added[pairs*95/100], P99: added[pairs*99/100],
		Unit: "%", N: 2 * pairs * stretch,
	}, nil)
	return nil
}
