package interp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// pythonOf returns a Python that can run the lean lane: the one that
// BULKHEAD_TEST_PYTHON names, or the one on PATH.
func pythonOf(tb testing.TB) string {
	tb.Helper()
	name := os.Getenv("BULKHEAD_TEST_PYTHON")
	if name == "" {
		name = "python3"
	}
	path, err := exec.LookPath(name)
	if err == nil {
		err = exec.Command(path, "-c", "import IPython").Run()
	}
	testenv.Have(tb, "ipython", err == nil, name+" cannot import IPython (set BULKHEAD_TEST_PYTHON)")
	return path
}

// needModule skips the test where Python lacks a module.
func needModule(tb testing.TB, python, module string) {
	tb.Helper()
	err := exec.Command(python, "-c", "import "+module).Run()
	testenv.Have(tb, "python-"+module, err == nil, python+" cannot import "+module)
}

// box is a running server behind HTTP.
type box struct {
	tb  testing.TB
	srv *Server
	url string
}

// shortDir returns a directory whose path is short enough for sockets.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "bulkhead-interp") //nolint:usetesting // t.TempDir is too long for sockets
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newServer returns a server that runs kernels as the present user, with a home
// of the test's own.
func newServer(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	me, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	dir := shortDir(tb)
	cfg.User, cfg.Dir = me.Username, filepath.Join(dir, "i")
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		tb.Fatal(err)
	}
	if cfg.Workdir == "" {
		cfg.Workdir = home
	}
	if cfg.Env == nil {
		env := map[string]string{"PATH": os.Getenv("PATH"), "JUPYTER_PATH": filepath.Join(dir, "jupyter")}
		cfg.Env = func() map[string]string { return env }
	}
	srv, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	srv.account.home = home
	return srv
}

// serve runs srv until the test ends.
func serve(tb testing.TB, srv *Server) *box {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	web := httptest.NewServer(srv)
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run: %v", err)
		}
		web.CloseClientConnections()
		web.Close()
	})
	return &box{tb: tb, srv: srv, url: web.URL}
}

// startPython returns a server whose default Python kernel is ready.
func startPython(tb testing.TB, cfg Config) *box {
	tb.Helper()
	cfg.Python = pythonOf(tb)
	if cfg.Preload == nil {
		cfg.Preload = []string{}
	}
	b := serve(tb, newServer(tb, cfg))
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	if err := b.srv.Wait(ctx); err != nil {
		tb.Fatal(err)
	}
	return b
}

// out is one line of the stream.
type out struct {
	Type      string         `json:"type"`
	Count     int            `json:"execution_count"`
	Text      string         `json:"text"`
	Main      bool           `json:"is_main_result"`
	Name      string         `json:"name"`
	Value     string         `json:"value"`
	Traceback string         `json:"traceback"`
	End       *bulkhead.End  `json:"end"`
	HTML      string         `json:"html"`
	PNG       string         `json:"png"`
	JSON      any            `json:"json"`
	Data      map[string]any `json:"data"`
	Chart     map[string]any `json:"chart"`
	Extra     map[string]any `json:"extra"`
}

// outcome is all that an execution brought forth.
type outcome struct {
	lines   []out
	stdout  string
	stderr  string
	results []out
	err     *out
	count   int
	ended   bool
}

func (o *outcome) add(l out) {
	o.lines = append(o.lines, l)
	switch l.Type {
	case "stdout":
		o.stdout += l.Text
	case "stderr":
		o.stderr += l.Text
	case "result":
		o.results = append(o.results, l)
	case "error":
		if o.err == nil {
			o.err = &l
		}
	case "number_of_executions":
		o.count = l.Count
	case "end_of_execution":
		o.ended = true
	}
}

// text returns the text of the main result.
func (o *outcome) text() string {
	for _, r := range o.results {
		if r.Main {
			return r.Text
		}
	}
	return ""
}

// post sends a request and returns the response, which is closed with the test.
func (b *box) do(ctx context.Context, method, path string, body any) *http.Response {
	b.tb.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		b.tb.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, b.url+path, bytes.NewReader(data))
	if err != nil {
		b.tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.tb.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// execute runs body to its end.
func (b *box) execute(body map[string]any) outcome {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.tb.Context(), time.Minute)
	defer cancel()
	resp := b.do(ctx, http.MethodPost, "/execute", body)
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		b.tb.Fatalf("execute %v: %s: %s", body, resp.Status, text)
	}
	var o outcome
	lines(b.tb, resp.Body, func(l out) bool {
		o.add(l)
		return true
	})
	if !o.ended || o.lines[len(o.lines)-1].Type != "end_of_execution" {
		b.tb.Errorf("execute %v: the stream does not end with end_of_execution: %+v", body, o.lines)
	}
	return o
}

// run runs Python code.
func (b *box) run(code ...string) outcome {
	b.tb.Helper()
	return b.execute(map[string]any{"code": strings.Join(code, "\n")})
}

// lines calls take with each line of a stream until it returns false.
func lines(tb testing.TB, r io.Reader, take func(out) bool) {
	tb.Helper()
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 64<<20)
	for scanner.Scan() {
		for _, c := range scanner.Bytes() {
			if c >= 0x80 {
				tb.Fatalf("the line %q is not ASCII", scanner.Bytes())
			}
		}
		var l out
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			tb.Fatalf("line %q: %v", scanner.Bytes(), err)
		}
		if !take(l) {
			return
		}
	}
}

// decodeJSON reads one JSON value.
func decodeJSON(tb testing.TB, r io.Reader, v any) {
	tb.Helper()
	if err := json.NewDecoder(r).Decode(v); err != nil {
		tb.Fatal(err)
	}
}

// checkImport returns an error unless Python can import a module.
func checkImport(python, module string) error {
	return exec.Command(python, "-c", "import "+module).Run()
}
