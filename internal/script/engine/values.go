package engine

import (
	"math"
	"reflect"

	"github.com/dop251/goja"
)

// arrayType is what goja says is the Go type of a real array.
var arrayType = reflect.TypeFor[[]any]()

// asArray returns the length of v if it is a real array, no proxy.
func asArray(v goja.Value) (o *goja.Object, n int64, ok bool) {
	o, ok = v.(*goja.Object)
	if !ok || o.ClassName() != "Array" || o.ExportType() != arrayType {
		return nil, 0, false
	}
	return o, o.Get("length").ToInteger(), true
}

// size returns the length of what v is as a string: exact for a string, 32 for
// other primitives, and -1 for an object, whose text nobody knows before.
func size(v goja.Value) int64 {
	switch v := v.(type) {
	case nil:
		return 0
	case goja.String:
		return int64(v.Length())
	case *goja.Object:
		return -1
	}
	return 32
}

// arg returns the i-th argument or undefined.
func arg(args []goja.Value, i int) goja.Value {
	if i < len(args) {
		return args[i]
	}
	return goja.Undefined()
}

// count returns v as a length: 0 when it is not a number above 0, and at most
// 2^53.
func count(v goja.Value) int64 {
	if v == nil || !goja.IsNumber(v) {
		return 0
	}
	f := v.ToFloat()
	if !(f > 0) {
		return 0
	}
	return int64(min(f, 1<<53))
}

// times multiplies lengths without overflow.
func times(a, b int64) int64 {
	if a != 0 && b > math.MaxInt64/a {
		return math.MaxInt64
	}
	return a * b
}
