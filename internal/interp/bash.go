package interp

import (
	_ "embed"
	"strings"
	"time"
)

// bashProgram is the shell's side of the lean lane.
//
//go:embed kernel/kernel.sh
var bashProgram []byte

// bash makes the lean kernel run bash, whose requests are commands. It is served
// here, not by its Jupyter kernel, because that one takes 50 ms for each execution
// and loses lines of a program that prints many.
type bash struct{ vars variables }

var _ leanLanguage = (*bash)(nil)

func (*bash) command(leanConfig) (argv []string, stdin bool) {
	return []string{"bash", "--noediting", "-i", "+m"}, true
}

func (*bash) start(leanConfig) ([]byte, error) { return bashProgram, nil }

func (b *bash) rebind(l binding) ([]byte, error) {
	return []byte(strings.Join(b.vars.lease(&l), "\n") + "\n"), nil
}

// every is short, since bash forgets an interrupt that comes while a child of it
// ends by itself.
func (*bash) every(time.Duration) time.Duration { return 100 * time.Millisecond }

// run lets the code read nothing, for standard input is where the requests come
// from. What is done between two executions is kept out of a trace and cannot be
// interrupted: an interrupt that comes late would take the next request with it.
func (b *bash) run(req Request) ([]byte, error) {
	var s strings.Builder
	for _, line := range b.vars.set(req.Env) {
		s.WriteString(line + "\n")
	}
	s.WriteString("trap - INT\neval " + shellQuote(req.Code) + " </dev/null\n{ _bulkhead_status=$?; trap '' INT\n")
	for _, line := range b.vars.reset(req.Env) {
		s.WriteString(line + "\n")
	}
	s.WriteString("_bulkhead_done $_bulkhead_status; } 2>/dev/null\n")
	return []byte(s.String()), nil
}
