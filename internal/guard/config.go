package guard

import (
	"maps"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Config is what an operator may set. A zero field takes the default named with
// it, except the booleans. The env tags name the environment variables that
// internal/config reads; this package reads none.
type Config struct {
	// Disabled lets everything through and only counts. MEMORY_GUARD_ENABLED is
	// its opposite and true by default.
	Disabled bool `env:"!MEMORY_GUARD_ENABLED" yaml:"disabled"`
	// MaxPercent is the fraction of the memory that admitted work may fill, and
	// the lower bound of the level high. Default 0.80.
	MaxPercent float64 `env:"MEMORY_GUARD_MAX_PERCENT" yaml:"maxPercent"`
	// WarningPercent is the lower bound of the level warning. Default 0.70.
	WarningPercent float64 `env:"MEMORY_GUARD_WARNING_PERCENT" yaml:"warningPercent"`
	// CriticalPercent is the fraction above which everything new is refused at
	// once. Default 0.85.
	CriticalPercent float64 `env:"MEMORY_GUARD_CRITICAL_PERCENT" yaml:"criticalPercent"`
	// StablePercent is the lower bound of the level stable. Default 0.60, or
	// where that is less 0.10 below WarningPercent, but at least half of it.
	StablePercent float64 `yaml:"stablePercent"`
	// CheckInterval is how often everything is measured that is slow to measure
	// or to change: page cache, the thresholds' own adaption. Memory itself is
	// read every 20 to 80 ms. Default 5 s.
	CheckInterval time.Duration `env:"MEMORY_GUARD_CHECK_INTERVAL_SEC" yaml:"checkInterval"`
	// EstimatedMemPerReqMB is the cost, in MiB, of a claim that names none and
	// has no history. Default 200.
	EstimatedMemPerReqMB int64 `env:"MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB" yaml:"estimatedMemPerReqMB"`
	// MaxConcurrent is the base concurrency; -1 means that memory alone limits.
	// Default 10.
	MaxConcurrent int `env:"MAX_CONCURRENT" yaml:"maxConcurrent"`
	// MaxStarting is the same for standing claims that are being made. Default 32.
	MaxStarting int `yaml:"maxStarting"`
	// MaxWait is how long Acquire waits at most. Default 10 s.
	MaxWait time.Duration `yaml:"maxWait"`
	// MaxWaiting is how many claims may wait at once. Default 1024.
	MaxWaiting int `yaml:"maxWaiting"`
	// Hysteresis is how far below its bound the used fraction must fall before
	// a level is left. Default 0.02.
	Hysteresis float64 `yaml:"hysteresis"`
	// Ramp is how long the cost of an admitted claim counts beside the memory
	// in use; after it, what it uses is taken to be in that figure. Default 1 s.
	Ramp time.Duration `yaml:"ramp"`
	// FixedThresholds keeps the bounds where they are set. Otherwise evidence
	// moves all of them together: down 0.02 for each out-of-memory kill and each
	// CheckInterval of memory pressure (at most 0.10), up 0.005 for each calm
	// CheckInterval (at most back to where they were set).
	FixedThresholds bool `yaml:"fixedThresholds"`
	// PressureWarning, PressureHigh and PressureCritical are the stall shares,
	// in percent over 10 s, that force at least that level: the first two of
	// "some", the last of "full". Defaults 10, 30 and 30; negative is off.
	PressureWarning  float64 `yaml:"pressureWarning"`
	PressureHigh     float64 `yaml:"pressureHigh"`
	PressureCritical float64 `yaml:"pressureCritical"`
	// Tiers bounds what the claims of one tier may hold at once. A tier that is
	// not named here is bounded by the whole only.
	Tiers map[string]TierBudget `yaml:"tiers"`
}

// TierBudget is the share of the whole that one tier may hold. Zero means all.
type TierBudget struct {
	// MemoryShare is a fraction of the admissible memory, 0 to 1.
	MemoryShare float64 `yaml:"memoryShare"`
	// MemoryMB is a number of MiB; the smaller of the two counts.
	MemoryMB int64 `yaml:"memoryMB"`
	// Concurrency is how many claims may be admitted at once.
	Concurrency int `yaml:"concurrency"`
}

// memory returns what the tier may hold of a budget, in bytes.
func (t TierBudget) memory(budget int64) int64 {
	most := budget
	if t.MemoryShare > 0 {
		most = int64(t.MemoryShare * float64(budget))
	}
	if t.MemoryMB > 0 {
		most = min(most, t.MemoryMB<<20)
	}
	return most
}

// withDefaults returns c with every zero field filled in.
func (c *Config) withDefaults() Config {
	d := *c
	d.fill()
	return d
}

// fill fills every zero field of c in.
func (c *Config) fill() {
	orFloat := func(p *float64, d float64) {
		if *p == 0 {
			*p = d
		}
	}
	orFloat(&c.MaxPercent, 0.80)
	orFloat(&c.WarningPercent, 0.70)
	orFloat(&c.CriticalPercent, 0.85)
	orFloat(&c.StablePercent, min(0.60, max(c.WarningPercent-0.10, c.WarningPercent/2)))
	orFloat(&c.Hysteresis, 0.02)
	orFloat(&c.PressureWarning, 10)
	orFloat(&c.PressureHigh, 30)
	orFloat(&c.PressureCritical, 30)
	orDuration := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	orDuration(&c.CheckInterval, 5*time.Second)
	orDuration(&c.MaxWait, 10*time.Second)
	orDuration(&c.Ramp, time.Second)
	if c.EstimatedMemPerReqMB == 0 {
		c.EstimatedMemPerReqMB = 200
	}
	if c.MaxConcurrent == 0 {
		c.MaxConcurrent = 10
	}
	if c.MaxStarting == 0 {
		c.MaxStarting = 32
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 1024
	}
	c.Tiers = maps.Clone(c.Tiers)
}

// Validate checks c after its defaults are filled in. The error is a
// *bulkhead.Error with [bulkhead.CodeInvalid] that names the field.
func (c *Config) Validate() error {
	d := c.withDefaults()
	c = &d
	prev, prevName := 0.0, ""
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"MEMORY_GUARD_WARNING_PERCENT", c.WarningPercent},
		{"MEMORY_GUARD_MAX_PERCENT", c.MaxPercent},
		{"MEMORY_GUARD_CRITICAL_PERCENT", c.CriticalPercent},
	} {
		switch {
		case !(f.value > 0 && f.value <= 1):
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %v; it must be a fraction above 0 and at most 1", f.name, f.value)
		case f.value < prev:
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %v; it must be at least %s, which is %v, and at most 1",
				f.name, f.value, prevName, prev)
		}
		prev, prevName = f.value, f.name
	}
	if s := c.StablePercent; !(s > 0 && s <= c.WarningPercent) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "stablePercent is %v; it must be a fraction above 0 and at most %v", s, c.WarningPercent)
	}
	for _, f := range []struct {
		name       string
		value      int64
		least, max int64
	}{
		{"MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", c.EstimatedMemPerReqMB, 1, 1 << 20},
		{"maxStarting", int64(c.MaxStarting), 1, 1 << 20},
		{"maxWaiting", int64(c.MaxWaiting), 1, 1 << 20},
		{"maxWait", int64(c.MaxWait / time.Millisecond), 1, 3_600_000},
	} {
		if f.value < f.least || f.value > f.max {
			return bulkhead.Errorf(bulkhead.CodeInvalid,
				"%s is %d; it must be between %d and %d", f.name, f.value, f.least, f.max)
		}
	}
	if d := c.CheckInterval; d < 10*time.Millisecond || d > time.Hour {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "MEMORY_GUARD_CHECK_INTERVAL_SEC is %v; it must be between 1 and 3600", d.Seconds())
	}
	if n := c.MaxConcurrent; n != -1 && (n < 1 || n > 1<<20) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "MAX_CONCURRENT is %d; it must be between 1 and %d, or -1 for memory alone", n, 1<<20)
	}
	for name, t := range c.Tiers {
		if !(t.MemoryShare >= 0 && t.MemoryShare <= 1) || t.MemoryMB < 0 || t.Concurrency < 0 {
			return bulkhead.Errorf(bulkhead.CodeInvalid,
				"tier %q has memoryShare %v, memoryMB %d and concurrency %d; they must be 0 to 1 and not negative",
				name, t.MemoryShare, t.MemoryMB, t.Concurrency)
		}
	}
	return nil
}
