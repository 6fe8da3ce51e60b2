package guard

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// leastBurst is how many bytes may always be printed at once.
const leastBurst = 256 << 10

// setOutputRate bounds output to so many bytes a second, a quarter of them at once;
// 0 means no bound.
func (g *Guard) setOutputRate(bytes int64) {
	if bytes == 0 {
		g.out.SetLimit(rate.Inf)
		return
	}
	g.out.SetBurst(int(max(leastBurst, bytes/4)))
	g.out.SetLimit(rate.Limit(bytes))
}

// AwaitOutput blocks until n more bytes may be given out, or ctx is done. Whoever
// reads what programs print calls it between reading and giving out, so that their
// pipes fill and they wait.
func (g *Guard) AwaitOutput(ctx context.Context, n int) {
	for n > 0 && ctx.Err() == nil && g.out.Limit() != rate.Inf {
		part := min(n, g.out.Burst())
		r := g.out.ReserveN(time.Now(), part)
		if !r.OK() {
			continue // what may come at once has just become less
		}
		n -= part
		if wait := r.Delay(); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				r.Cancel()
			}
		}
	}
}
