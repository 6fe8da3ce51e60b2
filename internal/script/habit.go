package script

import (
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

// habit is what the runs of a program so far say about the next. It decides only
// where that runs and who goes first; what a run may use does not depend on it.
type habit struct {
	// quick: its last run was short and small. Only then the next is in process,
	// if it may be at all.
	quick atomic.Bool
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
	limited := limited(out)
	quick := out.Moved == "" && !limited && out.Usage.CPUMS < float64(quickTime)/1e6 && out.Usage.PeakBytes < quickMemory
	if h.quick.Load() != quick { // seldom: the line of memory stays shared
		h.quick.Store(quick)
	}
	if out.Moved == "" && h.suspect.Load() != limited {
		h.suspect.Store(limited)
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
