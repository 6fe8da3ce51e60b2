// Command bench measures Bulkhead next to its peers on this machine, in one run:
// docker run, runc run and a bare process, all on the same root file system.
//
// Each suite writes OUT/NAME.json and, when asked, the tables in documents are
// made anew from those files. Absolute times are this machine's; the ratios are
// what counts. `make bench` starts what it needs and calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead/bench/results"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	out    string
	url    string
	key    string
	image  string // of docker
	rootfs string // a mounted root file system, writable
	bundle string // of runc, on the same root
	n      int
	readme string
	offend string
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.out, "out", "bench/out", "folder for results")
	f.StringVar(&o.url, "url", os.Getenv("BULKHEAD_URL"), "server")
	f.StringVar(&o.key, "key", os.Getenv("BULKHEAD_API_KEY"), "API key")
	f.StringVar(&o.image, "image", "", "docker image of the interpreter template; empty leaves docker out")
	f.StringVar(&o.rootfs, "rootfs", "", "mounted root of the interpreter template; empty leaves bare processes out")
	f.StringVar(&o.bundle, "bundle", "", "runc bundle on the same root; empty leaves runc out")
	f.IntVar(&o.n, "n", 30, "measurements of each figure, 3 to 1000")
	f.StringVar(&o.offend, "offend", "", "only be an offender of the suite noisy, until standard input ends")
	f.StringVar(&o.readme, "readme", "", "only write the tables of this file anew from the results")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.offend != "" {
		return offend(ctx, o, os.Stdin, stdout)
	}
	if o.readme != "" {
		return results.WriteTables(o.readme, o.out)
	}
	if o.n < 3 || o.n > 1000 {
		return fmt.Errorf("-n is %d; it must be between 3 and 1000", o.n)
	}
	suites := []struct {
		name string
		run  func(context.Context, options, *report) error
	}{
		{"lifecycle", lifecycle},
		{"stages", stages},
		{"exec", roundTrips},
		{"burst", bursts},
		{"interactive", interactive},
		{"sustained", sustained},
		{"memory", memory},
		{"noisy", noisy},
	}
	for _, s := range suites {
		if f.NArg() > 0 && !slices.Contains(f.Args(), s.name) {
			continue
		}
		fmt.Fprintf(stdout, "\n== %s\n", s.name)
		r := &report{results.New(s.name, stdout)}
		if err := s.run(ctx, o, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := r.Write(o.out); err != nil {
			return err
		}
	}
	return nil
}

// sample is one kind of figure, measured many times.
type sample struct {
	times    []time.Duration
	failures int
	firstErr error
}

// measure calls f n times, one after the other, after a warm-up that does not
// count.
func measure(ctx context.Context, n int, f func(context.Context) (time.Duration, error)) sample {
	return measureMany(ctx, n, 1, true, f)
}

// measureMany calls f n times, some at once.
func measureMany(ctx context.Context, n, parallel int, warmUp bool, f func(context.Context) (time.Duration, error)) sample {
	if warmUp {
		_, _ = f(ctx)
	}
	var s sample
	var mu sync.Mutex
	var g sync.WaitGroup
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range parallel {
		g.Go(func() {
			for range work {
				if ctx.Err() != nil {
					return
				}
				one, cancel := context.WithTimeout(ctx, time.Minute)
				took, err := f(one)
				cancel()
				mu.Lock()
				s.note(took, err)
				mu.Unlock()
			}
		})
	}
	g.Wait()
	s.sort()
	return s
}

// note adds one measurement, or a failure. A time of 0 stands for a step that is
// not measured.
func (s *sample) note(took time.Duration, err error) {
	switch {
	case err != nil:
		s.failures++
		if s.firstErr == nil {
			s.firstErr = err
		}
	case took > 0:
		s.times = append(s.times, took)
	}
}

func (s *sample) sort() { slices.Sort(s.times) }

// pause waits for d, or for ctx to end.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// percentile is by the nearest rank.
func (s *sample) percentile(p float64) time.Duration {
	if len(s.times) == 0 {
		return 0
	}
	i := int(p/100*float64(len(s.times))+0.999999) - 1
	return s.times[min(max(i, 0), len(s.times)-1)]
}

// timed makes a measurement of something that runs to its end.
func timed(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		err := f(ctx)
		return time.Since(began), err
	}
}

// errNone says that a peer is not there.
var errNone = errors.New("not on this machine")

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
