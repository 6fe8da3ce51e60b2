package quota

import (
	"cmp"
	"slices"
)

// Turn is what one sandbox has of the processors, and whether it lets the others
// go first.
type Turn struct {
	// Limit is how many cores it may use, Used how many it used since the last look.
	Limit, Used float64
	// Background says that it has what the others leave. Its limit stays.
	Background bool
	lately     float64 // cores it used over the last looks, the newest for a half
}

// A sandbox that has lately had busyShare of its due goes to the background; one
// that had less than calmShare comes back: it is done with its work, or others left
// it too little.
const busyShare, calmShare = 0.7, 0.35

// TakeTurns decides anew who is in the background: whoever keeps a core busy, or
// all it may use, so that whoever uses little need not wait for them. When the host has
// no idle processor time, cores is how many it has, and others what is used by
// others than these; else both are 0. On a full host nobody can have all of its
// limit: due is what weights would give it, or half of that where others use more.
func TakeTurns(all []*Turn, cores, others float64) {
	for _, t := range all {
		t.lately = (t.lately + t.Used) / 2
	}
	level := 1.0
	if cores > 0 {
		level = max(due(all, cores-others), due(all, cores)/2)
	}
	for _, t := range all {
		due := level * t.Limit
		if cores == 0 {
			due = min(due, 1)
		}
		switch {
		case t.lately >= busyShare*due:
			t.Background = true
		case t.lately < calmShare*due:
			t.Background = false
		}
	}
}

// due is the part of their limits that those can have who want more than others
// do: all who use less keep that, and the rest of the cores is shared by weight.
func due(all []*Turn, cores float64) float64 {
	byPart := slices.SortedFunc(slices.Values(all), func(a, b *Turn) int { return cmp.Compare(a.lately/a.Limit, b.lately/b.Limit) })
	var limits float64
	for _, t := range all {
		limits += t.Limit
	}
	for _, t := range byPart {
		if t.lately/t.Limit >= busyShare*cores/limits {
			return min(1, cores/limits)
		}
		cores, limits = cores-t.lately, limits-t.Limit
	}
	return 1
}
