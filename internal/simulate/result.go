package simulate

import (
	"math"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// Result is what a policy did with a trace.
type Result struct {
	// Policy is its name.
	Policy string `json:"policy"`
	// Requests is the number of claims: Warm found a warm box, Cold a cold one or
	// one being restored, New neither.
	Requests int `json:"requests"`
	Warm     int `json:"warm"`
	Cold     int `json:"cold"`
	New      int `json:"new"`
	// The waits, from the claim to the box, nearest rank.
	WaitMean time.Duration `json:"waitMeanNs"`
	WaitP50  time.Duration `json:"waitP50Ns"`
	WaitP95  time.Duration `json:"waitP95Ns"`
	WaitP99  time.Duration `json:"waitP99Ns"`
	WaitMax  time.Duration `json:"waitMaxNs"`
	// IdleWarm and IdleCold are the memory of ready boxes that nobody had leased,
	// in MB·s.
	IdleWarm float64 `json:"idleWarmMBs"`
	IdleCold float64 `json:"idleColdMBs"`
	// Created and Restored count what the builders did; DroppedWarm and
	// DroppedCold the boxes that were destroyed unused.
	Created     int `json:"created"`
	Restored    int `json:"restored"`
	DroppedWarm int `json:"droppedWarm"`
	DroppedCold int `json:"droppedCold"`
	// Cost is the idle memory plus the price of the waits, in MB·s.
	Cost float64 `json:"costMBs"`
	// Regret is the cost beyond the oracle's; 0 until [Compare] sets it.
	Regret float64 `json:"regretMBs"`
	// Templates has the misses and the seconds waited beyond the lease by template.
	Templates []TemplateResult `json:"templates,omitempty"`

	warmNow, coldNow int // idle boxes at the moment
	timeline         timeline
}

// TemplateResult is a template's share of a [Result].
type TemplateResult struct {
	// Misses is the number of claims that found no warm box.
	Misses int `json:"misses"`
	// Waited is how many seconds they waited for one.
	Waited float64 `json:"waitedSeconds"`
}

// Idle is all idle memory, in MB·s.
func (r *Result) Idle() float64 { return r.IdleWarm + r.IdleCold }

// ColdStarts is the share of claims that found no warm box.
func (r *Result) ColdStarts() float64 {
	return float64(r.Cold+r.New) / math.Max(1, float64(r.Requests))
}

func newResult(name string, tr *Trace) *Result {
	return &Result{Policy: name, timeline: timeline{width: max(1, int64(tr.Span)/buckets+1)}}
}

func (r *Result) idleMB(c forecast.Costs) float64 {
	return float64(r.warmNow)*c.WarmMB + float64(r.coldNow)*c.ColdMB
}

func (r *Result) claim(now int64, kind forecast.Kind) {
	r.Requests++
	switch kind {
	case forecast.KindWarm:
		r.Warm++
	case forecast.KindCold:
		r.Cold++
	case forecast.KindNew:
		r.New++
	}
	r.timeline.claim(now, kind != forecast.KindWarm)
}

func (h *host) finish() {
	r := h.res
	var warm, cold int64
	for i := range h.pools {
		p := &h.pools[i]
		for p.warm.n > 0 {
			p.warm.take(h.now)
		}
		for p.cold.n > 0 {
			p.cold.take(h.now)
		}
		warm += p.warm.sum
		cold += p.cold.sum
		r.Templates = append(r.Templates, TemplateResult{Misses: p.misses, Waited: float64(p.waited) / 1e9})
	}
	r.IdleWarm = float64(warm) / 1e9 * h.p.WarmMB
	r.IdleCold = float64(cold) / 1e9 * h.p.ColdMB
	r.setWaits(h.waits, h.p.Costs)
}

// setWaits fills in the waits and the cost; misses are the waits of those who
// found no warm box, the others waited for the lease alone.
func (r *Result) setWaits(misses []int64, c forecast.Costs) {
	slices.Sort(misses)
	sum := float64(r.Requests-len(misses)) * float64(c.Lease)
	for _, w := range misses {
		sum += float64(w)
	}
	rank := func(p float64) time.Duration {
		i := int(math.Ceil(p*float64(r.Requests))) - 1 - (r.Requests - len(misses))
		if i < 0 {
			return c.Lease
		}
		return time.Duration(misses[i])
	}
	r.WaitMean = time.Duration(sum / math.Max(1, float64(r.Requests)))
	r.WaitP50, r.WaitP95, r.WaitP99, r.WaitMax = rank(.5), rank(.95), rank(.99), rank(1)
	r.Cost = r.Idle() + sum/1e9*c.WaitPrice
}

// buckets is how many points a timeline has.
const buckets = 240

// timeline is what happened when, for the picture.
type timeline struct {
	width  int64 // of a bucket, in ns
	claims [buckets]int32
	misses [buckets]int32
	idleNS [buckets]float64 // MB·ns
}

func (t *timeline) claim(now int64, miss bool) {
	b := min(now/t.width, buckets-1)
	t.claims[b]++
	if miss {
		t.misses[b]++
	}
}

// idle books mb from one time to another.
func (t *timeline) idle(from, to int64, mb float64) {
	if mb == 0 {
		return
	}
	for from < to {
		b := min(max(from, 0)/t.width, buckets-1)
		end := (b + 1) * t.width
		if b == buckets-1 || end > to {
			end = to
		}
		t.idleNS[b] += mb * float64(end-from)
		from = end
	}
}
