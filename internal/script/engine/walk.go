package engine

import (
	"reflect"

	"github.com/dop251/goja/ast"
)

// walker visits every node of a syntax tree once. The tree has no visitor of
// its own, and its sixty kinds of node differ in their fields only, so that
// reflection does it.
type walker struct {
	seen map[any]bool
	// enter sees a node before its children; false skips them.
	enter func(ast.Node) bool
}

var nodeType = reflect.TypeFor[ast.Node]()

// walk visits the program.
func (w *walker) walk(p *ast.Program) {
	w.seen = map[any]bool{}
	w.value(reflect.ValueOf(&p.Body).Elem())
}

// value visits v, which is a field or an element.
func (w *walker) value(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // other kinds hold no nodes
	case reflect.Slice:
		for i := range v.Len() {
			w.value(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			// DeclarationList repeats nodes that stand in the body.
			if f := v.Type().Field(i); f.IsExported() && f.Name != "DeclarationList" {
				w.value(v.Field(i))
			}
		}
	case reflect.Pointer:
		w.pointer(v)
	case reflect.Interface:
		if v.IsNil() || !v.Type().Implements(nodeType) {
			return
		}
		w.pointer(v.Elem())
	}
}

// pointer visits the node that p points to.
func (w *walker) pointer(p reflect.Value) {
	if p.Kind() != reflect.Pointer || p.IsNil() || !p.Type().Implements(nodeType) {
		if p.Kind() == reflect.Pointer && !p.IsNil() && p.Elem().Kind() == reflect.Struct &&
			p.Type().Elem().PkgPath() == nodeType.PkgPath() {
			w.value(p.Elem()) // such as *ast.ParameterList, which is no node
		}
		return
	}
	if w.seen[p.Interface()] {
		return
	}
	w.seen[p.Interface()] = true
	n, _ := reflect.TypeAssert[ast.Node](p)
	if w.enter(n) {
		w.value(p.Elem())
	}
}
