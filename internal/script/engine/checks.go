package engine

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/dop251/goja"
)

// The checks of the in-process lane: each bounds what one call of a built-in
// does, and moves the run where it cannot.

// text returns the length of v as a string and moves the run where it is too
// long for a built-in, or an object.
func (r *run) text(v goja.Value) int64 {
	n := size(v)
	if n < 0 || n > smallString {
		r.move("a built-in gets a string that is long or not a string")
	}
	return n
}

// items returns the length of the real, not too long array v; it moves the run
// for anything else.
func (r *run) items(v goja.Value) (*goja.Object, int64) {
	o, n, ok := asArray(v)
	if !ok || n > smallItems {
		r.move("a built-in loops over something long or not an array")
	}
	return o, n
}

func smallText(r *run, this goja.Value, args []goja.Value) {
	n, most := r.text(this), int64(1)
	sum := n
	for _, a := range args {
		m := r.text(a)
		sum += m
		most = max(most, m)
	}
	if n*most > smallProduct {
		r.move("a search over a long string")
	}
	r.charge("a string", 2*sum)
}

func smallArray(r *run, this goja.Value, _ []goja.Value) {
	_, n := r.items(this)
	r.charge("an array", 16*n)
}

// builtIn returns the name of v and true if it is a function of the engine's or the
// host's. Nothing stops a built-in that calls another again and again.
func (r *run) builtIn(v goja.Value) (string, bool) {
	o, ok := v.(*goja.Object)
	if !ok || r.engine.written[implementation(o)] {
		return "", false
	}
	if _, callable := goja.AssertFunction(v); !callable {
		return "", false
	}
	if r.sourceOf == nil {
		p := r.rt.Get("Function").ToObject(r.rt).Get("prototype").ToObject(r.rt)
		r.sourceOf, _ = goja.AssertFunction(p.Get("toString"))
	}
	text, err := r.sourceOf(v)
	if err != nil {
		return "", true
	}
	name, _ := strings.CutSuffix(text.String(), "() { [native code] }")
	return strings.TrimPrefix(name, "function "), true
}

// callback moves the run where a built-in is to be called by another.
func (r *run) callback(v goja.Value) {
	if _, ok := r.builtIn(v); ok {
		r.move("a built-in calls another one")
	}
}

// smallEach is smallArray for what calls a function with each element. A built-in
// may be that for few and short values.
func smallEach(r *run, this goja.Value, args []goja.Value) {
	o, n := r.items(this)
	r.charge("an array", 16*n)
	name, ok := r.builtIn(arg(args, 0))
	if !ok || name == "Boolean" {
		return
	}
	longest := int64(1)
	for i := range n {
		m := size(o.Get(strconv.FormatInt(i, 10)))
		if m < 0 {
			r.callback(args[0])
		}
		longest = max(longest, m)
	}
	if len(args) > 1 || times(n, longest) > smallString || name != "Number" && name != "String" {
		r.callback(args[0])
	}
}

func smallForEach(r *run, _ goja.Value, args []goja.Value) { r.callback(arg(args, 0)) }

// smallThen lets promises be settled by each other: the functions that do that have
// no name.
func smallThen(r *run, _ goja.Value, args []goja.Value) {
	for _, a := range args {
		if name, ok := r.builtIn(a); ok && name != "" {
			r.callback(a)
		}
	}
}

func smallRepeat(r *run, this goja.Value, args []goja.Value) {
	if size(arg(args, 0)) != 32 && len(args) > 0 {
		r.move("repeat by something that is no number")
	}
	if n := r.text(this); !goja.IsInfinity(arg(args, 0)) { // which it refuses itself
		r.charge("repeat", 2*min(times(n, count(arg(args, 0))), 1<<60))
	}
}

func smallPad(r *run, this goja.Value, args []goja.Value) {
	if len(args) > 0 && size(args[0]) != 32 {
		r.move("pad to something that is no number")
	}
	r.text(arg(args, 1))
	r.charge("a padded string", 2*max(r.text(this), count(arg(args, 0))))
}

// isRegExp reports whether v is a regular expression.
func isRegExp(v goja.Value) (*goja.Object, bool) {
	o, ok := v.(*goja.Object)
	return o, ok && o.ClassName() == "RegExp"
}

