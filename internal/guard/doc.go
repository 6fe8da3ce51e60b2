// Package guard decides, from the memory that is really left, whether one more
// piece of work may start: a script run, a sandbox, anything with a cost in
// bytes.
//
// Bottom up: [Core] is the decision as a pure state machine, without clock,
// lock or I/O. [Probe] reads the memory of the cgroup (v1 or v2) or the host,
// and the kernel's pressure figures. [Guard] puts a mutex, a clock and a loop
// around both and is what callers use: Acquire, then Release. [Learner] turns
// the peaks of past runs into the cost of the next one.
//
// Everything exported by Guard and Learner may be used from any goroutine; Core
// and Probe belong to one goroutine at a time. The package limits admission
// only: it never ends work that runs.
package guard
