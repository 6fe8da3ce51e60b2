package interp

import (
	_ "embed"
	"strings"
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

// run lets the code read nothing, for standard input is where the requests come
// from, and keeps what is done between two executions out of a trace.
func (b *bash) run(req Request) ([]byte, error) {
	var s strings.Builder
	for _, line := range b.vars.set(req.Env) {
		s.WriteString(line + "\n")
	}
	s.WriteString("eval " + shellQuote(req.Code) + " </dev/null\n{ _bulkhead_status=$?\n")
	for _, line := range b.vars.reset(req.Env) {
		s.WriteString(line + "\n")
	}
	s.WriteString("_bulkhead_done $_bulkhead_status; } 2>/dev/null\n")
	return []byte(s.String()), nil
}
