package interp

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// TestPythonCells runs cells that each show one thing that Python does here.
func TestPythonCells(t *testing.T) {
	b := startPython(t, Config{})
	for _, c := range []struct {
		name   string
		code   string
		stdout string
		stderr string
		text   string
		err    string // the name of the error
	}{
		{name: "value", code: "1 + 1", text: "2"},
		{name: "string without quotes", code: "'it'", text: "it"},
		{name: "no value after a semicolon", code: "1 + 1;"},
		{name: "nothing", code: ""},
		{name: "unicode", code: "print('é 😀'); '日本'", stdout: "é 😀\n", text: "日本"},
		{name: "await", code: "import asyncio\nawait asyncio.sleep(0.01)\n'slept'", text: "slept"},
		{name: "asyncio.run", code: "import asyncio\nasyncio.run(asyncio.sleep(0.01, 'ran'))", text: "ran"},
		{name: "shell", code: "!echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
		{name: "shell into a variable", code: "x = !echo out\nx[0]", text: "out"},
		{name: "cell magic", code: "%%bash\necho from bash", stdout: "from bash\n"},
		{name: "child process", code: "import subprocess\nprint('a')\nsubprocess.run(['echo', 'b'])\nprint('c')", stdout: "a\nb\nc\n", text: ""},
		{name: "descriptor", code: "import os\nprint('a')\nos.write(1, b'b\\n');", stdout: "a\nb\n"},
		{
			name:   "thread",
			code:   "import threading\nt = threading.Thread(target=lambda: print('threaded'))\nt.start()\nt.join()",
			stdout: "threaded\n",
		},
		{name: "rest of a line", code: "print('a', end='')", stdout: "a"},
		{name: "torn rune", code: "import os\nos.write(1, b'\\xc3');", stdout: "\uFFFD"},
		{name: "exception", code: "1 / 0", err: "ZeroDivisionError"},
		{name: "syntax error", code: "def f(:", err: "SyntaxError"},
		{name: "unknown magic", code: "%nonsense", err: "UsageError"},
		{name: "input", code: "input('name?')", err: "StdinNotImplementedError"},
		{name: "exit", code: "exit()", err: "SystemExit"},
		{name: "sys.exit", code: "import sys\nsys.exit(3)", err: "SystemExit"},
		{name: "GUI", code: "get_ipython().enable_gui('qt')", err: "RuntimeError"},
		{name: "str of the error fails", code: "class E(Exception):\n  def __str__(self): 1/0\nraise E()", err: "E"},
		{name: "new module", code: "!echo 'x = 5' > bulkhead_new.py\nimport bulkhead_new\nbulkhead_new.x", text: "5"},
		{name: "main module", code: "__name__", text: "__main__"},
		{
			name:   "forked child",
			code:   "import os, warnings\nwarnings.simplefilter('ignore')\npid = os.fork()\nif pid == 0: print('child'); display(1)\nelse: os.waitpid(pid, 0);",
			stdout: "child\n",
		},
		{name: "after all that", code: "_i", text: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.run(c.code)
			if o.stdout != c.stdout || o.stderr != c.stderr {
				t.Errorf("stdout is %q, want %q; stderr is %q, want %q", o.stdout, c.stdout, o.stderr, c.stderr)
			}
			switch {
			case c.err == "" && o.err != nil:
				t.Errorf("error %s: %s\n%s", o.err.Name, o.err.Value, o.err.Traceback)
			case c.err != "" && (o.err == nil || o.err.Name != c.err):
				t.Errorf("lines are %+v, want the error %s", o.lines, c.err)
			}
			if c.text != "" && o.text() != c.text {
				t.Errorf("the value is %q, want %q", o.text(), c.text)
			}
		})
	}
}

// TestPythonCount: executions are numbered from 1, and only those with code.
func TestPythonCount(t *testing.T) {
	b := startPython(t, Config{})
	var got []int
	for _, code := range []string{"1", "1/0", "2"} {
		got = append(got, b.run(code).count)
	}
	if diff := cmp.Diff([]int{1, 2, 3}, got); diff != "" {
		t.Errorf("the executions are numbered (-want +got):\n%s", diff)
	}
}

