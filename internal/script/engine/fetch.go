package engine

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/dop251/goja"
)

// FetchRequest is the payload of the host's "fetch".
type FetchRequest struct {
	URL      string            `json:"url"`
	Method   string            `json:"method"`
	Headers  map[string]string `json:"headers,omitempty"`
	Body     string            `json:"body,omitempty"`
	Bytes    []byte            `json:"bytes,omitempty"` // a body that is no text
	Redirect string            `json:"redirect,omitempty"`
	// TimeMS is how long it may take, 0 for as long as the host allows.
	TimeMS int64 `json:"timeMS,omitempty"`
}

// FetchAnswer is its answer.
type FetchAnswer struct {
	URL        string            `json:"url"`
	Status     int               `json:"status"`
	StatusText string            `json:"statusText"`
	Redirected bool              `json:"redirected"`
	Headers    map[string]string `json:"headers"`
	Cookies    []string          `json:"cookies,omitempty"` // the values of Set-Cookie
	Body       []byte            `json:"body"`
}

// maxHeaders is how many headers a request may have.
const maxHeaders = 64

// fetch is the global fetch. It waits for the answer, so that requests go one
// after the other, and returns a settled promise; with a signal one that is settled
// after the timers that were due meanwhile, since they may abort it.
func (r *run) fetch(call goja.FunctionCall) goja.Value {
	r.enter()
	var signal goja.Value
	p := r.promise(func() goja.Value {
		req := FetchRequest{URL: r.shortText(r.asText(call.Argument(0), "an address")), Method: "GET"}
		if o, ok := call.Argument(1).(*goja.Object); ok {
			signal = r.fetchOptions(&req, o)
		}
		due := r.signalDue(signal)
		if due > 0 {
			req.TimeMS = max(1, due-r.now().UnixMilli())
		}
		var answer FetchAnswer
		var data []byte
		if ex := r.rt.Try(func() { data = r.call("fetch", req) }); ex != nil {
			if due > 0 && r.now().UnixMilli() >= due {
				r.signalDue(signal) // throws its reason
			}
			panic(ex.Value())
		}
		if err := json.Unmarshal(data, &answer); err != nil {
			panic(r.rt.NewTypeError("fetch: %s", err.Error()))
		}
		return r.response(&answer)
	})
	if signal == nil {
		return p
	}
	later, ok := goja.AssertFunction(r.web().Get("later"))
	if !ok {
		panic(r.rt.NewTypeError("AbortSignal is broken"))
	}
	v, err := later(goja.Undefined(), signal, p)
	if err != nil {
		panic(err)
	}
	return v
}

// asText returns an object's text, such as a URL's; only workers ask the object.
func (r *run) asText(v goja.Value, what string) goja.Value {
	o, ok := v.(*goja.Object)
	if !ok {
		return v
	}
	if r.lane == LaneInProcess {
		r.move("%s that is an object", what)
	}
	return o.ToString()
}

// fetchOptions reads fetch's second argument and returns its signal.
func (r *run) fetchOptions(req *FetchRequest, o *goja.Object) (signal goja.Value) {
	option := func(name string) goja.Value {
		if v := o.Get(name); v != nil && !goja.IsUndefined(v) && !goja.IsNull(v) {
			return v
		}
		return nil
	}
	if m := option("method"); m != nil {
		req.Method = strings.ToUpper(r.shortText(m))
	}
	if h, ok := option("headers").(*goja.Object); ok {
		req.Headers = map[string]string{}
		r.fetchHeaders(req.Headers, h)
	}
	if b := option("body"); b != nil {
		if m := req.Method; slices.Contains([]string{"GET", "HEAD"}, m) {
			panic(r.rt.NewTypeError("a request with the method %s cannot have a body", m))
		}
		r.fetchBody(req, b)
	}
	if v := option("redirect"); v != nil {
		req.Redirect = r.shortText(v)
		if !slices.Contains([]string{"follow", "manual", "error"}, req.Redirect) {
			panic(r.rt.NewTypeError("redirect is %q; it must be follow, manual or error", clip(req.Redirect, 40)))
		}
	}
	return option("signal")
}

