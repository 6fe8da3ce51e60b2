package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
)

// newEnvd is the real envd on this host.
func newEnvd(t *testing.T) (h http.Handler, home string) {
	t.Helper()
	home = t.TempDir()
	envd, err := fakeserver.NewEnvd(t.TempDir(), home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := envd.Close(); err != nil {
			t.Errorf("end the programs of the test: %v", err)
		}
	})
	return envd, home
}

// boxed is a sandbox with the real envd in it.
func boxed(t *testing.T) (sb *client.Sandbox, srv *fakeserver.Server, home string) {
	t.Helper()
	envd, home := newEnvd(t)
	srv = &fakeserver.Server{Box: func(_ bulkhead.Sandbox, port int) http.Handler {
		if port == boxrpc.EnvdPort {
			return envd
		}
		return nil
	}}
	return create(t, serve(t, srv)), srv, home
}

func TestExec(t *testing.T) {
	sb, _, home := boxed(t)
	for _, tc := range []struct {
		name   string
		cmd    client.Command
		stdin  io.Reader
		stdout string
		stderr string
		end    bulkhead.End
	}{
		{
			name: "both streams", cmd: client.Shell("echo out; echo err >&2; exit 3"),
			stdout: "out\n", stderr: "err\n", end: bulkhead.End{Cause: bulkhead.CauseExited, ExitCode: 3},
		},
		{
			name: "arguments, environment and place", cmd: client.Command{
				Path: "/bin/sh", Args: []string{"-c", `printf '%s|' "$@" "$V" "$PWD"`, "sh", "a b", "*"},
				Env: map[string]string{"V": "w x"}, Dir: "/",
			},
			stdout: "a b|*|w x|/|", end: bulkhead.End{Cause: bulkhead.CauseExited},
		},
		{
			name: "home", cmd: client.Command{Path: "pwd"},
			stdout: home + "\n", end: bulkhead.End{Cause: bulkhead.CauseExited},
		},
		{
			name: "input", cmd: client.Command{Path: "wc", Args: []string{"-c"}}, stdin: strings.NewReader(strings.Repeat("x", 100_000)),
			stdout: "100000\n", end: bulkhead.End{Cause: bulkhead.CauseExited},
		},
		{
			name: "no input", cmd: client.Command{Path: "cat"},
			end: bulkhead.End{Cause: bulkhead.CauseExited},
		},
		{
			name: "killed by itself", cmd: client.Command{Path: "/bin/sh", Args: []string{"-c", "kill -KILL $$"}},
			end: bulkhead.End{ExitCode: 137},
		},
		{
			name: "time limit", cmd: client.Command{Path: "sleep", Args: []string{"60"}, Timeout: 200 * time.Millisecond},
			end: bulkhead.End{Cause: bulkhead.CauseTimeLimit, Limit: 200},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := sb.Exec(t.Context(), tc.cmd, tc.stdin)
			if err != nil {
				t.Fatal(err)
			}
			if string(out.Stdout) != tc.stdout || string(out.Stderr) != tc.stderr {
				t.Errorf("printed %q and %q, want %q and %q", out.Stdout, out.Stderr, tc.stdout, tc.stderr)
			}
			ignore := cmpopts.IgnoreFields(bulkhead.End{}, "At", "Peak", "Detail")
			if tc.end.Cause == "" { // a signal to oneself may be called either
				tc.end.Cause = out.End.Cause
			}
			if diff := cmp.Diff(tc.end, out.End, ignore); diff != "" {
				t.Errorf("end %v (-want +got):\n%s", out.End, diff)
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	sb, _, _ := boxed(t)
	for _, tc := range []struct {
		name string
		cmd  client.Command
		code bulkhead.Code
		want string
	}{
		{"nothing", client.Command{}, bulkhead.CodeInvalid, "Path is empty"},
		{"negative time", client.Command{Path: "true", Timeout: -1}, bulkhead.CodeInvalid, "Timeout is -1ns"},
		{"no such place", client.Command{Path: "true", Dir: "/none"}, bulkhead.CodeInvalid, "/none"},
		{"no such user", client.Command{Path: "true", User: "nobody-here"}, bulkhead.CodeUnauthenticated, "nobody-here"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := sb.Start(t.Context(), tc.cmd)
			wantCode(t, err, tc.code)
			if !strings.Contains(err.Error(), "start process: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %q, want it to contain %q", err, tc.want)
			}
		})
	}
	_, err := sb.Attach(t.Context(), 999_999)
	wantCode(t, err, bulkhead.CodeNotFound)
}

// read reads chunks of p until what it printed contains want.
func read(t *testing.T, p *client.Process, want string) string {
	t.Helper()
	var got bytes.Buffer
	for c, err := range p.Output() {
		if err != nil {
			t.Fatalf("after %q: %v", got.String(), err)
		}
		if got.Write(c.Data); strings.Contains(got.String(), want) {
			return got.String()
		}
	}
	end, err := p.Wait()
	t.Fatalf("ended (%v, %v) after %q, want %q", end, err, got.String(), want)
	return ""
}

func TestProcess(t *testing.T) {
	sb, _, _ := boxed(t)
	ctx := t.Context()
	p, err := sb.Start(ctx, client.Command{Path: "/bin/sh", Args: []string{"-c", `read a; echo "got $a"; read b; echo "got $b"; cat`}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Detach()
	list, err := sb.Processes(ctx)
	if err != nil || len(list) != 1 || list[0].PID != p.PID() || list[0].Path != "/bin/sh" {
		t.Errorf("Processes gave %+v, %v", list, err)
	}
	if err := p.Write(ctx, []byte("one\n")); err != nil {
		t.Fatal(err)
	}
	read(t, p, "got one\n")
	p.Detach() // it runs on
	p, err = sb.Attach(ctx, p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Write(ctx, []byte("two\n")); err != nil {
		t.Fatal(err)
	}
	read(t, p, "got two\n")
	if err := p.CloseStdin(ctx); err != nil {
		t.Fatal(err)
	}
	if end, err := p.Wait(); err != nil || end.Cause != bulkhead.CauseExited || end.ExitCode != 0 {
		t.Errorf("Wait gave %v, %v", end, err)
	}
	if end, err := p.Wait(); err != nil || end.Cause != bulkhead.CauseExited {
		t.Errorf("a second Wait gave %v, %v", end, err)
	}
	wantCode(t, p.Signal(ctx, client.SIGKILL), bulkhead.CodeNotFound)
	wantCode(t, p.Write(ctx, []byte("x")), bulkhead.CodeNotFound)
}

func TestSignal(t *testing.T) {
	sb, _, _ := boxed(t)
	p, err := sb.Start(t.Context(), client.Shell(`trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.05; done`))
	if err != nil {
		t.Fatal(err)
	}
	read(t, p, "ready")
	if err := p.Signal(t.Context(), client.SIGTERM); err != nil {
		t.Fatal(err)
	}
	read(t, p, "asked")
	if end, err := p.Wait(); err != nil || end.ExitCode != 7 {
		t.Errorf("Wait gave %v, %v; want exit code 7", end, err)
	}
	p, err = sb.Start(t.Context(), client.Command{Path: "sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(t.Context(), client.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if end, err := p.Wait(); err != nil || end.ExitCode != 137 {
		t.Errorf("Wait gave %+v, %v; want exit code 137", end, err)
	}
}

func TestTerminal(t *testing.T) {
	sb, _, _ := boxed(t)
	ctx := t.Context()
	p, err := sb.Start(ctx, client.Command{
		Path: "/bin/bash", Args: []string{"--norc", "-i"}, Env: map[string]string{"TERM": "dumb", "PS1": "$ "}, TTY: &client.Size{Cols: 91, Rows: 17},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Detach()
	if err := p.Write(ctx, []byte("stty size\n")); err != nil {
		t.Fatal(err)
	}
	read(t, p, "17 91")
	if err := p.Resize(ctx, client.Size{Cols: 120, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(ctx, []byte("stty size; exit 5\n")); err != nil {
		t.Fatal(err)
	}
	read(t, p, "40 120")
	if end, err := p.Wait(); err != nil || end.ExitCode != 5 {
		t.Errorf("Wait gave %v, %v; want exit code 5", end, err)
	}
}

// TestFollowerGoesAway: a canceled context ends the following, not the program.
func TestFollowerGoesAway(t *testing.T) {
	sb, _, _ := boxed(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := sb.Start(ctx, client.Command{Path: "sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait gave %v, want context.Canceled", err)
	}
	if _, err := sb.Attach(t.Context(), p.PID()); err != nil {
		t.Errorf("the program does not run on: %v", err)
	}
}

// TestDeadlineOfTheContext is a time limit of the program.
func TestDeadlineOfTheContext(t *testing.T) {
	sb, _, _ := boxed(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	out, err := sb.Exec(ctx, client.Command{Path: "sleep", Args: []string{"60"}}, nil)
	if err != nil || out.End.Cause != bulkhead.CauseTimeLimit {
		t.Errorf("Exec gave %+v, %v; want the end time_limit", out, err)
	}
}

// TestSandboxEndsUnderAProcess: a cut stream is explained by the sandbox's end.
func TestSandboxEndsUnderAProcess(t *testing.T) {
	want := bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 64 << 20}
	var srv *fakeserver.Server
	envd, _ := newEnvd(t)
	srv = &fakeserver.Server{Box: func(sb bulkhead.Sandbox, _ int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cut := context.WithCancel(r.Context())
			envd.ServeHTTP(&began{ResponseWriter: w, on: "b25lCg==", then: func() { // "one\n"
				srv.End(sb.ID, want)
				cut()
			}}, r.WithContext(ctx))
			panic(http.ErrAbortHandler)
		})
	}}
	sb := create(t, serve(t, srv))
	p, err := sb.Start(t.Context(), client.Shell("echo one; sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	end, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, end); diff != "" {
		t.Errorf("end (-want +got):\n%s", diff)
	}
	_, err = sb.Start(t.Context(), client.Command{Path: "true"})
	wantCode(t, err, bulkhead.CodeNotFound)
}
