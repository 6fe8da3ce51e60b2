package cli

import (
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// The hint about a limit is one that helps with that limit.
func TestHintOfLimit(t *testing.T) {
	const running, may = "'bulkhead sandbox ls' shows what is running, 'bulkhead sandbox kill' ends it", "'bulkhead quota' shows what you may use"
	for want, errs := range map[string][]bulkhead.Error{
		running: {{}, {Limit: &bulkhead.LimitEvidence{Name: "tenant.memoryMB", Limit: 10, Used: 8, Asked: 4}, RetryAfter: time.Second}},
		may: {
			{Limit: &bulkhead.LimitEvidence{Name: "tenant.sandbox.cpu", Limit: 4, Asked: 5, Never: true}},
			{Limit: &bulkhead.LimitEvidence{Name: "tenant.cpuSecondsPerDay", Limit: 4, Used: 5}, RetryAfter: time.Hour},
		},
		"try again in 3s": {
			{RetryAfter: 3 * time.Second}, // the rate of a key
			{Limit: &bulkhead.LimitEvidence{Name: "tenant.createsPerSecond", Limit: 1, Used: 1, Asked: 1}, RetryAfter: 3 * time.Second},
		},
	} {
		for _, e := range errs {
			e.Code = bulkhead.CodeQuotaExceeded
			if got := hintOf(&e); got != want {
				t.Errorf("%+v: %q, want %q", e, got, want)
			}
		}
	}
}
