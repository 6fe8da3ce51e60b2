package engine

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unsafe"

	"github.com/dop251/goja"
)

// holder is an object that has charged built-ins.
type holder int

const (
	inGlobal holder = iota
	inString
	inArray
	inRegExp
	inObject
	inArrayConstructor
	inPromise
	inPromises
	inMap
	inSet
	inJSON
	holderCount
)

// holderOf says where a holder is: a global, and whether it is its prototype.
var holderOf = [holderCount]struct {
	global    string
	prototype bool
}{
	inString: {"String", true}, inArray: {"Array", true}, inRegExp: {"RegExp", true},
	inObject: {"Object", false}, inArrayConstructor: {"Array", false},
	inPromise: {"Promise", false}, inPromises: {"Promise", true},
	inMap: {"Map", true}, inSet: {"Set", true}, inJSON: {"JSON", false},
}

// check looks at a call before the built-in runs. It returns when the call may
// go on, and does not return otherwise.
type check func(r *run, this goja.Value, args []goja.Value)

// native is a built-in that is charged.
type native struct {
	in   holder
	name string
	// small is its check in process, charge its check in a worker; either may
	// be nil. A charge never touches what the program could observe.
	small, charge check
	// result charges the length of the string that it returned.
	result bool
}

// natives is the table of all charged built-ins.
func natives() []native {
	list := []native{
		{in: inString, name: "repeat", small: smallRepeat, charge: chargeRepeat},
		{in: inString, name: "padStart", small: smallPad, charge: chargePad},
		{in: inString, name: "padEnd", small: smallPad, charge: chargePad},
		{in: inString, name: "concat", small: smallText, charge: chargeTexts},
		{in: inString, name: "replace", small: smallReplace(false)},
		{in: inString, name: "replaceAll", small: smallReplace(true), charge: chargeReplaceAll},
		{in: inString, name: "split", small: smallSplit, charge: chargeSplit},
		{in: inString, name: "match", small: smallMatch},
		{in: inString, name: "matchAll", small: smallMatch},
		{in: inString, name: "search", small: smallMatch},
		{in: inRegExp, name: "exec", small: smallExec},
		{in: inRegExp, name: "test", small: smallExec},
		{in: inArray, name: "join", small: smallJoin, charge: chargeJoin, result: true},
		{in: inArray, name: "fill", small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "concat", small: smallArrays, charge: chargeArrays},
		{in: inArray, name: "flat", small: smallFlat},
		{in: inArray, name: "sort", small: smallSort, charge: chargeItems(16)},
		{in: inArray, name: "toSorted", small: smallSort, charge: chargeItems(32)},
		{in: inArray, name: "toReversed", small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "toSpliced", small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "with", small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "indexOf", small: smallFind},
		{in: inArray, name: "lastIndexOf", small: smallFind},
		{in: inArray, name: "includes", small: smallFind},
		{in: inArrayConstructor, name: "from", small: smallFrom},
		{in: inObject, name: "fromEntries", small: smallIterables},
		{in: inPromise, name: "all", small: smallPromises},
		{in: inPromise, name: "allSettled", small: smallPromises},
		{in: inPromise, name: "any", small: smallPromises},
		{in: inPromise, name: "race", small: smallPromises},
		{in: inPromises, name: "then", small: smallThen},
		{in: inPromises, name: "catch", small: smallThen},
		{in: inPromises, name: "finally", small: smallThen},
		{in: inMap, name: "forEach", small: smallForEach},
		{in: inSet, name: "forEach", small: smallForEach},
		{in: inJSON, name: "parse", small: smallParse, charge: chargeParse},
		{in: inJSON, name: "stringify", small: smallStringify},
	}
	each := func(in holder, c check, names string) {
		for name := range strings.FieldsSeq(names) {
			list = append(list, native{in: in, name: name, small: c})
		}
	}
	each(inString, smallText, `endsWith includes indexOf lastIndexOf localeCompare startsWith
		slice substr substring toLocaleLowerCase toLocaleUpperCase toLowerCase toUpperCase
		trim trimEnd trimLeft trimRight trimStart`)
	each(inArray, smallArray, `copyWithin entries keys reverse shift slice splice unshift
		values`)
	each(inArray, smallEach, `every filter find findIndex findLast findLastIndex forEach map
		reduce reduceRight some`)
	each(inObject, smallObjects, `assign entries freeze isFrozen isSealed keys values`)
	each(inGlobal, smallText, `decodeURI decodeURIComponent encodeURI encodeURIComponent`)
	each(inGlobal, smallNumber, `parseFloat parseInt`)
	return list
}

// layout is where goja keeps the Go function behind a built-in one. A check is put
// there, since goja has no call for that: to the program the built-in stays the same
// object, and making another for each check took a third of the time of a short run.
type layout struct {
	object int          // the field of a goja.Object with its implementation
	kind   reflect.Type // the implementation of a built-in function
	offset uintptr      // of the Go function in that
}

// readLayout finds the layout of this build's goja.
func readLayout() (layout, error) {
	rt := goja.New()
	o := rt.Get("parseInt").ToObject(rt)
	l := layout{kind: implementation(o)}
	self, ok := reflect.TypeFor[goja.Object]().FieldByName("self")
	if !ok || len(self.Index) != 1 || l.kind == nil || l.kind.Kind() != reflect.Pointer || l.kind.Elem().Kind() != reflect.Struct {
		return layout{}, errors.New("an object's implementation is not where it was")
	}
	l.object = self.Index[0]
	f, ok := l.kind.Elem().FieldByName("f")
	if !ok || f.Type != reflect.TypeFor[func(goja.FunctionCall) goja.Value]() {
		return layout{}, errors.New("a built-in's function is not where it was")
	}
	l.offset = f.Offset
	r := &run{}
	r.rt = rt
	for _, n := range natives() {
		if o, ok := r.holder(n.in).Get(n.name).(*goja.Object); !ok || l.function(o) == nil {
			return layout{}, fmt.Errorf("there is no built-in %s where it was", n.name)
		}
	}
	return l, nil
}

// function returns the Go function of a built-in one, to be called or exchanged;
// nil if o is something else.
func (l *layout) function(o *goja.Object) *func(goja.FunctionCall) goja.Value {
	self := reflect.ValueOf(o).Elem().Field(l.object).Elem()
	if self.Type() != l.kind {
		return nil
	}
	return (*func(goja.FunctionCall) goja.Value)(unsafe.Add(self.UnsafePointer(), l.offset))
}
