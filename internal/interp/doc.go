// Package interp is the code interpreter in the box: the server on port 49999
// that runs code in named contexts and streams what comes of it, in E2B's
// protocol.
//
// From the bottom up:
//
//   - A [Kernel] is one process of one language. There are two kinds. Python runs
//     in the lean lane: kernel/kernel.py puts IPython's InteractiveShell between
//     two pipes, without ZMQ, because a round trip then takes a millisecond instead
//     of thirty and the process a third less memory. Every other language runs
//     through its Jupyter kernel, found by its kernelspec.
//   - A context is what a client names: an id, a language, a working directory and
//     the kernel behind it, which is started when first needed and anew when it
//     dies. One execution runs at a time in a context; the others wait in line.
//   - A [Server] is the table of contexts and the HTTP in front of it.
//
// The server trusts neither side. What clients send is bounded in size and number.
// A kernel runs the tenant's code and may answer anything: its messages are
// bounded, checked and skipped when too long, and one that no longer answers is
// killed and started anew.
//
// The package leaves out time limits: a client that has waited long enough goes
// away, and what it ran is then interrupted.
package interp
