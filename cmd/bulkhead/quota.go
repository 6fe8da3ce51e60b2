package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/host"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/quota"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

var _ node.Tenants = entitlements{}

// openBook opens the book of who has what, and the watch that tells it of the host.
func (s *server) openBook() error {
	s.book = quota.New(quota.Config{Connections: int64(s.cfg.MaxConns), Share: s.cfg.BookShare, DiskShare: diskShare(s.cfg.BookShare)})
	var err error
	s.capacity, err = host.NewCapacity(host.CapacityConfig{
		Book: s.book, Sandboxes: s.cfg.MaxSandboxes, CPUOvercommit: s.cfg.CPUOvercommit,
		ReserveMemoryMB: s.cfg.ReserveMemory, ReserveDiskMB: s.cfg.ReserveDisk, DiskDir: s.cfg.Data,
		Memory: s.groups.Memory, MaxStall: s.cfg.MaxStall, Lent: s.lent, Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	return nil
}

// bookMetrics shows the book's host side to Prometheus.
type bookMetrics struct {
	book *quota.Book
	node *node.Node
}

var (
	bookedDesc = prometheus.NewDesc("bulkhead_quota_host",
		"What the host can promise (capacity), expects to be used of that (booked) and has granted: sandboxes, cores, MiB.", []string{"resource", "sum"}, nil)
	waitingDesc = prometheus.NewDesc("bulkhead_quota_waiting", "Requests that wait for a place.", nil, nil)
	factorDesc  = prometheus.NewDesc("bulkhead_quota_load_factor", "What new sandboxes' sizes are multiplied with for the host's load.", nil, nil)
	behindDesc  = prometheus.NewDesc("bulkhead_quota_background", "Sandboxes that keep processors busy and let the others go first.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (bookMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- bookedDesc
	to <- waitingDesc
	to <- factorDesc
	to <- behindDesc
}

// Collect implements [prometheus.Collector].
func (m bookMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	h := m.book.Host()
	for _, s := range []struct {
		name string
		bulkhead.Sums
	}{{"capacity", h.Capacity}, {"booked", h.Booked}, {"granted", h.Granted}} {
		gauge(bookedDesc, float64(s.Sandboxes), "sandboxes", s.name)
		gauge(bookedDesc, s.CPU, "cpu", s.name)
		gauge(bookedDesc, float64(s.MemoryMB), "memory", s.name)
		gauge(bookedDesc, float64(s.DiskMB), "disk", s.name)
	}
	gauge(waitingDesc, float64(h.Waiting))
	gauge(factorDesc, h.LoadFactor)
	gauge(behindDesc, float64(m.node.Background()))
}

// diskShare is the least share of its disk that stays booked for a sandbox: most
// write next to nothing.
func diskShare(share float64) float64 {
	if share >= 1 {
		return 1
	}
	return share / 3
}

// entitlements finds in the store what tenants may use.
type entitlements struct{ store *store.Store }

// UsageToday returns what the tenant has used since midnight, UTC.
func (e entitlements) UsageToday(ctx context.Context, tenant string) (bulkhead.Usage, error) {
	return e.store.UsageToday(ctx, tenant) //nolint:wrapcheck // says what it does
}

// Entitlement returns a tenant's tier with the tenant's own overrides in its quota.
func (e entitlements) Entitlement(ctx context.Context, tenant string) (bulkhead.Tier, error) {
	t, err := e.store.Tenant(ctx, tenant)
	if err != nil {
		return bulkhead.Tier{}, fmt.Errorf("find tenant: %w", err)
	}
	tier, err := e.store.Tier(ctx, t.Tier)
	if err != nil {
		return bulkhead.Tier{}, fmt.Errorf("find tier: %w", err)
	}
	tier.Quota = t.Quota.Or(tier.Quota)
	return tier, nil
}

// processors is the host's processor time since it was started.
func processors() (busy, idle time.Duration, err error) {
	cpu, err := cgroup.HostProcessors()
	return cpu.Busy, cpu.Idle, err //nolint:wrapcheck // it says what it read
}