// TestPythonOrder: what is printed and what is shown come in the order in which the
// program did it.
func TestPythonOrder(t *testing.T) {
	b := startPython(t, Config{})
	o := b.run(
		"for i in range(50):", " print('p', i)", " display(i)",
		"h = display('first', display_id=True)", "print('between')", "h.update('second')", "print('end')", "'value'")
	var got, want []string
	for _, l := range o.lines {
		if l.Type == "stdout" || l.Type == "result" {
			got = append(got, fmt.Sprintf("%s %v %s", l.Type, l.Main, strings.TrimSpace(l.Text)))
		}
	}
	for i := range 50 {
		want = append(want, fmt.Sprintf("stdout false p %d", i), fmt.Sprintf("result false %d", i))
	}
	want = append(want, "result false first", "stdout false between", "result false second", "stdout false end", "result true value")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// TestPythonJSON: lists and dicts come as JSON too, and all of it is JSON.
func TestPythonJSON(t *testing.T) {
	b := startPython(t, Config{})
	for _, c := range []struct {
		code string
		want any
	}{
		{"[1, 'a', None, {'b': 2.5}]", []any{1.0, "a", nil, map[string]any{"b": 2.5}}},
		{"{'nan': float('nan'), 'inf': [float('inf')], 1: 2}", map[string]any{"nan": nil, "inf": []any{nil}, "1": 2.0}},
		{"import datetime\n[datetime.date(2026, 1, 2)]", []any{"2026-01-02"}},
		{"[object()]", nil},
		{"list(range(200000))", nil},
		{"x = []\nx.append(x)\nx", nil},
	} {
		o := b.run(c.code)
		if len(o.results) != 1 || o.results[0].Text == "" {
			t.Fatalf("%q gives %+v, want one result with its text", c.code, o.lines)
		}
		if diff := cmp.Diff(c.want, o.results[0].JSON); diff != "" {
			t.Errorf("JSON of %q (-want +got):\n%s", c.code, diff)
		}
	}
}

// TestPythonEnv: the variables of an execution end with it.
func TestPythonEnv(t *testing.T) {
	b := startPython(t, Config{})
	code := "import os, subprocess\nos.environ.get('HOME') == os.path.expanduser('~'), os.environ.get('A'), " +
		"subprocess.run('echo $A', shell=True, capture_output=True, text=True).stdout"
	o := b.execute(map[string]any{"code": code, "env_vars": map[string]string{"A": "1"}})
	if want := `(True, '1', '1\n')`; o.text() != want {
		t.Errorf("with the variable: %s, want %s", o.text(), want)
	}
	if o, want := b.run(code), `(True, None, '\n')`; o.text() != want {
		t.Errorf("after it: %s, want %s", o.text(), want)
	}
}

// TestPythonFigure: figures appear by themselves, with what they were drawn from.
func TestPythonFigure(t *testing.T) {
	needModule(t, pythonOf(t), "matplotlib")
	b := startPython(t, Config{})
	draw := "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [4, 5, 6])\nplt.title('T')\nplt.xlabel('time (s)')\n"
	for _, c := range []struct{ name, code string }{
		{"at the end of the cell", draw + "print('drawn')"},
		{"by show", draw + "plt.show()\nprint('drawn')"},
		{"saved", draw + "plt.savefig('f.png')\nprint('drawn')"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.run(c.code)
			if o.err != nil || o.stdout != "drawn\n" {
				t.Fatalf("lines are %+v", o.lines)
			}
			var figures []out
			for _, r := range o.results {
				if r.PNG != "" {
					figures = append(figures, r)
				}
			}
			if len(figures) != 1 || figures[0].Main {
				t.Fatalf("%d figures came of %d results, want one that is not the value", len(figures), len(o.results))
			}
			needModule(t, pythonOf(t), "e2b_charts")
			chart := figures[0].Chart
			if chart["type"] != "line" || chart["title"] != "T" || chart["x_unit"] != "s" {
				t.Errorf("the chart is %v, want a line, its title and its unit", chart)
			}
		})
	}
}