// fetchHeaders reads an object of headers, or in workers whatever Headers takes.
func (r *run) fetchHeaders(into map[string]string, h *goja.Object) {
	if _, _, array := asArray(h); array && r.lane == LaneInProcess {
		r.move("headers in an array")
	}
	if r.lane == LaneWorker {
		of, err := r.rt.New(r.webClass("Headers"), h)
		if err != nil {
			panic(err)
		}
		r.rt.ForOf(of, func(pair goja.Value) bool {
			p := pair.ToObject(r.rt)
			r.fetchHeader(into, p.Get("0").String(), p.Get("1"))
			return true
		})
		return
	}
	for _, k := range h.Keys() {
		r.fetchHeader(into, k, h.Get(k))
	}
}

func (r *run) fetchHeader(into map[string]string, name string, v goja.Value) {
	if len(into) >= maxHeaders {
		panic(r.rt.NewTypeError("more than %d headers", maxHeaders))
	}
	into[name] = r.shortText(v)
}

// fetchBody reads a body: text, or in workers also bytes and URLSearchParams.
func (r *run) fetchBody(req *FetchRequest, b goja.Value) {
	kind := "text/plain;charset=UTF-8"
	if o, ok := b.(*goja.Object); ok {
		if r.lane == LaneInProcess {
			r.move("a body that is an object")
		}
		params, _ := r.rt.Get("URLSearchParams").(*goja.Object)
		switch {
		case params != nil && r.rt.InstanceOf(o, params):
			b, kind = o.ToString(), "application/x-www-form-urlencoded;charset=UTF-8"
		case isBytes(o):
			req.Bytes = r.bytesOf(o)
			if len(req.Bytes) > maxAnswer {
				panic(r.rt.NewTypeError("the body has %d bytes; the limit is %d", len(req.Bytes), maxAnswer))
			}
			return
		default:
			panic(r.rt.NewTypeError("the body must be a string, bytes or URLSearchParams; JSON.stringify makes one of an object"))
		}
	}
	if n := size(b); n > maxAnswer {
		panic(r.rt.NewTypeError("the body has %d characters; the limit is %d", n, maxAnswer))
	}
	req.Body = b.String()
	for name := range req.Headers {
		if strings.EqualFold(name, "content-type") {
			return
		}
	}
	if req.Headers == nil {
		req.Headers = map[string]string{}
	}
	req.Headers["content-type"] = kind
}

// signalDue throws the reason of a signal that is aborted, and returns when one
// with a time of its own will be, in milliseconds since 1970; else 0.
func (r *run) signalDue(signal goja.Value) int64 {
	if signal == nil {
		return 0
	}
	if r.lane == LaneInProcess {
		r.move("fetch with a signal")
	}
	due, ok := goja.AssertFunction(r.web().Get("due"))
	if !ok {
		panic(r.rt.NewTypeError("AbortSignal is broken"))
	}
	v, err := due(goja.Undefined(), signal)
	if err != nil {
		panic(err)
	}
	return count(v)
}

// response makes the object that fetch resolves to.
func (r *run) response(a *FetchAnswer) goja.Value {
	o := r.rt.NewObject()
	_ = o.Set("url", a.URL)
	_ = o.Set("status", a.Status)
	_ = o.Set("statusText", a.StatusText)
	_ = o.Set("redirected", a.Redirected)
	_ = o.Set("ok", a.Status >= 200 && a.Status < 300)
	_ = o.Set("headers", r.responseHeaders(a))
	body := func(name string, value func() goja.Value) {
		_ = o.Set(name, r.function(func(goja.FunctionCall) goja.Value {
			r.enter()
			return r.promise(value)
		}, name, 0))
	}
	body("text", func() goja.Value { return r.rt.ToValue(string(a.Body)) })
	body("json", func() goja.Value { return r.parseJSON(a.Body) })
	if r.lane == LaneWorker {
		fresh := func() []byte {
			r.charge("a body", int64(len(a.Body)))
			return slices.Clone(a.Body)
		}
		body("arrayBuffer", func() goja.Value { return r.rt.ToValue(r.rt.NewArrayBuffer(fresh())) })
		body("bytes", func() goja.Value { return r.uint8Array(fresh()) })
	}
	return o
}

