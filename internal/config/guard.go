package config

import (
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// Guard returns what the memory guard is told. The error is a *[bulkhead.Error]
// with CodeInvalid that names the variable, its value and the range.
func (c *Config) Guard() (guard.Config, error) {
	g := guard.Config{
		Disabled: !c.GuardEnabled, MaxPercent: c.GuardMax, WarningPercent: c.GuardWarning, CriticalPercent: c.GuardCritical,
		EstimatedMemPerReqMB: c.GuardEstimate, MaxConcurrent: c.MaxConcurrent,
		CheckInterval: time.Duration(c.GuardInterval) * time.Second,
	}
	// What is not set has its default by now. The guard would take 0 for that.
	const fraction = "a fraction above 0 and at most 1"
	for _, o := range []struct {
		name string
		zero bool
		want string
	}{
		{"MEMORY_GUARD_MAX_PERCENT", g.MaxPercent == 0, fraction},
		{"MEMORY_GUARD_WARNING_PERCENT", g.WarningPercent == 0, fraction},
		{"MEMORY_GUARD_CRITICAL_PERCENT", g.CriticalPercent == 0, fraction},
		{"MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", g.EstimatedMemPerReqMB == 0, "between 1 and 1048576"},
		{"MAX_CONCURRENT", g.MaxConcurrent == 0, "between 1 and 1048576, or -1 for memory alone"},
	} {
		if o.zero {
			return g, bulkhead.Errorf(bulkhead.CodeInvalid, "%s is 0; it must be %s", o.name, o.want)
		}
	}
	if n := c.GuardInterval; n < 1 || n > 3600 {
		return g, bulkhead.Errorf(bulkhead.CodeInvalid, "MEMORY_GUARD_CHECK_INTERVAL_SEC is %d; it must be between 1 and 3600", n)
	}
	if c.MaxResult < 1 || c.MaxResult > engine.MostResultBytes {
		return g, bulkhead.Errorf(bulkhead.CodeInvalid, "MAX_RESULT_SIZE is %d; it must be between 1 and %d bytes", c.MaxResult, engine.MostResultBytes)
	}
	return g, g.Validate() //nolint:wrapcheck // names variable, value and range
}
