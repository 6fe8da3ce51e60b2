package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/client"
)

// interactive measures what ComputeSDK's benchmarks call time to interactive:
// from create until `node -v` has answered, one after the other, begun 200 ms
// apart, and all at once; each with their score of 0 to 100.
func interactive(ctx context.Context, o options, r *report) error {
	c, err := o.open()
	if err != nil {
		return err
	}
	one := func(ctx context.Context) (time.Duration, func() error, error) {
		began := time.Now()
		sb, err := c.Create(ctx, request())
		if err != nil {
			return 0, nil, err
		}
		drop := func() error { return drop(ctx, c, sb.ID()) }
		out, err := sb.Exec(ctx, client.Command{Path: "node", Args: []string{"-v"}}, nil)
		took := time.Since(began)
		if err == nil && !strings.HasPrefix(string(out.Stdout), "v") {
			err = fmt.Errorf("node -v printed %q", out.Stdout)
		}
		return took, drop, err
	}
	if err := o.pin(ctx, o.n, 2); err != nil {
		return err
	}
	for _, mode := range []struct {
		name  string
		apart time.Duration
		wait  bool // for the one before to end
	}{{"sequential", 0, true}, {"staggered", 200 * time.Millisecond, false}, {"burst", 0, false}} {
		var s sample
		var mu sync.Mutex
		var g sync.WaitGroup
		var drops []func() error
		for range o.n {
			g.Go(func() {
				took, drop, err := one(ctx)
				mu.Lock()
				defer mu.Unlock()
				s.note(took, err)
				if drop != nil {
					drops = append(drops, drop)
				}
			})
			if mode.wait {
				g.Wait()
				for _, drop := range drops {
					s.note(0, drop())
				}
				drops = nil
				s.note(0, o.settled(ctx))
			} else if mode.apart > 0 {
				pause(ctx, mode.apart)
			}
		}
		g.Wait()
		for _, drop := range drops {
			s.note(0, drop())
		}
		s.sort()
		r.add(fmt.Sprintf("create → `node -v`, %d %s", o.n, mode.name), s, "", nil)
		r.score("   ComputeSDK's score, "+mode.name, s)
		if err := o.pin(ctx, o.n, 2); err != nil {
			return err
		}
	}
	return o.unpin(ctx)
}

// score records ComputeSDK's figure: 100 × (1 − t / 10 s), weighted 0.6 for the
// median, 0.25 for p95 and 0.15 for p99, times the share that succeeded.
func (r *report) score(name string, s sample) {
	of := func(p float64) float64 { return max(0, 100*(1-s.percentile(p).Seconds()/10)) }
	share := 0.0
	if n := len(s.times) + s.failures; n > 0 {
		share = float64(len(s.times)) / float64(n)
	}
	v := (0.6*of(50) + 0.25*of(95) + 0.15*of(99)) * share
	x := results.Row{Name: name, P50: v, P95: v, P99: v, Unit: "of 100", Failures: s.failures, N: len(s.times)}
	r.Add(x, nil)
}
