package cli_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
)

const testKey = "e2b_0123456789abcdef0123456789abcdef01234567"

// grammar is the command line as cmd assembles it, with one command of its own.
type grammar struct {
	cli.Flags
	cli.Commands
	Where whereCmd `cmd:"" help:"Print what the process was given."`
}

// whereCmd stands for the commands that cmd adds.
type whereCmd struct{}

// Run shows that such a command gets what it may ask for.
func (whereCmd) Run(_ context.Context, env *cli.Env, app *cli.App) error {
	if _, err := app.Client(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.Stdout, env.URL)
	return err
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"bulkhead": func() {
			os.Exit(cli.Main(context.Background(), &cli.Env{
				Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
				URL: os.Getenv("BULKHEAD_URL"), Key: os.Getenv("BULKHEAD_API_KEY"), Credentials: os.Getenv("CREDENTIALS"),
				NoColor: os.Getenv("NO_COLOR") != "", Templates: shelf(os.Getenv("TEMPLATES")), Version: "v1.2.3",
			}, &grammar{}, os.Args[1:]))
		},
	})
}

// TestScripts runs testdata/*.txtar, each against a server of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			srv := &fakeserver.Server{
				Key: testKey, Domain: "box.test", Templates: []string{"base", "code-interpreter-v1"}, MaxSandboxes: 3,
			}
			srv.Dir = filepath.Join(e.WorkDir, "store")
			e.Defer(func() { _ = srv.Close() })
			looping := make(chan struct{}, 16)
			e.Values[loopKey{}] = looping
			home := filepath.Join(e.WorkDir, "home")
			if err := os.Mkdir(home, 0o755); err != nil {
				return err
			}
			envd, err := fakeserver.NewEnvd(e.WorkDir, home)
			if err != nil {
				return err
			}
			e.Defer(func() {
				if err := envd.Close(); err != nil {
					e.T().Log("end the programs of the test:", err)
				}
			})
			srv.Box = func(_ bulkhead.Sandbox, port int) http.Handler {
				switch port {
				case boxrpc.EnvdPort:
					return envd
				case boxrpc.InterpreterPort:
					return &fakeserver.Interpreter{Play: func(r *http.Request, code string, emit func(fakeserver.Event)) error {
						return play(r, srv, looping, code, emit)
					}}
				default:
					return nil
				}
			}
			hs := httptest.NewServer(srv)
			e.Defer(hs.Close)
			e.Values[serverKey{}] = srv
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a race test ends a second late
			e.Setenv("BULKHEAD_URL", hs.URL)
			e.Setenv("BULKHEAD_API_KEY", testKey)
			e.Setenv("TEMPLATES", filepath.Join(e.WorkDir, "templates"))
			return os.Mkdir(filepath.Join(e.WorkDir, "templates"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       exits,
			"sandboxes":   sandboxes,
			"end":         end,
			"log":         logged,
			"credentials": credentials,
			"key":         setKey,
			"loops":       awaitLoop,
			"await":       await,
			"named":       named,
			"used":        used,
		},
	})
}

type (
	serverKey struct{}
	loopKey   struct{}
)

// value is what a script's set-up left under key.
func value[T any](ts *testscript.TestScript, key any) T {
	v, ok := ts.Value(key).(T)
	if !ok {
		ts.Fatalf("the script has no %T", v)
	}
	return v
}

// named sets ID to the ID of the key of that name.
func named(ts *testscript.TestScript, _ bool, args []string) {
	keys, err := value[*fakeserver.Server](ts, serverKey{}).Store().ListKeys(context.Background(), "")
	ts.Check(err)
	for _, k := range keys {
		if k.Name == args[0] {
			ts.Setenv("ID", k.ID)
		}
	}
}

// used makes acme have used something.
func used(ts *testscript.TestScript, _ bool, _ []string) {
	from := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ts.Check(value[*fakeserver.Server](ts, serverKey{}).Store().AddUsage(context.Background(), []bulkhead.Metered{{
		Sandbox: "i1", Tenant: "acme", First: true, From: from, To: bulkhead.Meter{At: from.Add(90 * time.Second)},
		CPU: time.Minute, Egress: 1 << 10, Ingress: 2 << 10, MemoryMiBMillis: 2048 * 90_000,
	}}))
}

// awaitLoop waits until the interpreter runs an endless loop.
func awaitLoop(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-value[chan struct{}](ts, loopKey{}):
	case <-time.After(10 * time.Second):
		ts.Fatalf("nothing loops")
	}
}

