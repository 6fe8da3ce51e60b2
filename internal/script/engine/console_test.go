package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConsole compares what programs write with what a reader expects of a console.
func TestConsole(t *testing.T) {
	e := newEngine(t)
	for _, s := range []struct {
		name, source string
		want         []string
	}{
		{
			"levels", `console.log("a", 1); console.info({b: [2]}); console.debug(null); console.warn(undefined); console.error(() => 1)`,
			[]string{`info a 1`, `info {"b":[2]}`, `debug null`, `warn undefined`, `error [Function]`},
		},
		{
			"format", `console.log("%s is %d years, %i, %f, %o, %j %% %c! %x", "Bob", "42", 3.7, "1.5", {a: 1}, [1], "css", "tail"); console.log("100%", 1)`,
			[]string{`info Bob is 42 years, 3, 1.5, {"a":1}, [1] % ! %x tail`, `info 100% 1`},
		},
		{
			"collections", `console.log(new Map([["a", {b: 1}], ["c", new Set([1, "x"])]]), new Set(), Promise.resolve(1))`,
			[]string{`info Map(2) {"a" => {"b":1}, "c" => Set(2) {1, "x"}} Set(0) {} [Promise]`},
		},
		{
			"errors", `function f() { return new RangeError("outer", {cause: new TypeError("inner")}) } console.error("it:", f())`,
			[]string{"error it: RangeError: outer\n    at f (script.js:1:23)\n    at <anonymous> (script.js:1:104)\n  caused by TypeError: inner"},
		},
		{
			"tables", `console.table([{a: 1, b: "x"}, {a: 2, c: [1]}]); console.table(["p"]); console.table({x: {v: 1}, y: 2}); console.table(5)`,
			[]string{
				"info (index)  a  b  c\n0        1  x  \n1        2     [1]", "info (index)  Values\n0        p",
				"info (index)  v  Values\nx        1  \ny           2", "info 5",
			},
		},
		{
			"groups", `console.group("G"); console.log("in\nside"); console.group(); console.warn("deep"); console.groupEnd(); console.groupEnd(); console.groupEnd(); console.log("out")`,
			[]string{"info G", "info   in\n  side", "warn     deep", "info out"},
		},
		{
			"counters", `console.count(); console.count("x"); console.count(); console.countReset(); console.count()`,
			[]string{"info default: 1", "info x: 1", "info default: 2", "info default: 1"},
		},
		{
			"assertions", `console.assert(1 === 2, "a", {b: 1}); console.assert(true, "not this"); console.timeEnd("none")`,
			[]string{`error Assertion failed a {"b":1}`, `warn there is no timer "none"`},
		},
		{"trace", `function f() { console.trace("here") } f()`, []string{"debug Trace: here\nat f (script.js:1:29)\nat <anonymous> (script.js:1:41)"}},
		{
			"rejections that nobody handles", `Promise.reject(new Error("lost")); queueMicrotask(() => { throw "text" }); Promise.reject(1).catch(() => 0); 1`,
			[]string{"error Uncaught (in promise) Error: lost\n    at <anonymous> (script.js:1:16)", "error Uncaught (in promise) text"},
		},
	} {
		for _, lane := range []Lane{LaneInProcess, LaneWorker} {
			w := &world{}
			out := e.runSource(t, s.source, lane, Input{Host: w})
			var got []string
			for _, l := range w.lines {
				got = append(got, l.Level+" "+l.Message)
			}
			if diff := cmp.Diff(s.want, got); diff != "" || out.Failure != nil || out.Moved != "" {
				t.Errorf("%s, %v: %+v %s\n%s", s.name, lane, out.Failure, out.Moved, diff)
			}
		}
	}
	w := &world{}
	e.runSource(t, `console.time("x"); console.timeLog("x"); console.timeEnd("x")`, LaneInProcess, Input{Host: w})
	if len(w.lines) != 2 || !strings.HasPrefix(w.lines[0].Message, "x: ") || !strings.HasSuffix(w.lines[1].Message, " ms") {
		t.Errorf("a timer wrote %+v", w.lines)
	}
	w = &world{}
	e.runSource(t, `console.log("x".repeat(1e5), "tail"); const m = new Map(); for (let i = 0; i < 1e4; i++) m.set(i, m); console.log(m); console.table([...m.keys()])`,
		LaneWorker, Input{Host: w})
	for _, l := range w.lines {
		if n := len(l.Message); n > maxLine+8 || n < 500 {
			t.Errorf("a line has %d bytes", n)
		}
	}
	if len(w.lines) != 3 {
		t.Errorf("%d lines, want 3", len(w.lines))
	}
}
