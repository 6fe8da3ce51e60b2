package engine

import (
	"crypto"
	_ "crypto/sha1"   //nolint:gosec // registers SHA-1, which programs may ask for
	_ "crypto/sha256" // registers SHA-256
	_ "crypto/sha512" // registers SHA-384 and SHA-512
	"encoding/hex"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/parser"
)

// buffers are the constructors that allocate as much as they are told, with the
// bytes of one element.
var buffers = map[string]int64{
	"ArrayBuffer": 1,
	"Int8Array":   1, "Uint8Array": 1, "Uint8ClampedArray": 1,
	"Int16Array": 2, "Uint16Array": 2,
	"Int32Array": 4, "Uint32Array": 4, "Float32Array": 4,
	"Float64Array": 8, "BigInt64Array": 8, "BigUint64Array": 8,
}

// bufferPrelude returns a program that binds askBytes to what stands under the
// same name in the global object. As a lexical binding the program can neither
// name it nor see it.
func bufferPrelude() (*goja.Program, error) {
	bound := func() *ast.Identifier { return &ast.Identifier{Name: askBytes, Idx: 1} }
	tree, err := goja.Parse(sourceName, "const x = this.y", parser.WithDisableSourceMaps)
	if err != nil {
		return nil, err
	}
	decl, ok := tree.Body[0].(*ast.LexicalDeclaration)
	if !ok {
		return nil, errors.New("a declaration is not what it was")
	}
	member, ok := decl.List[0].Initializer.(*ast.DotExpression)
	if !ok {
		return nil, errors.New("a member is not what it was")
	}
	decl.List[0].Target = bound()
	member.Identifier = *bound()
	return goja.CompileAST(tree, false)
}

// mostAddressed is the longest allocation that Go's runtime tries, in bytes; a
// longer one it refuses at once.
const mostAddressed = 1 << 47

// installBuffers defines what rewritten constructors of buffers call.
func (r *run) installBuffers() error {
	global := r.rt.GlobalObject()
	charge := func(call goja.FunctionCall) goja.Value {
		r.enter()
		v := call.Argument(0)
		if goja.IsNumber(v) {
			if n := times(count(v), call.Argument(1).ToInteger()); n <= mostAddressed { // beyond it is a RangeError
				r.charge("a buffer", n)
			}
		} else if _, n, ok := asArray(v); ok {
			r.charge("a buffer", times(n, call.Argument(1).ToInteger()))
		}
		return v
	}
	if err := global.Set(askBytes, charge); err != nil {
		return err
	}
	if _, err := r.rt.RunProgram(r.engine.buffers); err != nil {
		return err
	}
	return global.Delete(askBytes)
}

// class makes a constructor whose instances have the given methods.
func (r *run) class(name string, init func(o *goja.Object, args []goja.Value), methods map[string]func(goja.FunctionCall) goja.Value) goja.Value {
	c, _ := r.rt.ToValue(func(call goja.ConstructorCall) *goja.Object {
		r.enter()
		init(call.This, call.Arguments)
		return nil
	}).(*goja.Object)
	const no, yes = goja.FLAG_FALSE, goja.FLAG_TRUE
	_ = c.DefineDataProperty("name", r.rt.ToValue(name), no, yes, no)
	proto, _ := c.Get("prototype").(*goja.Object)
	for m, f := range methods {
		_ = proto.DefineDataProperty(m, r.function(func(call goja.FunctionCall) goja.Value {
			r.enter()
			return f(call)
		}, m, 1), yes, yes, no)
	}
	return c
}

// bytesOf returns the bytes of an ArrayBuffer, a typed array or a DataView;
// they are the object's own, not a copy.
func (r *run) bytesOf(v goja.Value) []byte {
	o, ok := v.(*goja.Object)
	if !ok {
		panic(r.rt.NewTypeError("an ArrayBuffer or a view of one is needed"))
	}
	if b, ok := o.Export().(goja.ArrayBuffer); ok {
		return b.Bytes()
	}
	buffer, ok := o.Get("buffer").(*goja.Object)
	if !ok {
		panic(r.rt.NewTypeError("an ArrayBuffer or a view of one is needed"))
	}
	b, ok := buffer.Export().(goja.ArrayBuffer)
	if !ok {
		panic(r.rt.NewTypeError("an ArrayBuffer or a view of one is needed"))
	}
	all := b.Bytes()
	from, n := count(o.Get("byteOffset")), count(o.Get("byteLength"))
	if from > int64(len(all)) || n > int64(len(all))-from {
		panic(r.rt.NewTypeError("the view is outside of its buffer"))
	}
	return all[from : from+n]
}

