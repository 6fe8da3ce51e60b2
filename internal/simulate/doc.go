// Package simulate replays claims against pool policies and counts what each
// costs: cold starts, waits and idle memory.
//
// A [Trace] comes from a CSV file ([ReadCSV]) or from a seeded generator
// ([Generate]). [Run] replays it through one host: boxes are created and restored
// by a limited number of builders, callers first, are used once, and are replaced
// when they get old. The policies are the very code that the live pool runs (see
// package forecast) beside the ones that others use and an [Oracle] that knows
// the future. [Compare] runs several side by side.
//
// Everything is a pure function of its arguments: no I/O beyond the readers and
// writers that are passed in, no clock, no goroutine. The same trace, parameters
// and policies give the same result, bit for bit, on machines of one architecture.
package simulate
