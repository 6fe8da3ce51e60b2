package engine

import (
	"fmt"
	"math/big"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/parser"
	"github.com/dop251/goja/token"
	"github.com/dop251/goja/unistring"
)

// The names of the functions that a small program's dangerous operators are
// rewritten to call. No source text can spell them.
const (
	askKey      = "\x00key"      // obj[k]: may this name be read?
	askIterable = "\x00iterable" // ...x: how long is it?
	askHanded   = "\x00handed"   // f(...x), new Set(x): how much would a built-in read?
	askObject   = "\x00object"   // {...x}: how large is it?
	askText     = "\x00text"     // `${x}`: charge its length
	askBytes    = "\x00bytes"    // new Float64Array(n), in workers: charge n × 8
)

// Which names of the language a small program may use, beside its own. Every
// built-in behind an allowed property name either does constant work, or stands
// in the table natives with a check of its own.
var (
	// smallValues are globals that may be used anywhere.
	smallValues = words(`Math NaN Infinity undefined isNaN isFinite parseInt parseFloat
		encodeURIComponent decodeURIComponent encodeURI decodeURI`)
	// smallOwners are globals whose members may be used, as in JSON.parse.
	smallOwners = words(`JSON Object Array String Number Boolean Date Promise Error`)
	// smallCalls are globals that may be called or handed to a call.
	smallCalls = words(`String Number Boolean Date Array Error TypeError RangeError SyntaxError ReferenceError`)
	// smallNews are globals that may follow new; those of smallFilled take an
	// iterable.
	smallNews = words(`Map Set WeakMap WeakSet Promise Date Array Object Error TypeError RangeError
		SyntaxError ReferenceError EvalError URIError`)
	smallFilled = words(`Map Set WeakMap WeakSet`)
	// smallProperties are the names of built-in members that may be used.
	smallProperties = words(`
		abs acos acosh asin asinh atan atan2 atanh cbrt ceil clz32 cos cosh exp expm1 floor fround hypot
		imul log log10 log1p log2 max min pow random round sign sin sinh sqrt tan tanh trunc
		add all allSettled any assign at catch charAt charCodeAt clear codePointAt concat copyWithin
		decodeURI decodeURIComponent delete encodeURI encodeURIComponent endsWith entries every exec
		fill filter finally find findIndex findLast findLastIndex flags flat forEach freeze from
		fromCharCode fromCodePoint fromEntries get global has hasOwn hasOwnProperty ignoreCase includes
		indexOf is isArray isError isExtensible isFinite isFrozen isInteger isNaN isSafeInteger isSealed
		join keys lastIndexOf length localeCompare map match matchAll multiline next now of padEnd
		padStart parse parseFloat parseInt pop propertyIsEnumerable push race reduce reduceRight reject
		repeat replace replaceAll resolve reverse search set shift size slice some sort source splice
		split startsWith stringify substr substring test then toDateString toExponential toFixed
		toISOString toJSON toLocaleDateString toLocaleLowerCase toLocaleTimeString toLocaleUpperCase
		toLowerCase toPrecision toReversed toSorted toSpliced toString toTimeString toUTCString
		toUpperCase trim trimEnd trimLeft trimRight trimStart unshift UTC valueOf values with
		getDate getDay getFullYear getHours getMilliseconds getMinutes getMonth getSeconds getTime
		getTimezoneOffset getUTCDate getUTCDay getUTCFullYear getUTCHours getUTCMilliseconds
		getUTCMinutes getUTCMonth getUTCSeconds setDate setFullYear setHours setMilliseconds setMinutes
		setMonth setSeconds setTime setUTCDate setUTCFullYear setUTCHours setUTCMilliseconds
		setUTCMinutes setUTCMonth setUTCSeconds`)
)

// words splits a list into a set.
func words(list string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(list) {
		set[w] = true
	}
	return set
}

// universe is every name under which goja reaches a built-in function or
// accessor, and which of them are globals.
type universe struct {
	properties, globals map[string]bool
}

// small reports whether a property of this name may be used in process.
func (u *universe) small(name string) bool {
	return !u.properties[name] && name != "prototype" || smallProperties[name]
}