// uint8Array makes a Uint8Array of b.
func (r *run) uint8Array(b []byte) goja.Value {
	o, err := r.rt.New(r.rt.Get("Uint8Array"), r.rt.ToValue(r.rt.NewArrayBuffer(b)))
	if err != nil {
		panic(err)
	}
	return o
}

func (r *run) textEncoder() goja.Value {
	return r.class("TextEncoder", func(o *goja.Object, _ []goja.Value) {
		_ = o.Set("encoding", "utf-8")
	}, map[string]func(goja.FunctionCall) goja.Value{
		"encode": func(call goja.FunctionCall) goja.Value {
			text := ""
			if v := call.Argument(0); !goja.IsUndefined(v) {
				r.charge("encoded text", 3*max(0, size(v)))
				text = v.String()
			}
			return r.uint8Array([]byte(strings.ToValidUTF8(text, "\uFFFD")))
		},
		"encodeInto": func(call goja.FunctionCall) goja.Value {
			into := r.bytesOf(call.Argument(1))
			r.charge("encoded text", 3*max(0, size(call.Argument(0))))
			text := strings.ToValidUTF8(call.Argument(0).String(), "\uFFFD")
			read, written := 0, 0
			for _, c := range text {
				n := utf8.RuneLen(c)
				if written+n > len(into) {
					break
				}
				written += utf8.EncodeRune(into[written:], c)
				read += utf16.RuneLen(c)
			}
			o := r.rt.NewObject()
			_ = o.Set("read", read)
			_ = o.Set("written", written)
			return o
		},
	})
}

func (r *run) textDecoder() goja.Value {
	return r.class("TextDecoder", func(o *goja.Object, args []goja.Value) {
		label := "utf-8"
		if v := arg(args, 0); !goja.IsUndefined(v) {
			label = strings.ToLower(r.shortText(v))
		}
		if label != "utf-8" && label != "utf8" {
			panic(r.rt.NewTypeError("the encoding %q is not supported; it must be utf-8", label))
		}
		_ = o.Set("encoding", "utf-8")
		fatal := false
		if opts, ok := arg(args, 1).(*goja.Object); ok {
			if f := opts.Get("fatal"); f != nil {
				fatal = f.ToBoolean()
			}
		}
		_ = o.Set("fatal", fatal)
	}, map[string]func(goja.FunctionCall) goja.Value{
		"decode": func(call goja.FunctionCall) goja.Value {
			if goja.IsUndefined(call.Argument(0)) {
				return r.rt.ToValue("")
			}
			b := r.bytesOf(call.Argument(0))
			r.charge("decoded text", 2*int64(len(b)))
			if self, ok := call.This.(*goja.Object); ok && !utf8.Valid(b) {
				if f := self.Get("fatal"); f != nil && f.ToBoolean() {
					panic(r.rt.NewTypeError("the bytes are not valid UTF-8"))
				}
			}
			return r.rt.ToValue(strings.TrimPrefix(strings.ToValidUTF8(string(b), "\uFFFD"), "\uFEFF"))
		},
	})
}

// digests are the hashes of crypto.subtle.digest.
var digests = map[string]crypto.Hash{
	"SHA-1": crypto.SHA1, "SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512,
}

