package envd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// box is an envd that serves on a port of its own.
type box struct {
	url      string
	root     string // of its System
	guard    *guard.Guard
	hostname string // last set
	clock    time.Time
	bound    []boxrpc.Init // what the rebinder was given
	rebind   error         // what it answers
	stop     context.CancelFunc
	unguard  func() // ends the guard
	ended    chan error
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{root: t.TempDir(), ended: make(chan error, 1)}
	passwd := filepath.Join(b.root, "passwd")
	if err := os.WriteFile(passwd, fmt.Appendf(nil, "user:x:%d:%d::/tmp:/bin/sh\n", os.Geteuid(), os.Getegid()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"etc", "dev"} {
		if err := os.Mkdir(filepath.Join(b.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.put(t, "dev/urandom", "")
	log := slog.New(slog.DiscardHandler)
	var err error
	if b.guard, err = guard.New(guard.Config{Log: log}); err != nil {
		t.Fatal(err)
	}
	server, err := envd.New(envd.Config{
		Box: ident.New(ident.Accounts{Passwd: passwd, Group: passwd}, "/usr/bin:/bin"), Guard: b.guard, Log: log,
		Rebinders: []envd.Rebinder{func(_ context.Context, in boxrpc.Init) error {
			b.bound = append(b.bound, in)
			return b.rebind
		}},
		System: &envd.System{
			Root:        b.root,
			SetHostname: func(name string) error { b.hostname = name; return nil },
			SetClock:    func(now time.Time) error { b.clock = now; return nil },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	guarded := make(chan struct{})
	guarding, done := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(guarded)
		_ = b.guard.Run(guarding)
	}()
	go func() { b.ended <- server.Serve(ctx, l) }()
	b.stop = cancel
	b.unguard = func() {
		done()
		<-guarded
	}
	t.Cleanup(func() {
		cancel()
		if err, more := <-b.ended; more && err != nil {
			t.Error(err)
		}
		b.unguard()
	})
	return b
}

func (b *box) put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.root, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *box) get(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(b.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// do makes a call and returns its status, headers and body; headers come in pairs.
func (b *box) do(t *testing.T, method, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(content)
}

// init binds the box and checks the answer.
func (b *box) init(t *testing.T, in boxrpc.Init, status int, headers ...string) string {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	got, _, answer := b.do(t, "POST", "/init", string(body), headers...)
	if got != status {
		t.Errorf("/init answered %d %s; want %d", got, answer, status)
	}
	b.do(t, "GET", "/envs", "") // answers, with whatever, once the box has followed
	return answer
}

func TestInit(t *testing.T) {
	b := newBox(t)
	b.put(t, "etc/hosts", "127.0.0.1 localhost\n10.0.0.1 kept\n127.0.1.1\told # this sandbox\n")
	now := time.Now().UTC().Round(0)
	in := boxrpc.Init{
		SandboxID: "i0123456789abcdefghij", TemplateID: "base", Hostname: "box", MachineID: strings.Repeat("ab", 16),
		Env: map[string]string{"A": "1"}, DefaultUser: "user", DefaultWorkdir: "/", Nameservers: []string{"10.1.2.3", "::1"},
		Timestamp: now.Add(-time.Hour), Seed: bytes.Repeat([]byte{7}, 32), MemoryBytes: 1 << 30, Pids: 100,
	}
	b.init(t, in, 204)
	if diff := cmp.Diff([]boxrpc.Init{in}, b.bound); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"etc/hostname": "box\n", "etc/machine-id": in.MachineID + "\n",
		"etc/hosts":               "127.0.0.1 localhost\n10.0.0.1 kept\n127.0.1.1\tbox # this sandbox\n",
		"etc/resolv.conf":         "nameserver 10.1.2.3\nnameserver ::1\n",
		"run/e2b/.E2B_SANDBOX_ID": in.SandboxID, "run/e2b/.E2B_TEMPLATE_ID": "base",
		"dev/urandom": string(in.Seed),
	} {
		if got := b.get(t, name); got != want {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	if b.hostname != "box" || !b.clock.Equal(in.Timestamp) {
		t.Errorf("host name = %q, clock = %v", b.hostname, b.clock)
	}
	if got, want := b.guard.Limits(), (guard.Limits{MemoryBytes: 1 << 30, Pids: 100}); got != want {
		t.Errorf("limits = %+v; want %+v", got, want)
	}
	_, _, envs := b.do(t, "GET", "/envs", "")
	var got map[string]string
	if err := json.Unmarshal([]byte(envs), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "1", "E2B_SANDBOX": "true", "E2B_SANDBOX_ID": in.SandboxID, "E2B_TEMPLATE_ID": "base"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// A clock that is right is left alone, and another lease takes the place.
	b.clock = time.Time{}
	b.init(t, boxrpc.Init{SandboxID: "i2", Timestamp: time.Now()}, 204)
	if !b.clock.IsZero() || b.get(t, "run/e2b/.E2B_SANDBOX_ID") != "i2" {
		t.Errorf("clock = %v, sandbox = %q", b.clock, b.get(t, "run/e2b/.E2B_SANDBOX_ID"))
	}
	if got := b.guard.Limits(); got != (guard.Limits{}) {
		t.Errorf("limits = %+v after a lease without", got)
	}
}

// TestLimits changes those of a box that is bound, and nothing else of it.
func TestLimits(t *testing.T) {
	b := newBox(t)
	b.init(t, boxrpc.Init{AccessToken: "one", MemoryBytes: 1 << 30, Pids: 100}, 204)
	before := len(b.bound)
	for _, tt := range []struct {
		body, token string
		status      int
	}{
		{`{"memoryBytes": 268435456, "pids": 50}`, "", 401},
		{`{"memoryBytes": 268435456, "pids": 50}`, "one", 204},
		{`{"memoryBytes": -1}`, "one", 400},
		{`{`, "one", 400},
		{`{"x":"` + strings.Repeat("x", 8192) + `"}`, "one", 400},
	} {
		if status, _, answer := b.do(t, "POST", "/limits", tt.body, boxrpc.TokenHeader, tt.token); status != tt.status {
			t.Errorf("%.40s with token %q: %d %s; want %d", tt.body, tt.token, status, answer, tt.status)
		}
	}
	if got := b.guard.Limits(); got != (guard.Limits{MemoryBytes: 256 << 20, Pids: 50}) {
		t.Errorf("limits = %+v", got)
	}
	if len(b.bound) != before {
		t.Error("it was bound anew")
	}
}

func TestInitErrors(t *testing.T) {
	b := newBox(t)
	if answer := b.init(t, boxrpc.Init{Hostname: "-"}, 400); !strings.Contains(answer, "hostname") {
		t.Errorf("answer = %s", answer)
	}
	for body, want := range map[string]int{"{": 400, `{"pids":"x"}`: 400, `{"envVars":{"A":"` + strings.Repeat("x", 2<<20) + `"}}`: 413} {
		if status, _, answer := b.do(t, "POST", "/init", body); status != want || !strings.Contains(answer, fmt.Sprintf(`"code":%d`, want)) {
			t.Errorf("%.20s: %d %s; want %d", body, status, answer, want)
		}
	}
	if len(b.bound) != 0 {
		t.Errorf("bound to %v", b.bound)
	}
	b.rebind = errors.New("no kernel")
	if answer := b.init(t, boxrpc.Init{}, 500); !strings.Contains(answer, "no kernel") {
		t.Errorf("answer = %s", answer)
	}
}

// TestInitOfAnUnguardedBox: a box whose limits cannot be set serves nothing.
func TestInitOfAnUnguardedBox(t *testing.T) {
	b := newBox(t)
	b.unguard()
	b.init(t, boxrpc.Init{SandboxID: "i1", Pids: 100}, 204)
	if status, _, answer := b.do(t, "GET", "/files?path=/etc/hostname", ""); status != 500 || !strings.Contains(answer, "not bound") {
		t.Errorf("answer: %d %s", status, answer)
	}
	if status, _, answer := b.do(t, "GET", "/health", ""); status != 204 {
		t.Errorf("health: %d %s", status, answer)
	}
}

// TestInitOfAnUnwillingBox: what the box does not let be changed is no error.
func TestInitOfAnUnwillingBox(t *testing.T) {
	b := newBox(t)
	if err := (&envd.System{Root: b.root}).Mark(); err != nil || b.get(t, "run/e2b/.E2B_SANDBOX") != "true" {
		t.Errorf("mark: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(b.root, "etc")); err != nil {
		t.Fatal(err)
	}
	b.put(t, "etc", "a file")
	b.init(t, boxrpc.Init{Hostname: "box", MachineID: strings.Repeat("0", 32), SandboxID: "i1"}, 204)
	if got := b.get(t, "run/e2b/.E2B_SANDBOX_ID"); got != "i1" {
		t.Errorf("sandbox id = %q", got)
	}
}

func TestToken(t *testing.T) {
	b := newBox(t)
	b.init(t, boxrpc.Init{AccessToken: "one"}, 204) // the first call is free
	b.init(t, boxrpc.Init{AccessToken: "two"}, 401)
	b.init(t, boxrpc.Init{AccessToken: "two"}, 401, boxrpc.TokenHeader, "two")
	b.init(t, boxrpc.Init{AccessToken: "two"}, 204, boxrpc.TokenHeader, "one")
	for _, route := range []string{
		"GET /metrics", "GET /envs", "POST /files/compose", "POST /process.Process/List", "POST /filesystem.Filesystem/Stat",
		"GET /files?path=/etc/hostname", "POST /files?path=/tmp/x", "GET /no/such/route", "POST /health",
	} {
		method, path, _ := strings.Cut(route, " ")
		for token, want := range map[string]bool{"": false, "one": false, "two": true} {
			headers := []string{"Content-Type", "application/json"}
			if token != "" {
				headers = append(headers, boxrpc.TokenHeader, token)
			}
			status, _, answer := b.do(t, method, path, "{}", headers...)
			if (status != 401) != want {
				t.Errorf("%s with token %q: %d %s", route, token, status, answer)
			}
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		if status, _, _ := b.do(t, method, "/health", ""); status != 204 {
			t.Errorf("%s /health without a token: %d", method, status)
		}
	}
	// Each kind of call is refused in its own words.
	_, _, answer := b.do(t, "GET", "/metrics", "")
	if want := `{"code":401,"message":"unauthorized access, please provide a valid access token or method signing if supported"}`; strings.TrimSpace(answer) != want {
		t.Errorf("answer = %s; want %s", answer, want)
	}
	_, err := processpbconnect.NewProcessClient(http.DefaultClient, b.url, connect.WithProtoJSON()).
		List(t.Context(), connect.NewRequest(&processpb.ListRequest{}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "access token") {
		t.Errorf("unary call: %v", err)
	}
	stream, err := filesystempbconnect.NewFilesystemClient(http.DefaultClient, b.url, connect.WithProtoJSON()).
		WatchDir(t.Context(), connect.NewRequest(&filesystempb.WatchDirRequest{}))
	if err == nil {
		if stream.Receive() {
			t.Error("a stream began without a token")
		}
		err = stream.Err()
		_ = stream.Close()
	}
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("stream: %v", err)
	}
}

func TestCORS(t *testing.T) {
	b := newBox(t)
	b.init(t, boxrpc.Init{AccessToken: "secret"}, 204)
	status, h, _ := b.do(t, "OPTIONS", "/process.Process/Start", "", "Origin", "https://example.com",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,x-access-token")
	if status != 204 || h.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(h.Get("Access-Control-Allow-Headers"), "Authorization") ||
		!strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: %d %v", status, h)
	}
	// A page may read why it was refused.
	status, h, _ = b.do(t, "GET", "/metrics", "", "Origin", "https://example.com")
	if status != 401 || h.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("refusal: %d %v", status, h)
	}
	if _, h, _ = b.do(t, "GET", "/health", ""); h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without an origin: %v", h)
	}
}

func TestMetrics(t *testing.T) {
	b := newBox(t)
	b.init(t, boxrpc.Init{MemoryBytes: 64 << 20}, 204)
	_, _, body := b.do(t, "GET", "/metrics", "")
	var m map[string]float64
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for name, least := range map[string]float64{
		"ts": float64(time.Now().Unix() - 60), "cpu_count": 1, "cpu_used_pct": 0, "mem_total": 64 << 20, "mem_used": 1,
		"mem_cache": 0, "mem_total_mib": 64, "mem_used_mib": 1, "disk_used": 1, "disk_total": 1,
	} {
		if v, ok := m[name]; !ok || v < least {
			t.Errorf("%s = %v, %v; want at least %v", name, v, ok, least)
		}
	}
	if m["cpu_used_pct"] > 100 || m["mem_total"] != 64<<20 || m["disk_used"] > m["disk_total"] {
		t.Errorf("metrics = %s", body)
	}
}

// TestProtocols: both versions of HTTP on one port, without TLS.
func TestProtocols(t *testing.T) {
	b := newBox(t)
	for _, version := range []int{1, 2} {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(version == 1)
		tr.Protocols.SetUnencryptedHTTP2(version == 2)
		resp, err := (&http.Client{Transport: tr}).Get(b.url + "/health")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.ProtoMajor != version || resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s answered %d", resp.Proto, resp.StatusCode)
		}
		tr.CloseIdleConnections()
	}
}

func TestMessageBound(t *testing.T) {
	b := newBox(t)
	client := processpbconnect.NewProcessClient(http.DefaultClient, b.url, connect.WithProtoJSON())
	_, err := client.SendInput(t.Context(), connect.NewRequest(&processpb.SendInputRequest{Input: &processpb.ProcessInput{
		Input: &processpb.ProcessInput_Stdin{Stdin: make([]byte, 13<<20)},
	}}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("error = %v; want resource_exhausted", err)
	}
}

// TestServeEndsEverything: ending envd ends programs and streams.
func TestServeEndsEverything(t *testing.T) {
	b := newBox(t)
	processes := processpbconnect.NewProcessClient(http.DefaultClient, b.url, connect.WithProtoJSON())
	program, err := processes.Start(t.Context(), connect.NewRequest(&processpb.StartRequest{
		Process: &processpb.ProcessConfig{Cmd: "sleep", Args: []string{"20"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	watch, err := filesystempbconnect.NewFilesystemClient(http.DefaultClient, b.url, connect.WithProtoJSON()).
		WatchDir(t.Context(), connect.NewRequest(&filesystempb.WatchDirRequest{Path: b.root}))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if !program.Receive() || !watch.Receive() {
		t.Fatal("no start")
	}
	b.stop()
	var end *processpb.ProcessEvent_EndEvent
	for program.Receive() {
		end = program.Msg().GetEvent().GetEnd()
	}
	if end.GetCause() != "killed" {
		t.Errorf("end = %v, %v", end, program.Err())
	}
	if watch.Receive() {
		t.Errorf("the watch told %v", watch.Msg())
	}
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	close(b.ended)
}

func TestNewErrors(t *testing.T) {
	if _, err := envd.New(envd.Config{}); err == nil {
		t.Error("New without a config gave no error")
	}
}
