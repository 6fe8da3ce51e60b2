package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja_nodejs/url"
)

// hostNames are the globals that are ours; hostSmall those of them that a small
// program may use.
var (
	hostNames = words(`console kv fetch setTimeout setInterval clearTimeout clearInterval queueMicrotask
		btoa atob performance URL URLSearchParams TextEncoder TextDecoder crypto structuredClone
		AbortController AbortSignal DOMException Headers`)
	hostSmall = words(`console kv fetch setTimeout setInterval clearTimeout clearInterval queueMicrotask
		btoa atob performance`)
)

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
	define("console", r.newConsole)
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
	define("performance", r.performance)
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
	define("URL", func() goja.Value {
		c := member("URL")()
		r.completeURL(c.ToObject(r.rt))
		return c
	})
	define("URLSearchParams", member("URLSearchParams"))
	define("TextEncoder", r.textEncoder)
	define("TextDecoder", r.textDecoder)
	define("crypto", r.crypto)
	define("structuredClone", r.structuredClone)
	for _, name := range []string{"AbortController", "AbortSignal", "DOMException", "Headers"} {
		define(name, func() goja.Value { return r.webClass(name) })
	}
}

// completeURL adds parse and canParse, which the module does not have.
func (r *run) completeURL(c *goja.Object) {
	static := func(name string, f func(u *goja.Object) goja.Value) {
		_ = c.Set(name, r.function(func(call goja.FunctionCall) goja.Value {
			r.enter()
			var u *goja.Object
			ex := r.rt.Try(func() {
				var err error
				if u, err = r.rt.New(c, call.Arguments...); err != nil {
					panic(err)
				}
			})
			if ex != nil {
				u = nil
			}
			return f(u)
		}, name, 1))
	}
	static("canParse", func(u *goja.Object) goja.Value { return r.rt.ToValue(u != nil) })
	static("parse", func(u *goja.Object) goja.Value {
		if u == nil {
			return goja.Null()
		}
		return u
	})
}

// performance makes performance: now, on the program's clock, and timeOrigin.
func (r *run) performance() goja.Value {
	o := r.rt.NewObject()
	origin := r.now().UnixMilli()
	_ = o.Set("timeOrigin", origin)
	_ = o.Set("now", r.function(func(goja.FunctionCall) goja.Value {
		r.enter()
		return r.rt.ToValue(r.now().UnixMilli() - origin)
	}, "now", 0))
	return o
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
	if errors.Is(err, ErrOver) {
		r.fail(r.timeEnd(max(time.Since(r.began), r.limits.Time())))
	}
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
	text := bytes.Map(func(c rune) rune {
		if strings.ContainsRune(" \t\n\f\r", c) {
			return -1
		}
		return c
	}, r.latin(call.Argument(0)))
	b, err := base64.RawStdEncoding.DecodeString(string(bytes.TrimRight(text, "=")))
	if err != nil {
		panic(r.rt.NewTypeError("the string is not base64"))
	}
	units := make([]uint16, len(b))
	for i, c := range b {
		units[i] = uint16(c)
	}
	return goja.StringFromUTF16(units)
}
