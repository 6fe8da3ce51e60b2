package node

import (
	"context"
	"math"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bulkheadhq/bulkhead"
)

// ring keeps the last max values.
type ring[T any] struct {
	max    int
	values []T
}

func (r *ring[T]) add(v T) {
	if len(r.values) >= r.max {
		// Dropping a quarter at a time makes the copying rare.
		r.values = append(r.values[:0], r.values[r.max/4:]...)
	}
	r.values = append(r.values, v)
}

// sample measures every live sandbox once.
func (n *Node) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.SampleEvery)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(8)
	leases := n.leases()
	for _, l := range leases {
		g.Go(func() error {
			n.sampleOne(ctx, l)
			return nil
		})
	}
	_ = g.Wait() // none fails
	n.account(ctx, leases...)
}

func (n *Node) sampleOne(ctx context.Context, l *lease) {
	usage, err := l.box.Part.Usage()
	if err != nil {
		return // the box is going away
	}
	l.meter.read(l.box.Part, usage.Memory-usage.Cache, false)
	now := time.Now().UTC()
	disk := n.diskUse(ctx, l)
	l.mu.Lock()
	defer l.mu.Unlock()
	limits := l.sb.Limits
	s := bulkhead.Sample{
		At: now, CPUCount: int(math.Ceil(limits.CPU)),
		MemUsed: usage.Memory - usage.Cache, MemCache: usage.Cache, MemTotal: limits.MemoryMB << 20,
		DiskUsed: disk, DiskTotal: limits.DiskMB << 20,
	}
	since := l.sb.StartedAt
	if k := len(l.samples.values); k > 0 {
		since = l.samples.values[k-1].At
	}
	if d := now.Sub(since); d > 0 {
		s.CPUPercent = math.Round(float64(usage.CPU-l.cpu)/float64(d)*10000) / 100
	}
	l.cpu = usage.CPU
	l.samples.add(s)
}

// Metrics returns the samples of a sandbox between start and end; a zero time is
// no bound. A sandbox younger than its first sample is measured on the spot.
func (n *Node) Metrics(ctx context.Context, tenant, id string, start, end time.Time) ([]bulkhead.Sample, error) {
	l, err := n.find(tenant, id)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	none := len(l.samples.values) == 0
	l.mu.Unlock()
	if none {
		n.sampleOne(ctx, l)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []bulkhead.Sample
	for _, s := range l.samples.values {
		if (start.IsZero() || !s.At.Before(start)) && (end.IsZero() || !s.At.After(end)) {
			out = append(out, s)
		}
	}
	return out, nil
}

// Logs returns the sandbox's log lines since a time, oldest first, at most limit
// of them, 0 for all that are kept.
func (n *Node) Logs(_ context.Context, tenant, id string, since time.Time, limit int) ([]bulkhead.LogLine, error) {
	l, err := n.find(tenant, id)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []bulkhead.LogLine
	for _, line := range l.logs.values {
		if limit > 0 && len(out) >= limit {
			break
		}
		if line.At.After(since) {
			out = append(out, line)
		}
	}
	return out, nil
}
