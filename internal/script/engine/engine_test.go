package engine

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/bulkheadhq/bulkhead"
)

// world is a [Host] in memory.
type world struct {
	mu    sync.Mutex
	lines []LogLine
	kv    map[string]json.RawMessage
	fetch func(payload []byte) ([]byte, error)
}

func (w *world) Log(l LogLine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, l)
}

func (w *world) Call(op string, payload []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var req struct {
		Key    string          `json:"key"`
		Prefix string          `json:"prefix"`
		Value  json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(payload, &req); err != nil {
		return nil, err
	}
	switch op {
	case "kv.get":
		return w.kv[req.Key], nil
	case "kv.set":
		if w.kv == nil {
			w.kv = map[string]json.RawMessage{}
		}
		w.kv[req.Key] = req.Value
		return nil, nil
	case "kv.delete":
		_, ok := w.kv[req.Key]
		delete(w.kv, req.Key)
		return json.Marshal(ok)
	case "kv.list":
		keys := []string{}
		for k := range w.kv {
			if strings.HasPrefix(k, req.Prefix) {
				keys = append(keys, k)
			}
		}
		return json.Marshal(keys)
	case "fetch":
		return w.fetch(payload)
	}
	return nil, errors.New("no such operation")
}

// newEngine returns an engine whose sampler runs until the test ends.
func newEngine(tb testing.TB) *Engine {
	tb.Helper()
	e, err := New()
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { e.Sample(ctx) })
	for e.sampling.Load() == 0 {
	}
	tb.Cleanup(func() { cancel(); wg.Wait() })
	return e
}

// run compiles and runs source; a syntax error is a failure.
func (e *Engine) runSource(tb testing.TB, source string, lane Lane, in Input) Outcome {
	tb.Helper()
	p, err := e.Compile(source, lane)
	if err != nil {
		var s *SyntaxError
		if !errors.As(err, &s) {
			tb.Fatal(err)
		}
		return Outcome{Failure: &s.Failure, End: bulkhead.End{Cause: bulkhead.CauseExited, ExitCode: 1}}
	}
	in.Limits = in.Limits.Or(DefaultLimits())
	if in.Host == nil {
		in.Host = &world{}
	}
	return e.Run(tb.Context(), p, lane, in)
}