// plain reports whether s has no surrogate, so that goja's linear engine runs
// on it; with one it may fall back to backtracking.
func plain(v goja.Value) bool {
	s, ok := v.(goja.String)
	if !ok {
		return true
	}
	for i := range s.Length() {
		if c := s.CharAt(i); c >= 0xD800 && c <= 0xDFFF {
			return false
		}
	}
	return true
}

// matching allows a regular expression to run over subject in process only if
// that is bounded: one pass costs length × program, and finding all matches in
// the worst case a pass for each.
func (r *run) matching(re *goja.Object, subject goja.Value, all bool) {
	n := r.text(subject)
	flags := re.Get("flags")
	if f, ok := flags.(goja.String); ok {
		all = all || strings.Contains(f.String(), "g")
	}
	cost := times(n, int64(r.program.regexps))
	if all {
		cost = times(cost, n) / 16
	}
	if cost > 16<<20 || !plain(subject) {
		r.move("a regular expression over a long or unusual string")
	}
	r.charge("matches", 64*n)
}

func smallExec(r *run, this goja.Value, args []goja.Value) {
	re, ok := isRegExp(this)
	if !ok {
		r.move("a regular expression that is none")
	}
	r.matching(re, arg(args, 0), false)
}

func smallMatch(r *run, this goja.Value, args []goja.Value) {
	re, ok := isRegExp(arg(args, 0))
	if !ok {
		r.move("a regular expression made at run time")
	}
	r.matching(re, this, false)
}

// expansion bounds the length of a replacement text: one that refers to the
// match may hold the whole subject for each reference.
func expansion(repl goja.Value, n int64) int64 {
	m := size(repl)
	if m < 0 {
		return 64 // a function: each of its results is made by the program itself
	}
	if s, ok := repl.(goja.String); ok && m < 1<<16 && strings.Contains(s.String(), "$") || m >= 1<<16 {
		return m + times(m, n)
	}
	return m
}

func smallReplace(all bool) check {
	return func(r *run, this goja.Value, args []goja.Value) {
		n := r.text(this)
		matches := int64(1)
		if re, ok := isRegExp(arg(args, 0)); ok {
			r.matching(re, this, all)
			matches = n + 1
		} else {
			m := r.text(arg(args, 0))
			if times(n, max(1, m)) > smallProduct {
				r.move("a search over a long string")
			}
			if m == 0 && all {
				r.move("replaceAll of nothing") // goja does not come back from some
			}
			if all {
				matches = n/max(1, m) + 1
				r.charge("replaceAll", 256*matches)
			}
		}
		if repl, ok := arg(args, 1).(*goja.Object); ok {
			r.callback(repl)
			if _, callable := goja.AssertFunction(repl); !callable {
				r.move("a replacement that is an object")
			}
		}
		r.charge("replaced text", 2*min(n+times(matches, expansion(arg(args, 1), n)), 1<<60))
	}
}

func smallSplit(r *run, this goja.Value, args []goja.Value) {
	n := r.text(this)
	if re, ok := isRegExp(arg(args, 0)); ok {
		r.matching(re, this, true)
	} else if m := r.text(arg(args, 0)); times(n, max(1, m)) > smallProduct {
		r.move("a search over a long string")
	} else if n/max(1, m) > smallPieces {
		r.move("a split of a long string into short ones")
	}
	r.charge("split", 32*n)
}

// smallJoin adds up what the elements of an array are as strings. A nested
// array is joined by a call of its own, which charges its result.
func smallJoin(r *run, this goja.Value, args []goja.Value) {
	o, n := r.items(this)
	sum := times(n, r.text(separator(args))+1)
	for i := range n {
		m := size(o.Get(strconv.FormatInt(i, 10)))
		sum += max(64, m)
	}
	r.charge("join", 2*sum)
}

// separator is join's first argument, a comma by default.
func separator(args []goja.Value) goja.Value {
	if a := arg(args, 0); !goja.IsUndefined(a) {
		return a
	}
	return goja.Null() // as long as any short string
}

