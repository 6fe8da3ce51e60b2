package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// conformance is where testdata/fetch.sh puts public test suites.
const conformance = "../../../.cache/conformance"

// suite returns the directory of a public suite, or skips the test.
func suite(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(conformance, name)
	_, err := os.Stat(dir)
	testenv.Have(t, "conformance", err == nil, dir+" is missing; run internal/script/testdata/fetch.sh")
	return dir
}

// bare runs source in goja as it is and returns its JSON or its exception.
func bare(source string) (got string) {
	defer func() {
		if recover() != nil {
			got = "panics"
		}
	}()
	rt := goja.New()
	rt.SetParserOptions(parser.WithDisableSourceMaps)
	rt.SetMaxCallStackSize(int(DefaultLimits().Depth))
	timer := time.AfterFunc(MostTimeMS*time.Millisecond, func() { rt.Interrupt("too long") })
	defer timer.Stop()
	program, err := bareCompile(source)
	if err != nil {
		return "SyntaxError"
	}
	v, err := rt.RunProgram(program)
	thrown := func(v goja.Value) string {
		if o, ok := v.(*goja.Object); ok {
			name, message := "Error", ""
			if v := o.Get("name"); v != nil {
				name = v.String()
			}
			if v := o.Get("message"); v != nil {
				message = v.String()
			}
			return fmt.Sprintf("throws %s: %s", name, message)
		}
		return "throws " + v.String()
	}
	if ex, ok := errors.AsType[*goja.Exception](err); ok {
		return thrown(ex.Value())
	}
	if _, ok := errors.AsType[*goja.StackOverflowError](err); ok {
		return "throws RangeError: Maximum call stack size exceeded"
	}
	if err != nil {
		return "fails: " + err.Error()
	}
	if p, ok := v.Export().(*goja.Promise); ok {
		switch p.State() {
		case goja.PromiseStatePending:
			return "pending"
		case goja.PromiseStateRejected:
			return thrown(p.Result())
		case goja.PromiseStateFulfilled:
			v = p.Result()
		}
	}
	return v.String()
}

// guarded is bare with the charged built-ins of a lane. moved says that an
// in-process run gave up, which it may always.
func (e *Engine) guarded(t *testing.T, source string, lane Lane) (got string, moved bool) {
	t.Helper()
	limits := Limits{MemoryMB: 1024, TimeMS: MostTimeMS, ResultBytes: 64 << 20}.Or(DefaultLimits())
	out := e.runSource(t, source, lane, Input{Limits: limits})
	switch {
	case out.Moved != "":
		return "", true
	case out.End.Cause == bulkhead.CauseCrashed:
		return "panics", false
	case out.End.At.IsZero(): // it was not even compiled
		return "SyntaxError", false
	case out.Failure != nil && out.Failure.Name == "Uncaught":
		return "throws " + out.Failure.Message, false
	case out.Failure != nil:
		return fmt.Sprintf("throws %s: %s", out.Failure.Name, out.Failure.Message), false
	case out.Result == nil:
		return "fails: " + out.End.String(), false
	}
	var s string
	if json.Unmarshal(out.Result, &s) != nil {
		s = string(out.Result)
	}
	return s, false
}

// same reports a difference between bare goja and a lane.
func (e *Engine) same(t *testing.T, name, source string, lane Lane) (ran bool) {
	t.Helper()
	got, moved := e.guarded(t, source, lane)
	if moved {
		return false
	}
	wants, gots := strings.Split(bare(source), "\n"), strings.Split(got, "\n")
	differences := 0
	for i := range max(len(wants), len(gots)) {
		var g, w string
		if i < len(gots) {
			g = gots[i]
		}
		if i < len(wants) {
			w = wants[i]
		}
		if g == w {
			continue
		}
		if differences++; differences <= 5 {
			t.Errorf("%s, %v lane: %.400s\nbare goja: %.400s", name, lane, g, w)
		}
	}
	if differences > 5 {
		t.Errorf("%s: %d differences", name, differences)
	}
	return true
}

// TestBuiltInsLookTheSame compares everything that can be seen of the built-ins.
func TestBuiltInsLookTheSame(t *testing.T) {
	e := newEngine(t)
	e.same(t, "built-ins", `(function () {
		const seen = new Set(), lines = [];
		function walk(o, path) {
			if ((typeof o !== "object" && typeof o !== "function") || o === null || seen.has(o) || path.length > 200) return;
			seen.add(o);
			for (const key of Reflect.ownKeys(o)) {
				const d = Object.getOwnPropertyDescriptor(o, key), name = path + "." + String(key);
				if (/^\.(kv|console|input|fetch|set|clear|queue|btoa|atob|URL|Text|crypto|structured|performance|Abort|DOMException|Headers)/.test(name)) continue;
				let line = name + " " + ["writable", "enumerable", "configurable"].map(k => d[k]).join();
				if (typeof d.value === "function") {
					let constructs = true;
					try { Reflect.construct(Object, [], d.value) } catch (e) { constructs = false }
					line += " function " + d.value.name + " " + d.value.length + " " + constructs + " " +
						Object.getOwnPropertyNames(d.value).sort();
				}
				lines.push(line);
				walk(d.value, name);
				walk(d.get, name);
			}
			walk(Object.getPrototypeOf(o), path + ".__proto__");
		}
		walk(globalThis, "");
		return lines.sort().join("\n");
	})()`, LaneWorker)
}

