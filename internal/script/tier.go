package script

import (
	"math"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// Tenant is who a run is for.
type Tenant struct {
	// ID owns scripts and values.
	ID string
	// Tier says what it may use: its multiplier scales the memory and the time of
	// a run, by default and at most; Quota.Sandbox.MemoryMB bounds the memory of
	// one, and Quota.MemoryMB the sum over what runs at once. The zero value
	// scales and bounds nothing.
	Tier bulkhead.Tier
}

// mostLimits are the largest limits that a run may name, before a tier scales them.
var mostLimits = engine.Limits{MemoryMB: 512, TimeMS: 60_000, ResultBytes: engine.MostResultBytes, LogBytes: 4 << 20, Depth: 10_000}

// limits returns the limits of a run that names none, and the largest it may name.
func (t Tenant) limits(maxResult int64) (usual, most engine.Limits) {
	usual, most = engine.DefaultLimits(), mostLimits
	usual.ResultBytes = maxResult
	factor := t.Tier.Multiplier
	if factor == 0 {
		factor = 1
	}
	scale := func(n, largest int64) int64 {
		return min(max(1, int64(math.Round(float64(n)*factor))), largest)
	}
	for _, l := range []*engine.Limits{&usual, &most} {
		l.MemoryMB, l.TimeMS = scale(l.MemoryMB, engine.MostMemoryMB), scale(l.TimeMS, engine.MostTimeMS)
	}
	if n := t.Tier.Quota.Sandbox.MemoryMB; n > 0 {
		most.MemoryMB = min(most.MemoryMB, n)
	}
	usual.MemoryMB, usual.TimeMS = min(usual.MemoryMB, most.MemoryMB), min(usual.TimeMS, most.TimeMS)
	return usual, most
}

// claim returns a claim for the tenant: against its own quota where it has one,
// else against what the guard's configuration says of its tier.
func (t Tenant) claim(p guard.Priority) guard.Claim {
	if n := t.Tier.Quota.MemoryMB; n > 0 {
		return guard.Claim{Priority: p, Tier: "tenant " + t.ID, Budget: guard.TierBudget{MemoryMB: n}}
	}
	return guard.Claim{Priority: p, Tier: t.Tier.Name}
}
