package guard

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// watched is a program, or a run of one, while it is watched.
type watched struct {
	watches int
	began   time.Time

	// base is what its tree had used of the processors when it began, once based.
	// It is read with the first look that comes a while after, so that a short run
	// costs nothing; a run is given that while.
	base  time.Duration
	based bool
	due   time.Time // when it can have used up its time
}

// lookAtCPU ends trees that have used more processor time than limit. It reads
// the process table only when one of them can have come that far.
func (g *Guard) lookAtCPU(limit time.Duration) time.Duration {
	now, pause := time.Now(), slowest
	var all []proctree.Process
	g.mu.Lock()
	roots := make(map[int]*watched, len(g.watched))
	for pid, w := range g.watched {
		if pid != os.Getpid() { // a watch over the whole box is of nobody's time
			roots[pid] = w
		}
	}
	g.mu.Unlock()
	for pid, w := range roots {
		if w.due.IsZero() && w.based {
			w.due = w.began.Add(atLeast(limit))
		}
		if !w.based && now.Sub(w.began) < slowest {
			continue
		}
		if w.based && now.Before(w.due) {
			pause = min(pause, w.due.Sub(now))
			continue
		}
		if all == nil {
			var err error
			if all, err = proctree.List(g.cfg.Proc); err != nil {
				return slowest
			}
		}
		var used time.Duration
		for _, p := range proctree.Members(all, pid) {
			used += p.CPU
		}
		if !w.based {
			w.base, w.based = used, true
		}
		used -= w.base
		if used < limit {
			w.due = now.Add(atLeast(limit - used))
			pause = min(pause, atLeast(limit-used))
			continue
		}
		w.due = now.Add(settle) // should it be found again
		g.record(bulkhead.End{
			Cause: bulkhead.CauseTimeLimit, At: now, Limit: limit.Milliseconds(), Peak: used.Milliseconds(),
			Detail: fmt.Sprintf("the process used %v of processor time, more than its %v, and was ended", used, limit),
		}, all, pid)
		ended := proctree.Kill(g.cfg.Proc, pid)
		g.cfg.Log.Warn("processor time: ended a tree", slog.Int("pid", pid), slog.Duration("used", used),
			slog.Duration("limit", limit), slog.Int("ended", ended))
	}
	return pause
}

// atLeast is the shortest time in which all processors together can use so much.
func atLeast(used time.Duration) time.Duration {
	return max(used/time.Duration(runtime.NumCPU()), fastest)
}
