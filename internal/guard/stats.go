package guard

import (
	"log/slog"
	"math"
)

// Stats is a snapshot of a guard's counters. The JSON names are stable.
type Stats struct {
	// TotalRequests counts claims; each is rejected, completed, active, starting,
	// standing or waiting.
	TotalRequests     int64 `json:"total_requests"`
	RejectedRequests  int64 `json:"rejected_requests"`
	CompletedRequests int64 `json:"completed_requests"`
	// ActiveTasks run now, WaitingTasks wait.
	ActiveTasks  int `json:"active_tasks"`
	WaitingTasks int `json:"waiting_tasks"`
	// StartingTasks are being made now, such as sandboxes, StandingTasks were made
	// and stand.
	StartingTasks int `json:"starting_tasks"`
	StandingTasks int `json:"standing_tasks"`
	// CurrentConcurrency is how many may run now, BaseConcurrency without
	// pressure; -1 is no limit.
	CurrentConcurrency int `json:"current_concurrency"`
	BaseConcurrency    int `json:"base_concurrency"`
	// MemoryPercent is MemoryAllocMB of MemorySysMB, 0 to 100.
	MemoryPercent float64 `json:"memory_percent"`
	// MemoryAllocMB is the memory in use and MemorySysMB its limit, in MiB.
	MemoryAllocMB float64 `json:"memory_alloc_mb"`
	MemorySysMB   float64 `json:"memory_sys_mb"`
	// MemorySource says whose memory: cgroup2, cgroup1 or host.
	MemorySource string `json:"memory_source"`
	// Level is the pressure level.
	Level Level `json:"level"`
	// PressureSome10 is the kernel's memory stall share in percent over 10 s.
	PressureSome10 float64 `json:"pressure_some10"`
	// ThresholdOffset is how far adaption has moved the thresholds, -0.10 to 0.
	ThresholdOffset float64 `json:"threshold_offset"`
	// PredictedWaitMS is how long a claim that came now would wait.
	PredictedWaitMS int64 `json:"predicted_wait_ms"`
	// WaitCount and WaitSeconds sum up the claims that had to wait.
	WaitCount   int64   `json:"wait_count"`
	WaitSeconds float64 `json:"wait_seconds"`
}

// LogValue writes the statistics as one group of a log line.
func (s Stats) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int64("total_requests", s.TotalRequests),
		slog.Int64("rejected_requests", s.RejectedRequests),
		slog.Int64("completed_requests", s.CompletedRequests),
		slog.Int("active_tasks", s.ActiveTasks),
		slog.Int("waiting_tasks", s.WaitingTasks),
		slog.Int("current_concurrency", s.CurrentConcurrency),
		slog.Int("base_concurrency", s.BaseConcurrency),
		slog.Float64("memory_percent", s.MemoryPercent),
		slog.Float64("memory_alloc_mb", s.MemoryAllocMB),
		slog.Float64("memory_sys_mb", s.MemorySysMB),
		slog.String("level", s.Level.String()),
	)
}

// Stats returns a snapshot.
func (g *Guard) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.statsLocked()
}

func (g *Guard) statsLocked() Stats {
	s := g.core.Stats()
	s.WaitCount, s.WaitSeconds = g.waits.count, g.waits.seconds
	return s
}

// Stats returns a snapshot without the sums of waiting, which Core does not keep.
func (c *Core) Stats() Stats {
	current := c.most[kindRun]
	if current == math.MaxInt32 {
		current = -1
	}
	return Stats{
		TotalRequests: c.total, RejectedRequests: c.rejected, CompletedRequests: c.completed,
		ActiveTasks: c.active[kindRun], WaitingTasks: c.queued,
		StartingTasks: c.active[kindStanding], StandingTasks: c.standing,
		CurrentConcurrency: current, BaseConcurrency: c.cfg.MaxConcurrent,
		MemoryPercent: percent(c.reading),
		MemoryAllocMB: mebibytes(c.reading.Used), MemorySysMB: mebibytes(c.reading.Limit),
		MemorySource: c.reading.Source, Level: c.level,
		PressureSome10: c.reading.Some10, ThresholdOffset: c.offset,
		PredictedWaitMS: c.PredictedWait().Milliseconds(),
	}
}

// percent returns the used fraction in percent with one decimal.
func percent(r Reading) float64 { return math.Round(1000*r.Fraction()) / 10 }

// mebibytes returns bytes in MiB with two decimals.
func mebibytes(n int64) float64 { return math.Round(float64(n)/(1<<20)*100) / 100 }
