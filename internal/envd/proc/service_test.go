package proc_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func TestEndEvents(t *testing.T) {
	b := newBox(t)
	for _, test := range []struct {
		name, line, out string
		want            *processpb.ProcessEvent_EndEvent
	}{
		{"success", "echo out; echo err >&2", "out\nerr\n", &processpb.ProcessEvent_EndEvent{
			Exited: true, Status: "exit status 0", Cause: "exited",
		}},
		{"failure", "exit 3", "", &processpb.ProcessEvent_EndEvent{
			ExitCode: 3, Exited: true, Status: "exit status 3", Error: new("exit status 3"), Cause: "exited",
		}},
		{"signal", "kill -TERM $$", "", &processpb.ProcessEvent_EndEvent{
			ExitCode: -1, Status: "signal: terminated", Error: new("signal: terminated"), Cause: "exited", Signal: 15,
		}},
		{"much output", "head -c 3000000 /dev/zero | tr '\\0' x", strings.Repeat("x", 3_000_000), &processpb.ProcessEvent_EndEvent{
			Exited: true, Status: "exit status 0", Cause: "exited",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := b.start(t, shell(test.line))
			if diff := cmp.Diff(test.want, f.end(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if out := f.out.String(); len(out) != len(test.out) || test.name == "success" && !strings.Contains(out, "out\n") {
				t.Errorf("it printed %d bytes; want %d", len(out), len(test.out))
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	b := newBox(t)
	b.bind(boxrpc.Init{SandboxID: "i1", TemplateID: "t1", Env: map[string]string{"A": "box", "B": "box", "E2B_SANDBOX_ID": "forged"}})
	req := shell("env -0 | sort -z | tr '\\0' '\\n'")
	req.Process.Envs = map[string]string{"B": "call", "C": "two\nlines", "E2B_TEMPLATE_ID": "forged"}
	f := b.start(t, req)
	f.end()
	got := f.out.String()
	for _, line := range []string{
		"A=box\n", "B=call\n", "C=two\nlines\n", "E2B_SANDBOX=true\n", "E2B_SANDBOX_ID=i1\n", "E2B_TEMPLATE_ID=t1\n",
		"HOME=" + b.home + "\n", "USER=user\n", "LOGNAME=user\n", "PATH=" + os.Getenv("PATH") + "\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("the environment has no %q:\n%s", line, got)
		}
	}
	if strings.Contains(got, "GOCACHE") || strings.Contains(got, "forged") {
		t.Errorf("the environment holds what it must not:\n%s", got)
	}
}

func TestWorkingDirectory(t *testing.T) {
	b := newBox(t)
	if err := os.MkdirAll(filepath.Join(b.home, "sub", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, workdir string
		cwd           *string
		want          string // "" is the home
	}{
		{"absent", "", nil, ""},
		{"empty", "", new(""), ""},
		{"relative", "", new("sub"), "sub"},
		{"home", "", new("~"), ""},
		{"below home", "", new("~/sub/../sub/deep"), "sub/deep"},
		{"absolute", "", new(filepath.Join(b.home, "sub")), "sub"},
		{"workdir", "~/sub", nil, "sub"},
		{"relative to workdir", filepath.Join(b.home, "sub"), new("deep"), "sub/deep"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.bind(boxrpc.Init{DefaultWorkdir: test.workdir})
			req := shell("pwd")
			req.Process.Cwd = test.cwd
			f := b.start(t, req)
			f.end()
			if got, want := strings.TrimSpace(f.out.String()), filepath.Join(b.home, test.want); got != want {
				t.Errorf("pwd = %q; want %q", got, want)
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	b := newBox(t)
	file := filepath.Join(b.home, "passwd")
	change := func(f func(*processpb.StartRequest)) *processpb.StartRequest {
		req := shell("true")
		f(req)
		return req
	}
	for _, test := range []struct {
		name string
		req  *processpb.StartRequest
		code connect.Code
		text string
	}{
		{"no process", &processpb.StartRequest{}, connect.CodeInvalidArgument, "process.cmd is empty"},
		{"NUL in program", change(func(r *processpb.StartRequest) { r.Process.Cmd = "a\x00" }), connect.CodeInvalidArgument, "NUL"},
		{"NUL in argument", change(func(r *processpb.StartRequest) { r.Process.Args[1] = "\x00" }), connect.CodeInvalidArgument, "process.args[1]"},
		{"missing program", change(func(r *processpb.StartRequest) { r.Process.Cmd = "/no/such" }), connect.CodeInvalidArgument, "no such file"},
		{"program not in PATH", change(func(r *processpb.StartRequest) { r.Process.Cmd = "no-such-program" }), connect.CodeInvalidArgument, "not in PATH"},
		{"program that is no program", change(func(r *processpb.StartRequest) { r.Process.Cmd = file }), connect.CodeInvalidArgument, "permission denied"},
		{"missing directory", change(func(r *processpb.StartRequest) { r.Process.Cwd = new("/no/such") }), connect.CodeInvalidArgument, "cwd '/no/such' does not exist"},
		{"directory that is a file", change(func(r *processpb.StartRequest) { r.Process.Cwd = &file }), connect.CodeInvalidArgument, "is not a directory"},
		{"directory below a file", change(func(r *processpb.StartRequest) { r.Process.Cwd = new(file + "/x") }), connect.CodeInvalidArgument, "cannot be used"},
		{"NUL in directory", change(func(r *processpb.StartRequest) { r.Process.Cwd = new("/\x00") }), connect.CodeInvalidArgument, "NUL"},
		{"long directory", change(func(r *processpb.StartRequest) { r.Process.Cwd = new(strings.Repeat("a", 5000)) }), connect.CodeInvalidArgument, "at most 4095"},
		{"somebody's home", change(func(r *processpb.StartRequest) { r.Process.Cwd = new("~root") }), connect.CodeInvalidArgument, "another user's home"},
		{"variable name", change(func(r *processpb.StartRequest) { r.Process.Envs = map[string]string{"A=": "x"} }), connect.CodeInvalidArgument, "envs"},
		{"too long for the kernel", change(func(r *processpb.StartRequest) { r.Process.Args[1] = strings.Repeat("x", 1<<20) }), connect.CodeInvalidArgument, "too long"},
		{"terminal size", change(func(r *processpb.StartRequest) {
			r.Pty = &processpb.PTY{Size: &processpb.PTY_Size{Cols: 70000, Rows: 1}}
		}), connect.CodeInvalidArgument, "65535"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want(t, b.failure(t, test.req), test.code, test.text)
		})
	}
	t.Run("unknown user", func(t *testing.T) {
		k, v := as("ghost")
		want(t, b.failure(t, shell("true"), k, v), connect.CodeUnauthenticated, "invalid username: 'ghost'")
	})
	t.Run("odd user", func(t *testing.T) {
		k, v := as("../x")
		want(t, b.failure(t, shell("true"), k, v), connect.CodeUnauthenticated, "invalid username: '../x'")
	})
	// Nothing of all that is left.
	list, err := b.List(t.Context(), call(&processpb.ListRequest{}))
	if err != nil || len(list.Msg.GetProcesses()) != 0 {
		t.Errorf("List = %v, %v", list, err)
	}
}

func TestUsers(t *testing.T) {
	testenv.Need(t, "root")
	b := newBox(t)
	req := shell("id -u; id -g; id -G; echo $HOME $USER; test -r /proc/1/environ || echo no")
	req.Process.Cwd = new("/")
	k, v := as("nobody")
	f := b.start(t, req, k, v)
	f.end()
	if got, want := f.out.String(), "65534\n65534\n65534 4242\n/ nobody\nno\n"; got != want {
		t.Errorf("it printed %q; want %q", got, want)
	}
}

func TestPathOfTheProcess(t *testing.T) {
	b := newBox(t)
	if err := os.WriteFile(filepath.Join(b.home, "tool"), []byte("#!/bin/sh\necho mine\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []string{"tool", "./tool"} {
		f := b.start(t, &processpb.StartRequest{Process: &processpb.ProcessConfig{
			Cmd: cmd, Envs: map[string]string{"PATH": b.home + ":/usr/bin:/bin"},
		}})
		f.end()
		if f.out.String() != "mine\n" {
			t.Errorf("%s printed %q", cmd, f.out.String())
		}
	}
}

func TestTimeLimit(t *testing.T) {
	b := newBox(t)
	began := time.Now()
	// The child would outlive its parent and hold the output.
	f := b.start(t, shell("sleep 15 & echo $!; wait"), boxrpc.TimeoutHeader, "300")
	for f.next() != nil {
	}
	if code := connect.CodeOf(f.stream.Err()); code != connect.CodeDeadlineExceeded {
		t.Errorf("the stream ended with %v; want deadline_exceeded", f.stream.Err())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	end := b.connect(t, byPid(f.pid)).end()
	if end.GetCause() != "time_limit" || end.GetLimit() != 300 || end.GetSignal() != 9 || end.GetExitCode() != -1 {
		t.Errorf("end = %v", end)
	}
}

func TestTimeLimitWithoutAClient(t *testing.T) {
	b := newBox(t)
	f := b.start(t, shell("sleep 15"), boxrpc.TimeoutHeader, "400")
	f.cancel() // the SDK leaves a moment before the limit
	if end := b.connect(t, byPid(f.pid)).end(); end.GetCause() != "time_limit" {
		t.Errorf("end = %v", end)
	}
}

func TestDisconnectDoesNotKill(t *testing.T) {
	b := newBox(t)
	file := filepath.Join(b.home, "go")
	f := b.start(t, shell("echo ready; until test -e "+file+"; do sleep 0.02; done; echo late"))
	f.until("ready")
	f.cancel()
	g := b.connect(t, byPid(f.pid))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if end := g.end(); !end.GetExited() || g.out.String() != "late\n" {
		t.Errorf("end = %v after %q", end, g.out.String())
	}
}

func TestConnect(t *testing.T) {
	b := newBox(t)
	req := shell("read -r x; echo got $x; exit 7")
	req.Stdin, req.Tag = nil, new("one")
	f := b.start(t, req)
	second, third := b.connect(t, byPid(f.pid)), b.connect(t, byTag("one"))
	if _, err := b.SendInput(t.Context(), call(&processpb.SendInputRequest{Process: byTag("one"), Input: stdin("it\n")})); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*follower{f, second, third} {
		if end := g.end(); end.GetExitCode() != 7 || g.out.String() != "got it\n" {
			t.Errorf("end = %v after %q", end, g.out.String())
		}
	}
	for _, sel := range []*processpb.ProcessSelector{byPid(f.pid), byTag("one")} {
		late := b.connect(t, sel)
		if end := late.end(); end.GetExitCode() != 7 || late.out.String() != "" {
			t.Errorf("late end = %v after %q", end, late.out.String())
		}
	}
}

func TestBackgroundChildDoesNotHoldTheEnd(t *testing.T) {
	b := newBox(t)
	began := time.Now()
	f := b.start(t, shell("sleep 15 & echo $!"))
	if end := f.end(); !end.GetExited() || end.GetExitCode() != 0 {
		t.Errorf("end = %v", end)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the end took %v", took)
	}
	pid := atoi(t, f.out.String())
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the child did not outlive its parent: %v", err)
	}
}

// TestBackgroundChildGoesOnPrinting: what a program left behind can print as much
// as it likes; nobody reads it and nobody ends it.
func TestBackgroundChildGoesOnPrinting(t *testing.T) {
	b := newBox(t)
	b.bind(boxrpc.Init{OutputBytes: 1000})
	begin, done := filepath.Join(b.home, "begin"), filepath.Join(b.home, "done")
	f := b.start(t, shell("(until test -e "+begin+"; do sleep 0.02; done; head -c 300000 /dev/zero && touch "+done+") &"))
	if end := f.end(); end.GetCause() != "exited" {
		t.Errorf("end = %v", end)
	}
	if err := os.WriteFile(begin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f = b.start(t, shell("until test -e "+done+"; do sleep 0.02; done"), boxrpc.TimeoutHeader, "10000")
	if end := f.end(); end.GetExitCode() != 0 {
		t.Errorf("the child did not finish: %v", end)
	}
}

func TestOutputLimit(t *testing.T) {
	b := newBox(t)
	b.bind(boxrpc.Init{OutputBytes: 100_000})
	f := b.start(t, shell("yes & yes >&2"))
	end := f.end()
	if end.GetCause() != "output_limit" || end.GetLimit() != 100_000 || end.GetPeak() <= 100_000 || end.GetDetail() == "" {
		t.Errorf("end = %v", end)
	}
	if n := f.out.Len(); n > 100_000 || n < 90_000 {
		t.Errorf("%d bytes were given out; want 100000 at most and nearly", n)
	}
}

func TestKeepalive(t *testing.T) {
	b := newBox(t)
	f := b.start(t, shell("sleep 15"), boxrpc.KeepaliveHeader, "1")
	if e := f.next(); e.GetKeepalive() == nil {
		t.Errorf("event = %v; want a keepalive", e)
	}
}

func TestList(t *testing.T) {
	b := newBox(t)
	req := shell("sleep 15")
	req.Tag = new("sleeper")
	f := b.start(t, req)
	b.start(t, shell("true")).end()
	list, err := b.List(t.Context(), call(&processpb.ListRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	want := []*processpb.ProcessInfo{{Config: req.GetProcess(), Pid: f.pid, Tag: new("sleeper")}}
	if diff := cmp.Diff(want, list.Msg.GetProcesses(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestClose(t *testing.T) {
	b := newBox(t)
	f := b.start(t, shell("sleep 15"))
	if err := b.service.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if end := f.end(); end.GetCause() != "killed" || end.GetSignal() != 9 {
		t.Errorf("end = %v", end)
	}
	want(t, b.failure(t, shell("true")), connect.CodeUnavailable, "ending")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.service.Close(ctx); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
