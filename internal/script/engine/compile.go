package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"runtime"
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
}

// Fingerprint returns the identity of a source text.
func Fingerprint(source string) string {
	sum := sha256.Sum256([]byte(source))
	return hex.EncodeToString(sum[:])
}

// sourceName is what stack traces call the program.
const sourceName = "script.js"

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
	tree, err := parse(source)
	if err != nil {
		return nil, err
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

// parse parses a program. Source maps are off: goja would open the files that a
// comment in the text names.
func parse(source string) (*ast.Program, error) {
	tree, err := goja.Parse(sourceName, source, parser.WithDisableSourceMaps)
	if err == nil {
		return tree, nil
	}
	const head, tail = "(async () => {", "\n})()"
	if tree, err2 := goja.Parse(sourceName, head+source+tail, parser.WithDisableSourceMaps); err2 == nil {
		return tree, nil
	}
	wrong := syntaxError(err)
	if module.MatchString(source) {
		wrong.Failure.Message += "; a script has no modules, so that it cannot import or export"
	}
	return nil, wrong
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