// TestPythonFrame: a DataFrame comes as text, as a page and as its columns.
func TestPythonFrame(t *testing.T) {
	needModule(t, pythonOf(t), "pandas")
	b := startPython(t, Config{})
	o := b.run("import pandas as pd", "pd.DataFrame({'n': [1, 2], 'x': [0.5, float('nan')], 'd': pd.to_datetime(['2026-01-02', None])})")
	if len(o.results) != 1 {
		t.Fatalf("lines are %+v", o.lines)
	}
	r := o.results[0]
	if !r.Main || !strings.Contains(r.HTML, "<table") || !strings.Contains(r.Text, "0.5") {
		t.Errorf("the result is %+v, want text and a page", r)
	}
	want := map[string]any{"n": []any{1.0, 2.0}, "x": []any{0.5, nil}, "d": []any{"2026-01-02T00:00:00", "NaT"}}
	if diff := cmp.Diff(want, r.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if o := b.run("pd.DataFrame({'n': range(200_000)})"); len(o.results) != 1 || o.results[0].Data != nil {
		t.Errorf("a long frame gives %d results, want one without data", len(o.results))
	}
}

// TestPythonPicture: pictures that are shown or saved to a file appear.
func TestPythonPicture(t *testing.T) {
	needModule(t, pythonOf(t), "PIL")
	b := startPython(t, Config{})
	b.run("from PIL import Image", "im = Image.new('RGB', (2, 2))")
	for code, want := range map[string]int{
		"im.show()": 1, "im.save('a.png')": 1, "import io\nim.save(io.BytesIO(), 'PNG')": 0, "im": 1,
	} {
		o := b.run(code)
		if len(o.results) != want || (want == 1 && o.results[0].PNG == "") {
			t.Errorf("%q gives %+v, want %d pictures", code, o.lines, want)
		}
	}
}

// TestPythonPlotly: what has no field of its own comes as an extra.
func TestPythonPlotly(t *testing.T) {
	needModule(t, pythonOf(t), "plotly, nbformat")
	b := startPython(t, Config{})
	o := b.run("import plotly.graph_objects as go", "go.Figure(go.Bar(y=[1, 2]))")
	if len(o.results) != 1 || o.results[0].Extra["application/vnd.plotly.v1+json"] == nil || o.results[0].HTML == "" {
		t.Fatalf("lines are %+v, want one figure", o.lines)
	}
	if n := len(o.results[0].HTML); n > 100_000 {
		t.Errorf("the page takes %d bytes: it contains the library", n)
	}
}

// logged keeps a log's lines.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements [io.Writer].
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// TestPythonPreload: what is imported ahead is there, names are not, and what
// cannot be imported is reported and skipped.
func TestPythonPreload(t *testing.T) {
	var log logged
	b := startPython(t, Config{
		Preload: []string{"colorsys", "bulkhead_absent", "xml.dom.minidom as dom", "import wave; y = 5", "1 / 0"},
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
	})
	b.run("import sys")
	o := b.run("([m in sys.modules for m in ('colorsys', 'xml.dom.minidom', 'wave')], " +
		"[n for n in ('colorsys', 'dom', 'wave', 'y', '_exit_code') if n in globals()], hasattr(sys, 'last_value'))")
	if want := "([True, True, True], [], False)"; o.text() != want || o.count != 2 {
		t.Errorf("execution %d gives %s, want 2 and %s", o.count, o.text(), want)
	}
	for _, want := range []string{"bulkhead_absent", "ZeroDivisionError"} {
		if !strings.Contains(log.text.String(), want) {
			t.Errorf("the log does not tell of %s:\n%s", want, log.text.String())
		}
	}
}

// TestPythonSeeds: after a lease, kernels that were in the same state draw
// different random numbers, and the same lease gives two kernels different ones.
func TestPythonSeeds(t *testing.T) {
	b := startPython(t, Config{})
	numpy := "numpy"
	if err := checkImport(pythonOf(t), numpy); err != nil {
		numpy = "random" // seeds it once more, that is all
	}
	same := "import random, tempfile, uuid, os, " + numpy + " as np\nrandom.seed(1)\nnp.random.seed(1) if hasattr(np.random, 'seed') else None\n" +
		"os.environ['TMPDIR'] = '.'\ntempfile.tempdir = None\ntempfile.gettempdir()\nnext(tempfile._get_candidate_names());"
	draw := "random.random(), np.random.rand() if hasattr(np.random, 'rand') else 0, next(tempfile._get_candidate_names()), uuid.uuid4()"
	resp := b.do(t.Context(), "POST", "/contexts", map[string]string{})
	var second contextBody
	decodeJSON(t, resp.Body, &second)
	seen := map[string]string{}
	for _, seed := range []string{"a", "b"} {
		for _, id := range []string{b.srv.defaults[python].id, second.ID} {
			run := func(code string) outcome { return b.execute(map[string]any{"code": code, "context_id": id}) }
			run(same)
			init := boxrpc.Init{SandboxID: "i" + seed, Seed: []byte(strings.Repeat(seed, 32)), Env: map[string]string{"LEASED": seed}}
			if err := b.srv.Rebind(t.Context(), init); err != nil {
				t.Fatal(err)
			}
			drawn := run(draw)
			for i, value := range strings.Split(drawn.text(), ", ") {
				if value == "0)" || value == "0" {
					continue // no numpy
				}
				key := fmt.Sprint(i, value)
				if before, ok := seen[key]; ok {
					t.Errorf("lease %s of kernel %s draws %s, as does %s", seed, id, value, before)
				}
				seen[key] = seed + " " + id
			}
			if o := run("import os\n(os.environ['LEASED'], os.environ['E2B_SANDBOX_ID'])"); o.text() != fmt.Sprintf("('%s', 'i%s')", seed, seed) {
				t.Errorf("the variables of lease %s are %s", seed, o.text())
			}
		}
	}
}

// TestPythonKilled: a kernel that the guard kills says why, comes back by itself
// and keeps its context's id.
func TestPythonKilled(t *testing.T) {
	b := startPython(t, Config{Verdict: func(pid int) (bulkhead.End, bool) {
		return bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 100 << 20, Peak: 150 << 20}, pid > 0
	}})
	id := b.srv.defaults[python].id
	b.run("x = 1")
	o := b.execute(map[string]any{"code": "import os, signal\nprint('last words')\nos.kill(os.getpid(), signal.SIGKILL)", "context_id": id})
	if o.err == nil || o.err.Name != "MemoryLimitExceeded" || o.stdout != "last words\n" {
		t.Fatalf("lines are %+v, want the last words and MemoryLimitExceeded", o.lines)
	}
	if o.err.End == nil || o.err.End.Cause != bulkhead.CauseMemoryLimit || o.err.End.Limit != 100<<20 {
		t.Errorf("the end is %+v, want the guard's verdict", o.err.End)
	}
	for _, want := range []string{"memory_limit", strconv.Itoa(100 << 20), strconv.Itoa(150 << 20)} {
		if !strings.Contains(o.err.Value, want) {
			t.Errorf("the error is %q, want %s in it", o.err.Value, want)
		}
	}
	o = b.execute(map[string]any{"code": "'x' in globals()", "context_id": id})
	if o.text() != "False" || o.count != 1 {
		t.Errorf("the next execution is number %d and gives %q, want the first of a new kernel", o.count, o.text())
	}
}