func smallArrays(r *run, this goja.Value, args []goja.Value) {
	_, sum := r.items(this)
	for _, a := range args {
		if _, n, ok := asArray(a); ok {
			sum += n
		} else if o, ok := a.(*goja.Object); ok && o.ExportType().Kind() == reflect.Slice {
			r.move("concat of something like an array")
		}
	}
	if sum > smallItems {
		r.move("concat of long arrays")
	}
	r.charge("concat", 16*sum)
}

func smallFlat(r *run, this goja.Value, args []goja.Value) {
	depth := int64(1)
	if len(args) > 0 {
		depth = count(args[0])
	}
	if depth > 8 {
		r.move("flat of any depth")
	}
	left := int64(smallItems)
	r.flatLength(this, depth, &left)
	r.charge("flat", 16*(smallItems-left))
}

// flatLength takes the number of elements of v, flattened, from left.
func (r *run) flatLength(v goja.Value, depth int64, left *int64) {
	o, n := r.items(v)
	for i := range n {
		if *left--; *left < 0 {
			r.move("flat of long arrays")
		}
		if depth > 0 {
			if e := o.Get(strconv.FormatInt(i, 10)); isArray(e) {
				r.flatLength(e, depth-1, left)
			}
		}
	}
}

func isArray(v goja.Value) bool {
	_, _, ok := asArray(v)
	return ok
}

// smallSort bounds a sort without a comparison function by what comparing the
// elements costs; the program's own function can be interrupted.
func smallSort(r *run, this goja.Value, args []goja.Value) {
	o, n := r.items(this)
	r.charge("sort", 32*n)
	if !goja.IsUndefined(arg(args, 0)) {
		r.callback(args[0])
		return
	}
	longest := int64(1)
	for i := range n {
		m := size(o.Get(strconv.FormatInt(i, 10)))
		if m < 0 {
			r.move("a sort of objects by their text")
		}
		longest = max(longest, m)
	}
	if times(n*16, longest) > smallProduct {
		r.move("a sort of long strings")
	}
}

func smallFind(r *run, this goja.Value, args []goja.Value) {
	_, n := r.items(this)
	if times(n, max(1, size(arg(args, 0)))) > smallProduct {
		r.move("a search for a long string")
	}
}

// iterable allows v to be iterated by a built-in: only what is known to end.
func (r *run) iterable(v goja.Value) {
	var n int64
	switch v := v.(type) {
	case nil:
	case goja.String:
		n = int64(v.Length())
	case *goja.Object:
		n = r.objectLength(v)
	}
	if n > smallItems {
		r.move("something long is iterated at once")
	}
	r.charge("iterated values", 64*n)
}

// objectLength returns how many values iterating o gives, and moves the run
// where that is not known.
func (r *run) objectLength(o *goja.Object) int64 {
	if _, n, ok := asArray(o); ok {
		return n
	}
	if o.ClassName() == "Arguments" {
		return 0
	}
	// The program cannot name the symbol, so only built-ins have it.
	if name := o.GetSymbol(goja.SymToStringTag); name != nil {
		switch name.String() {
		case "Map", "Set":
			return o.Get("size").ToInteger()
		case "Array Iterator", "Map Iterator", "Set Iterator":
			return 0 // made from what was looked at, bounded by what that holds
		}
	}
	r.move("something is iterated whose length is not known")
	return 0
}

// handed allows v to be iterated by a built-in that also reads each value, as a
// number or as a key.
func (r *run) handed(v goja.Value) {
	r.iterable(v)
	o, ok := v.(*goja.Object)
	if !ok {
		return
	}
	if _, _, ok := asArray(o); !ok {
		if name := o.GetSymbol(goja.SymToStringTag); name != nil && strings.HasSuffix(name.String(), "Iterator") {
			r.move("a built-in reads what an iterator gives")
		}
		return // the keys of a map or a set were read before
	}
	left := int64(smallRead)
	r.read(o, 1, &left)
}

// read takes the lengths of the texts in an array from left, and of those in the
// arrays in it.
func (r *run) read(v goja.Value, depth int, left *int64) {
	o, n := r.items(v)
	for i := range n {
		e := o.Get(strconv.FormatInt(i, 10))
		if *left -= max(0, size(e)); *left < 0 {
			r.move("a built-in reads many long strings")
		}
		if depth > 0 && isArray(e) {
			r.read(e, depth-1, left)
		}
	}
}

