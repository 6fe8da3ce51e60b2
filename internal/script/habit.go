package script

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// What a program must have stayed below, last time, to count as quick.
const (
	quickTime   = 5 * time.Millisecond // of the processor
	quickMemory = 16 << 20             // bytes
)

// unknownTime is the processor time that a program which is not known to be
// quick may use in process, before it is moved.
const unknownTime = 2 * quickTime

// habit is what the runs of a program so far say about the next. It decides only
// where that runs and who goes first; what a run may use does not depend on it.
type habit struct {
	// quick: its last run was short and small.
	quick atomic.Bool
	// outgrown: it had to be moved out of the process, and was not quick in a
	// worker since.
	outgrown atomic.Bool
	// suspect: its last run hit a limit.
	suspect atomic.Bool
}

// habit returns the habit of the program with this fingerprint.
func (s *Service) habit(fingerprint string) *habit {
	if h, ok := s.habits.Get(fingerprint); ok {
		return h
	}
	h := &habit{}
	if was, ok, _ := s.habits.PeekOrAdd(fingerprint, h); ok {
		return was
	}
	return h
}

// ended learns from a run that has ended, or has to be moved.
func (h *habit) ended(out *engine.Outcome) {
	quick := out.Usage.CPUMS < float64(quickTime)/1e6 && out.Usage.PeakBytes < quickMemory
	if out.Moved != "" {
		h.quick.Store(false)
		if !quick {
			h.outgrown.Store(true)
		}
		return
	}
	limited := limited(out)
	if h.quick.Load() != (quick && !limited) { // seldom: the line of memory stays shared
		h.quick.Store(quick && !limited)
	}
	if h.suspect.Load() != limited {
		h.suspect.Store(limited)
	}
	if quick && !limited && h.outgrown.Load() {
		h.outgrown.Store(false)
	}
}

// limited reports whether a run hit a limit by its own doing: one that ran out of
// time without having had much of the processor waited, or its host was busy.
func limited(out *engine.Outcome) bool {
	switch out.End.Cause {
	case bulkhead.CauseExited, bulkhead.CauseKilled:
		return false
	case bulkhead.CauseTimeLimit:
		return out.Usage.CPUMS > out.Usage.WallMS/2
	default:
		return true
	}
}

// class returns who goes first among those that wait for a worker.
func (h *habit) class(p guard.Priority) worker.Class {
	switch {
	case p == guard.PriorityLow, h.suspect.Load():
		return worker.ClassBehind
	case h.quick.Load():
		return worker.ClassQuick
	}
	return worker.ClassUnknown
}

// enter lets a program run in process. One that is not known to be quick waits
// until it is its turn, half the processors at a time, so that the server and the
// programs that are known always find one; it is moved sooner. The function that
// enter returns ends that; without one the caller went away.
func (s *Service) enter(ctx context.Context, h *habit) (most time.Duration, leave func()) {
	if h.quick.Load() {
		return 0, func() {}
	}
	select {
	case s.unknown <- struct{}{}:
		return unknownTime, func() { <-s.unknown }
	case <-ctx.Done():
		return 0, nil
	}
}