// analysis is what the syntax of a program says.
type analysis struct {
	u         *universe
	lane      Lane
	why       string // why it is not small; "" if it is
	names     map[string]bool
	hostNames map[string]bool // host globals it mentions
	anyHost   bool            // or might reach by another way
	regexps   int             // instructions of its largest regular expression
	buffers   bool            // it makes buffers by their names
	asks      map[string]bool // the ask functions that it was rewritten to call

	fine    map[*ast.Identifier]bool
	guarded map[ast.Expression]bool // patterns whose source asks first
	params  map[*ast.Binding]bool
}

// analyse reads the program's tree and rewrites it for the lane.
func analyse(u *universe, p *ast.Program, lane Lane) *analysis {
	a := &analysis{
		u: u, lane: lane, names: map[string]bool{}, hostNames: map[string]bool{}, asks: map[string]bool{},
		fine: map[*ast.Identifier]bool{}, guarded: map[ast.Expression]bool{}, params: map[*ast.Binding]bool{},
	}
	w := walker{enter: a.enter}
	w.walk(p)
	return a
}

// deny records the first reason why the program is not small.
func (a *analysis) deny(format string, args ...any) {
	if a.why == "" {
		a.why = fmt.Sprintf(format, args...)
	}
}

// ask returns the call of one of the ask functions on e, for the in-process
// lane; in workers e itself.
func (a *analysis) ask(name string, e ast.Expression) ast.Expression {
	if a.lane != LaneInProcess {
		return e
	}
	a.asks[name] = true
	return &ast.CallExpression{
		Callee:       &ast.Identifier{Name: unistring.String(name), Idx: e.Idx0()},
		ArgumentList: []ast.Expression{e}, LeftParenthesis: e.Idx0(), RightParenthesis: e.Idx1(),
	}
}

// enter looks at one node before its children are visited.
func (a *analysis) enter(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.Identifier:
		a.identifier(n)
	case *ast.DotExpression:
		if id, ok := n.Left.(*ast.Identifier); ok && (smallOwners[string(id.Name)] || hostSmall[string(id.Name)]) {
			a.fine[id] = true
		}
		a.property(string(n.Identifier.Name))
	case *ast.BracketExpression:
		a.bracket(n)
	case *ast.CallExpression:
		a.call(n)
	case *ast.NewExpression:
		a.construct(n)
	case *ast.BinaryExpression:
		if id, ok := n.Right.(*ast.Identifier); ok && n.Operator == token.INSTANCEOF {
			a.fine[id] = smallNews[string(id.Name)]
		}
	case *ast.ArrayLiteral:
		a.askSpread(n.Value, askIterable)
	case *ast.ObjectLiteral:
		a.object(n)
	case *ast.TemplateLiteral:
		if n.Tag != nil {
			a.deny("it has a tagged template")
		}
		if len(n.Expressions) > 2 {
			for i, e := range n.Expressions {
				n.Expressions[i] = a.ask(askText, e)
			}
		}
	case *ast.RegExpLiteral:
		a.regexp(n)
	case *ast.NumberLiteral:
		if _, ok := n.Value.(*big.Int); ok {
			a.deny("it has a BigInt")
		}
	default:
		return a.enterRare(n)
	}
	return true
}

