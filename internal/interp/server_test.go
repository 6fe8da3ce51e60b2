package interp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// fakeKernel runs nothing: it waits until it is told that the code has ended. It
// can be closed, can die, and hears when it is interrupted.
type fakeKernel struct {
	started chan string   // the code of each execution
	finish  chan struct{} // ends an execution
	done    chan struct{} // closed when the process has ended
	close   func()
	mu      sync.Mutex
	leases  []map[string]string
}

func newFakeKernel() *fakeKernel {
	k := &fakeKernel{started: make(chan string, 100), finish: make(chan struct{}, 100), done: make(chan struct{})}
	k.close = sync.OnceFunc(func() { close(k.done) })
	return k
}

var _ Kernel = (*fakeKernel)(nil)

// Run implements [Kernel].
func (k *fakeKernel) Run(ctx context.Context, req Request, sink Sink) error {
	if req.Touch {
		return nil
	}
	sink.Emit(Event{Kind: EventCount, Count: 1})
	sink.Flush()
	k.started <- req.Code
	select {
	case <-k.finish:
		return nil
	case <-k.done:
		return &DeadError{PID: 1, Status: "signal: killed"}
	case <-ctx.Done():
		return nil // it stops at once
	}
}

// Rebind implements [Kernel].
func (k *fakeKernel) Rebind(env map[string]string, _ []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leases = append(k.leases, env)
}

// PID implements [Kernel].
func (k *fakeKernel) PID() int { return 0 }

// Done implements [Kernel].
func (k *fakeKernel) Done() <-chan struct{} { return k.done }

// Close implements [Kernel].
func (k *fakeKernel) Close() { k.close() }

// startFake returns a server whose kernels are fakes, and the channel on which each
// that is started appears.
func startFake(t *testing.T, cfg Config) (*box, <-chan *fakeKernel) {
	t.Helper()
	srv := newServer(t, cfg)
	kernels := make(chan *fakeKernel, 100)
	srv.launch = func(context.Context, *session) (Kernel, *lease, error) {
		k := newFakeKernel()
		kernels <- k
		return k, srv.lease.Load(), nil
	}
	b := serve(t, srv)
	if err := srv.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, kernels
}

// begin starts an execution in the background; its outcome comes on the channel.
func (b *box) begin(ctx context.Context, code string) <-chan outcome {
	result := make(chan outcome, 1)
	resp := b.do(ctx, http.MethodPost, "/execute", map[string]any{"code": code})
	go func() {
		var o outcome
		lines(b.tb, resp.Body, func(l out) bool {
			o.add(l)
			return true
		})
		result <- o
	}()
	return result
}

// TestRefusals: what cannot be served gets the status and the text that E2B gives.
func TestRefusals(t *testing.T) {
	b, _ := startFake(t, Config{MaxRequestBytes: 1000})
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		text         string
	}{
		{"POST", "/execute", map[string]any{"code": "1", "context_id": "a", "language": "python"}, 400, "Only one of context_id or language can be provided"},
		{"POST", "/execute", map[string]any{"code": "1", "context_id": "nope"}, 404, "Context nope not found"},
		{"POST", "/execute", map[string]any{"code": "1", "language": "cobol"}, 400, `language "cobol" is not known here; there are kernels for python, bash`},
		{"POST", "/execute", map[string]any{}, 400, "code is missing"},
		{"POST", "/execute", map[string]any{"code": 1}, 400, "the request is not valid JSON"},
		{"POST", "/execute", map[string]any{"code": strings.Repeat("x", 2000)}, 413, "the request is longer than 1000 bytes"},
		{"POST", "/execute", map[string]any{"code": "1", "env_vars": map[string]string{"a=b": "c"}}, 400, `env_vars: "a=b" is no name of a variable`},
		{"POST", "/execute", map[string]any{"code": "1", "env_vars": map[string]string{"a": "\x00"}}, 400, `env_vars: the value of "a" contains a NUL byte`},
		{"POST", "/contexts", map[string]any{"language": "cobol"}, 400, `language "cobol" is not known here`},
		{"POST", "/contexts", map[string]any{"cwd": "/does/not/exist"}, 400, "cwd '/does/not/exist' does not exist"},
		{"DELETE", "/contexts/nope", nil, 404, "Context nope not found"},
		{"POST", "/contexts/nope/restart", nil, 404, "Context nope not found"},
	} {
		resp := b.do(t.Context(), c.method, c.path, c.body)
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || !strings.HasPrefix(string(text), c.text) {
			t.Errorf("%s %s %v: %d %q, want %d %q", c.method, c.path, c.body, resp.StatusCode, text, c.status, c.text)
		}
	}
}