func smallIterables(r *run, _ goja.Value, args []goja.Value) {
	r.handed(arg(args, 0))
}

// smallNumber is smallText for what reads a number, in quadratic time.
func smallNumber(r *run, this goja.Value, args []goja.Value) {
	smallText(r, this, args)
	if size(arg(args, 0)) > smallDigits {
		r.move("a number with many digits")
	}
}

// smallPromises is smallIterables for what makes promises of the values, which
// takes microseconds for each.
func smallPromises(r *run, _ goja.Value, args []goja.Value) {
	r.iterable(arg(args, 0))
	if o, ok := arg(args, 0).(*goja.Object); ok && r.objectLength(o) > smallPromised {
		r.move("many promises at once")
	}
}

func smallFrom(r *run, _ goja.Value, args []goja.Value) {
	r.callback(arg(args, 1)) // a built-in could add to what is iterated, without end
	o, ok := arg(args, 0).(*goja.Object)
	if ok && o.ClassName() == "Object" && o.ExportType().Kind() == reflect.Map && o.GetSymbol(goja.SymIterator) == nil {
		n := o.Get("length")
		if n != nil && (size(n) != 32 || count(n) > smallItems) {
			r.move("Array.from of something long")
		}
		return
	}
	r.iterable(arg(args, 0))
}

// object allows a built-in to go through the properties of v.
func (r *run) object(v goja.Value) {
	n := size(v)
	if n < 0 {
		n = 0
		if _, m, ok := asArray(v); ok {
			n = m
		}
	}
	if n > smallItems {
		r.move("the properties of something long")
	}
	r.charge("properties", 128*n)
}

func smallObjects(r *run, _ goja.Value, args []goja.Value) {
	for _, a := range args {
		r.object(a)
	}
}

// jsonDepth returns how deep the brackets of a JSON text nest.
func jsonDepth[T ~string | ~[]byte](text T) int {
	depth, most, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			most = max(most, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return most
}

func smallParse(r *run, _ goja.Value, args []goja.Value) {
	n := r.text(arg(args, 0))
	if s, ok := arg(args, 0).(goja.String); ok && (n > smallInput || jsonDepth(s.String()) > smallDepth) {
		r.move("JSON that is long or deep")
	}
	r.callback(arg(args, 1))
	r.charge("JSON.parse", jsonFactor*n)
}

func smallStringify(r *run, _ goja.Value, args []goja.Value) {
	if !goja.IsUndefined(arg(args, 1)) && !goja.IsNull(arg(args, 1)) {
		r.move("JSON.stringify with a replacer")
	}
	nodes := smallNodes
	r.charge("JSON.stringify", 2*r.jsonSize(arg(args, 0), 0, &nodes))
}

// jsonSize returns an upper bound of v as indented JSON, and moves the run
// where it is large, deep or decided by the program. It reads properties, so it
// is for programs without accessors only.
func (r *run) jsonSize(v goja.Value, depth int64, nodes *int) int64 {
	if *nodes--; *nodes < 0 || depth > smallDepth {
		r.move("JSON that is long or deep")
	}
	o, ok := v.(*goja.Object)
	if !ok {
		return 6*max(32, size(v)) + 10*depth
	}
	if _, callable := goja.AssertFunction(o); callable {
		return 16
	}
	if o.ClassName() == "Date" {
		return 64 + 10*depth
	}
	if f := o.Get("toJSON"); f != nil && !goja.IsUndefined(f) {
		r.move("JSON.stringify with toJSON")
	}
	sum := 16 + 20*depth
	if _, n, ok := asArray(o); ok {
		if n > smallNodes {
			r.move("JSON that is long or deep")
		}
		for i := range n {
			sum += r.jsonSize(o.Get(strconv.FormatInt(i, 10)), depth+1, nodes)
		}
		return sum
	}
	for _, k := range o.Keys() {
		sum += 6*int64(len(k)) + 8 + r.jsonSize(o.Get(k), depth+1, nodes)
	}
	return sum
}
