// Package worker runs programs in processes that are started ahead of time,
// each under a hard memory limit, as its own user, without a network, without
// files and behind a system call filter.
//
// [Main] is the process: the server's own binary, started again under another
// name. [Pool] is the server's side: it keeps idle workers ready, gives each run
// one, and replaces what a program has ruined. The worst program costs one
// worker. What comes from a worker is bounded and checked like any other input.
//
// A worker serves runs of different tenants one after the other, each in a new
// goja runtime, and is retired when a run has left it large. Pool may be used
// from any goroutine.
package worker