// crypto makes crypto: subtle.digest, getRandomValues and randomUUID. Its random
// bytes come from ChaCha8 with a seed from the system's source for each run.
func (r *run) crypto() goja.Value {
	o, subtle := r.rt.NewObject(), r.rt.NewObject()
	_ = subtle.Set("digest", r.function(func(call goja.FunctionCall) goja.Value {
		r.enter()
		return r.promise(func() goja.Value {
			name := call.Argument(0)
			if alg, ok := name.(*goja.Object); ok {
				name = alg.Get("name")
			}
			h, ok := digests[strings.ToUpper(r.shortText(name))]
			if !ok {
				panic(r.rt.NewTypeError("the digest must be SHA-1, SHA-256, SHA-384 or SHA-512"))
			}
			d := h.New()
			d.Write(r.bytesOf(call.Argument(1)))
			return r.rt.ToValue(r.rt.NewArrayBuffer(d.Sum(nil)))
		})
	}, "digest", 2))
	_ = o.Set("subtle", subtle)
	_ = o.Set("getRandomValues", r.function(func(call goja.FunctionCall) goja.Value {
		r.enter()
		b := r.bytesOf(call.Argument(0))
		if len(b) > 1<<16 {
			panic(r.rt.NewTypeError("getRandomValues fills at most 65536 bytes"))
		}
		_, _ = r.replay.chance().Read(b) // never fails, by its contract
		return call.Argument(0)
	}, "getRandomValues", 1))
	_ = o.Set("randomUUID", r.function(func(goja.FunctionCall) goja.Value {
		r.enter()
		var b [16]byte
		_, _ = r.replay.chance().Read(b[:]) // never fails, by its contract
		b[6], b[8] = b[6]&0x0F|0x40, b[8]&0x3F|0x80
		h := hex.EncodeToString(b[:])
		return r.rt.ToValue(strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-"))
	}, "randomUUID", 0))
	return o
}

// cloneSource makes structuredClone. It is JavaScript so that the budget and the
// sampler hold for it as for any program.
const cloneSource = `(function (failure) {
	const buffers = [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array,
		Float32Array, Float64Array, BigInt64Array, BigUint64Array];
	const errors = { EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
	return function structuredClone(value) {
		const seen = new Map();
		function keep(from, to) { seen.set(from, to); return to; }
		function clone(v) {
			if (typeof v === "function" || typeof v === "symbol") failure(typeof v);
			if (typeof v !== "object" || v === null) return v;
			if (seen.has(v)) return seen.get(v);
			if (Array.isArray(v)) {
				const to = keep(v, new Array(v.length));
				for (const k of Object.keys(v)) to[k] = clone(v[k]);
				return to;
			}
			if (v instanceof Date) return keep(v, new Date(v.getTime()));
			if (v instanceof RegExp) return keep(v, new RegExp(v.source, v.flags));
			if (v instanceof Map) {
				const to = keep(v, new Map());
				v.forEach((x, k) => to.set(clone(k), clone(x)));
				return to;
			}
			if (v instanceof Set) {
				const to = keep(v, new Set());
				v.forEach(x => to.add(clone(x)));
				return to;
			}
			if (v instanceof ArrayBuffer) return keep(v, v.slice(0));
			if (v instanceof DataView) return keep(v, new DataView(clone(v.buffer), v.byteOffset, v.byteLength));
			for (const T of buffers) {
				if (v instanceof T) return keep(v, new T(clone(v.buffer), v.byteOffset, v.length));
			}
			if (v instanceof Error) {
				const to = keep(v, new (errors[v.name] || Error)(v.message));
				if ("cause" in v) to.cause = clone(v.cause);
				return to;
			}
			if (v instanceof Boolean || v instanceof Number || v instanceof String) return keep(v, Object(v.valueOf()));
			if (v instanceof WeakMap || v instanceof WeakSet || v instanceof Promise) failure("this object");
			const to = keep(v, {});
			for (const k of Object.keys(v)) to[k] = clone(v[k]);
			return to;
		}
		return clone(value);
	};
})`

func (r *run) structuredClone() goja.Value {
	v, err := r.rt.RunProgram(r.engine.clone)
	if err != nil {
		panic(err)
	}
	factory, ok := goja.AssertFunction(v)
	if !ok {
		panic(r.rt.NewTypeError("structuredClone is broken"))
	}
	fail := r.rt.ToValue(func(call goja.FunctionCall) goja.Value {
		e, err := r.rt.New(r.webClass("DOMException"), r.rt.ToValue(call.Argument(0).String()+" cannot be cloned"), r.rt.ToValue("DataCloneError"))
		if err != nil {
			panic(err)
		}
		panic(e)
	})
	f, err := factory(goja.Undefined(), fail)
	if err != nil {
		panic(err)
	}
	return f
}