// TestToken: after a lease with a token only those who have it run code. Contexts
// take no token too, because the SDKs send them none, but no wrong one.
func TestToken(t *testing.T) {
	b, kernels := startFake(t, Config{})
	k := <-kernels
	for range 3 {
		k.finish <- struct{}{}
	}
	status := func(method, path, token string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(`{"code":"1"}`))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("X-Access-Token", token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	got := []int{status("POST", "/execute", ""), status("POST", "/execute", "any")}
	if err := b.srv.Rebind(t.Context(), boxrpc.Init{AccessToken: "secret"}); err != nil {
		t.Fatal(err)
	}
	got = append(got,
		status("POST", "/execute", ""), status("POST", "/execute", "wrong"), status("POST", "/execute", "secret"),
		status("GET", "/contexts", ""), status("GET", "/contexts", "wrong"), status("GET", "/contexts", "secret"),
		status("GET", "/health", ""))
	if diff := cmp.Diff([]int{200, 200, 401, 401, 200, 200, 401, 200, 200}, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

// TestContexts: the defaults are listed from the beginning, and new ones last.
func TestContexts(t *testing.T) {
	b, _ := startFake(t, Config{MaxContexts: 3})
	list := func() (all []contextBody) {
		decodeJSON(t, b.do(t.Context(), "GET", "/contexts", nil).Body, &all)
		return all
	}
	home := b.srv.cfg.Workdir
	languagesOf := func() (names []string) {
		for _, c := range list() {
			names = append(names, c.Language)
			if c.ID == "" || c.CWD != home {
				t.Errorf("context %+v, want an id and %s", c, home)
			}
		}
		return names
	}
	if diff := cmp.Diff([]string{"python", "javascript"}, languagesOf()); diff != "" {
		t.Errorf("contexts (-want +got):\n%s", diff)
	}
	var made contextBody
	decodeJSON(t, b.do(t.Context(), "POST", "/contexts", map[string]string{"language": " Bash "}).Body, &made)
	if all := list(); all[len(all)-1] != made || made.Language != "bash" {
		t.Errorf("contexts are %+v, want %+v last", all, made)
	}
	resp := b.do(t.Context(), "POST", "/contexts", nil)
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a context too many: %s, want 429", resp.Status)
	}
	if resp := b.do(t.Context(), "DELETE", "/contexts/"+made.ID, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("delete: %s", resp.Status)
	}
	if diff := cmp.Diff([]string{"python", "javascript"}, languagesOf()); diff != "" {
		t.Errorf("contexts after the deletion (-want +got):\n%s", diff)
	}
}

// TestOneAtATime: executions of a context run in the order in which they came, the
// line is bounded, and other contexts do not wait.
func TestOneAtATime(t *testing.T) {
	b, kernels := startFake(t, Config{MaxQueue: 2})
	k := <-kernels
	first := b.begin(t.Context(), "a")
	if got := <-k.started; got != "a" {
		t.Fatalf("%q runs first", got)
	}
	second, third := b.begin(t.Context(), "b"), b.begin(t.Context(), "c")
	resp := b.do(t.Context(), "POST", "/execute", map[string]any{"code": "d"})
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(text), "the limit is 2") {
		t.Errorf("the one too many: %s %q, want 429", resp.Status, text)
	}
	other := b.do(t.Context(), "POST", "/execute", map[string]any{"code": "other", "language": "bash"})
	if o := <-kernels; <-o.started != "other" {
		t.Error("another language does not run")
	} else {
		o.finish <- struct{}{}
	}
	if _, err := io.ReadAll(other.Body); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		next string
		of   <-chan outcome
	}{{"b", first}, {"c", second}} {
		k.finish <- struct{}{}
		if o := <-c.of; !o.ended {
			t.Errorf("the execution before %q has no end: %+v", c.next, o.lines)
		}
		if got := <-k.started; got != c.next {
			t.Errorf("%q runs next, want %q", got, c.next)
		}
	}
	k.finish <- struct{}{}
	<-third
}

