package quota_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// BenchmarkDecision is one reservation and its return in a book with 10,000
// bookings of 1,000 tenants, with nobody waiting and with 500 claims that wait.
// Its p99 is of single decisions.
func BenchmarkDecision(b *testing.B) {
	for _, waiting := range []int{0, 500} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			book := quota.New(quota.Config{Share: 0.5})
			book.See(start, host(1<<40))
			q := bulkhead.Quota{Sandboxes: 11, CPU: 1000, MemoryMB: 1 << 30, CreatesPerSecond: 1e9, CPUSecondsPerDay: 1e9}
			tenants := make([]string, 1000)
			for i := range 10_000 {
				tenants[i%1000] = fmt.Sprintf("tenant-%d", i%1000)
				if _, err := book.Offer(start, want(tenants[i%1000], 512, q)); err != nil {
					b.Fatal(err)
				}
			}
			for i := range waiting { // beyond their own quota
				r := want(tenants[i], 512, q)
				r.WaitOwn = true
				for range 2 {
					if _, err := book.Offer(start, r); err != nil {
						b.Fatal(err)
					}
				}
			}
			took := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				r := want(tenants[500+i%500], 512, q)
				began := time.Now()
				k, err := book.Offer(start, r)
				took = append(took, time.Since(began))
				if err != nil {
					b.Fatal(err)
				}
				k.Return(start)
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
		})
	}
}
