package engine

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja_nodejs/url"

	"github.com/bulkheadhq/bulkhead"
)

// hostNames are the globals that are ours; hostSmall those of them that a small
// program may use.
var (
	hostNames = words(`console kv fetch setTimeout setInterval clearTimeout clearInterval queueMicrotask
		btoa atob URL URLSearchParams TextEncoder TextDecoder crypto structuredClone`)
	hostSmall = words(`console kv fetch setTimeout setInterval clearTimeout clearInterval queueMicrotask
		btoa atob`)
)

// maxLine bounds one console line, in bytes; a longer one is cut.
const maxLine = 16 << 10

// lineOverhead is what a console line counts beside its text, in bytes.
const lineOverhead = 16

// maxAnswer bounds what one call of the host may send or receive, in bytes.
const maxAnswer = 4 << 20

// installHost defines the host's globals that the program mentions, or all of
// them where it could find them without a mention.
func (r *run) installHost() {
	define := func(name string, value func() goja.Value) {
		if r.program.anyHost || r.program.hostNames[name] {
			_ = r.rt.GlobalObject().DefineDataProperty(name, value(), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE)
		}
	}
	fn := func(name string, f func(goja.FunctionCall) goja.Value) {
		define(name, func() goja.Value { return r.function(f, name, 1) })
	}
	define("console", r.console)
	define("kv", r.keyValue)
	if r.input.HasFetch {
		fn("fetch", r.fetch)
	}
	fn("setTimeout", func(c goja.FunctionCall) goja.Value { return r.setTimer(c, false) })
	fn("setInterval", func(c goja.FunctionCall) goja.Value { return r.setTimer(c, true) })
	fn("clearTimeout", r.clearTimer)
	fn("clearInterval", r.clearTimer)
	fn("queueMicrotask", r.queueMicrotask)
	fn("btoa", r.btoa)
	fn("atob", r.atob)
	if r.lane == LaneWorker {
		r.installRich(define)
	}
}

// installRich defines the globals of the worker lane.
func (r *run) installRich(define func(string, func() goja.Value)) {
	var urls *goja.Object
	member := func(name string) func() goja.Value {
		return func() goja.Value {
			if urls == nil {
				module := r.rt.NewObject()
				urls = r.rt.NewObject()
				_ = module.Set("exports", urls)
				url.Require(r.rt, module)
			}
			return urls.Get(name)
		}
	}
	define("URL", member("URL"))
	define("URLSearchParams", member("URLSearchParams"))
	define("TextEncoder", r.textEncoder)
	define("TextDecoder", r.textDecoder)
	define("crypto", r.crypto)
	define("structuredClone", r.structuredClone)
}

// console makes the console: log, info, debug, warn and error.
func (r *run) console() goja.Value {
	o := r.rt.NewObject()
	for _, m := range []struct{ name, level string }{
		{"log", "info"}, {"info", "info"}, {"debug", "debug"}, {"warn", "warn"}, {"error", "error"},
	} {
		_ = o.Set(m.name, r.function(func(call goja.FunctionCall) goja.Value {
			r.logLine(m.level, call.Arguments)
			return goja.Undefined()
		}, m.name, 0))
	}
	return o
}

// logLine writes one line, and ends the run where it writes too much.
func (r *run) logLine(level string, args []goja.Value) {
	r.enter()
	w := writer{r: r, limit: maxLine}
	for i, a := range args {
		if i > 0 {
			w.text(" ")
		}
		r.inspect(&w, a)
		if w.full {
			w.limit += 8
			w.full = false
			w.text("…")
			break
		}
	}
	line := string(w.buf)
	if logged := r.logged.Add(int64(len(line)) + lineOverhead); logged > r.limits.LogBytes {
		r.fail(&stop{end: bulkhead.End{
			Cause: bulkhead.CauseOutputLimit, At: time.Now(), ExitCode: 1,
			Limit: r.limits.LogBytes, Peak: logged, Detail: "it wrote too much to the console",
		}})
	}
	r.input.Host.Log(LogLine{Level: level, Message: line})
}

// inspect writes v for a person: strings as they are, errors with their
// message, all else as JSON where that is possible.
func (r *run) inspect(w *writer, v goja.Value) {
	o, ok := v.(*goja.Object)
	if !ok {
		if s, ok := v.(goja.String); ok && s.Length() > maxLine {
			text := s.String()
			w.text(strings.ToValidUTF8(text[:min(len(text), maxLine-len(w.buf)-1)], ""))
			w.full = true
			return
		}
		if v == nil {
			v = goja.Undefined()
		}
		w.text(v.String())
		return
	}
	if o.ClassName() == "Error" {
		f := r.describe(o)
		w.text(f.Name + ": " + f.Message)
		return
	}
	if _, callable := goja.AssertFunction(o); callable {
		w.text("[Function]")
		return
	}
	before := len(w.buf)
	ex := r.rt.Try(func() {
		if !w.value(o) {
			w.text("undefined")
		}
	})
	if ex != nil {
		w.buf, w.stack = w.buf[:before], nil
		w.text("[" + o.ClassName() + "]")
	}
}

