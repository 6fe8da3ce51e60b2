package script_test

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/scriptcli"
)

// opener is a [scriptcli.Opener] for one server.
type opener struct{ session *scriptcli.Session }

func (o opener) ScriptSession() (*scriptcli.Session, error) { return o.session, nil }

// TestCommandLine drives the commands against a real server.
func TestCommandLine(t *testing.T) {
	server := httptest.NewServer(script.NewTestService(t).Handler())
	t.Cleanup(server.Close)
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	js := file("greet.js", `console.log("working"); "hello " + input.name`)
	ts := file("add.ts", `function main(i: {a: number}): number { return i.a + 1 }`)
	in := file("in.json", `{"name": "file"}`)
	for _, c := range []struct {
		args, stdin          string
		stdout, stderr, fail string
		exit                 int
	}{
		{args: `script run -e 1+1`, stdout: "2\n"},
		{args: `script run - -i {"a":4}`, stdin: `input.a * 2`, stdout: "8\n"},
		{args: `script run ` + js + ` -i @` + in, stdout: "\"hello file\"\n", stderr: "working\n"},
		{args: `script run ` + ts + ` -i {"a":4} --time-ms 3000 --memory-mb 32`, stdout: "5\n"},
		{args: `script run -e null.x`, stderr: "TypeError: Cannot read property 'x' of undefined\n    at <anonymous> (script.js:1:6)\n", exit: 1},
		{args: `script run -e for(;;); --time-ms 100`, stderr: "time_limit: it ran longer than 100 ms\n", exit: 137},
		{args: `script put greet ` + js, stdout: "greet version 1\n"},
		{args: `script put greet ` + ts, stdout: "greet version 2\n"},
		{args: `script run --script greet --at 1 -i {"name":"store"}`, stdout: "\"hello store\"\n", stderr: "working\n"},
		{args: `script run greet -i {"a":1}`, stdout: "2\n"},
		{args: `script run nobody`, fail: `there is no script "nobody"`},
		{args: `script ls`, stdout: "greet  2        typescript"},
		{args: `script rm greet`},
		{args: `script rm greet`, fail: `there is no script "greet"`},
		{args: `script run`, fail: "exactly one of FILE"},
		{args: `script run -e 1 -i {`, fail: "--input is not JSON"},
		{args: `script run -e 1 --memory-mb 5000`, fail: "limits.memoryMB is 5000"},
		{args: `script run /none.js`, fail: "no such file"},
	} {
		var grammar struct {
			Script scriptcli.Cmd `cmd:""`
		}
		var stdout, stderr bytes.Buffer
		o := opener{&scriptcli.Session{
			Client: server.Client(), BaseURL: server.URL, Stdin: strings.NewReader(c.stdin), Stdout: &stdout, Stderr: &stderr,
		}}
		parser, err := kong.New(&grammar, kong.BindTo(o, (*scriptcli.Opener)(nil)), kong.BindTo(t.Context(), (*context.Context)(nil)))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.Parse(strings.Fields(c.args))
		if err != nil {
			t.Fatalf("%s: %v", c.args, err)
		}
		err = parsed.Run()
		var exit *scriptcli.ExitError
		switch {
		case errors.As(err, &exit):
			if exit.End.ExitCode != c.exit {
				t.Errorf("%s: exit code %d, want %d", c.args, exit.End.ExitCode, c.exit)
			}
		case err != nil:
			msg := err.Error() + bulkhead.Message(err)
			if c.fail == "" || !strings.Contains(msg, c.fail) {
				t.Errorf("%s: error %q, want %q", c.args, msg, c.fail)
			}
		case c.fail != "" || c.exit != 0:
			t.Errorf("%s: no error, want %q or exit code %d", c.args, c.fail, c.exit)
		}
		if got := stdout.String(); !strings.Contains(got, c.stdout) || c.stdout == "" && got != "" {
			t.Errorf("%s: stdout %q, want %q", c.args, got, c.stdout)
		}
		if got := stderr.String(); got != c.stderr {
			t.Errorf("%s: stderr %q, want %q", c.args, got, c.stderr)
		}
	}
}
