package script

import (
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// TestHabit follows what the runs of one program say about its next.
func TestHabit(t *testing.T) {
	outcome := func(cause bulkhead.Cause, cpuMS, wallMS float64, peak int64, moved string) *engine.Outcome {
		return &engine.Outcome{
			End: bulkhead.End{Cause: cause}, Moved: moved,
			Usage: engine.Usage{CPUMS: cpuMS, WallMS: wallMS, PeakBytes: peak},
		}
	}
	var h habit
	for i, s := range []struct {
		out   *engine.Outcome
		class worker.Class
	}{
		{outcome("", 0, 0, 0, ""), worker.ClassUnknown}, // nothing is known yet
		{outcome(bulkhead.CauseExited, 1, 1, 1<<10, ""), worker.ClassQuick},
		{outcome("", 0.2, 1, 1<<10, "a built-in gets a string that is long"), worker.ClassUnknown},
		{outcome("", 10, 12, 1<<20, "it runs long"), worker.ClassUnknown},
		{outcome(bulkhead.CauseExited, 80, 90, 1<<20, ""), worker.ClassUnknown},
		{outcome(bulkhead.CauseExited, 1, 1, 1<<10, ""), worker.ClassQuick},
		{outcome(bulkhead.CauseExited, 1, 1, 32<<20, ""), worker.ClassUnknown},
		{outcome(bulkhead.CauseTimeLimit, 10, 5000, 1<<10, ""), worker.ClassUnknown}, // it waited
		{outcome(bulkhead.CauseTimeLimit, 4900, 5000, 1<<10, ""), worker.ClassBehind},
		{outcome(bulkhead.CauseKilled, 1, 1, 1<<10, ""), worker.ClassQuick},
		{outcome(bulkhead.CauseMemoryLimit, 1, 1, 64<<20, ""), worker.ClassBehind},
	} {
		if i > 0 {
			h.ended(s.out)
		}
		if got := h.class(guard.PriorityNormal); got != s.class {
			t.Errorf("after step %d: class %d, want %d", i, got, s.class)
		}
		if got := h.class(guard.PriorityLow); got != worker.ClassBehind {
			t.Errorf("after step %d: low priority has class %d", i, got)
		}
	}
}
