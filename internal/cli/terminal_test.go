package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// screen is a terminal with the command line on it.
type screen struct {
	t      *testing.T
	master *os.File
	slave  *os.File

	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	master, slave, err := pty.Open()
	testenv.Have(t, "pty", err == nil, fmt.Sprintf("no pseudo-terminal: %v", err))
	s := &screen{t: t, master: master, slave: slave, changed: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return // the slave was closed
			}
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			select {
			case s.changed <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = slave.Close()
		_, _ = master.WriteString("\n") // wakes a Read of the slave that outlived its command
		<-done
		_ = master.Close()
	})
	return s
}

// wait waits until the screen shows want, and forgets what was before it.
func (s *screen) wait(want string) {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		s.mu.Lock()
		_, after, ok := strings.Cut(s.text.String(), want)
		if ok {
			s.text.Reset()
			s.text.WriteString(after)
		}
		shown := s.text.String()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			s.t.Fatalf("the screen shows %q, want %q", shown, want)
		}
	}
}

func (s *screen) typeIn(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) resize(cols, rows uint16) {
	s.t.Helper()
	if err := pty.Setsize(s.master, &pty.Winsize{Cols: cols, Rows: rows}); err != nil {
		s.t.Fatal(err)
	}
}

// start runs a command on the screen and returns its exit code when it ends.
func (s *screen) start(url string, noColor bool, args ...string) <-chan int {
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(context.WithoutCancel(s.t.Context()), &cli.Env{
			Stdin: s.slave, Stdout: s.slave, Stderr: s.slave, URL: url, Key: testKey, NoColor: noColor, Term: "dumb",
		}, &grammar{}, args)
	}()
	return code
}

// boxed is a server whose sandboxes have the real envd.
func boxed(t *testing.T) (srv *fakeserver.Server, url string) {
	t.Helper()
	envd, err := fakeserver.NewEnvd(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := envd.Close(); err != nil {
			t.Error(err)
		}
	})
	srv = &fakeserver.Server{Key: testKey, Templates: []string{"base"}, Box: func(_ bulkhead.Sandbox, port int) http.Handler {
		if port == boxrpc.EnvdPort {
			return envd
		}
		return nil
	}}
	srv.Dir = t.TempDir()
	hs := httptest.NewServer(srv)
	t.Cleanup(hs.Close)
	return srv, hs.URL
}

// TestShellOnATerminal: keys go to the shell as they are, the size follows, and
// the terminal is as before at the end.
func TestShellOnATerminal(t *testing.T) {
	_, url := boxed(t)
	s := newScreen(t)
	s.resize(91, 17)
	before, err := term.GetState(int(s.slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	code := s.start(url, false, "sandbox", "shell", "--template", "base", "--program", "/bin/sh")
	s.typeIn("echo re''ady\r") // the prompt is the host's choice
	s.wait("ready")
	s.typeIn("stty size\r")
	s.wait("17 91")
	s.resize(120, 40)
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	s.typeIn("while [ \"$(stty size)\" != '40 120' ]; do sleep 0.02; done; echo resi''zed\r")
	s.wait("resized")
	s.typeIn("sh -c \"echo sle''eps; exec sleep 60\"\r") // it says so itself: else the terminal may not be its yet
	s.wait("sleeps")
	s.typeIn("\x03") // ^C is for the program in the sandbox
	s.typeIn("echo ba''ck\r")
	s.wait("back")
	s.typeIn("exit 9\r")
	if got := <-code; got != 9 {
		t.Errorf("exit code %d, want 9", got)
	}
	after, err := term.GetState(int(s.slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *before != *after {
		t.Error("the terminal is not as it was before")
	}
}

func TestColoursOnATerminal(t *testing.T) {
	_, url := boxed(t)
	for _, tc := range []struct {
		noColor bool
		want    string
	}{
		{false, "\x1b[31mbulkhead:\x1b[0m get sandbox"},
		{true, "bulkhead: get sandbox"},
	} {
		s := newScreen(t)
		if got := <-s.start(url, tc.noColor, "sandbox", "info", "none"); got != 1 {
			t.Errorf("exit code %d, want 1", got)
		}
		s.wait(tc.want)
	}
}
