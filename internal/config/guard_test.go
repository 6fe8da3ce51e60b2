package config_test

import (
	"strings"
	"testing"
	"time"
)

// The guard's variables: what is set wrong is refused by name, what is not set has
// its default, and what the original document gives as examples is accepted.
func TestGuardVariables(t *testing.T) {
	const all = "MEMORY_GUARD_ENABLED MEMORY_GUARD_MAX_PERCENT MEMORY_GUARD_WARNING_PERCENT MEMORY_GUARD_CRITICAL_PERCENT " +
		"MEMORY_GUARD_CHECK_INTERVAL_SEC MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB MAX_CONCURRENT MAX_RESULT_SIZE"
	c, err := parse(t, "")
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Guard()
	if err != nil || g.Disabled || g.MaxPercent != 0.8 || g.WarningPercent != 0.7 || g.CriticalPercent != 0.85 ||
		g.CheckInterval != 5*time.Second || g.EstimatedMemPerReqMB != 200 || g.MaxConcurrent != 10 || c.MaxResult != 5<<20 {
		t.Errorf("defaults: %+v, %v", g, err)
	}
	for _, s := range []struct{ env, want string }{
		{"MEMORY_GUARD_MAX_PERCENT=0", "MEMORY_GUARD_MAX_PERCENT is 0; it must be a fraction above 0 and at most 1"},
		{"MEMORY_GUARD_MAX_PERCENT=80", "MEMORY_GUARD_MAX_PERCENT is 80; it must be a fraction above 0 and at most 1"},
		{"MEMORY_GUARD_MAX_PERCENT=NaN", "MEMORY_GUARD_MAX_PERCENT is NaN; it must be a fraction"},
		{"MEMORY_GUARD_MAX_PERCENT=much", "MEMORY_GUARD_MAX_PERCENT"},
		{"MEMORY_GUARD_WARNING_PERCENT=0", "MEMORY_GUARD_WARNING_PERCENT is 0; it must be a fraction"},
		{"MEMORY_GUARD_WARNING_PERCENT=-0.1", "MEMORY_GUARD_WARNING_PERCENT is -0.1; it must be a fraction"},
		{"MEMORY_GUARD_WARNING_PERCENT=0.9", "MEMORY_GUARD_MAX_PERCENT is 0.8; it must be at least MEMORY_GUARD_WARNING_PERCENT, which is 0.9, and at most 1"},
		{"MEMORY_GUARD_CRITICAL_PERCENT=0", "MEMORY_GUARD_CRITICAL_PERCENT is 0; it must be a fraction"},
		{"MEMORY_GUARD_CRITICAL_PERCENT=0.5", "MEMORY_GUARD_CRITICAL_PERCENT is 0.5; it must be at least MEMORY_GUARD_MAX_PERCENT, which is 0.8"},
		{"MEMORY_GUARD_CHECK_INTERVAL_SEC=0", "MEMORY_GUARD_CHECK_INTERVAL_SEC is 0; it must be between 1 and 3600"},
		{"MEMORY_GUARD_CHECK_INTERVAL_SEC=-3", "MEMORY_GUARD_CHECK_INTERVAL_SEC is -3; it must be between 1 and 3600"},
		{"MEMORY_GUARD_CHECK_INTERVAL_SEC=9999999999999", "MEMORY_GUARD_CHECK_INTERVAL_SEC is 9999999999999; it must be between 1 and 3600"},
		{"MEMORY_GUARD_CHECK_INTERVAL_SEC=5s", "MEMORY_GUARD_CHECK_INTERVAL_SEC"},
		{"MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB=0", "MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB is 0; it must be between 1 and 1048576"},
		{"MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB=-1", "MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB is -1; it must be between 1 and 1048576"},
		{"MAX_CONCURRENT=0", "MAX_CONCURRENT is 0; it must be between 1 and 1048576, or -1 for memory alone"},
		{"MAX_CONCURRENT=-2", "MAX_CONCURRENT is -2; it must be between 1 and 1048576, or -1 for memory alone"},
		{"MAX_CONCURRENT=ten", "MAX_CONCURRENT"},
		{"MAX_RESULT_SIZE=0", "MAX_RESULT_SIZE is 0; it must be between 1 and 67108864 bytes"},
		{"MAX_RESULT_SIZE=5MB", "MAX_RESULT_SIZE"},
		{"MEMORY_GUARD_ENABLED=perhaps", "MEMORY_GUARD_ENABLED"},
		{"MEMORY_GUARD_ENABLED=true", ""},
		{"MAX_CONCURRENT=-1", ""},
		{"MAX_CONCURRENT=8", ""},
		{"MEMORY_GUARD_MAX_PERCENT=0.85 MEMORY_GUARD_WARNING_PERCENT=0.75", ""},
		{"MEMORY_GUARD_MAX_PERCENT=0.75 MEMORY_GUARD_WARNING_PERCENT=0.65", ""},
		{"MAX_CONCURRENT=5 MEMORY_GUARD_MAX_PERCENT=0.70", ""},
		{"MEMORY_GUARD_MAX_PERCENT=0.85", ""},
		{"MEMORY_GUARD_WARNING_PERCENT=0.05", ""},
	} {
		t.Run(s.env, func(t *testing.T) {
			for pair := range strings.FieldsSeq(s.env) {
				name, value, _ := strings.Cut(pair, "=")
				if !strings.Contains(all, name) {
					t.Fatalf("%s is no variable of the guard", name)
				}
				t.Setenv(name, value)
			}
			_, err := parse(t, "")
			if (err == nil) != (s.want == "") || err != nil && !strings.Contains(err.Error(), s.want) {
				t.Errorf("got %v, want %q", err, s.want)
			}
		})
	}
}
