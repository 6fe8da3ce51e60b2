// Package engine runs one JavaScript program at a time in a goja runtime whose
// built-ins are charged for what they are about to allocate.
//
// It knows two lanes. A program is compiled once: [Engine.Compile] parses it,
// proves from its syntax whether it is small, and rewrites a small one so that
// the few operators which could run away ask first. A small program may run in
// the server itself ([LaneInProcess]): every built-in it can reach does bounded
// work there, and whatever turns out not to be small stops the run with
// [Outcome.Moved] set, for the caller to run again in a worker process. In a
// worker ([LaneWorker]) everything is allowed and only the budget, and the
// process's own limit around it, ends a run.
//
// A run is repeatable: clock readings, random numbers and the host's answers
// come through [Journal], so that a run that is moved goes the same way again
// and nothing it did to the outside is done twice.
//
// An Engine may be used from any goroutine; each run belongs to the goroutine
// that calls [Engine.Run]. The package starts no process and opens no file.
package engine
