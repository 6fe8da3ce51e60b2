package rate_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/rate"
)

var epoch = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

func TestTake(t *testing.T) {
	b := rate.New()
	for i := range 20 {
		d := b.Take("a", 2, epoch)
		if !d.OK || d.Limit != 20 || d.Remaining != 19-i || d.Reset != time.Duration(i+1)*time.Second/2 {
			t.Fatalf("take %d: %+v", i, d)
		}
	}
	d := b.Take("a", 2, epoch)
	if d.OK || d.Remaining != 0 || d.Wait != time.Second/2 || d.Reset != 10*time.Second {
		t.Errorf("from an empty bucket: %+v", d)
	}
	if d := b.Take("b", 2, epoch); !d.OK {
		t.Errorf("another's: %+v", d)
	}
	if d := b.Take("a", 2, epoch.Add(time.Second/2-1)); d.OK {
		t.Errorf("a moment too early: %+v", d)
	}
	if d := b.Take("a", 2, epoch.Add(time.Second)); !d.OK || d.Remaining != 1 {
		t.Errorf("a second later: %+v", d)
	}
	if d := b.Take("a", 0.1, epoch.Add(time.Second)); !d.OK || d.Limit != 1 {
		t.Errorf("the rest, at a lower rate: %+v", d)
	}
	if d := b.Take("a", 0.1, epoch.Add(2*time.Second)); d.OK || d.Wait != 9*time.Second {
		t.Errorf("at a lower rate: %+v", d)
	}
	if d := b.Take("slow", 1e-6, epoch); !d.OK || d.Reset != 24*time.Hour {
		t.Errorf("a very slow one: %+v", d)
	}
}

// Whatever clients do at once, no more tokens are given than there are.
func TestNoOvershoot(t *testing.T) {
	b := rate.New()
	var given atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 100 {
				if b.Take("a", 5, epoch).OK {
					given.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if given.Load() != 50 {
		t.Errorf("%d were given; want 50", given.Load())
	}
}

func BenchmarkTake(b *testing.B) {
	buckets := rate.New()
	for b.Loop() {
		buckets.Take("a", 1e6, epoch)
	}
}