// exits runs a command and checks its exit code, as in: exits 124 bulkhead run.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	got := 0
	var ee *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ee) {
		got = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// sandboxes checks how many sandboxes run: sandboxes 1. It puts their IDs into $ID.
func sandboxes(ts *testscript.TestScript, _ bool, args []string) {
	srv := value[*fakeserver.Server](ts, serverKey{})
	var ids []string
	for _, sb := range srv.Sandboxes() {
		if sb.End == nil {
			ids = append(ids, sb.ID)
		}
	}
	if strconv.Itoa(len(ids)) != args[0] {
		ts.Fatalf("%d sandboxes run, want %s", len(ids), args[0])
	}
	ts.Setenv("ID", strings.Join(ids, " "))
}

// end ends the newest sandbox: end memory_limit.
func end(ts *testscript.TestScript, _ bool, args []string) {
	srv := value[*fakeserver.Server](ts, serverKey{})
	all := srv.Sandboxes()
	srv.End(all[len(all)-1].ID, bulkhead.End{
		Cause: bulkhead.Cause(args[0]), At: time.Now().UTC(), Limit: 256 << 20, Peak: 256 << 20, Detail: "it used too much",
	})
}

// logged adds a line to the newest sandbox's log: log warn 'something happened'.
func logged(ts *testscript.TestScript, _ bool, args []string) {
	srv := value[*fakeserver.Server](ts, serverKey{})
	all := srv.Sandboxes()
	srv.Log(all[len(all)-1].ID, bulkhead.LogLine{
		At: time.Now().UTC(), Level: args[0], Message: args[1], Fields: map[string]string{"pid": "7"},
	})
}

// play is what an interpreter with Python, JavaScript and bash answers to the
// code in the scripts.
func play(r *http.Request, srv *fakeserver.Server, looping chan<- struct{}, code string, emit func(fakeserver.Event)) error {
	png := base64.StdEncoding.EncodeToString([]byte("\x89PNG\r\n\x1a\n"))
	switch strings.TrimSpace(code) {
	case `print("hello")`, `console.log("hello")`, `echo hello`:
		emit(fakeserver.Print("hello\n"))
	case `1+1`:
		emit(fakeserver.Event{"type": "result", "is_main_result": true, "text": "2"})
	case `print("a", end=""); 1+1`:
		emit(fakeserver.Print("a"))
		emit(fakeserver.Event{"type": "result", "is_main_result": true, "text": "2"})
	case `1/0`:
		emit(fakeserver.Event{
			"type": "error", "name": "ZeroDivisionError", "value": "division by zero",
			"traceback": "\x1b[31mTraceback\x1b[39m (most recent call last)\nZeroDivisionError: division by zero",
		})
	case `plot()`:
		emit(fakeserver.Event{"type": "result", "is_main_result": false, "text": "<Figure size 640x480>", "png": png})
		emit(fakeserver.Event{"type": "result", "is_main_result": true, "text": "[<Line2D>]"})
	case `df`:
		emit(fakeserver.Event{"type": "result", "is_main_result": true, "text": "   a\n0  1", "html": "<table></table>"})
	case `HTML(page)`:
		emit(fakeserver.Event{"type": "result", "is_main_result": true, "html": "<p>page</p>"})
	case `while True: pass`:
		looping <- struct{}{}
		<-r.Context().Done()
	case `'x' * 2**40`:
		all := srv.Sandboxes()
		emit(fakeserver.Print("growing\n"))
		srv.End(all[len(all)-1].ID, bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 256 << 20, Peak: 255 << 20})
		panic(http.ErrAbortHandler)
	case `kernel out of memory`:
		emit(fakeserver.Event{"type": "end_of_execution", "end": map[string]any{"cause": "memory_limit", "limit": 64 << 20}})
	case `many prints`:
		emit(fakeserver.Event{"type": "end_of_execution", "end": map[string]any{"cause": "output_limit", "limit": 1 << 20}})
	case "import sys as _s, json as _j\n_s.argv = _j.loads(\"[\\\"args.py\\\",\\\"one\\\",\\\"--two\\\",\\\"\\u0027\\\"]\")\ndel _s, _j",
		`set -- 'one' 'it'\''s'`: // what hands arguments over
	case `args`:
		emit(fakeserver.Print("ran\n"))
	default:
		return fmt.Errorf("SyntaxError: %q", code)
	}
	return nil
}

// shelf is templates as files of a directory.
type shelf string

func (s shelf) Build(_ context.Context, req cli.TemplateBuild, log io.Writer) (bulkhead.Template, error) {
	if _, err := fmt.Fprintln(log, "step 1/1: copy"); err != nil {
		return bulkhead.Template{}, err
	}
	name := req.Name
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(req.Recipe), ".yaml")
	}
	t := bulkhead.Template{
		ID: "tttttttttttttttttttt", Name: name, Digest: "sha256:" + strings.Repeat("ab", 32), SizeBytes: 5 << 20,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Defaults: req.Limits.Or(bulkhead.DefaultLimits()), User: "user",
	}
	return t, os.WriteFile(filepath.Join(string(s), name), []byte(req.Image+req.Recipe+req.Tarball), 0o644)
}

func (s shelf) List(context.Context) ([]bulkhead.Template, error) {
	names, err := os.ReadDir(string(s))
	out := make([]bulkhead.Template, len(names))
	for i, n := range names {
		out[i] = bulkhead.Template{Name: n.Name(), SizeBytes: 5 << 20, Digest: "sha256:" + strings.Repeat("ab", 32), Defaults: bulkhead.DefaultLimits()}
	}
	return out, err
}

func (s shelf) Remove(_ context.Context, name string) error {
	if err := os.Remove(filepath.Join(string(s), name)); err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeNotFound, Op: "remove template", Msg: fmt.Sprintf("template %q was not found", name), Err: err}
	}
	return nil
}

// credentials writes $CREDENTIALS as a server does: credentials URL KEY.
func credentials(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := json.Marshal(cli.Credentials{URL: args[0], APIKey: args[1]})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.Getenv("CREDENTIALS"), raw, 0o600))
}

// setKey makes the content of a file $BULKHEAD_API_KEY: key FILE.
func setKey(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv("BULKHEAD_API_KEY", strings.TrimSpace(ts.ReadFile(args[0])))
}

// await waits until a file is there: await FILE.
func await(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("%s is not there after a minute", args[0])
		case <-tick.C:
		}
	}
}
