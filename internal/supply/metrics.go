package supply

import "github.com/prometheus/client_golang/prometheus"

// desc describes a metric of a template's pool.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("bulkhead_pool_"+name, help, append([]string{"template"}, labels...), nil)
}

var (
	boxesDesc    = desc("boxes", "Boxes now, by stage: warm, cold, making, leased.", "stage")
	targetDesc   = desc("target", "Boxes that should wait, by stage.", "stage")
	pinnedDesc   = desc("pinned", "1 when an operator set the size.")
	requestsDesc = desc("requests_total", "Requests by the stage of the box they got: warm is a hit.", "stage")
	missesDesc   = desc("misses_total", "Requests that got less than a warm box, by cause.", "cause")
	handedDesc   = desc("handed_total", "Misses that got a box which became warm while they waited.")
	wastedDesc   = desc("wasted_total", "Boxes destroyed unused, by cause.", "cause")
	failedDesc   = desc("failed_total", "Boxes that could not be made ahead.")
	madeDesc     = desc("make_seconds", "Time that making boxes took, by step: create, restore.", "step")
	idleDesc     = desc("idle_seconds_total", "Time that boxes have waited, by stage.", "stage")
	idleMBsDesc  = desc("idle_mb_seconds_total", "Memory of waiting boxes times the time they have waited, in MB·s.")
	boxMBDesc    = desc("box_mb", "Measured memory of one waiting box in MB, by stage.", "stage")
	useDesc      = desc("use_total", "Requests over restarts of the server.")
	recentDesc   = desc("use_recent", "Requests within the last hour.")
	shortDesc    = prometheus.NewDesc("bulkhead_pool_memory_short", "1 while pools are smaller than wanted for want of memory.", nil, nil)
)

// collector shows the pools to Prometheus.
type collector struct{ p *Planner }

// Collector returns the metrics of all pools, as they are when asked for.
func (p *Planner) Collector() prometheus.Collector { return collector{p} }

// Describe implements [prometheus.Collector].
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		boxesDesc, targetDesc, pinnedDesc, requestsDesc, missesDesc, handedDesc, wastedDesc, failedDesc,
		madeDesc, idleDesc, idleMBsDesc, boxMBDesc, useDesc, recentDesc, shortDesc,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	truth := map[bool]float64{true: 1}
	r := c.p.Report()
	send(shortDesc, gauge, truth[r.Memory.Short])
	for _, s := range r.Pools {
		t := s.Template
		for stage, n := range map[string]int{"warm": s.Warm, "cold": s.Cold, "making": s.Making, "leased": s.Leased} {
			send(boxesDesc, gauge, float64(n), t, stage)
		}
		send(targetDesc, gauge, float64(s.Target.Warm), t, "warm")
		send(targetDesc, gauge, float64(s.Target.Cold), t, "cold")
		send(pinnedDesc, gauge, truth[s.Pinned], t)
		for stage, n := range s.Hits {
			send(requestsDesc, counter, float64(n), t, string(stage))
		}
		for cause, n := range s.Misses {
			send(missesDesc, counter, float64(n), t, cause)
		}
		for cause, n := range s.Wasted {
			send(wastedDesc, counter, float64(n), t, cause)
		}
		send(handedDesc, counter, float64(s.Handed), t)
		send(failedDesc, counter, float64(s.Failed), t)
		ch <- prometheus.MustNewConstSummary(madeDesc, uint64(s.Created), s.CreateSeconds, nil, t, "create")    //nolint:gosec // counts
		ch <- prometheus.MustNewConstSummary(madeDesc, uint64(s.Restored), s.RestoreSeconds, nil, t, "restore") //nolint:gosec // counts
		send(idleDesc, counter, s.WarmSeconds, t, "warm")
		send(idleDesc, counter, s.ColdSeconds, t, "cold")
		send(idleMBsDesc, counter, s.IdleMBs, t)
		send(boxMBDesc, gauge, s.WarmMB, t, "warm")
		send(boxMBDesc, gauge, s.ColdMB, t, "cold")
		send(useDesc, counter, float64(s.Use.Total), t)
		send(recentDesc, gauge, float64(s.Use.Recent), t)
	}
}
