package guard

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwaitOutput(t *testing.T) {
	g, err := New(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		took := func(ctx context.Context, n int) time.Duration {
			began := time.Now()
			g.AwaitOutput(ctx, n)
			return time.Since(began)
		}
		if d := took(t.Context(), 1<<30); d != 0 {
			t.Errorf("without a rate it took %v", d)
		}
		g.setOutputRate(4 << 20)
		time.Sleep(time.Second) // of the test's own clock
		if d := took(t.Context(), 1<<20); d != 0 {
			t.Errorf("a quarter of a second's worth took %v", d)
		}
		if d := took(t.Context(), 8<<20); d < 1900*time.Millisecond || d > 2100*time.Millisecond {
			t.Errorf("8 MiB at 4 MiB/s took %v", d)
		}
		g.setOutputRate(1 << 10) // less than the least that may come at once
		if d := took(t.Context(), 1<<20); d < 700*time.Second {
			t.Errorf("1 MiB at 1 KiB/s took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if d := took(ctx, 1<<20); d > time.Second {
			t.Errorf("it waited %v after the call was given up", d)
		}
	})
}