// enterRare looks at the kinds of node that declare or that are never small.
func (a *analysis) enterRare(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FunctionLiteral:
		a.parameters(n.ParameterList)
		if n.Generator {
			a.deny("it has a generator")
		}
	case *ast.ArrowFunctionLiteral:
		a.parameters(n.ParameterList)
	case *ast.Binding:
		a.binding(n)
	case *ast.ObjectPattern:
		a.objectPattern(n)
	case *ast.ArrayPattern:
		if n.Rest != nil && !a.guarded[n] {
			a.deny("it has a rest element in a nested pattern")
		}
	case *ast.ClassLiteral:
		if id, ok := n.SuperClass.(*ast.Identifier); ok {
			a.fine[id] = id.Name == "Error"
		} else if n.SuperClass != nil {
			a.deny("it has a class that extends an expression")
		}
	case *ast.MethodDefinition:
		if n.Kind != ast.PropertyKindMethod || n.Computed {
			a.deny("it has an accessor or a computed method")
		}
		if key, ok := n.Key.(*ast.StringLiteral); ok && key.Value == "constructor" && !n.Static {
			break
		}
		a.definedKey(n.Key)
	case *ast.FieldDefinition:
		if n.Computed {
			a.deny("it has a computed field")
		}
		a.definedKey(n.Key)
	case *ast.ThisExpression:
		a.anyHost = true
	case *ast.YieldExpression, *ast.WithStatement, *ast.MetaProperty, *ast.ClassStaticBlock,
		*ast.BadExpression, *ast.BadStatement:
		a.deny("it has %s", strings.TrimPrefix(fmt.Sprintf("%T", n), "*ast."))
		a.anyHost = true
	}
	return true
}

// identifier looks at a name that stands for a variable.
func (a *analysis) identifier(id *ast.Identifier) {
	name := string(id.Name)
	switch {
	case strings.HasPrefix(name, "\x00"), a.fine[id], smallValues[name]:
	case hostNames[name]:
		a.hostNames[name] = true
		if !hostSmall[name] {
			a.deny("it uses %s", name)
		}
	case a.u.globals[name], name == "globalThis":
		a.deny("it uses %s", name)
		a.anyHost = a.anyHost || name == "globalThis" || name == "eval" || name == "Function" || name == "Reflect"
	}
	if hostNames[name] {
		a.hostNames[name] = true
	}
	a.names[name] = true
}

// property looks at the static name of a member.
func (a *analysis) property(name string) {
	a.names[name] = true
	if name == "constructor" {
		a.anyHost = true // the way to Function
	}
	if !a.u.small(name) {
		a.deny("it uses .%s", name)
	}
}

// definedKey looks at a key that a literal or a class defines.
func (a *analysis) definedKey(key ast.Expression) {
	s, ok := key.(*ast.StringLiteral)
	if ok && (s.Value == "__proto__" || s.Value == "constructor") {
		a.deny("it defines %s", s.Value)
	}
}

// bracket looks at obj[member].
func (a *analysis) bracket(n *ast.BracketExpression) {
	switch m := n.Member.(type) {
	case *ast.NumberLiteral:
	case *ast.StringLiteral:
		a.property(string(m.Value))
	default:
		a.anyHost = a.anyHost || isThis(n.Left)
		n.Member = a.ask(askKey, m)
	}
	if id, ok := n.Left.(*ast.Identifier); ok && hostSmall[string(id.Name)] {
		a.fine[id] = true
	}
}

// isThis reports whether e may be the global object.
func isThis(e ast.Expression) bool {
	_, ok := e.(*ast.ThisExpression)
	return ok
}

// call looks at a call.
func (a *analysis) call(n *ast.CallExpression) {
	if id, ok := n.Callee.(*ast.Identifier); ok && smallCalls[string(id.Name)] {
		a.fine[id] = true
	}
	for _, e := range n.ArgumentList {
		if id, ok := e.(*ast.Identifier); ok && smallCalls[string(id.Name)] && id.Name != "Array" {
			a.fine[id] = true
		}
	}
	a.askSpread(n.ArgumentList, askHanded)
}

// construct looks at new X(...).
func (a *analysis) construct(n *ast.NewExpression) {
	a.askSpread(n.ArgumentList, askHanded)
	id, ok := n.Callee.(*ast.Identifier)
	if !ok {
		return
	}
	name := string(id.Name)
	a.fine[id] = smallNews[name]
	a.buffer(name, n.ArgumentList)
	if smallFilled[name] && len(n.ArgumentList) > 0 {
		if _, spread := n.ArgumentList[0].(*ast.SpreadElement); spread {
			a.deny("it fills a %s from a spread", name)
			return
		}
		n.ArgumentList[0] = a.ask(askHanded, n.ArgumentList[0])
	}
}

