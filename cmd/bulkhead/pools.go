package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/supply"
)

var _ supply.Boxes = (*pool.Pool)(nil)

// openSupply opens what decides how many boxes wait, and drops what no template
// needs.
func (s *server) openSupply(ctx context.Context, snapshots *pool.Snapshots) error {
	pins, err := s.cfg.Targets()
	if err != nil {
		return err //nolint:wrapcheck // names the option
	}
	costs := forecast.DefaultCosts()
	costs.WaitPrice = s.cfg.PoolWaitPrice
	m, err := s.groups.Memory()
	if err != nil {
		return fmt.Errorf("measure host: %w", err)
	}
	budget := s.cfg.PoolMemory << 20
	if budget == 0 {
		budget = m.Total / 4
	}
	s.supply, err = supply.New(ctx, supply.Config{
		Boxes: s.pool, Templates: s.templates, Store: s.store, Log: s.log,
		Off: !s.cfg.PoolForecast, Always: s.cfg.PoolTemplates, Pins: pins,
		Bounds: s.cfg.Bounds(), Costs: costs, Builders: s.cfg.RefillParallel,
		Memory: s.memory, Reserve: s.refusedBelow(m.Total) + s.cfg.PoolReserve<<20, Budget: budget,
		Maintenance: s.cfg.PoolMaintenance, ModelUpdate: s.cfg.PoolModelUpdate, Reap: snapshots.Reap,
	})
	if err != nil {
		return fmt.Errorf("open pools: %w", err)
	}
	return s.reapTemplates(ctx)
}

// versions are the templates as they are served.
func (s *server) versions() versions { return versions{s} }

// versions looks the planner up when it is asked: the node is opened before it.
type versions struct{ *server }

// Get returns the version that serves of the template of that name or ID.
func (v versions) Get(nameOrID string) (bulkhead.Template, error) {
	if v.supply == nil {
		return v.templates.Get(nameOrID) //nolint:wrapcheck // says which template
	}
	return supply.Versions{Planner: v.supply, Templates: v.templates}.Get(nameOrID) //nolint:wrapcheck // says which template
}

// List returns all templates.
func (v versions) List() ([]bulkhead.Template, error) {
	return v.templates.List() //nolint:wrapcheck // says what it does
}

// refusedBelow is the available memory, of so much in all, below which sandboxes
// are refused or wait. Pools shrink before that.
func (s *server) refusedBelow(total int64) int64 {
	reserve := s.cfg.ReserveMemory << 20
	if s.cfg.GuardEnabled {
		reserve = max(reserve, int64((1-s.cfg.GuardMax)*float64(total)))
	}
	return reserve
}

// memory is what pools heed of the host.
func (s *server) memory() (supply.Memory, error) {
	m, err := s.groups.Memory()
	if err != nil {
		return supply.Memory{}, err //nolint:wrapcheck // says what it does
	}
	p, err := cgroup.HostPressure()
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return supply.Memory{}, err //nolint:wrapcheck // says what it does
	}
	return supply.Memory{Available: m.Available, Total: m.Total, Stalled: p.Memory.Some10}, nil
}

// lent is the memory of the boxes that wait, in bytes.
func (s *server) lent() int64 {
	total := 0.0
	for _, st := range s.pool.Stats() {
		total += float64(st.Warm)*st.WarmMB + float64(st.Cold)*st.ColdMB
	}
	return int64(total * 1e6)
}

// readySlots is how many network slots are made ahead: as many as boxes may be
// created at once, for the pool and for requests.
func readySlots(cfg *config.Config) int { return 4 + cfg.RefillParallel }

// How busy the processors may be before making boxes ahead holds back, and how
// often that is looked at.
const (
	busyShare = 0.85
	busyEvery = 500 * time.Millisecond
)

// hostLoad measures how busy the host's processors are. It is safe for concurrent
// use; the zero value is ready.
type hostLoad struct {
	mu   sync.Mutex
	at   time.Time
	last cgroup.HostCPU
	hot  bool
}

// busy reports whether the processors were busy in the last half second.
func (l *hostLoad) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.at) < busyEvery {
		return l.hot
	}
	cpu, err := cgroup.HostProcessors()
	if err != nil {
		return false
	}
	used, idle := cpu.Busy-l.last.Busy, cpu.Idle-l.last.Idle
	if !l.at.IsZero() && used+idle > 0 {
		l.hot = float64(used) > busyShare*float64(used+idle)
	}
	l.at, l.last = now, cpu
	return l.hot
}