func TestPrograms(t *testing.T) {
	e := newEngine(t)
	for _, s := range []struct {
		name, source, input, want string
		small                     bool
	}{
		{"value of the last statement", `1 + 2`, ``, `3`, true},
		{"input", `({twice: input.n * 2, s: input.s.toUpperCase()})`, `{"n":21,"s":"ä"}`, `{"twice":42,"s":"Ä"}`, true},
		{"main", `function main(i) { return i.map(x => x + 1) }`, `[1,2,3]`, `[2,3,4]`, true},
		{"return", `const r = input.a; return r + 1`, `{"a":1}`, `2`, true},
		{"await", `const v = await Promise.all([1, Promise.resolve(2)]); v`, ``, `null`, true},
		{"await and return", `const v = await Promise.all([1, Promise.resolve(2)]); return v`, ``, `[1,2]`, true},
		{"nothing", `let a = 1`, ``, `null`, true},
		{"escapes", `"a\"\\\n\u0001\ud800é😀"`, ``, `"a\"\\\n\u0001\ud800é😀"`, true},
		{"numbers", `[1/0, NaN, -0, 1e21, 0.1, 1e-7, 123456789012]`, ``, `[null,null,0,1e+21,0.1,1e-7,123456789012]`, true},
		{
			"json rules", `({a: undefined, b: () => 1, c: [undefined, () => 1], d: new Date(0), e: null, f: true})`, ``,
			`{"c":[null,null],"d":"1970-01-01T00:00:00.000Z","e":null,"f":true}`, true,
		},
		{"toJSON", `({a: {toJSON(k) { return 7 }}})`, ``, `{"a":7}`, true},
		{
			"modern syntax", `const {a, ...rest} = {a: 1, b: 2, c: [3, ...[4, 5]]}; class P { #x = 1; get() { return this.#x ?? 0 } }
			const o = {...rest, p: new P().get?.(), t: ` + "`${a}-${rest.b}`" + `}; o.c.includes(4) && Object.entries(o).length === 4 && o`,
			``, `{"b":2,"c":[3,4,5],"p":1,"t":"1-2"}`, true,
		},
		{"collections", `const m = new Map([["a", 1], ["b", 2]]); const s = new Set([1, 1, 2]);
			[...m.keys(), ...s, ...m.entries()].flat().join("|")`, ``, `"a|b|1|2|a|1|b|2"`, true},
		{"regular expressions", `"a1b22".replace(/\d+/g, d => "<" + d + ">") + /b(\d)/.exec("b2")[1]`, ``, `"a<1>b<22>2"`, true},
		{"computed names", `const k = "map"; [1, 2][k](x => x * 2)["length"] + [5, 6]["sl" + "ice"](1)[0]`, ``, `8`, true},
		{"classes", `class A { constructor(n) { this.n = n } double() { return this.n * 2 } }
			class B extends A { double() { return super.double() + 1 } } new B(4).double()`, ``, `9`, true},
		{"errors", `class MyError extends Error { constructor(m) { super(m); this.name = "MyError" } }
			try { throw new MyError("x") } catch (e) { e instanceof MyError && e.name + e.message }`, ``, `"MyErrorx"`, true},
		{"timers", `new Promise(r => { const l = []; setTimeout(() => l.push(2), 2); setTimeout(() => l.push(1), 1);
			queueMicrotask(() => l.push(0)); setTimeout(() => r(l), 3) })`, ``, `[0,1,2]`, true},
		{"interval", `let n = 0; const id = setInterval(() => { if (++n === 3) clearInterval(id) }, 1); new Promise(r => setTimeout(() => r(n), 20))`, ``, `3`, true},
		{"base64", `atob(btoa("hé")) === "hé" && btoa("abc")`, ``, `"YWJj"`, true},
		{"sort", `[3, 1, 2].sort().concat(["b", "a"].sort((x, y) => x < y ? -1 : 1))`, ``, `[1,2,3,"a","b"]`, true},
		{"from", `Array.from({length: 3}, (_, i) => i * i)`, ``, `[0,1,4]`, true},
		{"stringify", `JSON.stringify({a: [1, "x"]}, null, 1)`, ``, `"{\n \"a\": [\n  1,\n  \"x\"\n ]\n}"`, true},
		{"parse", `JSON.parse('{"a":[1,2]}').a.length`, ``, `2`, true},
		{"generator", `[...(function* () { yield 1; yield 2 })()]`, ``, `[1,2]`, false},
		{"proxy", `new Proxy({}, {get: (t, k) => k}).abc`, ``, `"abc"`, false},
		{"bigint", `String(2n ** 64n)`, ``, `"18446744073709551616"`, false},
		{"eval", `eval("1 + 1")`, ``, `2`, false},
		{"url", `const u = new URL("https://a.example/p?x=1"); [u.hostname, u.searchParams.get("x")]`, ``, `["a.example","1"]`, false},
		{"text", `new TextDecoder().decode(new TextEncoder().encode("grüß"))`, ``, `"grüß"`, false},
		{
			"digest", `const h = await crypto.subtle.digest("SHA-256", new TextEncoder().encode("abc"));
			return [...new Uint8Array(h)].map(b => b.toString(16).padStart(2, "0")).join("")`, ``,
			`"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"`, false,
		},
		{"uuid", `/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())`, ``, `true`, false},
		{"clone", `const a = {d: new Date(5), m: new Map([[1, {x: 1}]]), s: new Set([2])}; a.self = a;
			const b = structuredClone(a); [b.self === b, b !== a, b.d.getTime(), b.m.get(1).x, b.s.has(2)]`, ``, `[true,true,5,1,true]`, false},
		{"performance", `[performance.now() >= 0, performance.timeOrigin > 1e12]`, ``, `[true,true]`, true},
		{"forgiving base64", `atob(" YW Jj\n") + atob("YWI=") + atob("YQ")`, ``, `"abcaba"`, true},
		{
			"abort", `const c = new AbortController(), seen = []; c.signal.addEventListener("abort", e => seen.push(e.type));
			c.signal.onabort = () => seen.push("on"); c.abort(); c.abort();
			[c.signal.aborted, c.signal.reason.name, c.signal.reason instanceof DOMException, c.signal.reason instanceof Error, seen]`, ``,
			`[true,"AbortError",true,true,["on","abort"]]`, false,
		},
		{
			"abort by time", `const s = AbortSignal.timeout(5); await new Promise(r => s.addEventListener("abort", r)); return [s.aborted, s.reason.name]`,
			``, `[true,"TimeoutError"]`, false,
		},
		{
			"abort by any", `const a = AbortSignal.any([AbortSignal.timeout(1e6), AbortSignal.abort("why")]); try { a.throwIfAborted() } catch (e) { [a.aborted, e] }`,
			``, `[true,"why"]`, false,
		},
		{
			"headers", `const h = new Headers({"X-A": " 1 "}); h.append("x-a", "2"); h.append("Set-Cookie", "a=1"); h.append("set-cookie", "b=2"); h.set("B", 3);
			[...h, h.get("x-A"), h.has("b"), h.getSetCookie(), h.get("none"), new Headers(h).get("b")]`, ``,
			`[["b","3"],["set-cookie","a=1"],["set-cookie","b=2"],["x-a","1, 2"],"1, 2",true,["a=1","b=2"],null,"3"]`, false,
		},
		{"wrong headers", `try { new Headers([["a b", "x"]]) } catch (e) { String(e) }`, ``, `"TypeError: a header cannot be called \"a b\""`, false},
		{
			"clone of a function", `try { structuredClone(() => 1) } catch (e) { [e.name, e.message, e instanceof DOMException] }`, ``,
			`["DataCloneError","function cannot be cloned",true]`, false,
		},
		{"encode into", `const b = new Uint8Array(4); [new TextEncoder().encodeInto("aé😀", b), [...b]]`, ``, `[{"read":2,"written":3},[97,195,169,0]]`, false},
		{
			"parse of addresses", `[URL.canParse("http://a/b"), URL.canParse("x"), URL.canParse("x", "http://a"), URL.parse("../c?q=1#h", "http://a/b/d").href, URL.parse("x")]`,
			``, `[true,false,true,"http://a/c?q=1#h",null]`, false,
		},
		{
			"parameters", `const u = new URL("http://a/?x=1"); u.searchParams.append("y", "z&"); [String(u), u.searchParams.size, new URLSearchParams({x: "1 2"}).toString()]`,
			``, `["http://a/?x=1&y=z%26",2,"x=1+2"]`, false,
		},
		{"typed arrays", `const f = new Float64Array([1, 2]); f[1] + new Uint8Array(4).length + (f.constructor === Float64Array ? 1 : 0)`, ``, `7`, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			in := Input{JSON: json.RawMessage(s.input)}
			out := e.runSource(t, s.source, LaneWorker, in)
			if got := string(out.Result); got != s.want {
				t.Errorf("worker: got %s (%v, %+v), want %s", got, out.End, out.Failure, s.want)
			}
			out = e.runSource(t, s.source, LaneInProcess, in)
			if (out.Moved == "") != s.small {
				t.Errorf("in process: moved because %q, want small=%v", out.Moved, s.small)
			}
			if got := string(out.Result); s.small && got != s.want {
				t.Errorf("in process: got %s (%v, %+v), want %s", got, out.End, out.Failure, s.want)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	e := newEngine(t)
	for _, s := range []struct{ name, source, wantName, wantMessage string }{
		{"throw", `function f() { throw new TypeError("no") } f()`, "TypeError", "no"},
		{"throw a value", `throw "text"`, "Uncaught", "text"},
		{"syntax", `let a = ;`, "SyntaxError", "script.js: Line 1:9 Unexpected token ; (and 1 more errors)"},
		{"module", `export const a = 1`, "SyntaxError", "script.js: Line 1:1 Unexpected reserved word; a script has no modules, so that it cannot import or export"},
		{"reference", `nothing.at.all`, "ReferenceError", "nothing is not defined"},
		{"rejection", `Promise.reject(new RangeError("r"))`, "RangeError", "r"},
		{"stack", `function f() { return f() } f()`, "RangeError", "Maximum call stack size exceeded"},
		{"never settles", `new Promise(() => {})`, "Error", "the result is a promise that nothing will settle"},
		{"cycle", `const a = {}; a.a = a; a`, "TypeError", "a value that contains itself cannot be written as JSON"},
		{"deep", `let a = []; for (let i = 0; i < 2000; i++) a = [a]; a`, "TypeError", "a value nested more than 1000 deep cannot be written as JSON"},
		{"endless repeat", `"x".repeat(1 / 0)`, "RangeError", "Invalid count value"},
		{"cause", `try { JSON.parse(input) } catch (e) { throw new Error("bad input", {cause: new TypeError("inner", {cause: "text"})}) }`, "Error", "bad input"},
		{"await and a mistake", "const a = await 1;\nlet b = ;", "SyntaxError", "script.js: Line 2:9 Unexpected token ;"},
		{"in a timer", `setTimeout(() => { throw new Error("late") }, 1)`, "Error", "late"},
	} {
		t.Run(s.name, func(t *testing.T) {
			for _, lane := range []Lane{LaneInProcess, LaneWorker} {
				out := e.runSource(t, s.source, lane, Input{})
				if out.Failure == nil || out.End.Cause != bulkhead.CauseExited || out.End.ExitCode != 1 || out.Result != nil {
					t.Errorf("%v: outcome %+v, want an exception", lane, out)
					continue
				}
				if out.Failure.Name != s.wantName || s.wantMessage != "" && out.Failure.Message != s.wantMessage {
					t.Errorf("%v: %s: %s, want %s: %s", lane, out.Failure.Name, out.Failure.Message, s.wantName, s.wantMessage)
				}
			}
		})
	}
	out := e.runSource(t, `function f() { throw new TypeError("no") } f()`, LaneInProcess, Input{})
	if want := "at f (script.js:1:22)\nat <anonymous> (script.js:1:45)"; out.Failure.Stack != want {
		t.Errorf("stack %q, want %q", out.Failure.Stack, want)
	}
	for _, s := range []struct{ source, stack, cause string }{
		{"const a = async () => {\n  throw new TypeError('no') }\nawait a()", "at a (script.js:2:9)\nat <anonymous> (script.js:3:8)", ""},
		{"await null; throw new Error('a', {cause: new TypeError('b', {cause: 'c'})})", "at <anonymous> (script.js:1:19)", "TypeError: b; caused by c"},
		{"async function main() {\n  await null; return undefined.x\n}", "at main (script.js:2:32)", ""},
	} {
		for _, lane := range []Lane{LaneInProcess, LaneWorker} {
			out := e.runSource(t, s.source, lane, Input{})
			if out.Failure == nil || out.Failure.Stack != s.stack || out.Failure.Cause != s.cause {
				t.Errorf("%v: %s\nended with %+v, want the stack %q and the cause %q", lane, s.source, out.Failure, s.stack, s.cause)
			}
		}
	}
	out = e.runSource(t, `function f() { return f() } f()`, LaneInProcess, Input{})
	if want := strings.Repeat("at f (script.js:1:24)\n", maxFrames) + "…"; out.Failure.Stack != want {
		t.Errorf("stack %q, want %q", out.Failure.Stack, want)
	}
}

// TestFetchMoves gives fetch in process what only a worker looks at: the run is moved
// before anything is asked.
func TestFetchMoves(t *testing.T) {
	e := newEngine(t)
	for source, want := range map[string]string{
		`fetch({toString: () => "http://a/"})`:                    "an address that is an object",
		`fetch("http://a/", {method: "POST", body: {a: 1}})`:      "a body that is an object",
		`fetch("http://a/", {headers: [["a", "b"]]})`:             "headers in an array",
		`fetch("http://a/", {signal: {aborted: false}})`:          "fetch with a signal",
		`fetch("http://a/").then(r => r.headers.forEach(x => x))`: "it goes through headers",
	} {
		asked := 0
		w := &world{fetch: func([]byte) ([]byte, error) {
			asked++
			return []byte(`{"url":"http://a/","status":200,"headers":{"a":"b"},"body":""}`), nil
		}}
		out := e.runSource(t, source, LaneInProcess, Input{Host: w, HasFetch: true})
		if out.Moved != want || asked > 0 && want != "it goes through headers" {
			t.Errorf("%s: moved because %q after %d requests, want %q", source, out.Moved, asked, want)
		}
	}
}
