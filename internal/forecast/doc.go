// Package forecast decides how many boxes of a template should be waiting: how
// many warm, how many cold, until when, and why.
//
// It is pure: no I/O, no goroutine, no clock of its own. Every method is told
// the time, so that the live pool and the simulator drive the very same code.
// Nothing in it is safe for concurrent use; the caller holds a lock. Time that
// runs backwards is taken as standing still.
//
// # The question
//
// A pool of k boxes fails a claim when k boxes given away before are still being
// replaced. So the k-th box earns its keep only through the claims that come at
// depth k, with k-1 replacements outstanding, and, where m builders replace boxes,
// those at depths k+m, k+2m and so on, who get a box behind that one. The k-th box
// is worth keeping for as long as such claims are expected soon enough:
//
//	(such claims per second) × (price of a miss)  ≥  (price of its memory per second)
//
// This is the newsvendor's rule, box by box: its target is the quantile of the
// demand during the refill lead time at which an extra box no longer pays. It is
// asked twice. A warm box saves a restore and costs the memory that a cold box
// does not; a cold one saves a create and costs little, so cold boxes are kept
// for rarer demand.
//
// # The model
//
// [Model] learns, for each depth, how long it takes until that depth is reached
// again: a hazard over the logarithm of the time since it was last reached. A
// busy template shows short gaps and a high hazard, a burst that is over shows a
// falling one, and a box is dropped when the hazard no longer pays for it. A new
// burst raises the depth, and so the target, with its own first claims. Depths
// never reached yet are judged from those at half their depth.
//
// Gaps are measured in operational time, which runs fast in hours that are busy
// by the template's own hour-of-day and day-of-week pattern and slow at night: a
// quiet night does not look like the end of demand. A depth that is reached at
// equal gaps, as by a timer, is provided for around the next one only.
//
// [Seed] is the starting configuration that the model replaces, [Fixed] a pinned
// size. docs/pools-policy.md has what else was tried, and what it lost by.
package forecast
