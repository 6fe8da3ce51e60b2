package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bulkheadhq/bulkhead"

// layers are the packages of each layer, by folder; a folder stands for all below
// it unless a longer one is named.
var layers = map[string]int{
	".":                      0,
	"internal/jsonbody":      1,
	"internal/boxrpc":        1,
	"internal/forecast":      1,
	"internal/guard":         1,
	"internal/openapi":       1,
	"internal/quota":         1,
	"internal/rate":          1,
	"internal/script/engine": 1,
	"internal/bundled":       1,
	"internal/resolver":      2,
	"internal/trace":         1,
	"internal/simulate":      2,
	"internal/pool":          2,
	"internal/store":         2,
	"internal/supply":        3,
	"internal/template":      2,
	"internal/driver":        3,
	"internal/netslot":       3,
	"internal/cgroup":        3,
	"internal/host":          4,
	"internal/doctor":        4,
	"internal/script":        4,
	"internal/node":          5,
	"client":                 5,
	"internal/api":           6,
	"internal/proxy":         6,
	"internal/authority":     6,
	"internal/config":        6,
	"internal/cli":           7,
	"internal/envd":          6,
	"internal/interp":        5,
	"cmd":                    8,
	"bench":                  8,
	"test":                   8,
}

// sideways are pairs of packages of one layer where one may import the other.
var sideways = map[string]string{
	"internal/simulate": "internal/forecast",
}

// packageOf returns the folder in layers that stands for dir.
func packageOf(dir string) (string, bool) {
	for d := dir; ; d = filepath.ToSlash(filepath.Dir(d)) {
		if _, ok := layers[d]; ok && (d != "." || dir == ".") {
			return d, true
		}
		if d == "." {
			return "", false
		}
	}
}

// sources calls f for every Go file of the module that is not a test.
func sources(t *testing.T, f func(dir, path string, file *ast.File)) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata" || name == "tools") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), path, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// isTestSupport are packages that only tests import.
func isTestSupport(dir string) bool {
	base := filepath.Base(dir)
	return strings.HasSuffix(base, "test") || base == "testenv" || strings.HasPrefix(base, "fake") || base == "archtest"
}

func TestLayers(t *testing.T) {
	sources(t, func(dir, path string, file *ast.File) {
		if isTestSupport(dir) {
			return
		}
		from, ok := packageOf(dir)
		if !ok {
			if dir != "proto" && !strings.HasPrefix(dir, "proto/") {
				t.Errorf("%s belongs to no layer: add it to the table and to the tour", dir)
			}
			return
		}
		for _, imp := range file.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if p != module && !strings.HasPrefix(p, module+"/") {
				continue
			}
			target := strings.TrimPrefix(strings.TrimPrefix(p, module), "/")
			if target == "" {
				target = "."
			}
			if isTestSupport(target) && from != "bench" { // which measures on what tests run on
				t.Errorf("%s imports %s, which is for tests", path, target)
				continue
			}
			to, ok := packageOf(target)
			if !ok || to == from || sideways[from] == to {
				continue
			}
			if layers[to] >= layers[from] {
				t.Errorf("%s (layer %d) imports %s (layer %d)", dir, layers[from], target, layers[to])
			}
		}
	})
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	said, all := map[string]bool{}, map[string]bool{}
	sources(t, func(dir, _ string, file *ast.File) {
		if strings.HasPrefix(dir, "internal/boxrpc/") { // generated
			return
		}
		all[dir] = true
		if file.Doc != nil {
			said[dir] = true
		}
	})
	for dir := range all {
		if !said[dir] {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// The environment is read where the program starts and nowhere else.
func TestEnvironmentIsReadAtTheEdge(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	sources(t, func(dir, path string, _ *ast.File) {
		// runsc is a program of its own, which hands itself a variable.
		if isTestSupport(dir) || dir == "internal/config" || dir == "internal/driver/gvisor/runsc" || strings.HasPrefix(dir, "cmd/") || dir == "bench" {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"os.Getenv(", "os.LookupEnv("} {
			if strings.Contains(string(text), call) {
				rel, _ := filepath.Rel(root, path)
				t.Errorf("%s calls %s…)", rel, call)
			}
		}
	})
}
