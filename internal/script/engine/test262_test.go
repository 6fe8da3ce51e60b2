package engine

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/goccy/go-yaml"
)

// program262 is one program of test262.
type program262 struct {
	name string
	// full is the program with the suite's own harness, small with ours, or ""
	// where it needs more than that.
	full, small string
}

// asyncHead lets an asynchronous test say how it ended: its last value is the
// promise that $DONE settles.
const asyncHead = `
var __settle, __settled = new Promise(function (resolve) { __settle = resolve });
function $DONE(e) { __settle(e ? "failed: " + e : "completed") }
`

// smallHead does what the suite's harness does, in few words that may run in
// process.
const smallHead = `function reportCompare() {}
function Test262Error(m) { return new Error(m) }
function $ERROR(m) { throw new Error(m) }
function assert(ok, m) { if (ok !== true) throw new Error(m) }
function __same(a, b) { return a === b ? a !== 0 || 1 / a === 1 / b : a !== a && b !== b }
assert.sameValue = function (a, b, m) { if (!__same(a, b)) throw new Error(m) };
assert.notSameValue = function (a, b, m) { if (__same(a, b)) throw new Error(m) };
assert.throws = function (C, f, m) { try { f() } catch (e) { if (e instanceof C) return; throw e } throw new Error(m) };
`

// load262 reads a test in the form that SpiderMonkey's sources hold: what a test
// includes stands in the shell.js of its folder and of those above it. It
// returns false for modules, and for agents, which goja does not have.
func load262(root, path string) (program262, bool) {
	source := string(must(os.ReadFile(path)))
	_, rest, _ := strings.Cut(source, "/*---")
	head, _, ok := strings.Cut(rest, "---*/")
	var meta struct {
		Flags    []string `yaml:"flags"`
		Includes []string `yaml:"includes"`
	}
	if !ok || yaml.Unmarshal([]byte(head), &meta) != nil {
		return program262{}, false
	}
	flags := strings.Join(meta.Flags, " ")
	if strings.Contains(flags, "module") || strings.Contains(flags, "CanBlock") {
		return program262{}, false
	}
	p := program262{name: must(filepath.Rel(root, path))}
	if strings.Contains(flags, "raw") {
		p.full = source
		return p, true
	}
	var strict string
	var shells strings.Builder
	if strings.Contains(flags, "onlyStrict") {
		strict = "'use strict';\n"
	}
	dir := root
	for part := range strings.SplitSeq("./"+filepath.ToSlash(filepath.Dir(p.name)), "/") {
		dir = filepath.Join(dir, part)
		if shell, err := os.ReadFile(filepath.Join(dir, "shell.js")); err == nil {
			own, _, _ := strings.Cut(string(shell), "// file: test262-host.js") // what only SpiderMonkey's shell has
			shells.WriteString(own + "\n")
		}
	}
	own, end := len(meta.Includes) == 0, "\n;'completed'"
	if strings.Contains(flags, "async") {
		shells.WriteString(asyncHead)
		end, own = "\n;__settled", false
	}
	p.full = strict + "function reportCompare() {}\nvar $262 = { global: this };\n" + shells.String() + source + end
	if own {
		p.small = strict + smallHead + source[strings.Index(source, "---*/")+5:] + end
	}
	return p, true
}

// charged262 are the folders about what is charged; short mode runs one in eight
// of the others.
var charged262 = regexp.MustCompile(`^(annexB/)?built-ins/(Array|ArrayBuffer|JSON|RegExp|String|TypedArray\w*)/`)

// list262 returns the paths of the tests.
func list262(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".js") || name == "shell.js" || name == "browser.js" ||
			strings.Contains(name, "_FIXTURE") {
			return err
		}
		n++
		if !testing.Short() || n%8 == 0 || charged262.MatchString(filepath.ToSlash(must(filepath.Rel(root, path)))) {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestTest262 runs tc39's test262 as SpiderMonkey's sources hold it: whatever the
// outcome of a test is in bare goja, it is the same with charged built-ins.
func TestTest262(t *testing.T) {
	root := suite(t, "test262")
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a fifth of the time
	e := newEngine(t)
	list := list262(t, root)
	var next, total, passed, inProcess atomic.Int64
	one := func(p program262) {
		total.Add(1)
		want := bare(p.full)
		if want == "completed" {
			passed.Add(1)
		}
		// A test that bare goja fails may pass here: host objects are globals too.
		if got, _ := e.guarded(t, p.full, LaneWorker); got != want && got != "completed" {
			t.Errorf("%s, in a worker: %.400s\nbare goja: %.400s", p.name, got, want)
		}
		if p.small != "" && e.same(t, p.name, p.small, LaneInProcess) {
			inProcess.Add(1)
		}
	}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				if p, ok := load262(root, list[i]); ok {
					one(p)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d tests, %d pass in bare goja; %d ran in process", total.Load(), passed.Load(), inProcess.Load())
	if total.Load() < 5000 || passed.Load() < total.Load()/2 {
		t.Error("that is not the suite")
	}
}