// TestPythonCrash: so does one that ends by itself.
func TestPythonCrash(t *testing.T) {
	b := startPython(t, Config{})
	for _, c := range []struct{ code, want string }{
		{"import os\nos._exit(3)", "exit status 3"},
		{"import ctypes\nctypes.string_at(0)", "segmentation fault"},
		{"import os\nos.close(4)", "kernel"},
	} {
		o := b.run(c.code)
		if o.err == nil || o.err.Name != "KernelDied" || !strings.Contains(o.err.Value, c.want) {
			t.Errorf("%q gives %+v, want KernelDied with %q", c.code, o.lines, c.want)
		}
		if o := b.run("1 + 1"); o.text() != "2" {
			t.Errorf("after %q the next execution gives %+v", c.code, o.lines)
		}
	}
}

// TestPythonOutputLimit: too much output ends the execution and keeps the kernel.
func TestPythonOutputLimit(t *testing.T) {
	b := startPython(t, Config{OutputBytes: 100_000, MaxMessageBytes: 1 << 20})
	b.run("x = 5")
	for _, c := range []struct {
		name, code string
		stdout     int
	}{
		{"endless output", "while True: print('y' * 1000)", 100_000},
		{"output of a child", "!yes", 100_000},
		{"many results", "for i in range(1000): display('z' * 1000)", 0},
		{"result beyond the limit", "'z' * 200_000", 0},
		{"result beyond a message", "'z' * 2_000_000", 0},
		{"output that is not caught", "while True:\n  try:\n    print('y' * 1000)\n  except BaseException as e: raise", 100_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.run(c.code)
			if o.err == nil || o.err.Name != "OutputLimitExceeded" || !strings.Contains(o.err.Value, "output_limit") {
				t.Fatalf("the last lines are %+v, want OutputLimitExceeded", o.lines[max(0, len(o.lines)-3):])
			}
			if len(o.stdout) != c.stdout {
				t.Errorf("%d bytes were printed, want %d", len(o.stdout), c.stdout)
			}
			if o := b.run("x"); o.text() != "5" {
				t.Errorf("the variable is %q afterwards: the kernel was not kept", o.text())
			}
		})
	}
}

