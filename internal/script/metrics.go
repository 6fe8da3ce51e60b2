package script

import "github.com/prometheus/client_golang/prometheus"

// metrics are the service's own figures; the guard has its own.
type metrics struct {
	runs  *prometheus.CounterVec
	time  *prometheus.HistogramVec
	moved prometheus.Counter
	stuck prometheus.Counter
	cache *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "script_runs_total", Help: "Runs that ended, by lane and cause.",
		}, []string{"lane", "cause"}),
		time: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "script_run_seconds", Help: "Time of a run on the clock, by lane.",
			Buckets: prometheus.ExponentialBuckets(16e-6, 4, 11),
		}, []string{"lane"}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "script_moved_total", Help: "Runs that began in process and were moved to a worker.",
		}),
		stuck: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "script_stuck_total", Help: "Runs in process that a built-in kept from stopping; a defect.",
		}),
		cache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "script_cache_total", Help: "Look-ups of compiled programs, by outcome: hit or miss.",
		}, []string{"outcome"}),
	}
}

// ended counts a run.
func (m *metrics) ended(res *Result) {
	m.runs.WithLabelValues(res.Lane, string(res.End.Cause)).Inc()
	m.time.WithLabelValues(res.Lane).Observe(res.Usage.WallMS / 1000)
}

// Service is a Prometheus collector of script_* and of its workers.
var _ prometheus.Collector = (*Service)(nil)

// workerMetrics are the figures of the pool.
func workerMetrics() (workers, started, lost *prometheus.Desc) {
	return prometheus.NewDesc("script_workers", "Worker processes now, by state: idle or busy.", []string{"state"}, nil),
		prometheus.NewDesc("script_workers_started_total", "Worker processes ever started.", nil, nil),
		prometheus.NewDesc("script_workers_lost_total", "Worker processes replaced because a run ended them.", nil, nil)
}

// Describe implements [prometheus.Collector].
func (s *Service) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{s.metrics.runs, s.metrics.time, s.metrics.moved, s.metrics.stuck, s.metrics.cache} {
		c.Describe(ch)
	}
	workers, started, lost := workerMetrics()
	ch <- workers
	ch <- started
	ch <- lost
}

// Collect implements [prometheus.Collector].
func (s *Service) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{s.metrics.runs, s.metrics.time, s.metrics.moved, s.metrics.stuck, s.metrics.cache} {
		c.Collect(ch)
	}
	workers, started, lost := workerMetrics()
	p := s.cfg.Pool.Stats()
	ch <- prometheus.MustNewConstMetric(workers, prometheus.GaugeValue, float64(p.Idle), "idle")
	ch <- prometheus.MustNewConstMetric(workers, prometheus.GaugeValue, float64(p.Busy), "busy")
	ch <- prometheus.MustNewConstMetric(started, prometheus.CounterValue, float64(p.Started))
	ch <- prometheus.MustNewConstMetric(lost, prometheus.CounterValue, float64(p.Lost))
}
