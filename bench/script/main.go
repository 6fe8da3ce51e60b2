// Command script measures scripts on this machine, in one run: a small program in
// process and in a worker, next to bare goja and Node's vm; what the memory guard
// costs; what 100,000 objects need; what eight bombs at once do to the scripts
// beside them, and the same with 512 MiB for everything. It writes OUT/script.json in the form of the other suites. Absolute
// figures are this machine's; the ratios are what counts.
//
//	script [-out DIR] [speed] [guard] [memory] [bombs] [small]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

func main() {
	if worker.Is(os.Args[0]) {
		os.Exit(worker.Main(os.Args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench/script:", err)
		os.Exit(1)
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

func run(ctx context.Context, args []string, stdout io.Writer) error {
	f := flag.NewFlagSet("script", flag.ContinueOnError)
	out := f.String("out", "bench/out", "folder for results")
	seconds := f.Float64("seconds", 3, "length of each throughput measurement")
	node := f.String("node", "node", "Node.js program; left out where it is not there")
	corpus := f.String("bombs", "internal/script/testdata/bombs", "folder of the bomb corpus")
	runs := f.Int("runs", 12000, "honest runs alone, and as many beside bombs, 100 to 1000000")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *seconds < 0.1 || *seconds > 60 {
		return fmt.Errorf("-seconds is %v; it must be between 0.1 and 60", *seconds)
	}
	if *runs < 100 || *runs > 1_000_000 {
		return fmt.Errorf("-runs is %d; it must be between 100 and 1000000", *runs)
	}
	length := time.Duration(*seconds * float64(time.Second))
	r := results.New("script", stdout)
	r.Printf("\n== script (%d cores, %v a figure)\n", runtime.NumCPU(), length)
	with := func(suite func(*services) error) func() error {
		return func() error {
			s, stop, err := start(ctx)
			if err != nil {
				return err
			}
			defer stop()
			return suite(s)
		}
	}
	for _, suite := range []struct {
		name string
		run  func() error
	}{
		{"speed", with(func(s *services) error { return peers(ctx, r, s, length, *node) })},
		{"guard", with(func(s *services) error { return guardCost(ctx, r, s, length) })},
		{"memory", with(func(s *services) error { return memory(ctx, r, s, *node) })},
		{"bombs", func() error { return besideBombs(ctx, r, *corpus, *runs) }},
		{"small", func() error { return besideBombsSmall(ctx, r, *corpus, *runs) }},
	} {
		if f.NArg() > 0 && !slices.Contains(f.Args(), suite.name) {
			continue
		}
		if err := suite.run(); err != nil {
			return fmt.Errorf("%s: %w", suite.name, err)
		}
	}
	return r.Write(*out)
}

// services are one service with the guard on and one with it off, on the same
// engine and workers.
type services struct {
	on, off *script.Service
	// renew makes both anew, so that where their memory lies is not measured.
	renew func() error
}

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
	ctx, cancel := context.WithCancel(ctx)
	db, closeDB, err := openStore(ctx)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	var wg sync.WaitGroup
	service := func(ctx context.Context, disabled bool) (*script.Service, error) {
		probe, err := guard.OpenProbe("/")
		if err != nil {
			return nil, err
		}
		g, err := guard.New(guard.Config{Disabled: disabled, MaxConcurrent: 64}, probe, nil)
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			defer func() { _ = probe.Close() }()
			if disabled { // it never reads
				<-ctx.Done()
				return
			}
			_ = g.Run(ctx)
		})
		return script.New(script.Config{
			Engine: e, Pool: pool, Guard: g, Store: db, KeyValue: db,
			Tenant: func(context.Context) (script.Tenant, error) { return script.Tenant{ID: "bench"}, nil },
		})
	}
	var s services
	end := func() {} // of the guards
	s.renew = func() (err error) {
		end()
		var own context.Context
		own, end = context.WithCancel(ctx)
		if s.on, err = service(own, false); err == nil {
			s.off, err = service(own, true)
		}
		return err
	}
	if err := s.renew(); err != nil {
		cancel()
		closeDB()
		return nil, nil, err
	}
	first := s.on
	wg.Go(func() { _ = first.Run(ctx) })
	stop := func() { cancel(); wg.Wait(); closeDB() }
	if err := s.execute(ctx, s.on, tinyWorker); err != nil {
		stop()
		return nil, nil, err
	}
	return &s, stop, nil
}

// openStore opens an empty store in a temporary folder.
func openStore(ctx context.Context) (*store.Store, func(), error) {
	dir, err := os.MkdirTemp("", "bulkhead-bench-scripts-")
	if err != nil {
		return nil, nil, err
	}
	s, err := store.Open(ctx, filepath.Join(dir, "bulkhead.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, func() { _ = s.Close(); _ = os.RemoveAll(dir) }, nil
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