// differential calls every charged built-in with many receivers and arguments
// and writes down what it returns or throws, and everything it asked of them.
const differential = `(function () {
	const log = [];
	function show(v, depth) {
		if (typeof v === "string") return v.length > 200 ? "long " + v.length : JSON.stringify(v);
		if (typeof v === "symbol" || typeof v !== "object" && typeof v !== "function" || v === null) return Object.is(v, -0) ? "-0" : String(v);
		if (typeof v === "function") return "function";
		if ((depth || 0) > 4) return "deep";
		if (Array.isArray(v) && v.length > 200) return "array " + v.length;
		let keys;
		try { keys = Reflect.ownKeys(v) } catch (e) { return "throws " + e.name }
		return (Array.isArray(v) ? "[" : "{") + keys.map(k => String(k) + ":" + show(v[k], (depth || 0) + 1)).join() + "}";
	}
	function traced(name, target) {
		return new Proxy(target, {
			get(t, k, r) { log.push(name + " get " + String(k)); return Reflect.get(t, k, t) },
			has(t, k) { log.push(name + " has " + String(k)); return Reflect.has(t, k) },
			set(t, k, v) { log.push(name + " set " + String(k)); return Reflect.set(t, k, v) },
			deleteProperty(t, k) { log.push(name + " delete " + String(k)); return Reflect.deleteProperty(t, k) },
			defineProperty(t, k, d) { log.push(name + " define " + String(k)); return Reflect.defineProperty(t, k, d) },
			getOwnPropertyDescriptor(t, k) { log.push(name + " own " + String(k)); return Reflect.getOwnPropertyDescriptor(t, k) },
			getPrototypeOf(t) { log.push(name + " proto"); return Reflect.getPrototypeOf(t) },
			ownKeys(t) { log.push(name + " keys"); return Reflect.ownKeys(t) },
		});
	}
	class Own extends Array {}
	const getter = { get length() { log.push("length read"); return 3 }, 0: "x", 2: "z" };
	const values = () => [
		undefined, null, true, 0, -1, 3, 2.7, NaN, -Infinity, "", "abc", "a,b", "\ud800x", "$&$1$'", "ä€😀",
		Symbol.iterator, 5n, [], [3, 1, 2], [1, , 3], ["b", ["a", ["c"]]], Own.of(1, 2), /b/g, /(b)|x/, new Date(0),
		{}, { length: 2, 0: "p", 1: "q" }, { length: -1 }, { toString() { log.push("toString"); return "t" } },
		{ valueOf() { log.push("valueOf"); return 2 }, toString: null }, { toString() { throw new RangeError("no text") } },
		getter, traced("p", ["m", "n"]), traced("q", { length: 2, 0: "u", 1: "v" }), new String("str"), new Number(7),
		() => 1, new Uint8Array([1, 2]), new Map([[1, 2]]), new Set([4]), Object.freeze([1, 2]),
		new Proxy({}, { get() { throw new EvalError("trap") } }), "[1,{\"a\":[2]}]", '{"x":1}',
	];
	const out = [];
	function call(path, f, self, args) {
		log.length = 0;
		let line = path;
		try { line += " = " + show(Reflect.apply(f, self, args)) } catch (e) { line += " throws " + e.name + " " + e.message }
		out.push(line + " | " + log.join("; "));
	}
	for (const [path, holder, names] of TABLE) {
		for (const name of names) {
			const f = holder[name];
			for (let i = 0; i < values().length; i++) {
				call(path + "." + name + "#" + i, f, values()[i], []);
				for (let j = 0; j < values().length; j++) {
					if ((i + j) % 2 && i > 20 && j > 20) continue; // half of the odd with the odd will do
					if (name === "replaceAll" && [9, 17].includes(j)) continue; // goja does not come back from replacing ""
					call(path + "." + name + "#" + i + "," + j, f, values()[i], [values()[j]]);
					if (i % 5 === j % 5) call(path + "." + name + "#" + i + "," + j + "+", f, values()[i], [values()[j], values()[(i + j) % values().length]]);
				}
			}
		}
	}
	for (const T of [ArrayBuffer, Uint8Array, Float64Array, BigInt64Array]) {
		for (let i = 0; i < values().length; i++) {
			for (const target of [undefined, T, class extends T {}, function () {}]) {
				log.length = 0;
				let line = T.name + "#" + i;
				try {
					const o = target ? Reflect.construct(T, [values()[i]], target) : T(values()[i]);
					line += " = " + show(o) + (o instanceof T) + (o.constructor === T) + Object.prototype.toString.call(o);
				} catch (e) { line += " throws " + e.name + " " + e.message }
				out.push(line + " | " + log.join("; "));
			}
		}
	}
	return out.join("\n");
})()`