// buffer makes the constructor of a buffer charge its length first, in workers.
func (a *analysis) buffer(name string, args []ast.Expression) {
	size, ok := buffers[name]
	if !ok || a.lane != LaneWorker || len(args) == 0 {
		return
	}
	e := args[0]
	if _, spread := e.(*ast.SpreadElement); spread {
		return
	}
	a.buffers = true
	args[0] = &ast.CallExpression{
		Callee: &ast.Identifier{Name: askBytes, Idx: e.Idx0()},
		ArgumentList: []ast.Expression{
			e, &ast.NumberLiteral{Idx: e.Idx0(), Literal: strconv.FormatInt(size, 10), Value: size},
		},
		LeftParenthesis: e.Idx0(), RightParenthesis: e.Idx1(),
	}
}

// askSpread makes every spread of the list ask first.
func (a *analysis) askSpread(list []ast.Expression, name string) {
	for _, e := range list {
		if s, ok := e.(*ast.SpreadElement); ok {
			s.Expression = a.ask(name, s.Expression)
		}
	}
}

// object looks at an object literal.
func (a *analysis) object(n *ast.ObjectLiteral) {
	for _, p := range n.Value {
		switch p := p.(type) {
		case *ast.SpreadElement:
			p.Expression = a.ask(askObject, p.Expression)
		case *ast.PropertyKeyed:
			if p.Kind == ast.PropertyKindGet || p.Kind == ast.PropertyKindSet {
				a.deny("it has an accessor")
			}
			if !p.Computed {
				a.definedKey(p.Key)
			}
		case *ast.PropertyShort:
			// {Map} would hand out the built-in itself; identifier sees only
			// pointers, and this name is a value.
			a.identifier(&p.Name)
		}
	}
}

// objectPattern looks at {a, b: c, ...rest} on the left of an assignment.
func (a *analysis) objectPattern(n *ast.ObjectPattern) {
	if n.Rest != nil && !a.guarded[n] {
		a.deny("it has a rest property in a nested pattern")
	}
	for _, p := range n.Properties {
		switch p := p.(type) {
		case *ast.PropertyShort:
			a.property(string(p.Name.Name))
			a.identifier(&p.Name)
		case *ast.PropertyKeyed:
			key, ok := p.Key.(*ast.StringLiteral)
			if !ok || p.Computed {
				a.deny("it has a computed key in a pattern")
				continue
			}
			a.property(string(key.Value))
		}
	}
}

// parameters marks the bindings whose initializer is only a default.
func (a *analysis) parameters(list *ast.ParameterList) {
	if list == nil {
		return
	}
	for _, b := range list.List {
		a.params[b] = true
	}
}

// binding makes the source of a pattern with a rest ask first.
func (a *analysis) binding(b *ast.Binding) {
	if b.Initializer == nil || a.params[b] {
		return
	}
	switch t := b.Target.(type) {
	case *ast.ObjectPattern:
		if t.Rest != nil {
			a.guarded[t] = true
			b.Initializer = a.ask(askObject, b.Initializer)
		}
	case *ast.ArrayPattern:
		if t.Rest != nil {
			a.guarded[t] = true
			b.Initializer = a.ask(askIterable, b.Initializer)
		}
	}
}

// regexp looks at a regular expression: it must be one that Go's linear engine
// runs, and short.
func (a *analysis) regexp(n *ast.RegExpLiteral) {
	for _, f := range n.Flags {
		if !strings.ContainsRune("gims", f) {
			a.deny("it has a regular expression with the flag %c", f)
			return
		}
	}
	if len(n.Pattern) > 256 {
		a.deny("it has a long regular expression")
		return
	}
	re, err := parser.TransformRegExp(n.Pattern, strings.Contains(n.Flags, "s"), false)
	if err != nil {
		a.deny("it has a regular expression that needs backtracking")
		return
	}
	tree, err := syntax.Parse(re, syntax.Perl)
	if err != nil {
		a.deny("it has a regular expression that is not linear")
		return
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil || len(prog.Inst) > 500 {
		a.deny("it has a large regular expression")
		return
	}
	a.regexps = max(a.regexps, len(prog.Inst))
}