// responseHeaders makes the headers of a response: a Headers in workers.
func (r *run) responseHeaders(a *FetchAnswer) goja.Value {
	if r.lane == LaneWorker {
		pair := func(name, value string) any { return r.rt.NewArray(name, value) }
		var list []any
		for _, k := range slices.Sorted(maps.Keys(a.Headers)) {
			if k != "set-cookie" {
				list = append(list, pair(k, a.Headers[k]))
			}
		}
		for _, c := range a.Cookies {
			list = append(list, pair("set-cookie", c))
		}
		h, err := r.rt.New(r.webClass("Headers"), r.rt.NewArray(list...))
		if err != nil {
			panic(err)
		}
		return h
	}
	h := r.rt.NewObject()
	look := func(name string, f func(v string, ok bool) goja.Value) {
		_ = h.Set(name, r.function(func(call goja.FunctionCall) goja.Value {
			r.enter()
			v, ok := a.Headers[strings.ToLower(r.shortText(call.Argument(0)))]
			return f(v, ok)
		}, name, 1))
	}
	look("get", func(v string, ok bool) goja.Value {
		if !ok {
			return goja.Null()
		}
		return r.rt.ToValue(v)
	})
	look("has", func(_ string, ok bool) goja.Value { return r.rt.ToValue(ok) })
	// The rest of Headers is in workers only.
	for _, name := range []string{"forEach", "entries", "keys", "values", "getSetCookie"} {
		_ = h.Set(name, r.function(func(goja.FunctionCall) goja.Value {
			r.move("it goes through headers")
			return nil
		}, name, 0))
	}
	return h
}