// TestClientGone: the execution of a client that goes away is interrupted, and one
// that waits leaves the line.
func TestClientGone(t *testing.T) {
	b, kernels := startFake(t, Config{MaxQueue: 1})
	k := <-kernels
	ctx, cancel := context.WithCancel(t.Context())
	b.begin(ctx, "a")
	<-k.started
	b.begin(ctx, "b")
	cancel()
	for range 2 { // as long as one of the two is in the line this may be refused
		o := b.retry("c", k)
		if !o.ended {
			t.Errorf("lines are %+v", o.lines)
		}
	}
}

// retry runs code as soon as there is room in the line.
func (b *box) retry(code string, k *fakeKernel) outcome {
	b.tb.Helper()
	for {
		resp := b.do(b.tb.Context(), http.MethodPost, "/execute", map[string]any{"code": code})
		if resp.StatusCode == http.StatusTooManyRequests {
			continue
		}
		for <-k.started != code { // "b" may have got its turn before it left
		}
		k.finish <- struct{}{}
		var o outcome
		lines(b.tb, resp.Body, func(l out) bool {
			o.add(l)
			return true
		})
		return o
	}
}

// TestRestart: a restart ends what runs, says why, and keeps the id.
func TestRestart(t *testing.T) {
	b, kernels := startFake(t, Config{})
	k := <-kernels
	id := b.srv.defaults[python].id
	run := b.begin(t.Context(), "a")
	<-k.started
	if resp := b.do(t.Context(), "POST", "/contexts/"+id+"/restart", nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("restart: %s", resp.Status)
	}
	if o := <-run; o.err == nil || o.err.Name != "ContextRestarting" {
		t.Errorf("lines are %+v, want ContextRestarting", o.lines)
	}
	k = <-kernels
	k.finish <- struct{}{}
	if o := b.execute(map[string]any{"code": "b", "context_id": id}); o.err != nil {
		t.Errorf("after the restart: %+v", o.lines)
	}
}

// TestDelete: a deletion ends what runs and what waits.
func TestDelete(t *testing.T) {
	b, kernels := startFake(t, Config{})
	k := <-kernels
	id := b.srv.defaults[python].id
	first := b.begin(t.Context(), "a")
	<-k.started
	second := b.begin(t.Context(), "b")
	if resp := b.do(t.Context(), "DELETE", "/contexts/"+id, nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("delete: %s", resp.Status)
	}
	for _, run := range []<-chan outcome{first, second} {
		if o := <-run; o.err == nil || o.err.Name != "UnexpectedEndOfExecution" || !o.ended {
			t.Errorf("lines are %+v, want UnexpectedEndOfExecution", o.lines)
		}
	}
	third := b.begin(t.Context(), "c") // in a new default context
	(<-kernels).finish <- struct{}{}
	if o := <-third; o.err != nil {
		t.Errorf("afterwards: %+v", o.lines)
	}
}

// TestLeaseReachesAll: a lease reaches live kernels, and those that are started
// later or at that moment.
func TestLeaseReachesAll(t *testing.T) {
	srv := newServer(t, Config{})
	var k *fakeKernel
	srv.launch = func(context.Context, *session) (Kernel, *lease, error) {
		k = newFakeKernel()
		began := srv.lease.Load()
		if err := srv.Rebind(t.Context(), boxrpc.Init{SandboxID: "meanwhile"}); err != nil {
			t.Error(err)
		}
		return k, began, nil
	}
	b := serve(t, srv)
	if err := srv.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.srv.Rebind(t.Context(), boxrpc.Init{SandboxID: "later", Env: map[string]string{"A": "1"}}); err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []string
	for _, env := range k.leases {
		ids = append(ids, env["E2B_SANDBOX_ID"]+env["A"])
	}
	if diff := cmp.Diff([]string{"meanwhile", "later1"}, ids); diff != "" {
		t.Errorf("the kernel has heard of leases (-want +got):\n%s", diff)
	}
	if env := srv.env(); env["A"] != "1" || env["E2B_SANDBOX"] != "true" {
		t.Errorf("a new kernel gets %v", env)
	}
	if err := srv.Rebind(t.Context(), boxrpc.Init{Env: map[string]string{"": "x"}}); err == nil {
		t.Error("a variable without a name is accepted")
	}
}

