package proc_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
	"github.com/bulkheadhq/bulkhead/internal/envd/proc"
)

// box is a process service behind HTTP, with a client in the SDK's codec.
type box struct {
	processpbconnect.ProcessClient
	service *proc.Service
	ident   *ident.Box
	home    string
}

func newBox(t *testing.T) *box {
	t.Helper()
	home := t.TempDir()
	passwd := filepath.Join(home, "passwd")
	lines := fmt.Sprintf("user:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", os.Geteuid(), os.Getegid(), home)
	if err := os.WriteFile(passwd, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(home, "group")
	if err := os.WriteFile(group, []byte("extra:x:4242:nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &box{home: home, ident: ident.New(ident.Accounts{Passwd: passwd, Group: group}, os.Getenv("PATH"))}
	log := slog.New(slog.DiscardHandler)
	g, err := guard.New(guard.Config{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = g.Run(ctx)
	}()
	b.service, err = proc.New(proc.Config{Box: b.ident, Guard: g, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(processpbconnect.NewProcessHandler(b.service))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true) // StreamInput needs both ways at once
	b.ProcessClient = processpbconnect.NewProcessClient(&http.Client{Transport: transport}, server.URL, connect.WithProtoJSON())
	t.Cleanup(func() {
		if err := b.service.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
		cancel()
		<-ended
	})
	return b
}

// shell asks for a line of shell.
func shell(line string) *processpb.StartRequest {
	return &processpb.StartRequest{
		Process: &processpb.ProcessConfig{Cmd: "/bin/bash", Args: []string{"-c", line}}, Stdin: new(false),
	}
}

// call wraps msg in a request with pairs of headers.
func call[T any](msg *T, headers ...string) *connect.Request[T] {
	req := connect.NewRequest(msg)
	for i := 0; i < len(headers); i += 2 {
		req.Header().Set(headers[i], headers[i+1])
	}
	return req
}

// as is the header that makes a call in the name of a user.
func as(user string) (string, string) {
	return "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))
}

// stream is what Start and Connect have in common.
type stream interface {
	Receive() bool
	Err() error
	Close() error
}

// follower reads the events of one process.
type follower struct {
	t      *testing.T
	stream stream
	event  func() *processpb.ProcessEvent
	pid    uint32
	out    strings.Builder // everything printed
	cancel context.CancelFunc
}

// start runs a program and reads its start event.
func (b *box) start(t *testing.T, req *processpb.StartRequest, headers ...string) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	s, err := b.Start(withoutDeadline{ctx}, call(req, headers...))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	f := &follower{t: t, stream: s, event: func() *processpb.ProcessEvent { return s.Msg().GetEvent() }, cancel: cancel}
	f.begin()
	return f
}

// connect follows a program and reads its start event.
func (b *box) connect(t *testing.T, sel *processpb.ProcessSelector) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	s, err := b.Connect(withoutDeadline{ctx}, call(&processpb.ConnectRequest{Process: sel}))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	f := &follower{t: t, stream: s, event: func() *processpb.ProcessEvent { return s.Msg().GetEvent() }, cancel: cancel}
	f.begin()
	return f
}

// withoutDeadline hides a deadline from the client, which would send it along.
type withoutDeadline struct{ context.Context } //nolint:containedctx // it is one

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

func (f *follower) begin() {
	f.t.Helper()
	f.t.Cleanup(func() {
		f.cancel()
		_ = f.stream.Close()
	})
	if !f.stream.Receive() {
		f.t.Fatalf("no start event: %v", f.stream.Err())
	}
	if f.pid = f.event().GetStart().GetPid(); f.pid == 0 {
		f.t.Fatalf("first event = %v; want a start", f.event())
	}
}

// next reads one event, nil at the end of the stream.
func (f *follower) next() *processpb.ProcessEvent {
	if !f.stream.Receive() {
		return nil
	}
	e := f.event()
	for _, data := range [][]byte{e.GetData().GetStdout(), e.GetData().GetStderr(), e.GetData().GetPty()} {
		f.out.Write(data)
	}
	return e
}

// until reads until what was printed holds text.
func (f *follower) until(text string) {
	f.t.Helper()
	for !strings.Contains(f.out.String(), text) {
		if f.next() == nil {
			f.t.Fatalf("the stream ended with %v before %q; it printed %q", f.stream.Err(), text, f.out.String())
		}
	}
}

// end reads to the end event.
func (f *follower) end() *processpb.ProcessEvent_EndEvent {
	f.t.Helper()
	for {
		e := f.next()
		if e == nil {
			f.t.Fatalf("the stream ended with %v; it printed %q", f.stream.Err(), f.out.String())
		}
		if e.GetEnd() != nil {
			if f.stream.Receive() || f.stream.Err() != nil {
				f.t.Errorf("after the end: %v, %v", f.event(), f.stream.Err())
			}
			return e.GetEnd()
		}
	}
}

// failure starts a program that cannot start and returns the error.
func (b *box) failure(t *testing.T, req *processpb.StartRequest, headers ...string) error {
	t.Helper()
	s, err := b.Start(t.Context(), call(req, headers...))
	if err != nil {
		return err
	}
	defer s.Close()
	if s.Receive() {
		t.Fatalf("%v started: %v", req, s.Msg())
	}
	if s.Err() == nil {
		return io.ErrUnexpectedEOF
	}
	return s.Err()
}

// want checks the code of err and that its text holds text.
func want(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != code || !strings.Contains(e.Message(), text) {
		t.Errorf("error = %v; want code %v and %q", err, code, text)
	}
}

func byPid(pid uint32) *processpb.ProcessSelector {
	return &processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Pid{Pid: pid}}
}

func byTag(tag string) *processpb.ProcessSelector {
	return &processpb.ProcessSelector{Selector: &processpb.ProcessSelector_Tag{Tag: tag}}
}

func stdin(text string) *processpb.ProcessInput {
	return &processpb.ProcessInput{Input: &processpb.ProcessInput_Stdin{Stdin: []byte(text)}}
}

func ptyInput(text string) *processpb.ProcessInput {
	return &processpb.ProcessInput{Input: &processpb.ProcessInput_Pty{Pty: []byte(text)}}
}

// bind gives the box an identity.
func (b *box) bind(in boxrpc.Init) { b.ident.Bind(in) }
