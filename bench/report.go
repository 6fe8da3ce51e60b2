package main

import (
	"fmt"

	"github.com/bulkheadhq/bulkhead/bench/results"
)

// report is the rows of a suite.
type report struct{ *results.Report }

// add records a figure. peer, when not nil, is what it is compared with: the
// ratio is the peer's median by ours, so that more is better.
func (r *report) add(name string, s sample, peerName string, peer *sample) {
	x := results.Row{
		Name: name, P50: ms(s.percentile(50)), P95: ms(s.percentile(95)), P99: ms(s.percentile(99)),
		Unit: "ms", Failures: s.failures, N: len(s.times),
	}
	if peer != nil && len(peer.times) > 0 && x.P50 > 0 {
		x.Peer = fmt.Sprintf("%s %.1f ms", peerName, ms(peer.percentile(50)))
		x.Ratio = ms(peer.percentile(50)) / x.P50
	}
	r.Add(x, s.firstErr)
}

// rate records a number of things per second.
func (r *report) rate(name string, perSecond float64, failures int, peerName string, peer float64) {
	x := results.Row{Name: name, P50: perSecond, P95: perSecond, P99: perSecond, Unit: "1/s", Failures: failures, N: 1}
	if peer > 0 {
		x.Peer, x.Ratio = fmt.Sprintf("%s %.2f/s", peerName, peer), perSecond/peer
	}
	r.Add(x, nil)
}

// value records one number that is not a time.
func (r *report) value(name string, v float64, unit string) {
	r.Add(results.Row{Name: name, P50: v, P95: v, P99: v, Unit: unit, N: 1}, nil)
}
