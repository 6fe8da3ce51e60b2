package quota

import (
	"cmp"
	"slices"
)

// Turn is what one sandbox had of the processors since the last look, and whether
// it lets the others go first.
type Turn struct {
	// Limit is how many cores it may use, Used how many it used.
	Limit, Used float64
	// Background says that it has what the others leave. Its limit stays.
	Background bool
	busy       int // looks in a row that found it busy
}

const (
	// A sandbox that has busyShare of its due, busyLooks times in a row, goes to the
	// background; one that has less than calmShare comes back at once: it is done with
	// its work, or others left it too little.
	busyShare, calmShare = 0.7, 0.35
	busyLooks            = 2
)

// TakeTurns decides anew who is in the background: whoever keeps a core busy, or
// all it may use, so that whoever uses little waits for nobody. cores is what the
// host has when none of that is idle, else 0. On a full host nobody can have all
// of its limit: due is what weights would give it.
func TakeTurns(all []*Turn, cores float64) {
	level := 1.0
	if cores > 0 {
		level = due(all, cores)
	}
	for _, t := range all {
		due := level * t.Limit
		if cores == 0 {
			due = min(due, 1)
		}
		switch {
		case t.Used >= busyShare*due:
			t.busy++
			t.Background = t.Background || t.busy >= busyLooks
		case t.Used < calmShare*due:
			t.busy, t.Background = 0, false
		default:
			t.busy = 0
		}
	}
}

// due is the part of their limits that those can have who want more than others
// do: all who use less have that, and the rest of the cores is shared by weight.
func due(all []*Turn, cores float64) float64 {
	byPart := slices.SortedFunc(slices.Values(all), func(a, b *Turn) int { return cmp.Compare(a.Used/a.Limit, b.Used/b.Limit) })
	var limits float64
	for _, t := range all {
		limits += t.Limit
	}
	for _, t := range byPart {
		if t.Used/t.Limit >= busyShare*cores/limits {
			return min(1, cores/limits)
		}
		cores, limits = cores-t.Used, limits-t.Limit
	}
	return 1
}