// TestPythonUnresponsive: a kernel that ignores interrupts is killed in the end.
func TestPythonUnresponsive(t *testing.T) {
	b := startPython(t, Config{InterruptGrace: 200_000_000, OutputBytes: 1000})
	o := b.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: print('y' * 100)")
	if o.err == nil || o.err.Name != "OutputLimitExceeded" {
		t.Fatalf("the last lines are %+v, want OutputLimitExceeded", o.lines[max(0, len(o.lines)-3):])
	}
	if o := b.run("1 + 1"); o.text() != "2" {
		t.Errorf("the next execution gives %+v", o.lines)
	}
}

// TestPythonCWD: a context begins in its directory.
func TestPythonCWD(t *testing.T) {
	b := startPython(t, Config{})
	dir := filepath.Join(b.srv.account.home, "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, cwd := range []string{dir, "work", "~/work"} {
		var c contextBody
		decodeJSON(t, b.do(t.Context(), "POST", "/contexts", map[string]string{"cwd": cwd}).Body, &c)
		if o := b.execute(map[string]any{"code": "import os\nos.getcwd()", "context_id": c.ID}); o.text() != dir || c.CWD != dir {
			t.Errorf("cwd %q gives %q in %+v, want %s", cwd, o.text(), c, dir)
		}
	}
}

// TestPythonWarmup: the template's own code runs after the imports, what it
// defines stays, and it counts as no execution.
func TestPythonWarmup(t *testing.T) {
	b := startPython(t, Config{
		Preload: []string{"colorsys"},
		Warmup:  "import sys\nanswer = 42 if 'colorsys' in sys.modules else 0\nprint('unheard')",
	})
	if o := b.run("answer"); o.text() != "42" || o.count != 1 || o.stdout != "" {
		t.Errorf("execution %d prints %q and gives %s; want 1, nothing and 42", o.count, o.stdout, o.text())
	}
}

// TestPythonWarmupFails: then there is no kernel, and the error says why.
func TestPythonWarmupFails(t *testing.T) {
	for code, want := range map[string]string{
		"1 / 0": "ZeroDivisionError: division by zero", "def": "SyntaxError", "raise SystemExit(3)": "SystemExit: 3",
	} {
		b := serve(t, newServer(t, Config{Python: pythonOf(t), Preload: []string{}, Warmup: code}))
		err := b.srv.Wait(t.Context())
		failed, ok := errors.AsType[WarmupError](err)
		if !ok || !strings.Contains(string(failed), want) {
			t.Errorf("%q: %v, want a WarmupError with %q", code, err, want)
		}
	}
}
