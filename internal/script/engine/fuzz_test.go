package engine

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dop251/goja"
)

// FuzzCompile compiles any text for both lanes: it never panics, and what one
// lane accepts the other does not refuse.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		`1 + 1`, `const {a, ...b} = input; [...b.c, a]["x" + 1]`, "`${1}${2}${3}${4}${5}`", `new Map([[1]])`, `return await 1`,
		`class A extends B { #x = 1; static { } get y() { } }`, `/(?=a)(b\1)/y`, `function* f() { yield* g() }`, `for (const [a, ...b] of c);`,
		`'\u{10FFFF}'`, `new Uint8Array(...[1])`, `({__proto__: null, constructor() {}})`,
	} {
		f.Add(s)
	}
	e, err := New()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, source string) {
		if len(source) > SmallSource {
			t.Skip()
		}
		small, errSmall := e.Compile(source, LaneInProcess)
		_, errWorker := e.Compile(source, LaneWorker)
		if errSmall == nil && small.Why == "" && errWorker != nil {
			t.Errorf("only the in-process lane compiles %q: %v", source, errWorker)
		}
		if errSmall != nil && errWorker == nil {
			t.Errorf("only the worker lane compiles %q: %v", source, errSmall)
		}
	})
}

// FuzzInput decodes any JSON text as an input: the value is the one that JSON.parse
// makes of it.
func FuzzInput(f *testing.F) {
	for _, s := range []string{
		`null`, ` [ true , false,null ] `, `-0`, `1e999`, `-1.5E-3`, `9007199254740993`, `{}`, "[\t\n\r ]", `"a\u00e9\n\/\"\\ 😀"`,
		`"\ud800"`, `"\ud83d\ude00"`, "\"\xff\xfe\"", `{"a":1,"b":2,"a":{"c":[[],{}]}}`, `{"__proto__":{"x":1},"constructor":2,"2":0,"1":0,"":1}`,
	} {
		f.Add(s)
	}
	rt := goja.New()
	v, err := rt.RunString(`(function same(a, b) {
		if (typeof a !== "object" || a === null || typeof b !== "object" || b === null) return Object.is(a, b);
		const x = Reflect.ownKeys(a), y = Reflect.ownKeys(b);
		return Object.getPrototypeOf(a) === Object.getPrototypeOf(b) && Array.isArray(a) === Array.isArray(b) &&
			x.length === y.length && x.every((k, i) => k === y[i] && same(a[k], b[k]));
	})`)
	if err != nil {
		f.Fatal(err)
	}
	same, _ := goja.AssertFunction(v)
	parse, _ := goja.AssertFunction(rt.Get("JSON").ToObject(rt).Get("parse"))
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) || jsonDepth(text) > smallDepth {
			return
		}
		want, err := parse(nil, rt.ToValue(text))
		if err != nil {
			return // JSON of Go, but not of JavaScript
		}
		d := decoder{rt: rt, text: []byte(text)}
		got := d.value()
		if ok, err := same(nil, got, want); err != nil || !ok.ToBoolean() {
			t.Errorf("%q is %v, want %v (%v)", text, got, want, err)
		}
	})
}

// TestSmallSourcesCompileQuickly compiles the largest texts of one nested thing.
// The few for which goja's parser needs exponential time are in TestVet.
func TestSmallSourcesCompileQuickly(t *testing.T) {
	e := newEngine(t)
	runtime.LockOSThread() // for its clock
	defer runtime.UnlockOSThread()
	for _, s := range []struct{ open, middle, close string }{
		{"(", "1", ")"},
		{"[", "1", "]"},
		{"[", "", ""},
		{"(", "", ""},
		{"{", "", "}"},
		{"({a:", "1", "})"},
		{"`${", "1", "}`"},
		{"!", "1", ""},
		{"-", "1", ""},
		{"a=", "1", ""},
		{"a=>", "1", ""},
		{"(a)=>", "1", ""},
		{"async(", "1", ")"},
		{"(a,", "1", ")"},
		{"a?", "b", ":c"},
		{"a?b:", "c", ""},
		{"new ", "a", ""},
		{"f(", "1", ")"},
		{"if(1)", "2", ""},
		{"function f(){", "", "}"},
		{"class A{x(){", "", "}}"},
		{"try{", "", "}finally{}"},
		{"for(;;)", ";", ""},
		{"switch(1){case 1:", "", "}"},
		{"a?.[", "0", "]"},
		{"typeof ", "a", ""},
		{"1**", "1", ""},
		{"await ", "1", ""},
		{"({[", "1", "]:1})"},
		{"[...", "a", "]"},
		{"(a=(", "1", "))"},
		{"var [", "a", "]=b"},
		{"let {a:", "{}", "}=b"},
		{"a in ", "b", ""},
	} {
		n := SmallSource / (len(s.open) + len(s.close))
		source := strings.Repeat(s.open, n-1) + s.middle + strings.Repeat(s.close, n-1)
		began := threadCPU()
		_, err := e.Compile(source, LaneInProcess)
		if took := threadCPU() - began; took > time.Second {
			t.Errorf("%d × %q took %v (%v)", n, s.open, took, err)
		}
	}
}

func TestVet(t *testing.T) {
	e := newEngine(t)
	nested := func(n int, open, middle, end string) string {
		return strings.Repeat(open, n) + middle + strings.Repeat(end, n)
	}
	for _, s := range []struct{ source, why string }{
		{"[1, 2].map(x => x + 1)", ""},
		{"eval('1')", "it uses eval"},
		{nested(14, "(a=", "1", ")=>1"), "its source takes long to read"},
		{nested(2000, "a:", "1", ""), "its source takes long to read"},
		{strings.Repeat(" ", SmallSource+1), "its source is longer than 8192 bytes"},
	} {
		got := e.Vet(s.source)
		if strings.HasPrefix(s.source, "a:") && got.Failure != nil {
			continue // labels of one name are refused, in the end
		}
		if got.Why != s.why || got.Failure != nil {
			t.Errorf("%.40q: %+v, want %q", s.source, got, s.why)
		}
	}
	if got := e.Vet("let = ="); got.Failure == nil {
		t.Errorf("bad source: %+v", got)
	}
}
