package host

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// BenchmarkBind measures what a lease waits for on the host: the limits and the
// egress of a box that waited with its template's.
func BenchmarkBind(b *testing.B) {
	testenv.Need(b, "root")
	layout, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	groups, err := cgroup.New(cgroup.Config{Layout: layout, Root: "/bulkhead-bench"})
	if err != nil {
		b.Fatal(err)
	}
	slots, err := netslot.New(netslot.Config{
		Dir: filepath.Join(b.TempDir(), "netns"), Name: "bulkbench", Prefix: netip.MustParsePrefix("10.231.0.0/24"),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := slots.Close(); err != nil {
			b.Error(err)
		}
		if err := groups.Close(); err != nil {
			b.Error(err)
		}
	})
	parts := &Parts{Slots: slots, Groups: groups, Overhead: cgroup.Extra{PidsOverhead: 512, MemoryOverheadMB: 64}}
	usual := bulkhead.DefaultLimits()
	other := bulkhead.Limits{CPU: 0.5, MemoryMB: 512, Pids: 100, BandwidthKbps: 100_000, PacketsPerSecond: 5000}.Or(usual)
	lists, err := bulkhead.Network{
		AllowOut: []string{"1.1.1.1", "9.9.9.0/24", "*.example.com"}, DenyOut: []string{bulkhead.AllTraffic},
	}.Egress(true)
	if err != nil {
		b.Fatal(err)
	}
	p, err := parts.Acquire(b.Context(), usual)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := p.Release(b.Context()); err != nil {
			b.Error(err)
		}
	}()
	for _, tt := range []struct {
		name string
		l    [2]bulkhead.Limits
		e    [2]bulkhead.Egress
	}{
		{"egress", [2]bulkhead.Limits{usual, usual}, [2]bulkhead.Egress{{Internet: true}, {}}},
		{"lists", [2]bulkhead.Limits{usual, usual}, [2]bulkhead.Egress{lists, lists}},
		{"all", [2]bulkhead.Limits{other, usual}, [2]bulkhead.Egress{lists, lists}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				// As in a new lease: nothing is open, nothing is to be forgotten.
				b.StopTimer()
				if err := p.Bind(b.Context(), tt.l[(i+1)%2], bulkhead.Egress{}); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := p.Bind(b.Context(), tt.l[i%2], tt.e[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
