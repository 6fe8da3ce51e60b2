package guard

import "github.com/prometheus/client_golang/prometheus"

// Guard is its own Prometheus collector; see [Guard.Collect] for the names.
var _ prometheus.Collector = (*Guard)(nil)

// metric is one exported figure of the statistics.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(Stats) float64
}

// metrics returns the table of figures.
func metrics() []metric {
	row := func(name, help string, kind prometheus.ValueType, value func(Stats) float64) metric {
		return metric{prometheus.NewDesc("memory_guard_"+name, help, nil, nil), kind, value}
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return []metric{
		row("requests_total", "Claims made.", counter,
			func(s Stats) float64 { return float64(s.TotalRequests) }),
		row("rejected_requests_total", "Claims refused, timed out or given up.", counter,
			func(s Stats) float64 { return float64(s.RejectedRequests) }),
		row("completed_requests_total", "Grants released.", counter,
			func(s Stats) float64 { return float64(s.CompletedRequests) }),
		row("active_tasks", "Grants held now.", gauge,
			func(s Stats) float64 { return float64(s.ActiveTasks) }),
		row("starting_tasks", "Grants for what is being made now.", gauge,
			func(s Stats) float64 { return float64(s.StartingTasks) }),
		row("standing_tasks", "Grants for what was made and stands.", gauge,
			func(s Stats) float64 { return float64(s.StandingTasks) }),
		row("waiting_tasks", "Claims waiting now.", gauge,
			func(s Stats) float64 { return float64(s.WaitingTasks) }),
		row("current_concurrency", "Grants that may be held now; -1 is no limit.", gauge,
			func(s Stats) float64 { return float64(s.CurrentConcurrency) }),
		row("memory_percent", "Memory in use, in percent of the limit.", gauge,
			func(s Stats) float64 { return s.MemoryPercent }),
		row("memory_used_bytes", "Memory in use.", gauge,
			func(s Stats) float64 { return s.MemoryAllocMB * (1 << 20) }),
		row("level", "Pressure level: 0 normal, 1 stable, 2 warning, 3 high, 4 critical.", gauge,
			func(s Stats) float64 { return float64(s.Level) }),
		row("pressure_some10_percent", "Kernel memory stall share over 10 s.", gauge,
			func(s Stats) float64 { return s.PressureSome10 }),
		row("waits_total", "Claims that had to wait.", counter,
			func(s Stats) float64 { return float64(s.WaitCount) }),
		row("wait_seconds_total", "Time that claims waited.", counter,
			func(s Stats) float64 { return s.WaitSeconds }),
	}
}

// Describe implements [prometheus.Collector].
func (g *Guard) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		ch <- m.desc
	}
}

// Collect implements [prometheus.Collector]: memory_guard_rejected_requests_total,
// memory_guard_active_tasks, memory_guard_current_concurrency,
// memory_guard_memory_percent and the further names of docs/scripts.md.
func (g *Guard) Collect(ch chan<- prometheus.Metric) {
	s := g.Stats()
	for _, m := range metrics() {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
}
