package proc_test

import (
	"context"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func size(cols, rows uint32) *processpb.PTY {
	return &processpb.PTY{Size: &processpb.PTY_Size{Cols: cols, Rows: rows}}
}

func TestStdin(t *testing.T) {
	b := newBox(t)
	req := shell("cat; echo end")
	req.Stdin = nil // absent means a pipe
	f := b.start(t, req)
	for _, text := range []string{"a", "b\n"} {
		if _, err := b.SendInput(t.Context(), call(&processpb.SendInputRequest{Process: byPid(f.pid), Input: stdin(text)})); err != nil {
			t.Fatal(err)
		}
	}
	f.until("ab\n")
	for range 2 { // it may be repeated
		if _, err := b.CloseStdin(t.Context(), call(&processpb.CloseStdinRequest{Process: byPid(f.pid)})); err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			t.Fatal(err)
		}
	}
	if end := f.end(); end.GetExitCode() != 0 || f.out.String() != "ab\nend\n" {
		t.Errorf("end = %v after %q", end, f.out.String())
	}
}

func TestStdinDisabled(t *testing.T) {
	b := newBox(t)
	f := b.start(t, shell("readlink /proc/self/fd/0; sleep 15"))
	f.until("/dev/null\n")
	_, err := b.SendInput(t.Context(), call(&processpb.SendInputRequest{Process: byPid(f.pid), Input: stdin("x")}))
	want(t, err, connect.CodeFailedPrecondition, "not enabled or closed")
}