// keyValue makes the tenant's store: get, set, delete and list.
func (r *run) keyValue() goja.Value {
	o := r.rt.NewObject()
	method := func(name string, length int, f func(goja.FunctionCall) goja.Value) {
		_ = o.Set(name, r.function(func(call goja.FunctionCall) goja.Value {
			r.enter()
			return f(call)
		}, name, length))
	}
	method("get", 1, func(call goja.FunctionCall) goja.Value {
		answer := r.call("kv.get", map[string]any{"key": r.shortText(call.Argument(0))})
		if len(answer) == 0 {
			return goja.Undefined()
		}
		return r.parseJSON(answer)
	})
	method("set", 2, func(call goja.FunctionCall) goja.Value {
		w := writer{r: r, limit: maxAnswer}
		if !w.value(call.Argument(1)) {
			w.text("null")
		}
		if w.full {
			panic(r.rt.NewTypeError("the value is larger than %d bytes", maxAnswer))
		}
		r.call("kv.set", map[string]any{"key": r.shortText(call.Argument(0)), "value": json.RawMessage(w.buf)})
		return goja.Undefined()
	})
	method("delete", 1, func(call goja.FunctionCall) goja.Value {
		return r.parseJSON(r.call("kv.delete", map[string]any{"key": r.shortText(call.Argument(0))}))
	})
	method("list", 1, func(call goja.FunctionCall) goja.Value {
		prefix := ""
		if !goja.IsUndefined(call.Argument(0)) {
			prefix = r.shortText(call.Argument(0))
		}
		return r.parseJSON(r.call("kv.list", map[string]any{"prefix": prefix}))
	})
	return o
}

// shortText returns v as a Go string of at most 8 KiB.
func (r *run) shortText(v goja.Value) string {
	if n := size(v); n > 8<<10 || n < 0 {
		panic(r.rt.NewTypeError("a name must be a string of at most %d characters", 8<<10))
	}
	return v.String()
}

// call asks the host and throws its error into the program.
func (r *run) call(op string, request any) []byte {
	payload, err := json.Marshal(request)
	if err != nil {
		panic(r.rt.NewTypeError("%s: %s", op, err.Error()))
	}
	begin := time.Now()
	r.waiting.Store(true)
	answer, err := r.input.Host.Call(op, payload)
	r.waited.Add(int64(time.Since(begin)))
	r.waiting.Store(false)
	r.enter()
	if errors.Is(err, ErrMove) && r.lane == LaneInProcess {
		r.move("it asks much of the host")
	}
	if err != nil {
		panic(r.rt.NewTypeError("%s: %s", op, err.Error()))
	}
	if len(answer) > maxAnswer {
		panic(r.rt.NewTypeError("%s: the answer is larger than %d bytes", op, maxAnswer))
	}
	r.charge("an answer", 4*int64(len(answer)))
	return answer
}

// parseJSON makes a value of the host's JSON.
func (r *run) parseJSON(text []byte) goja.Value {
	if r.lane == LaneInProcess && (len(text) > smallInput || jsonDepth(string(text)) > smallDepth) {
		r.move("an answer that is long or deep")
	}
	parse, ok := goja.AssertFunction(r.holder(inJSON).Get("parse"))
	if !ok {
		panic(r.rt.NewTypeError("there is no JSON.parse"))
	}
	v, err := parse(goja.Undefined(), r.rt.ToValue(string(text)))
	if err != nil {
		panic(err)
	}
	return v
}

// fetchRequest and fetchAnswer are the payloads of the host's "fetch".
type fetchRequest struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
}