// TestNoPython: without Python the server says so and serves the rest.
func TestNoPython(t *testing.T) {
	b := serve(t, newServer(t, Config{Python: "/does/not/exist"}))
	if err := b.srv.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("Wait: %v, want the missing interpreter", err)
	}
	resp := b.do(t.Context(), "GET", "/health", nil)
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "/does/not/exist") {
		t.Errorf("health: %s %q", resp.Status, text)
	}
	if o := b.run("1"); o.err == nil || o.err.Name != "KernelStartFailed" {
		t.Errorf("lines are %+v, want KernelStartFailed", o.lines)
	}
	if o := b.execute(map[string]any{"code": "echo hi", "language": "bash"}); o.stdout != "hi\n" {
		t.Errorf("bash gives %+v", o.lines)
	}
}

// TestKeepalive: a silent stream says every five seconds that it is alive.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		s := newStream(w)
		time.Sleep(12 * time.Second)
		s.end()
		synctest.Wait()
		want := strings.Repeat(`{"type":"keepalive"}`+"\n", 2) + `{"type":"end_of_execution"}` + "\n"
		if diff := cmp.Diff(want, w.Body.String()); diff != "" {
			t.Errorf("stream (-want +got):\n%s", diff)
		}
	})
}

// TestMeter: the limit holds to the byte, and only the first error is passed on.
func TestMeter(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []Event
		want   []string
		over   bool
	}{
		{"below", []Event{{Text: "12345"}, {Text: "67890"}}, []string{"12345", "67890"}, false},
		{"beyond", []Event{{Text: "12345"}, {Text: "678901"}, {Text: "x"}}, []string{"12345", "67890", "!OutputLimitExceeded"}, true},
		{"within a rune", []Event{{Text: "123456789é"}}, []string{"123456789", "!OutputLimitExceeded"}, true},
		{"errors", []Event{{Kind: EventError, Name: "A"}, {Kind: EventError, Name: "B"}}, []string{"!A"}, false},
		{"after an error", []Event{{Kind: EventError, Name: "A"}, {Text: "12345678901"}}, []string{"!A", "1234567890"}, true},
		{"oversize", []Event{{Kind: EventOversize, Size: 99}, {Text: "x"}}, []string{"!OutputLimitExceeded"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			r := &recorder{on: func(e Event) {
				if e.Kind == EventError {
					got = append(got, "!"+e.Name)
					limited := e.End != nil && e.End.Cause == bulkhead.CauseOutputLimit && e.End.Limit == 10
					if limited != (e.Name == "OutputLimitExceeded") {
						t.Errorf("the end of %s is %+v", e.Name, e.End)
					}
				} else {
					got = append(got, e.Text)
				}
			}}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			m := &meter{next: r, cancel: cancel, wait: func(int) {}, limit: 10}
			for _, e := range c.events {
				if e.Kind == EventCount {
					e.Kind = EventStdout
				}
				m.Emit(e)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if over := context.Cause(ctx) == errOutputLimit; over != c.over { //nolint:errorlint // the very value
				t.Errorf("cancelled: %v, want %v", over, c.over)
			}
		})
	}
}

// TestHealthWhileStarting: the server is not ready before its kernel is.
func TestHealthWhileStarting(t *testing.T) {
	srv := newServer(t, Config{})
	release := make(chan struct{})
	srv.launch = func(ctx context.Context, _ *session) (Kernel, *lease, error) {
		select {
		case <-release:
			return newFakeKernel(), srv.lease.Load(), nil
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("start: %w", ctx.Err())
		}
	}
	b := serve(t, srv)
	if resp := b.do(t.Context(), "GET", "/health", nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("health while starting: %s", resp.Status)
	}
	close(release)
	if err := srv.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if resp := b.do(t.Context(), "GET", "/health", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("health when ready: %s", resp.Status)
	}
}

// TestNew refuses what cannot work.
func TestNew(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Dir: "/" + strings.Repeat("x", 100)}, "sockets"},
		{Config{Dir: "relative"}, "not absolute"},
		{Config{User: "bulkhead-nobody-has-this-name"}, "bulkhead-nobody-has-this-name"},
	} {
		if _, err := New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want %q", c.cfg, err, c.want)
		}
	}
	if !slices.Contains(DefaultPreload(), "pandas as pd") {
		t.Error("pandas is not preloaded by default")
	}
}
