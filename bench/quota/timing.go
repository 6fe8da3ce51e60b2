package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// guesses measures whether the time of a refusal tells how much of a guessed key is
// right: guesses that share all but the last digit with a key that is good, and
// guesses that share nothing, in random order. The last row is Welch's t of the two,
// without the slowest tenth of each, which is the machine's; above 4.5 an attacker
// who sees these very times would have learnt something.
func guesses(ctx context.Context, r *results.Report, dir string, n int) (err error) {
	s, err := store.Open(ctx, filepath.Join(dir, "keys.db"), slog.New(slog.DiscardHandler), store.WithSeal(store.SealKey{1}))
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { _ = s.Close() }()
	secret, _, err := s.CreateKey(ctx, store.KeyRequest{Tenant: bulkhead.DefaultTenant})
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	const hex = "0123456789abcdef"
	var took [2][]time.Duration
	var failures int
	var first error
	for range 2 * n {
		class := rand.IntN(2) //nolint:gosec // a guess
		guess := []byte(secret)
		from := len(guess) - 1
		if class == 1 {
			from = len("e2b_")
		}
		for i := from; i < len(guess); i++ {
			for guess[i] == secret[i] {
				guess[i] = hex[rand.IntN(len(hex))] //nolint:gosec // likewise
			}
		}
		began := time.Now()
		_, err := s.LookupKey(ctx, store.HashKey(string(guess)))
		took[class] = append(took[class], time.Since(began))
		if bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			failures++
			first = fmt.Errorf("a wrong key: %w", err)
		}
	}
	near := row("a wrong key is refused: all but its last digit right", took[0], time.Microsecond, "µs", failures)
	far := row("   a wrong key is refused: no digit right", took[1], time.Microsecond, "µs", 0)
	near.Peer, near.Ratio = "no digit right", far.P50/near.P50
	r.Add(near, first)
	r.Add(far, nil)
	t := math.Abs(welch(took[0], took[1]))
	r.Add(results.Row{Name: "   Welch's t of the two, 4.5 would tell", P50: t, P95: t, P99: t, N: 2 * n}, nil)
	return nil
}

// welch is the t of two samples that are sorted, the slowest tenth of each left out.
func welch(a, b []time.Duration) float64 {
	ma, va := moments(a[:len(a)*9/10])
	mb, vb := moments(b[:len(b)*9/10])
	return (ma - mb) / math.Sqrt(va+vb)
}

// moments are the mean and the variance of the mean.
func moments(sample []time.Duration) (mean, variance float64) {
	for _, x := range sample {
		mean += float64(x)
	}
	mean /= float64(len(sample))
	for _, x := range sample {
		variance += (float64(x) - mean) * (float64(x) - mean)
	}
	n := float64(len(sample))
	return mean, variance / (n - 1) / n
}
