package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/parser"
)

// Program is a compiled program. It does not change and may be run by many
// goroutines at once.
type Program struct {
	// Fingerprint is the SHA-256 of the source in hexadecimal.
	Fingerprint string
	// Size is the length of the source in bytes.
	Size int
	// Why says why the program is not small, "" if it is. A program that is not
	// small has no code for the in-process lane.
	Why string

	code      *goja.Program
	names     map[string]bool
	checked   []native // the built-ins of these names
	hostNames map[string]bool
	anyHost   bool
	regexps   int
	buffers   bool
	asks      map[string]bool
	wrapped   int // lines of a source that was made an async function, else 0
}

// Fingerprint returns the identity of a source text.
func Fingerprint(source string) string {
	sum := sha256.Sum256([]byte(source))
	return hex.EncodeToString(sum[:])
}

// sourceName is what stack traces call the program.
const sourceName = "script.js"

// ownSource is what they call built-ins of ours that are written in JavaScript.
const ownSource = "built-in"

// SyntaxError is what is wrong with a source text.
type SyntaxError struct{ Failure Failure }

func (e *SyntaxError) Error() string { return e.Failure.Name + ": " + e.Failure.Message }

// Compile compiles a source text for one lane. The value of a run is the value
// of the last statement; a text that uses return or await outside of functions
// is the body of an async function instead. If the text defines a function main,
// the value is what main(input) returns.
//
// For [LaneInProcess] nothing beyond 8 KiB is parsed, since the parser's stack
// grows with the text; the program then has a Why. A text that no worker has
// vetted may keep it busy for ever: see [Engine.Vet]. The error is a *SyntaxError.
func (e *Engine) Compile(source string, lane Lane) (p *Program, err error) {
	defer func() {
		// goja panics on a few texts that it should refuse or accept.
		if x := recover(); x != nil {
			p, err = nil, syntaxError(fmt.Errorf("the parser gave up: %v", x))
		}
	}()
	p = &Program{Fingerprint: Fingerprint(source), Size: len(source)}
	if lane == LaneInProcess && len(source) > SmallSource {
		p.Why = fmt.Sprintf("its source is longer than %d bytes", SmallSource)
		return p, nil
	}
	tree, wrapped, err := parse(source)
	if err != nil {
		return nil, err
	}
	if wrapped {
		p.wrapped = 1 + strings.Count(source, "\n")
	}
	a := analyse(&e.universe, tree, lane)
	if lane == LaneInProcess && a.why != "" {
		p.Why = a.why
		return p, nil
	}
	p.names, p.hostNames, p.anyHost, p.regexps, p.buffers = a.names, a.hostNames, a.anyHost, a.regexps, a.buffers
	p.asks = a.asks
	p.names["join"] = true // text conversion of an array reaches it without a name
	for name := range p.names {
		p.checked = append(p.checked, e.byName[name]...)
	}
	if p.code, err = goja.CompileAST(tree, false); err != nil {
		return nil, syntaxError(err)
	}
	return p, nil
}

// Verdict is what [Engine.Vet] found out about a source text.
type Verdict struct {
	// Why says why the program is not small, "" if it is.
	Why string `json:"why,omitempty"`
	// Failure is what is wrong with the text, if anything is.
	Failure *Failure `json:"failure,omitempty"`
}

// vetTime is the processor time in which the server must be able to compile a
// small program.
const vetTime = 5 * time.Millisecond

// Vet compiles a text as for [LaneInProcess], and finds that it is not small if
// that takes more than 5 ms: goja's parser needs exponential time for some
// texts. It is for workers, which can be killed; what it calls small there may
// be compiled in the server.
func (e *Engine) Vet(source string) Verdict {
	runtime.LockOSThread() // for its clock
	defer runtime.UnlockOSThread()
	began := threadCPU()
	p, err := e.Compile(source, LaneInProcess)
	if wrong, ok := errors.AsType[*SyntaxError](err); ok {
		return Verdict{Failure: &wrong.Failure}
	}
	if p.Why == "" && threadCPU()-began > vetTime {
		return Verdict{Why: "its source takes long to read"}
	}
	return Verdict{Why: p.Why}
}

// What makes a source the body of an async function.
const (
	// WrapHead stands before its first line.
	WrapHead = "(async () => {"
	// WrapTail stands behind its last.
	WrapTail = "\n})()"
)

// parse parses a program, and says whether it had to be wrapped for that. Source maps
// are off: goja would open the files that a comment in the text names.
func parse(source string) (tree *ast.Program, wrapped bool, err error) {
	if tree, err = parser.ParseFile(nil, sourceName, source, 0, parser.WithDisableSourceMaps); err == nil {
		return tree, false, nil
	}
	tree, err2 := parser.ParseFile(nil, sourceName, WrapHead+source+WrapTail, 0, parser.WithDisableSourceMaps)
	if err2 == nil {
		return tree, true, nil
	}
	// What is wrong is where the one that came further stopped; the other stopped at
	// a return or an await.
	if plain, inside := firstError(err, 0), firstError(err2, len(WrapHead)); plain != nil && inside != nil && after(inside, plain) {
		if at := inside.Position.Line; at <= 1+strings.Count(source, "\n") {
			err = inside
		}
	}
	wrong := syntaxError(err)
	if module.MatchString(source) {
		wrong.Failure.Message += "; a script has no modules, so that it cannot import or export"
	}
	return nil, false, wrong
}

// firstError returns the first of a parser's errors, its first line moved by a head.
func firstError(err error, head int) *parser.Error {
	list, ok := errors.AsType[parser.ErrorList](err)
	if !ok || len(list) == 0 {
		return nil
	}
	first := *list[0]
	if first.Position.Line == 1 {
		first.Position.Column -= head
	}
	return &first
}

// after reports whether a is further down than b.
func after(a, b *parser.Error) bool {
	if a.Position.Line != b.Position.Line {
		return a.Position.Line > b.Position.Line
	}
	return a.Position.Column > b.Position.Column
}

// place returns where in the source a place of the program is; false where the source
// has nothing.
func (p *Program) place(line, column int) (int, int, bool) {
	switch {
	case p.wrapped == 0:
		return line, column, true
	case line > p.wrapped, line == 1 && column <= len(WrapHead):
		return 0, 0, false
	case line == 1:
		return line, column - len(WrapHead), true
	}
	return line, column, true
}

// module matches what only a module can have.
var module = regexp.MustCompile(`(?m)^\s*(import|export)\b\s*[^(.\s]`)

// syntaxError makes the failure of a parser's or compiler's error.
func syntaxError(err error) *SyntaxError {
	msg := err.Error()
	if c, ok := errors.AsType[*goja.CompilerSyntaxError](err); ok {
		msg = c.Message
	}
	return &SyntaxError{Failure{Name: "SyntaxError", Message: clip(msg, maxMessage)}}
}

// maxMessage bounds every text about a failure, in bytes.
const maxMessage = 4 << 10

// clip returns s, or its first n bytes and an ellipsis.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
