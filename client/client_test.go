package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
)

const testKey = "e2b_0123456789abcdef0123456789abcdef01234567"

// serve starts srv on loopback and returns a client for it.
func serve(t *testing.T, srv *fakeserver.Server) *client.Client {
	t.Helper()
	if srv.Templates == nil {
		srv.Templates = []string{"base", "code-interpreter-v1"}
	}
	srv.Key, srv.Dir = testKey, t.TempDir()
	t.Cleanup(func() { _ = srv.Close() })
	hs := httptest.NewServer(srv)
	t.Cleanup(hs.Close)
	c, err := client.New(client.Config{BaseURL: hs.URL + "/", APIKey: testKey, Silence: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// create makes a sandbox.
func create(t *testing.T, c *client.Client) *client.Sandbox {
	t.Helper()
	sb, err := c.Create(t.Context(), bulkhead.CreateRequest{Template: "base", TTL: time.Minute, Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// wantCode fails t unless err has the code.
func wantCode(t *testing.T, err error, want bulkhead.Code) {
	t.Helper()
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Fatalf("error is %v, want a *bulkhead.Error with code %s", err, want)
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  client.Config
		want string
	}{
		{"empty", client.Config{}, `BaseURL "" must begin with http:// or https://`},
		{"scheme", client.Config{BaseURL: "ftp://host"}, `BaseURL "ftp://host" must begin with`},
		{"no scheme", client.Config{BaseURL: "127.0.0.1:3000"}, `is not a URL`},
		{"no host", client.Config{BaseURL: "http://"}, `names no host`},
		{"query", client.Config{BaseURL: "http://host/?a=b"}, `must not have a query`},
		{"sandbox URL", client.Config{BaseURL: "http://host", SandboxURL: "host"}, `SandboxURL "host" must begin with`},
		{"key", client.Config{BaseURL: "http://host", APIKey: "a\r\nX: y"}, `APIKey holds a line break`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := client.New(tc.cfg)
			wantCode(t, err, bulkhead.CodeInvalid)
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %q, want it to contain %q", err, tc.want)
			}
		})
	}
}

func TestSandboxLife(t *testing.T) {
	srv := &fakeserver.Server{Domain: "box.test:8443"}
	c := serve(t, srv)
	ctx := t.Context()
	limits := bulkhead.Limits{CPU: 0.5, MemoryMB: 256, DiskMB: 64, Pids: 32, OutputMB: 8}
	sb, err := c.Create(ctx, bulkhead.CreateRequest{
		Template: "base", TTL: 90 * time.Second, Secure: true, PrivateTraffic: true, AllowInternet: true,
		MaskHost: "localhost:${PORT}", Limits: limits,
		Metadata: map[string]string{"a b": "c&d"}, Env: map[string]string{"K": "V"},
	})
	if err != nil {
		t.Fatal(err)
	}
	made := srv.Sandboxes()[0]
	if diff := cmp.Diff(limits.Or(bulkhead.DefaultLimits()), made.Limits); diff != "" {
		t.Errorf("limits asked for (-want +got):\n%s", diff)
	}
	if !made.AllowInternet || made.MaskHost != "localhost:${PORT}" || made.Env["K"] != "V" || made.EnvdToken == "" {
		t.Errorf("the server was not told everything: %+v", made)
	}
	if sb.Info().EnvdToken != made.EnvdToken || sb.Info().TrafficToken != made.TrafficToken || made.TrafficToken == "" {
		t.Errorf("tokens are %q and %q, want those of %+v", sb.Info().EnvdToken, sb.Info().TrafficToken, made)
	}
	got, err := c.Get(ctx, sb.ID())
	if err != nil {
		t.Fatal(err)
	}
	if got.State != bulkhead.StateRunning || got.Template != "base" || got.Metadata["a b"] != "c&d" ||
		got.Limits != made.Limits || !got.EndAt.Equal(made.EndAt) {
		t.Errorf("Get gave %+v, want %+v", got, made)
	}
	if u, err := sb.PortURL(3000); err != nil || u != "http://3000-"+sb.ID()+".box.test:8443" {
		t.Errorf("PortURL gave %q, %v", u, err)
	}
	if err := sb.SetTimeout(ctx, 10*time.Minute); err != nil {
		t.Fatal(err)
	}
	if end := srv.Sandboxes()[0].EndAt; time.Until(end) < 9*time.Minute {
		t.Errorf("after SetTimeout it ends at %v", end)
	}
	if _, err := c.Connect(ctx, sb.ID(), time.Second); err != nil {
		t.Fatal(err)
	}
	if end := srv.Sandboxes()[0].EndAt; time.Until(end) < 9*time.Minute {
		t.Errorf("Connect shortened the life to %v", end)
	}
	samples, err := c.Metrics(ctx, sb.ID(), time.Time{}, time.Time{})
	if err != nil || len(samples) != 1 || samples[0].MemTotal != 256<<20 {
		t.Errorf("Metrics gave %+v, %v", samples, err)
	}
	if err := sb.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	wantCode(t, sb.Kill(ctx), bulkhead.CodeNotFound)
	_, err = c.Open(ctx, sb.ID())
	wantCode(t, err, bulkhead.CodeNotFound)
	if !strings.Contains(err.Error(), "has ended: killed") {
		t.Errorf("Open of an ended sandbox says %q", err)
	}
	if got, err := c.Get(ctx, sb.ID()); err != nil || got.End == nil || got.End.Cause != bulkhead.CauseKilled {
		t.Errorf("Get of an ended sandbox gave %+v, %v", got, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	srv := &fakeserver.Server{MaxSandboxes: 1}
	c := serve(t, srv)
	for _, tc := range []struct {
		name string
		req  bulkhead.CreateRequest
		code bulkhead.Code
		want string
	}{
		{"no template", bulkhead.CreateRequest{}, bulkhead.CodeInvalid, "Template is empty"},
		{"tenant", bulkhead.CreateRequest{Template: "base", Tenant: "x"}, bulkhead.CodeInvalid, "Tenant must be empty"},
		{"negative life", bulkhead.CreateRequest{Template: "base", TTL: -1}, bulkhead.CodeInvalid, "TTL is -1ns"},
		{"limit", bulkhead.CreateRequest{Template: "base", Limits: bulkhead.Limits{MemoryMB: 1}}, bulkhead.CodeInvalid, "memoryMB is 1"},
		{"unknown template", bulkhead.CreateRequest{Template: "none"}, bulkhead.CodeNotFound, `template "none"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.Create(t.Context(), tc.req)
			wantCode(t, err, tc.code)
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %q, want it to contain %q", err, tc.want)
			}
		})
	}
	create(t, c)
	_, err := c.Create(t.Context(), bulkhead.CreateRequest{Template: "base"})
	wantCode(t, err, bulkhead.CodeQuotaExceeded)
}

func TestListGoesThroughThePages(t *testing.T) {
	srv := &fakeserver.Server{}
	c := serve(t, srv)
	const made = 205 // three pages
	for i := range made {
		meta := map[string]string{"n": strconv.Itoa(i % 2), "a b+c": "d&e=%f"}
		if _, err := c.Create(t.Context(), bulkhead.CreateRequest{Template: "base", Metadata: meta}); err != nil {
			t.Fatal(err)
		}
	}
	srv.End(srv.Sandboxes()[0].ID, bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 1 << 30})
	count := func(f bulkhead.Filter) int {
		t.Helper()
		n := 0
		for _, err := range c.List(t.Context(), f) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	for _, tc := range []struct {
		name string
		f    bulkhead.Filter
		want int
	}{
		{"running", bulkhead.Filter{}, made - 1},
		{"all", bulkhead.Filter{States: []bulkhead.State{bulkhead.StateRunning, bulkhead.StateEnded}}, made},
		{"metadata", bulkhead.Filter{Metadata: map[string]string{"n": "1", "a b+c": "d&e=%f"}}, made / 2},
		{"template", bulkhead.Filter{Template: "other"}, 0},
	} {
		if got := count(tc.f); got != tc.want {
			t.Errorf("%s: %d sandboxes, want %d", tc.name, got, tc.want)
		}
	}
	list := c.List(t.Context(), bulkhead.Filter{})
	for range 2 { // a list may be gone through again, from its beginning
		for sb, err := range list {
			if err != nil || sb.ID != srv.Sandboxes()[made-1].ID {
				t.Fatalf("the list begins with %v, %v; want the newest", sb.ID, err)
			}
			break
		}
	}
}

func TestKeys(t *testing.T) {
	c := serve(t, &fakeserver.Server{})
	made, err := c.CreateKey(t.Context(), client.KeyRequest{Name: "ci", Scopes: []string{"admin"}})
	if err != nil || made.Secret == "" || made.Tenant != "default" {
		t.Fatalf("CreateKey gave %+v, %v", made, err)
	}
	if err := c.RevokeKey(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Keys(t.Context(), "")
	if err != nil || len(keys) != 2 || keys[1].Secret != "" || keys[1].RevokedAt.IsZero() || keys[1].Name != "ci" {
		t.Fatalf("Keys gave %+v, %v", keys, err)
	}
	wantCode(t, c.RevokeKey(t.Context(), "key_none"), bulkhead.CodeNotFound)
	wantCode(t, c.RevokeKey(t.Context(), "../sandboxes/x"), bulkhead.CodeInvalid)
}

func TestLogs(t *testing.T) {
	srv := &fakeserver.Server{}
	c := serve(t, srv)
	sb := create(t, c)
	at := time.Now().UTC().Truncate(time.Millisecond)
	for i := range 3 {
		srv.Log(sb.ID(), bulkhead.LogLine{At: at.Add(time.Duration(i) * time.Second), Level: "info", Message: fmt.Sprint("line ", i)})
	}
	lines, err := c.Logs(t.Context(), sb.ID(), at.Add(time.Second), 10)
	if err != nil || len(lines) != 2 || lines[0].Message != "line 1" {
		t.Fatalf("Logs gave %+v, %v", lines, err)
	}
	_, err = c.Logs(t.Context(), sb.ID(), at, 0)
	wantCode(t, err, bulkhead.CodeInvalid)
}

// TestErrors goes through what a server, a gateway and a broken network say.
func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		header map[string]string
		body   string
		code   bulkhead.Code
		msg    string
	}{
		{"json", 400, nil, `{"code":400,"message":"bad thing"}`, bulkhead.CodeInvalid, "bad thing"},
		{"key", 401, nil, `{"code":401,"message":"no"}`, bulkhead.CodeUnauthenticated, "no"},
		{"missing", 404, nil, `{"code":404,"message":"no such"}`, bulkhead.CodeNotFound, "no such"},
		{"own limit", 429, nil, `{"code":429,"message":"too many"}`, bulkhead.CodeQuotaExceeded, "too many"},
		{"full", 503, nil, `{"code":503,"message":"full"}`, bulkhead.CodeUnavailable, "full"},
		{"gateway page", 502, map[string]string{"Content-Type": "text/html"}, `<html>bad</html>`, bulkhead.CodeUnavailable, "the server answered 502 Bad Gateway"},
		{"plain text", 404, map[string]string{"Content-Type": "text/plain; charset=utf-8"}, "nothing here\n", bulkhead.CodeNotFound, "nothing here"},
		{"empty", 500, nil, ``, bulkhead.CodeInternal, "the server answered 500 Internal Server Error"},
		{"teapot", 418, map[string]string{"Content-Type": "application/json"}, `{`, bulkhead.CodeInvalid, "the server answered 418 I'm a teapot"},
		{"not bulkhead", 200, nil, `<html>hello</html>`, bulkhead.CodeInternal, "is this address a Bulkhead server?"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := serve(t, &fakeserver.Server{Fail: func(w http.ResponseWriter, _ *http.Request) bool {
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
				return true
			}})
			_, err := c.Create(t.Context(), bulkhead.CreateRequest{Template: "base"})
			wantCode(t, err, tc.code)
			if got := bulkhead.Message(err); !strings.Contains(got, tc.msg) {
				t.Errorf("message is %q, want it to contain %q", got, tc.msg)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	tlsServer := httptest.NewUnstartedServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	tlsServer.StartTLS()
	defer tlsServer.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	noName := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "host.invalid", IsNotFound: true}}
	})}
	for _, cfg := range []client.Config{
		{BaseURL: dead},
		{BaseURL: tlsServer.URL}, // signed by nobody we know
		{BaseURL: strings.Replace(plain.URL, "http:", "https:", 1)},
		{BaseURL: "http://host.invalid", HTTPClient: noName},
	} {
		cfg.Tries = 1
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Create(t.Context(), bulkhead.CreateRequest{Template: "base"})
		wantCode(t, err, bulkhead.CodeUnavailable)
		if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "cannot reach "+cfg.BaseURL) {
			t.Errorf("%s: error is %v, want ErrUnreachable that names the address", cfg.BaseURL, err)
		}
	}
}

// roundTripper is a function as a transport.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRetries counts what reaches the server, for each way to fail and each kind
// of request.
func TestRetries(t *testing.T) {
	t.Parallel()
	refuse := func(code bulkhead.Code, after time.Duration) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			fakeserver.Refuse(w, &bulkhead.Error{Code: code, Msg: "no", RetryAfter: after})
		}
	}
	hangUp := func(w http.ResponseWriter) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	post := func(ctx context.Context, c *client.Client) error {
		_, err := c.Create(ctx, bulkhead.CreateRequest{Template: "base"})
		return err
	}
	get := func(ctx context.Context, c *client.Client) error {
		_, err := c.Keys(ctx, "")
		return err
	}
	for _, tc := range []struct {
		name string
		fail func(http.ResponseWriter)
		call func(context.Context, *client.Client) error
		want int64
	}{
		{"full, come back: create", refuse(bulkhead.CodeUnavailable, time.Second), post, 2},
		{"rate limit, come back: create", refuse(bulkhead.CodeQuotaExceeded, time.Second), post, 2},
		{"full: create", refuse(bulkhead.CodeUnavailable, 0), post, 1},
		{"own limit: create", refuse(bulkhead.CodeQuotaExceeded, 0), post, 1},
		{"full: list", refuse(bulkhead.CodeUnavailable, 0), get, 2},
		{"own limit: list", refuse(bulkhead.CodeQuotaExceeded, 0), get, 1},
		{"bad request: list", refuse(bulkhead.CodeInvalid, 0), get, 1},
		{"connection broke: create", hangUp, post, 1},
		{"connection broke: list", hangUp, get, 2},
		{"come back too late: create", refuse(bulkhead.CodeUnavailable, time.Hour), post, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int64
			c := serve(t, &fakeserver.Server{Fail: func(w http.ResponseWriter, _ *http.Request) bool {
				if seen.Add(1) > 1 {
					return false
				}
				tc.fail(w)
				return true
			}})
			err := tc.call(t.Context(), c)
			if got := seen.Load(); got != tc.want {
				t.Errorf("the server saw %d requests, want %d", got, tc.want)
			}
			if (err == nil) != (tc.want > 1) {
				t.Errorf("error is %v after %d requests", err, seen.Load())
			}
		})
	}
}

func TestRetryGivesUp(t *testing.T) {
	var seen atomic.Int64
	c := serve(t, &fakeserver.Server{Fail: func(w http.ResponseWriter, _ *http.Request) bool {
		seen.Add(1)
		fakeserver.Refuse(w, bulkhead.Errorf(bulkhead.CodeUnavailable, "draining"))
		return true
	}})
	_, err := c.Keys(t.Context(), "")
	wantCode(t, err, bulkhead.CodeUnavailable)
	if seen.Load() != 4 || bulkhead.Message(err) != "draining" {
		t.Errorf("%d requests, error %v; want 4 and the server's last word", seen.Load(), err)
	}
}

func TestContextEnds(t *testing.T) {
	hang := make(chan struct{})
	c := serve(t, &fakeserver.Server{Fail: func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	}})
	t.Cleanup(func() { close(hang) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Keys(ctx, "")
	wantCode(t, err, bulkhead.CodeTimeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want context.DeadlineExceeded in its chain", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Keys(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled in its chain", err)
	}
}

func TestPorts(t *testing.T) {
	srv := &fakeserver.Server{Box: func(sb bulkhead.Sandbox, port int) http.Handler {
		if port != 3000 {
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, sb.ID+r.URL.Path) })
	}}
	srv.Dir = t.TempDir()
	hs := httptest.NewServer(srv)
	defer hs.Close()
	srv.Templates, srv.Key = []string{"base"}, testKey
	c, err := client.New(client.Config{BaseURL: hs.URL, APIKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	sb, err := c.Create(t.Context(), bulkhead.CreateRequest{Template: "base", Secure: true, PrivateTraffic: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sb.PortURL(3000)
	wantCode(t, err, bulkhead.CodeUnsupported)
	_, err = sb.PortURL(70000)
	wantCode(t, err, bulkhead.CodeInvalid)
	_, err = sb.PortTransport(0)
	wantCode(t, err, bulkhead.CodeInvalid)
	get := func(port int) (int, string) {
		t.Helper()
		rt, err := sb.PortTransport(port)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if status, body := get(3000); status != 200 || body != sb.ID()+"/x" {
		t.Errorf("port 3000 answered %d %q", status, body)
	}
	if status, body := get(3001); status != 502 || !strings.Contains(body, "port is not open") {
		t.Errorf("port 3001 answered %d %q", status, body)
	}
	_, err = sb.RunCode(t.Context(), "1", client.CodeOptions{})
	wantCode(t, err, bulkhead.CodeUnavailable)
	if !strings.Contains(err.Error(), "run code: The sandbox is running but port is not open") {
		t.Errorf("error is %v", err)
	}
	srv.End(sb.ID(), bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 1})
	_, err = sb.Contexts(t.Context())
	wantCode(t, err, bulkhead.CodeNotFound)
}