// webSource makes the classes that the web has and the language does not. It is
// JavaScript so that the budget and the sampler hold for it as for any program.
const webSource = `(function (setTimeout, now) {
	const key = {}, signals = new WeakMap();
	class DOMException extends Error {
		constructor(message = "", name = "Error") {
			super(message);
			Object.defineProperty(this, "name", { value: String(name), configurable: true, writable: true });
		}
	}
	function of(signal) {
		const s = signals.get(signal);
		if (s === undefined) throw new TypeError("the signal must be an AbortSignal");
		if (!s.aborted && s.due <= now()) abort(signal, new DOMException("The operation timed out", "TimeoutError"));
		return s;
	}
	function abort(signal, reason = new DOMException("The operation was aborted", "AbortError")) {
		const s = signals.get(signal);
		if (s.aborted) return;
		s.aborted = true;
		s.reason = reason;
		const event = { type: "abort", target: signal };
		if (typeof signal.onabort === "function") signal.onabort(event);
		for (const f of s.listeners) typeof f === "function" ? f.call(signal, event) : f.handleEvent(event);
		s.listeners.clear();
	}
	class AbortSignal {
		constructor(k) {
			if (k !== key) throw new TypeError("Illegal constructor");
			signals.set(this, { aborted: false, reason: undefined, due: Infinity, timer: false, listeners: new Set() });
			this.onabort = null;
		}
		get aborted() { return of(this).aborted; }
		get reason() { return of(this).reason; }
		throwIfAborted() { const s = of(this); if (s.aborted) throw s.reason; }
		addEventListener(type, f) {
			const s = of(this);
			if (type !== "abort" || !f || s.aborted) return;
			s.listeners.add(f);
			if (s.due < Infinity && !s.timer) {
				s.timer = true;
				setTimeout(() => of(this), Math.max(0, s.due - now()));
			}
		}
		removeEventListener(type, f) { if (type === "abort") of(this).listeners.delete(f); }
		static abort(reason) { const s = new AbortSignal(key); abort(s, reason); return s; }
		static timeout(ms) { const s = new AbortSignal(key); signals.get(s).due = now() + Math.max(0, Number(ms) || 0); return s; }
		static any(list) {
			const s = new AbortSignal(key), own = signals.get(s);
			for (const other of list) {
				const o = of(other);
				if (o.aborted) { abort(s, o.reason); break; }
				own.due = Math.min(own.due, o.due);
				if (o.due === Infinity) other.addEventListener("abort", () => abort(s, o.reason));
			}
			return s;
		}
	}
	class AbortController {
		#signal = new AbortSignal(key);
		get signal() { return this.#signal; }
		abort(reason) { abort(this.#signal, reason); }
	}
	class Headers {
		#all = new Map();
		constructor(init) {
			if (init === undefined || init === null) return;
			if (typeof init !== "object") throw new TypeError("Headers are made of an object, of pairs or of Headers");
			const pairs = typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
			for (const [name, value] of pairs) this.append(name, value);
		}
		static #name(name) {
			name = String(name);
			if (!/^[!#$%&'*+.^_\x60|~0-9A-Za-z-]{1,256}$/.test(name)) throw new TypeError("a header cannot be called " + JSON.stringify(name.slice(0, 40)));
			return name.toLowerCase();
		}
		static #value(value) {
			value = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
			if (/[\0\r\n]/.test(value)) throw new TypeError("a header's value is one line");
			return value;
		}
		append(name, value) {
			name = Headers.#name(name);
			const list = this.#all.get(name);
			if (list) list.push(Headers.#value(value)); else this.#all.set(name, [Headers.#value(value)]);
		}
		set(name, value) { this.#all.set(Headers.#name(name), [Headers.#value(value)]); }
		delete(name) { this.#all.delete(Headers.#name(name)); }
		has(name) { return this.#all.has(Headers.#name(name)); }
		get(name) { const list = this.#all.get(Headers.#name(name)); return list ? list.join(", ") : null; }
		getSetCookie() { return [...(this.#all.get("set-cookie") || [])]; }
		*entries() {
			for (const name of [...this.#all.keys()].sort()) {
				if (name === "set-cookie") for (const v of this.#all.get(name)) yield [name, v];
				else yield [name, this.get(name)];
			}
		}
		*keys() { for (const [k] of this.entries()) yield k; }
		*values() { for (const [, v] of this.entries()) yield v; }
		forEach(f, self) { for (const [k, v] of this.entries()) f.call(self, v, k, this); }
		[Symbol.iterator]() { return this.entries(); }
		toJSON() { return Object.fromEntries(this.entries()); }
	}
	return { DOMException, AbortSignal, AbortController, Headers,
		later(signal, answer) {
			answer.catch(() => 0);
			return new Promise(done => setTimeout(done, 0)).then(() => { signal.throwIfAborted(); return answer; });
		},
		due(signal) { const s = of(signal); if (s.aborted) throw s.reason; return s.due === Infinity ? 0 : s.due; } };
})`

// web returns what webSource makes, once for a run.
func (r *run) web() *goja.Object {
	if r.webClasses != nil {
		return r.webClasses
	}
	v, err := r.rt.RunProgram(r.engine.web)
	if err != nil {
		panic(err)
	}
	factory, ok := goja.AssertFunction(v)
	if !ok {
		panic(r.rt.NewTypeError("the web's classes are broken"))
	}
	timer := r.rt.ToValue(func(call goja.FunctionCall) goja.Value { return r.setTimer(call, false) })
	now := r.rt.ToValue(func(goja.FunctionCall) goja.Value { return r.rt.ToValue(r.now().UnixMilli()) })
	made, err := factory(goja.Undefined(), timer, now)
	if err != nil {
		panic(err)
	}
	r.webClasses = made.ToObject(r.rt)
	return r.webClasses
}

// webClass returns one of the classes.
func (r *run) webClass(name string) *goja.Object { return r.web().Get(name).ToObject(r.rt) }

// isBytes reports whether o is an ArrayBuffer or a view of one.
func isBytes(o *goja.Object) bool {
	if _, ok := o.Export().(goja.ArrayBuffer); ok {
		return true
	}
	b, ok := o.Get("buffer").(*goja.Object)
	if !ok {
		return false
	}
	_, ok = b.Export().(goja.ArrayBuffer)
	return ok
}
