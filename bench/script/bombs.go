package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// honest are the scripts beside the bombs; the last runs in a worker.
var honest = []string{
	`({total: [1, 2, 3].map(x => x * 2).reduce((a, b) => a + b, 0)})`,
	`const words = "the quick brown fox".split(" "); words.map(w => w[0].toUpperCase() + w.slice(1)).join(" ")`,
	`const m = new Map(); for (let i = 0; i < 200; i++) m.set(i % 7, (m.get(i % 7) || 0) + i); [...m.values()]`,
	`[...(function* () { for (let i = 0; i < 50; i++) yield i * i })()].length`,
}

const (
	bombsAtOnce = 8
	bombTime    = 400 * time.Millisecond // time limit of each
	rounds      = 12                     // each some runs alone, then some beside bombs
)

// timesOf are the times of honest scripts: in process, and in workers.
type timesOf struct {
	inProcess, worker []time.Duration
	failures          int
	err               error
}

// besideBombs measures honest scripts, two at a time, alone and while eight
// bombs of the corpus explode at any moment. Bombs and honest scripts have the
// same priority; alone and beside alternate, so that the machine's mood falls on
// both.
func besideBombs(ctx context.Context, r *results.Report, corpus string, runs int) error {
	files, err := filepath.Glob(filepath.Join(corpus, "*.js"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no bombs in %s (%w)", corpus, err)
	}
	bombs := make([]string, len(files))
	for i, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		bombs[i] = string(text)
	}
	s, stop, err := production(ctx)
	if err != nil {
		return err
	}
	defer stop()
	s.honest(ctx, 200, &timesOf{}) // what is compiled and learned once
	var alone, beside timesOf
	var next, exploded atomic.Int64
	for range rounds {
		s.honest(ctx, runs/rounds, &alone)
		var ceased atomic.Bool
		var wg sync.WaitGroup
		for range bombsAtOnce {
			wg.Go(func() {
				for !ceased.Load() && ctx.Err() == nil {
					code := bombs[int(next.Add(7))%len(bombs)]
					res, err := s.Execute(ctx, script.Tenant{ID: "mallory"}, script.Request{
						Code: code, Limits: engine.Limits{TimeMS: bombTime.Milliseconds()},
					}, nil)
					if err == nil && res.End.Cause != "" {
						exploded.Add(1)
					}
				}
			})
		}
		s.honest(ctx, runs/rounds, &beside)
		ceased.Store(true)
		wg.Wait()
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	for _, lane := range []struct {
		name          string
		alone, beside []time.Duration
	}{{"in process", alone.inProcess, beside.inProcess}, {"in a worker", alone.worker, beside.worker}} {
		a := latency("honest script "+lane.name+", alone", lane.alone)
		a.Failures = alone.failures
		r.Add(a, alone.err)
		b := latency(fmt.Sprintf("   beside %d bombs", bombsAtOnce), lane.beside)
		b.Peer, b.Ratio, b.Failures = fmt.Sprintf("alone p99 %.0f µs", a.P99), b.P99/a.P99, beside.failures
		r.Add(b, beside.err)
	}
	r.Add(single("   bombs that ended meanwhile", "", float64(exploded.Load()), int(exploded.Load())), nil)
	r.Printf("   workers %+v\n   guard %+v\n", s.pool.Stats(), s.guard.Stats())
	return ctx.Err()
}

// latency makes a row of times.
func latency(name string, times []time.Duration) results.Row {
	slices.Sort(times)
	at := func(q float64) float64 { return float64(times[int(q*float64(len(times)-1))]) / 1e3 }
	return results.Row{Name: name, P50: at(.5), P95: at(.95), P99: at(.99), Unit: "µs", N: len(times)}
}

// host is a script service as a server has it by default.
type host struct {
	*script.Service
	pool  *worker.Pool
	guard *guard.Guard
}

// production starts one.
func production(ctx context.Context) (*host, func(), error) {
	e, err := engine.New()
	if err != nil {
		return nil, nil, err
	}
	pool, err := worker.New(worker.Config{Cgroup: "bulkhead-bench-bombs"})
	if err != nil {
		return nil, nil, err
	}
	probe, err := guard.OpenProbe("/")
	if err != nil {
		return nil, nil, err
	}
	g, err := guard.New(guard.Config{}, probe, nil)
	if err != nil {
		return nil, nil, err
	}
	db, closeDB, err := openStore(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := script.New(script.Config{
		Engine: e, Pool: pool, Guard: g, Store: db, KeyValue: db,
		Tenant: func(context.Context) (script.Tenant, error) { return tenant, nil },
	})
	if err != nil {
		closeDB()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	wg.Go(func() { _ = s.Run(ctx) })
	return &host{s, pool, g}, func() { cancel(); wg.Wait(); _ = probe.Close(); closeDB() }, nil
}

// settle waits until the workers that bombs have cost are there again.
func (s *host) settle(ctx context.Context) error {
	for range 1000 {
		if st := s.pool.Stats(); st.Busy == 0 && st.Idle >= 4 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("the workers did not come back in 10 s")
}

// honest runs n honest scripts, two at a time, and adds their times to t.
func (s *host) honest(ctx context.Context, n int, t *timesOf) {
	var mu sync.Mutex
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				began := time.Now()
				res, err := s.Execute(ctx, tenant, script.Request{Code: honest[i%len(honest)]}, nil)
				took := time.Since(began)
				if err == nil && (res.End.Cause != bulkhead.CauseExited || res.End.ExitCode != 0) {
					err = errors.New(res.End.String())
				}
				mu.Lock()
				switch {
				case err != nil:
					t.failures++
					t.err = err
				case i%len(honest) == len(honest)-1:
					t.worker = append(t.worker, took)
				default:
					t.inProcess = append(t.inProcess, took)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
