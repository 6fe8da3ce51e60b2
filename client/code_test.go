package client_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
)

// playing is a sandbox whose interpreter plays p.
func playing(t *testing.T, p func(r *http.Request, code string, emit func(fakeserver.Event)) error) (*client.Sandbox, *fakeserver.Server) {
	t.Helper()
	srv := &fakeserver.Server{Box: func(_ bulkhead.Sandbox, port int) http.Handler {
		if port != boxrpc.InterpreterPort {
			return nil
		}
		return &fakeserver.Interpreter{Play: p}
	}}
	return create(t, serve(t, srv)), srv
}

func TestRunCode(t *testing.T) {
	png := []byte("\x89PNG\r\n")
	sb, _ := playing(t, func(_ *http.Request, _ string, emit func(fakeserver.Event)) error {
		emit(fakeserver.Print("one\n"))
		emit(fakeserver.Event{"type": "keepalive"})
		emit(fakeserver.Event{"type": "stderr", "text": "careful\n", "timestamp": "2026-01-02T03:04:05Z"})
		emit(fakeserver.Event{"type": "future", "text": 7})
		emit(fakeserver.Event{
			"type": "result", "is_main_result": false, "text": "Figure(640x480)", "png": base64.StdEncoding.EncodeToString(png),
			"chart": map[string]any{"type": "line"}, "html": nil, "extra": map[string]any{"x/y": "z"},
		})
		emit(fakeserver.Print("two\n"))
		emit(fakeserver.Event{"type": "result", "is_main_result": true, "text": "3", "json": map[string]any{"a": 1}})
		return nil
	})
	run, err := sb.RunCode(t.Context(), "code", client.CodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	run.End.At = time.Time{}
	want := &client.Execution{
		Count: 1, Stdout: "one\ntwo\n", Stderr: "careful\n",
		Results: []client.Result{
			{Formats: map[string]json.RawMessage{
				"text/plain": json.RawMessage(`"Figure(640x480)"`), "image/png": json.RawMessage(`"iVBORw0K"`),
				"e2b/chart": json.RawMessage(`{"type":"line"}`), "x/y": json.RawMessage(`"z"`),
			}},
			{Main: true, Formats: map[string]json.RawMessage{
				"text/plain": json.RawMessage(`"3"`), "application/json": json.RawMessage(`{"a":1}`),
			}},
		},
		End: bulkhead.End{Cause: bulkhead.CauseExited},
	}
	if diff := cmp.Diff(want, run); diff != "" {
		t.Errorf("execution (-want +got):\n%s", diff)
	}
	if b, ok := run.Results[0].Bytes("image/png"); !ok || string(b) != string(png) {
		t.Errorf("image is %q, %v", b, ok)
	}
	if _, ok := run.Results[0].Bytes("text/html"); ok {
		t.Error("a format that is null is there")
	}
	if run.Text() != "3" {
		t.Errorf("Text is %q, want that of the main result", run.Text())
	}
	raw, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	var again client.Execution
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(run, &again); diff != "" {
		t.Errorf("through JSON and back (-want +got):\n%s", diff)
	}
}

func TestRunCodeSendsItsOptions(t *testing.T) {
	sb, _ := playing(t, func(r *http.Request, code string, emit func(fakeserver.Event)) error {
		emit(fakeserver.Print(code + " " + r.Header.Get("X-Access-Token") + " " + r.Header.Get("Content-Type")))
		return nil
	})
	run, err := sb.RunCode(t.Context(), "x = '<é>'", client.CodeOptions{Context: "ctx-1", Env: map[string]string{"A": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "x = '<é>' " + sb.Info().EnvdToken + " application/json"; run.Stdout != want {
		t.Errorf("the interpreter saw %q, want %q", run.Stdout, want)
	}
	_, err = sb.RunCode(t.Context(), "1", client.CodeOptions{Context: "ctx-1", Language: "python"})
	wantCode(t, err, bulkhead.CodeInvalid)
	_, err = sb.RunCode(t.Context(), "1", client.CodeOptions{Context: "other"})
	wantCode(t, err, bulkhead.CodeNotFound)
	_, err = sb.RunCode(t.Context(), "1", client.CodeOptions{Timeout: -1})
	wantCode(t, err, bulkhead.CodeInvalid)
}

func TestRunCodeEnds(t *testing.T) {
	limit := map[string]any{"cause": "memory_limit", "limit": 1 << 30, "exitCode": 137}
	for _, tc := range []struct {
		name   string
		play   func(*http.Request, string, func(fakeserver.Event)) error
		cause  bulkhead.Cause
		exit   int
		raised bool
	}{
		{"raised", func(*http.Request, string, func(fakeserver.Event)) error { return errors.New("boom") }, bulkhead.CauseExited, 1, true},
		{"limit in the error", func(_ *http.Request, _ string, emit func(fakeserver.Event)) error {
			emit(fakeserver.Event{"type": "error", "name": "MemoryLimit", "value": "too much", "traceback": "", "end": limit})
			return nil
		}, bulkhead.CauseMemoryLimit, 137, true},
		{"limit in the end", func(_ *http.Request, _ string, emit func(fakeserver.Event)) error {
			emit(fakeserver.Event{"type": "end_of_execution", "end": limit})
			return nil
		}, bulkhead.CauseMemoryLimit, 137, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sb, _ := playing(t, tc.play)
			run, err := sb.RunCode(t.Context(), "1", client.CodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if run.End.Cause != tc.cause || run.End.ExitCode != tc.exit || (run.Err != nil) != tc.raised {
				t.Errorf("end is %+v, exception %v; want %s, %d", run.End, run.Err, tc.cause, tc.exit)
			}
		})
	}
}

func TestRunCodeTimeLimit(t *testing.T) {
	interrupted := make(chan struct{})
	sb, _ := playing(t, func(r *http.Request, _ string, emit func(fakeserver.Event)) error {
		emit(fakeserver.Print("before\n"))
		<-r.Context().Done()
		close(interrupted)
		return nil
	})
	run, err := sb.RunCode(t.Context(), "while True: pass", client.CodeOptions{Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if run.End.Cause != bulkhead.CauseTimeLimit || run.End.Limit != 50 || run.End.Peak < 50 || run.Stdout != "before\n" {
		t.Errorf("run is %+v, want a time limit of 50 ms and what was printed before", run)
	}
	<-interrupted // the interpreter learned of it
}

func TestRunCodeCanceled(t *testing.T) {
	sb, _ := playing(t, func(r *http.Request, _ string, emit func(fakeserver.Event)) error {
		emit(fakeserver.Print("running"))
		<-r.Context().Done()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var last error
	for ev, err := range sb.StreamCode(ctx, "1", client.CodeOptions{Timeout: time.Hour}) {
		if last = err; ev.Kind == client.EventStdout {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("the stream ended with %v, want context.Canceled", last)
	}
	cancel()
}

// TestStreamCodeStopsEarly: a consumer that has seen enough interrupts the code.
func TestStreamCodeStopsEarly(t *testing.T) {
	interrupted := make(chan struct{})
	sb, _ := playing(t, func(r *http.Request, _ string, emit func(fakeserver.Event)) error {
		emit(fakeserver.Print("enough"))
		<-r.Context().Done()
		close(interrupted)
		return nil
	})
	for ev, err := range sb.StreamCode(t.Context(), "1", client.CodeOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind == client.EventStdout {
			break
		}
	}
	<-interrupted
}

// TestSandboxEndsUnderARun: the connection breaks, and the server knows why.
func TestSandboxEndsUnderARun(t *testing.T) {
	var srv *fakeserver.Server
	end := bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 64 << 20, Peak: 64 << 20, Detail: "it needed more than 64 MiB"}
	sb, srv := playing(t, func(_ *http.Request, _ string, emit func(fakeserver.Event)) error {
		emit(fakeserver.Print("filling"))
		time.AfterFunc(100*time.Millisecond, func() { srv.End(srv.Sandboxes()[0].ID, end) }) // the server learns of it later
		panic(http.ErrAbortHandler)                                                          // cuts the connection
	})
	run, err := sb.RunCode(t.Context(), "1", client.CodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(end, run.End); diff != "" {
		t.Errorf("end (-want +got):\n%s", diff)
	}
	run, err = sb.RunCode(t.Context(), "1", client.CodeOptions{}) // now it is gone from the start
	if err != nil || run.End.Cause != bulkhead.CauseMemoryLimit {
		t.Errorf("a run in an ended sandbox gave %+v, %v; want its end", run, err)
	}
}

func TestBrokenStreams(t *testing.T) {
	for _, tc := range []struct {
		name  string
		write func(w http.ResponseWriter)
		code  bulkhead.Code
		want  string
	}{
		{"cut", func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"type":"number_of_executions","execution_count":1}` + "\n"))
		}, bulkhead.CodeUnavailable, "the connection ended before the run did"},
		{"not JSON", func(w http.ResponseWriter) { _, _ = w.Write([]byte("hello\n")) }, bulkhead.CodeInternal, "not JSON"},
		{"endless line", func(w http.ResponseWriter) {
			block := []byte(strings.Repeat("x", 1<<20))
			for range 40 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, bulkhead.CodeTooLarge, "larger than 32 MiB"},
		{"busy", func(w http.ResponseWriter) {
			http.Error(w, "starting", http.StatusServiceUnavailable)
		}, bulkhead.CodeUnavailable, "starting"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := &fakeserver.Server{Box: func(bulkhead.Sandbox, int) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tc.write(w) })
			}}
			sb := create(t, serve(t, srv))
			_, err := sb.RunCode(t.Context(), "1", client.CodeOptions{})
			wantCode(t, err, tc.code)
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %q, want it to contain %q", err, tc.want)
			}
		})
	}
}

func TestContexts(t *testing.T) {
	sb, _ := playing(t, nil)
	ctx := t.Context()
	made, err := sb.CreateContext(ctx, "javascript", "/tmp")
	if diff := cmp.Diff(client.Context{ID: "ctx-1", Language: "javascript", Dir: "/tmp"}, made); diff != "" || err != nil {
		t.Errorf("CreateContext: %v (-want +got):\n%s", err, diff)
	}
	if list, err := sb.Contexts(ctx); err != nil || len(list) != 1 {
		t.Errorf("Contexts gave %v, %v", list, err)
	}
	if err := sb.RestartContext(ctx, made.ID); err != nil {
		t.Error(err)
	}
	if err := sb.RemoveContext(ctx, made.ID); err != nil {
		t.Error(err)
	}
	wantCode(t, sb.RemoveContext(ctx, "other"), bulkhead.CodeNotFound)
	wantCode(t, sb.RestartContext(ctx, "a/b"), bulkhead.CodeInvalid)
}

// FuzzResult: whatever a box says a result is, reading it neither panics nor
// loses what it has read.
func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"is_main_result":true,"text":"a","png":"iVBOR","extra":{"x/y":[1]}}`))
	f.Add([]byte(`{"main":true,"formats":{"text/plain":"a"}}`))
	f.Add([]byte(`{"text":null,"extra":null,"pdf":"!"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r client.Result
		if json.Unmarshal(raw, &r) != nil {
			return
		}
		for _, mime := range r.MIMETypes() {
			r.Bytes(mime)
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("a result that was read cannot be written: %v", err)
		}
		var again client.Result
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("a result that was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(r.MIMETypes(), again.MIMETypes()); diff != "" || r.Text() != again.Text() {
			t.Errorf("through JSON and back (-want +got):\n%s", diff)
		}
	})
}
