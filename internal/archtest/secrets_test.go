package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"testing"
)

// secretName is what a value is called that a guess must not be compared with byte
// by byte.
var secretName = regexp.MustCompile(`(?i)(token|secret|signature)$`)

// Secrets are compared by crypto/subtle or looked up by their hash: == ends at the
// first byte that differs, and its time would tell how much of a guess is right.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	sources(t, func(dir, path string, _ *ast.File) {
		if isTestSupport(dir) {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			cmp, ok := n.(*ast.BinaryExpr)
			if !ok || cmp.Op != token.EQL && cmp.Op != token.NEQ || isConstant(cmp.X) || isConstant(cmp.Y) {
				return true
			}
			if secretName.MatchString(nameOf(cmp.X)) || secretName.MatchString(nameOf(cmp.Y)) {
				t.Errorf("%s compares %s with %s by %s", path, nameOf(cmp.X), nameOf(cmp.Y), cmp.Op)
			}
			return true
		})
	})
}

// isConstant reports whether e is a literal or nil, which are no secrets.
func isConstant(e ast.Expr) bool {
	_, literal := e.(*ast.BasicLit)
	return literal || nameOf(e) == "nil"
}

// nameOf is the last part of a variable's name, "" for anything else.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