func TestChargedBuiltInsBehaveTheSame(t *testing.T) {
	e := newEngine(t)
	places := map[holder]string{
		inString: "String.prototype", inArray: "Array.prototype", inRegExp: "RegExp.prototype", inObject: "Object",
		inArrayConstructor: "Array", inPromise: "Promise", inJSON: "JSON", inGlobal: "globalThis",
	}
	count := 0
	for _, n := range e.charged {
		table := fmt.Sprintf("[[%q, %s, [%q]]]", places[n.in], places[n.in], n.name)
		source := strings.Replace(differential, "TABLE", table, 1)
		e.same(t, places[n.in]+"."+n.name, source, LaneWorker)
		count++
	}
	if count < 15 {
		t.Errorf("%d charged built-ins were compared", count)
	}
}

// TestParserPrograms compiles tc39's test262-parser-tests in both lanes: where
// bare goja accepts a program, so must we, and what it refuses we refuse.
func TestParserPrograms(t *testing.T) {
	dir := suite(t, "test262-parser-tests")
	e := newEngine(t)
	total, accepted, small := 0, 0, 0
	for _, kind := range []string{"pass", "pass-explicit", "fail", "early"} {
		files, err := filepath.Glob(filepath.Join(dir, kind, "*.js"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, ".module.js") {
				continue
			}
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			_, bareErr := bareCompile(string(data))
			total++
			if bareErr == nil {
				accepted++
			}
			for _, lane := range []Lane{LaneInProcess, LaneWorker} {
				p, err := e.Compile(string(data), lane)
				if p != nil && p.Why != "" {
					continue // decided without compiling
				}
				if (err == nil) != (bareErr == nil) {
					t.Errorf("%s, %v lane: %v; bare goja: %v", f, lane, err, bareErr)
				}
				if lane == LaneInProcess && err == nil {
					small++
				}
			}
		}
	}
	t.Logf("%d programs: bare goja accepts %d, of which %d are small", total, accepted, small)
	if total < 1000 {
		t.Errorf("only %d programs", total)
	}
}

// bareCompile compiles source as it is; what goja panics on is an error.
func bareCompile(source string) (p *goja.Program, err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("panic: %v", x)
		}
	}()
	tree, _, err := parse(source)
	if err != nil {
		return nil, err
	}
	return goja.CompileAST(tree, false) //nolint:wrapcheck // only whether it is nil counts
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// topCall is a call of a test at the start of a line of QuickJS's suite, topTest
// a test.
var (
	topCall = regexp.MustCompile(`(?m)^(test\w*)\(\);`)
	topTest = regexp.MustCompile(`(?ms)^function (test\w*)\(\)\s*\{.*?^\}`)
)

// TestQuickJSPrograms runs QuickJS's own suite: the same of its tests pass and
// fail as in bare goja, with the same messages.
func TestQuickJSPrograms(t *testing.T) {
	dir := suite(t, "quickjs")
	e := newEngine(t)
	assert := string(must(os.ReadFile(filepath.Join(dir, "assert.js"))))
	ran := 0
	for _, name := range []string{"test_builtin.js", "test_language.js", "test_closure.js", "test_bigint.js"} {
		source := string(must(os.ReadFile(filepath.Join(dir, name))))
		if strings.Contains(source, `from "./assert.js"`) {
			source = strings.ReplaceAll(assert, "export function", "function") + source
		}
		source = regexp.MustCompile(`(?m)^import .*$`).ReplaceAllString(source, "")
		source = strings.ReplaceAll(source, "\ntest_rope();", "")       // a minute without QuickJS's ropes
		source = strings.ReplaceAll(source, `\u{10ffff}`, `\u{10fffe}`) // on the last character goja's parser panics
		source = topTest.ReplaceAllStringFunc(source, func(test string) string {
			if _, err := bareCompile(test); err == nil {
				return test
			}
			return regexp.MustCompile(`\{(?s:.*)\}`).ReplaceAllString(test, `{ throw "not in goja" }`)
		})
		source = "const __out = []; function __try(n, f) { try { f(); __out.push(n + ' ok') } catch (e) { __out.push(n + ' ' + e) } }\n" +
			topCall.ReplaceAllString(source, `__try("$1", $1);`) + "\n__out.join('\\n')"
		e.same(t, name, source, LaneWorker)
		passed := strings.Count(bare(source), " ok")
		t.Logf("%s: %d tests pass in bare goja", name, passed)
		ran += passed
	}
	if ran == 0 {
		t.Error("no test ran")
	}
}
