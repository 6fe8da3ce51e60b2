package engine

import (
	"strings"

	"github.com/dop251/goja"
)

// The charges of the worker lane follow. They look only at primitives and at
// the lengths of real arrays, which no program can notice.

func chargeRepeat(r *run, this goja.Value, args []goja.Value) {
	if n := size(this); n > 0 && !goja.IsInfinity(arg(args, 0)) { // which it refuses itself
		r.charge("repeat", times(n, count(arg(args, 0))))
	}
}

func chargePad(r *run, this goja.Value, args []goja.Value) {
	if n := count(arg(args, 0)); n > size(this) && size(arg(args, 1)) != 0 {
		r.charge("a padded string", n)
	}
}

func chargeTexts(r *run, this goja.Value, args []goja.Value) {
	sum := max(0, size(this))
	for _, a := range args {
		sum += max(0, size(a))
	}
	r.charge("concat", sum)
}

func chargeReplaceAll(r *run, this goja.Value, args []goja.Value) {
	s, okS := this.(goja.String)
	p, okP := arg(args, 0).(goja.String)
	repl, okR := arg(args, 1).(goja.String)
	if !okS || !okP || !okR || s.Length() > 64<<20 {
		return
	}
	matches := int64(strings.Count(s.String(), p.String()))
	each := int64(repl.Length())
	if strings.Contains(repl.String(), "$") {
		each = times(each, int64(s.Length()))
	}
	r.charge("replaced text", min(int64(s.Length())+times(matches, each), 1<<60))
}

func chargeSplit(r *run, this goja.Value, args []goja.Value) {
	n, m := size(this), size(arg(args, 0))
	if n > 0 && m >= 0 && goja.IsUndefined(arg(args, 1)) && !goja.IsUndefined(arg(args, 0)) {
		r.charge("split", 16*(n/max(1, m)))
	}
}

func chargeJoin(r *run, this goja.Value, args []goja.Value) {
	if _, n, ok := asArray(this); ok {
		r.charge("join", times(n, max(1, size(separator(args)))))
	}
}

// chargeItems charges bytes for each element of a real array.
func chargeItems(bytes int64) check {
	return func(r *run, this goja.Value, _ []goja.Value) {
		if _, n, ok := asArray(this); ok {
			r.charge("an array", times(n, bytes))
		}
	}
}

func chargeArrays(r *run, this goja.Value, args []goja.Value) {
	_, sum, _ := asArray(this)
	for _, a := range args {
		_, n, _ := asArray(a)
		sum += n
	}
	r.charge("concat", times(sum, 16))
}

func chargeParse(r *run, _ goja.Value, args []goja.Value) {
	if n := size(arg(args, 0)); n > 0 {
		r.charge("JSON.parse", times(n, 4))
	}
}
