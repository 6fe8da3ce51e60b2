package engine

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/dop251/goja"

	"github.com/bulkheadhq/bulkhead"
)

// exportDepth bounds how deep a result may nest.
const exportDepth = 1000

// writer writes goja values as JSON, as JSON.stringify would, straight from the
// realm: no Go object is built, and it stops at its limit.
type writer struct {
	r     *run
	buf   []byte
	limit int64
	full  bool  // the limit was reached; what follows is dropped
	over  int64 // how large it would have been at least
	stack []*goja.Object
}

// export returns v as JSON within the limit of the result.
func (r *run) export(v goja.Value) ([]byte, error) {
	w := writer{r: r, limit: r.limits.ResultBytes}
	var err error
	if ex := r.rt.Try(func() {
		if !w.value(v) {
			w.text("null")
		}
	}); ex != nil {
		err = ex
	}
	if w.full {
		r.end(&stop{end: bulkhead.End{
			Cause: bulkhead.CauseOutputLimit, At: time.Now(), ExitCode: 1,
			Limit: w.limit, Peak: w.over,
			Detail: fmt.Sprintf("the result is larger than %d bytes", w.limit),
		}})
	}
	return w.buf, err
}

// text appends s unless the limit is reached.
func (w *writer) text(s string) {
	if n := int64(len(w.buf) + len(s)); n > w.limit {
		w.full, w.over = true, n
		return
	}
	w.buf = append(w.buf, s...)
}

// value writes v and reports whether there was anything to write: functions,
// symbols and undefined are nothing.
func (w *writer) value(v goja.Value) bool {
	w.r.enter()
	if w.full {
		return true
	}
	switch v := v.(type) {
	case nil:
		return false
	case goja.String:
		w.quoted(v)
		return true
	case *goja.Symbol:
		return false
	case *goja.Object:
		return w.object(v)
	}
	switch {
	case goja.IsUndefined(v):
		return false
	case goja.IsBigInt(v):
		panic(w.r.rt.NewTypeError("a BigInt cannot be written as JSON"))
	case goja.IsNumber(v):
		if f := v.ToFloat(); math.IsNaN(f) || math.IsInf(f, 0) {
			w.text("null")
			return true
		}
	}
	w.text(v.String()) // null, true, false or a number as JavaScript writes it
	return true
}

// quoted writes a string with what JSON escapes; a lone surrogate is escaped too.
func (w *writer) quoted(s goja.String) {
	if n := int64(len(w.buf) + s.Length() + 2); n > w.limit {
		w.full, w.over = true, n
		return
	}
	b := append(w.buf, '"')
	n := s.Length()
	for i := 0; i < n; i++ {
		switch c := s.CharAt(i); {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < 0x20:
			b = append(b, shortEscape(byte(c))...)
		case c < utf8.RuneSelf:
			b = append(b, byte(c))
		case c >= 0xD800 && c <= 0xDFFF:
			var size int
			b, size = appendSurrogate(b, s, i)
			i += size - 1
		default:
			b = utf8.AppendRune(b, rune(c))
		}
	}
	w.buf = append(b, '"')
	if n := int64(len(w.buf)); n > w.limit {
		w.full, w.over = true, n
	}
}

// shortEscape returns the escape of a control character.
func shortEscape(c byte) string {
	switch c {
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	}
	return fmt.Sprintf(`\u%04x`, c)
}

// appendSurrogate appends the character whose first unit is at i, and returns
// how many units it has.
func appendSurrogate(b []byte, s goja.String, i int) ([]byte, int) {
	c := s.CharAt(i)
	if c < 0xDC00 && i+1 < s.Length() {
		if d := s.CharAt(i + 1); d >= 0xDC00 && d <= 0xDFFF {
			return utf8.AppendRune(b, (rune(c)-0xD800)<<10+(rune(d)-0xDC00)+0x10000), 2
		}
	}
	return fmt.Appendf(b, `\u%04x`, c), 1
}

// object writes an object.
func (w *writer) object(o *goja.Object) bool {
	if f, ok := goja.AssertFunction(o.Get("toJSON")); ok {
		v, err := f(o, goja.Undefined())
		if err != nil {
			panic(err)
		}
		if next, ok := v.(*goja.Object); !ok || next != o {
			return w.nested(o, func() bool { return w.value(v) })
		}
	}
	if _, callable := goja.AssertFunction(o); callable {
		return false
	}
	switch o.ClassName() {
	case "Number":
		return w.value(o.ToNumber())
	case "String":
		return w.value(o.ToString())
	case "Boolean":
		return w.value(w.r.rt.ToValue(o.String() == "true"))
	}
	return w.nested(o, func() bool {
		if _, n, ok := asArray(o); ok {
			w.array(o, n)
		} else {
			w.members(o)
		}
		return true
	})
}

// nested calls f with o on the stack of what is being written.
func (w *writer) nested(o *goja.Object, f func() bool) bool {
	for _, s := range w.stack {
		if s == o {
			panic(w.r.rt.NewTypeError("a value that contains itself cannot be written as JSON"))
		}
	}
	if len(w.stack) >= exportDepth {
		panic(w.r.rt.NewTypeError("a value nested more than %d deep cannot be written as JSON", exportDepth))
	}
	w.stack = append(w.stack, o)
	done := f()
	w.stack = w.stack[:len(w.stack)-1]
	return done
}

func (w *writer) array(o *goja.Object, n int64) {
	w.text("[")
	for i := range n {
		if i > 0 {
			w.text(",")
		}
		if !w.value(o.Get(strconv.FormatInt(i, 10))) {
			w.text("null")
		}
		if w.full {
			return
		}
	}
	w.text("]")
}

func (w *writer) members(o *goja.Object) {
	w.text("{")
	first := true
	for _, k := range o.Keys() {
		before := len(w.buf)
		if !first {
			w.text(",")
		}
		key, _ := w.r.rt.ToValue(k).(goja.String)
		w.quoted(key)
		w.text(":")
		if w.value(o.Get(k)) {
			first = false
		} else if !w.full {
			w.buf = w.buf[:before]
		}
		if w.full {
			return
		}
	}
	w.text("}")
}