// TestStdinBlocks: a program that does not read makes the writer wait, and the
// writer may give up.
func TestStdinBlocks(t *testing.T) {
	b := newBox(t)
	req := shell("sleep 15")
	req.Stdin = nil
	f := b.start(t, req)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := b.SendInput(ctx, call(&processpb.SendInputRequest{Process: byPid(f.pid), Input: stdin(strings.Repeat("x", 1<<20))}))
	if code := connect.CodeOf(err); code != connect.CodeDeadlineExceeded {
		t.Errorf("error = %v; want deadline_exceeded", err)
	}
	if _, err := b.CloseStdin(t.Context(), call(&processpb.CloseStdinRequest{Process: byPid(f.pid)})); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestStreamInput(t *testing.T) {
	b := newBox(t)
	req := shell("head -c 6")
	req.Stdin = nil
	f := b.start(t, req)
	in := b.StreamInput(t.Context())
	start := &processpb.StreamInputRequest_Start{Start: &processpb.StreamInputRequest_StartEvent{Process: byPid(f.pid)}}
	if err := in.Send(&processpb.StreamInputRequest{Event: start}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"ab", "cd", "ef"} {
		data := &processpb.StreamInputRequest_Data{Data: &processpb.StreamInputRequest_DataEvent{Input: stdin(text)}}
		alive := &processpb.StreamInputRequest_Keepalive{Keepalive: &processpb.StreamInputRequest_KeepAlive{}}
		if err := in.Send(&processpb.StreamInputRequest{Event: alive}); err != nil {
			t.Fatal(err)
		}
		if err := in.Send(&processpb.StreamInputRequest{Event: data}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
	f.end()
	if f.out.String() != "abcdef" {
		t.Errorf("it printed %q", f.out.String())
	}
}

func TestStreamInputErrors(t *testing.T) {
	b := newBox(t)
	for _, test := range []struct {
		name string
		req  *processpb.StreamInputRequest
		code connect.Code
		text string
	}{
		{"data first", &processpb.StreamInputRequest{Event: &processpb.StreamInputRequest_Data{}}, connect.CodeInvalidArgument, "must be a start"},
		{"nothing", &processpb.StreamInputRequest{}, connect.CodeInvalidArgument, "neither start"},
		{"unknown process", &processpb.StreamInputRequest{Event: &processpb.StreamInputRequest_Start{
			Start: &processpb.StreamInputRequest_StartEvent{Process: byPid(4_000_000)},
		}}, connect.CodeNotFound, "not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := b.StreamInput(t.Context())
			if err := in.Send(test.req); err != nil && err != io.EOF { //nolint:errorlint // as Send documents it
				t.Fatal(err)
			}
			_, err := in.CloseAndReceive()
			want(t, err, test.code, test.text)
		})
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t)
	req := shell("trap 'stty size' WINCH; tty >/dev/null && stty size; while read -r x; do echo got:$x; done; echo bye")
	req.Pty = size(100, 30)
	f := b.start(t, req)
	f.until("30 100\r\n")
	if _, err := b.Update(t.Context(), call(&processpb.UpdateRequest{Process: byPid(f.pid), Pty: size(80, 24)})); err != nil {
		t.Fatal(err)
	}
	send := func(text string) {
		t.Helper()
		if _, err := b.SendInput(t.Context(), call(&processpb.SendInputRequest{Process: byPid(f.pid), Input: ptyInput(text)})); err != nil {
			t.Fatal(err)
		}
	}
	send("hello\n")
	f.until("got:hello\r\n")
	f.until("24 80\r\n")
	send("\x04")
	if end := f.end(); end.GetExitCode() != 0 || !strings.Contains(f.out.String(), "bye\r\n") {
		t.Errorf("end = %v after %q", end, f.out.String())
	}
}

func TestInputErrors(t *testing.T) {
	b := newBox(t)
	req := shell("sleep 15")
	req.Stdin = nil
	plain := byPid(b.start(t, req).pid)
	req = shell("sleep 15")
	req.Pty = size(80, 24)
	tty := byPid(b.start(t, req).pid)
	input := func(sel *processpb.ProcessSelector, in *processpb.ProcessInput) error {
		_, err := b.SendInput(t.Context(), call(&processpb.SendInputRequest{Process: sel, Input: in}))
		return err
	}
	want(t, input(tty, stdin("x")), connect.CodeFailedPrecondition, "send the input as pty")
	want(t, input(plain, ptyInput("x")), connect.CodeFailedPrecondition, "send the input as stdin")
	want(t, input(plain, nil), connect.CodeInvalidArgument, "neither stdin nor pty")
	want(t, input(nil, stdin("x")), connect.CodeInvalidArgument, "neither a pid nor a tag")
	want(t, input(byPid(4_000_000), stdin("x")), connect.CodeNotFound, "pid 4000000 not found")
	want(t, input(byTag("none"), stdin("x")), connect.CodeNotFound, `tag "none" not found`)
	_, err := b.CloseStdin(t.Context(), call(&processpb.CloseStdinRequest{Process: tty}))
	want(t, err, connect.CodeFailedPrecondition, "Ctrl+D")
	_, err = b.Update(t.Context(), call(&processpb.UpdateRequest{Process: plain, Pty: size(1, 1)}))
	want(t, err, connect.CodeFailedPrecondition, "no terminal")
	_, err = b.Update(t.Context(), call(&processpb.UpdateRequest{Process: tty, Pty: size(1, 1<<20)}))
	want(t, err, connect.CodeInvalidArgument, "65535")
	if _, err = b.Update(t.Context(), call(&processpb.UpdateRequest{Process: plain})); err != nil {
		t.Errorf("Update of nothing: %v", err)
	}
}

func TestSignals(t *testing.T) {
	b := newBox(t)
	signal := func(sel *processpb.ProcessSelector, sig processpb.Signal) error {
		_, err := b.SendSignal(t.Context(), call(&processpb.SendSignalRequest{Process: sel, Signal: sig}))
		return err
	}
	t.Run("SIGKILL ends the tree", func(t *testing.T) {
		f := b.start(t, shell("trap '' TERM; set -m; sleep 15 & echo $!; wait"))
		f.until("\n")
		child := atoi(t, f.out.String())
		if err := signal(byPid(f.pid), processpb.Signal_SIGNAL_SIGKILL); err != nil {
			t.Fatal(err)
		}
		if end := f.end(); end.GetCause() != "killed" || end.GetSignal() != 9 || end.GetError() != "signal: killed" || end.GetExited() {
			t.Errorf("end = %v", end)
		}
		if err := syscall.Kill(child, 0); err == nil && !gone(t, child) {
			t.Error("the child runs on")
		}
		want(t, signal(byPid(f.pid), processpb.Signal_SIGNAL_SIGKILL), connect.CodeNotFound, "has ended")
	})
	t.Run("SIGTERM reaches the group", func(t *testing.T) {
		f := b.start(t, shell("trap 'echo caught; exit 4' TERM; echo ready; sleep 15"))
		f.until("ready\n")
		if err := signal(byPid(f.pid), processpb.Signal_SIGNAL_SIGTERM); err != nil {
			t.Fatal(err)
		}
		// It handled the signal and ended by itself.
		if end := f.end(); end.GetExitCode() != 4 || end.GetCause() != "exited" || !strings.Contains(f.out.String(), "caught") {
			t.Errorf("end = %v after %q", end, f.out.String())
		}
	})
	t.Run("any other signal", func(t *testing.T) {
		f := b.start(t, shell("echo ready; sleep 15"))
		f.until("ready\n")
		if err := signal(byPid(f.pid), processpb.Signal(syscall.SIGUSR1)); err != nil {
			t.Fatal(err)
		}
		if end := f.end(); end.GetSignal() != 10 || end.GetCause() != "killed" || end.GetDetail() != "a client sent SIGUSR1" {
			t.Errorf("end = %v", end)
		}
	})
	t.Run("errors", func(t *testing.T) {
		f := b.start(t, shell("sleep 15"))
		want(t, signal(byPid(f.pid), processpb.Signal_SIGNAL_UNSPECIFIED), connect.CodeInvalidArgument, "SIGNAL_SIGKILL")
		want(t, signal(byPid(f.pid), 65), connect.CodeInvalidArgument, "between 1 and 64")
		want(t, signal(byPid(4_000_000), processpb.Signal_SIGNAL_SIGKILL), connect.CodeNotFound, "not found")
	})
}

// gone waits a moment for a killed process to vanish.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for syscall.Kill(pid, 0) == nil {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
