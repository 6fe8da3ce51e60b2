package engine

import (
	"strconv"
	"strings"

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
	in     holder
	name   string
	length int
	// small is its check in process, charge its check in a worker; either may
	// be nil. A charge never touches what the program could observe.
	small, charge check
	// result charges the length of the string that it returned.
	result bool
}

// natives is the table of all charged built-ins.
func natives() []native {
	list := []native{
		{in: inString, name: "repeat", length: 1, small: smallRepeat, charge: chargeRepeat},
		{in: inString, name: "padStart", length: 1, small: smallPad, charge: chargePad},
		{in: inString, name: "padEnd", length: 1, small: smallPad, charge: chargePad},
		{in: inString, name: "concat", length: 1, small: smallText, charge: chargeTexts},
		{in: inString, name: "replace", length: 2, small: smallReplace(false)},
		{in: inString, name: "replaceAll", length: 2, small: smallReplace(true), charge: chargeReplaceAll},
		{in: inString, name: "split", length: 2, small: smallSplit, charge: chargeSplit},
		{in: inString, name: "match", length: 1, small: smallMatch},
		{in: inString, name: "matchAll", length: 1, small: smallMatch},
		{in: inString, name: "search", length: 1, small: smallMatch},
		{in: inRegExp, name: "exec", length: 1, small: smallExec},
		{in: inRegExp, name: "test", length: 1, small: smallExec},
		{in: inArray, name: "join", length: 1, small: smallJoin, charge: chargeJoin, result: true},
		{in: inArray, name: "fill", length: 1, small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "concat", length: 1, small: smallArrays, charge: chargeArrays},
		{in: inArray, name: "flat", length: 0, small: smallFlat},
		{in: inArray, name: "sort", length: 1, small: smallSort, charge: chargeItems(16)},
		{in: inArray, name: "toSorted", length: 1, small: smallSort, charge: chargeItems(32)},
		{in: inArray, name: "toReversed", length: 0, small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "toSpliced", length: 2, small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "with", length: 2, small: smallArray, charge: chargeItems(16)},
		{in: inArray, name: "indexOf", length: 1, small: smallFind},
		{in: inArray, name: "lastIndexOf", length: 1, small: smallFind},
		{in: inArray, name: "includes", length: 1, small: smallFind},
		{in: inArrayConstructor, name: "from", length: 1, small: smallFrom},
		{in: inObject, name: "fromEntries", length: 1, small: smallIterables},
		{in: inPromise, name: "all", length: 1, small: smallPromises},
		{in: inPromise, name: "allSettled", length: 1, small: smallPromises},
		{in: inPromise, name: "any", length: 1, small: smallPromises},
		{in: inPromise, name: "race", length: 1, small: smallPromises},
		{in: inPromises, name: "then", length: 2, small: smallThen},
		{in: inPromises, name: "catch", length: 1, small: smallThen},
		{in: inPromises, name: "finally", length: 1, small: smallThen},
		{in: inMap, name: "forEach", length: 1, small: smallForEach},
		{in: inSet, name: "forEach", length: 1, small: smallForEach},
		{in: inJSON, name: "parse", length: 2, small: smallParse, charge: chargeParse},
		{in: inJSON, name: "stringify", length: 3, small: smallStringify},
	}
	each := func(in holder, c check, names string) {
		for f := range strings.FieldsSeq(names) {
			name, length, _ := strings.Cut(f, "/")
			n, _ := strconv.Atoi(length)
			list = append(list, native{in: in, name: name, length: n, small: c})
		}
	}
	each(inString, smallText, `endsWith/1 includes/1 indexOf/1 lastIndexOf/1 localeCompare/1 startsWith/1
		slice/2 substr/2 substring/2 toLocaleLowerCase/0 toLocaleUpperCase/0 toLowerCase/0 toUpperCase/0
		trim/0 trimEnd/0 trimLeft/0 trimRight/0 trimStart/0`)
	each(inArray, smallArray, `copyWithin/2 entries/0 keys/0 reverse/0 shift/0 slice/2 splice/2 unshift/1
		values/0`)
	each(inArray, smallEach, `every/1 filter/1 find/1 findIndex/1 findLast/1 findLastIndex/1 forEach/1 map/1
		reduce/1 reduceRight/1 some/1`)
	each(inObject, smallObjects, `assign/2 entries/1 freeze/1 isFrozen/1 isSealed/1 keys/1 values/1`)
	each(inGlobal, smallText, `decodeURI/1 decodeURIComponent/1 encodeURI/1 encodeURIComponent/1`)
	each(inGlobal, smallNumber, `parseFloat/1 parseInt/2`)
	return list
}