type fetchAnswer struct {
	URL     string            `json:"url"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
}

// fetch is the global fetch. It waits for the answer, so that requests go one
// after the other, and returns a settled promise.
func (r *run) fetch(call goja.FunctionCall) goja.Value {
	r.enter()
	promise, resolve, reject := r.rt.NewPromise()
	var response goja.Value
	ex := r.rt.Try(func() {
		req := fetchRequest{URL: r.shortText(call.Argument(0)), Method: "GET"}
		if o, ok := call.Argument(1).(*goja.Object); ok {
			if m := o.Get("method"); m != nil && !goja.IsUndefined(m) {
				req.Method = strings.ToUpper(r.shortText(m))
			}
			if b := o.Get("body"); b != nil && !goja.IsUndefined(b) && !goja.IsNull(b) {
				if n := size(b); n < 0 || n > maxAnswer {
					panic(r.rt.NewTypeError("the body must be a string of at most %d bytes", maxAnswer))
				}
				req.Body = b.String()
			}
			if h, ok := o.Get("headers").(*goja.Object); ok {
				req.Headers = map[string]string{}
				for _, k := range h.Keys() {
					if len(req.Headers) >= 64 {
						panic(r.rt.NewTypeError("more than 64 headers"))
					}
					req.Headers[k] = r.shortText(h.Get(k))
				}
			}
		}
		var answer fetchAnswer
		if err := json.Unmarshal(r.call("fetch", req), &answer); err != nil {
			panic(r.rt.NewTypeError("fetch: %s", err.Error()))
		}
		response = r.response(&answer)
	})
	var err error
	if ex != nil {
		err = reject(ex.Value())
	} else {
		err = resolve(response)
	}
	if err != nil {
		panic(err)
	}
	return r.rt.ToValue(promise)
}

// response makes the object that fetch resolves to.
func (r *run) response(a *fetchAnswer) goja.Value {
	o := r.rt.NewObject()
	_ = o.Set("url", a.URL)
	_ = o.Set("status", a.Status)
	_ = o.Set("ok", a.Status >= 200 && a.Status < 300)
	headers := r.rt.NewObject()
	_ = headers.Set("get", r.function(func(call goja.FunctionCall) goja.Value {
		if v, ok := a.Headers[strings.ToLower(r.shortText(call.Argument(0)))]; ok {
			return r.rt.ToValue(v)
		}
		return goja.Null()
	}, "get", 1))
	_ = o.Set("headers", headers)
	body := func(name string, value func() goja.Value) {
		_ = o.Set(name, r.function(func(goja.FunctionCall) goja.Value {
			r.enter()
			return r.promise(value)
		}, name, 0))
	}
	body("text", func() goja.Value { return r.rt.ToValue(string(a.Body)) })
	body("json", func() goja.Value { return r.parseJSON(a.Body) })
	if r.lane == LaneWorker {
		body("arrayBuffer", func() goja.Value { return r.rt.ToValue(r.rt.NewArrayBuffer(a.Body)) })
	}
	return o
}

// promise returns a promise of what f returns or throws.
func (r *run) promise(f func() goja.Value) goja.Value {
	p, resolve, reject := r.rt.NewPromise()
	var v goja.Value
	var err error
	if ex := r.rt.Try(func() { v = f() }); ex != nil {
		err = reject(ex.Value())
	} else {
		err = resolve(v)
	}
	if err != nil {
		panic(err)
	}
	return r.rt.ToValue(p)
}

// queueMicrotask runs its argument after the current job.
func (r *run) queueMicrotask(call goja.FunctionCall) goja.Value {
	r.enter()
	if _, ok := goja.AssertFunction(call.Argument(0)); !ok {
		panic(r.rt.NewTypeError("queueMicrotask needs a function"))
	}
	p, _ := r.promise(goja.Undefined).(*goja.Object)
	then, ok := goja.AssertFunction(p.Get("then"))
	if !ok {
		panic(r.rt.NewTypeError("there is no Promise.prototype.then"))
	}
	if _, err := then(p, call.Argument(0)); err != nil {
		panic(err)
	}
	return goja.Undefined()
}

// latin returns the bytes of a string whose characters are all below 256.
func (r *run) latin(v goja.Value) []byte {
	r.enter()
	n := size(v)
	if n > smallString && r.lane == LaneInProcess {
		r.move("base64 of a long string")
	}
	s, ok := v.(goja.String)
	if !ok {
		s, _ = r.rt.ToValue(r.shortText(v)).(goja.String)
	}
	r.charge("base64", 4*int64(s.Length()))
	b := make([]byte, s.Length())
	for i := range b {
		c := s.CharAt(i)
		if c > 0xFF {
			panic(r.rt.NewTypeError("the string has a character above 255"))
		}
		b[i] = byte(c)
	}
	return b
}

func (r *run) btoa(call goja.FunctionCall) goja.Value {
	return r.rt.ToValue(base64.StdEncoding.EncodeToString(r.latin(call.Argument(0))))
}

func (r *run) atob(call goja.FunctionCall) goja.Value {
	text := strings.TrimRight(string(r.latin(call.Argument(0))), "=")
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		panic(r.rt.NewTypeError("the string is not base64"))
	}
	units := make([]uint16, len(b))
	for i, c := range b {
		units[i] = uint16(c)
	}
	return goja.StringFromUTF16(units)
}
