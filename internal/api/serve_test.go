package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/trace"
)

func TestHonestAboutWhatIsMissing(t *testing.T) {
	b := newBench(t)
	for _, route := range []string{
		"POST /sandboxes/i1/pause", "POST /sandboxes/i1/snapshots", "GET /snapshots", "POST /sandboxes/i1/fork",
		"POST /v3/templates", "POST /v2/templates/t/builds/b", "GET /templates/t/builds/b/status",
		"GET /templates/t/files/0a", "DELETE /templates/t", "POST /templates/tags", "GET /templates/t/tags", "GET /templates/t/tags/count", "PATCH /v2/templates/t",
		"GET /volumes", "POST /volumes", "PUT /volumecontent/v/file", "POST /secrets", "GET /teams/t/metrics", "GET /api-keys/",
	} {
		if r := b.call(route, "{}"); r.status != 501 || !strings.Contains(r.message(t), "this server does not implement") {
			t.Errorf("%s: %d %s", route, r.status, r.body)
		}
		if r := b.callAs("", route, "{}"); r.status != 401 {
			t.Errorf("%s without a key: %d", route, r.status)
		}
	}
}

func TestRoutesThatAreNone(t *testing.T) {
	b := newBench(t)
	for route, want := range map[string]int{
		"GET /": 404, "GET /nothing": 404, "PATCH /sandboxes": 405, "DELETE /v2/sandboxes": 405,
		"GET /sandboxes/i1/connect": 405, "GET /..%2f..%2fetc/passwd": 404,
	} {
		if r := b.call(route, ""); r.status != want || r.message(t) == "" {
			t.Errorf("%s: %d %s; want %d", route, r.status, r.body, want)
		}
	}
}

func TestKeysAreAsked(t *testing.T) {
	b := newBench(t)
	ask := func(header, value, path string) reply {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set(header, value)
		}
		return b.send(req)
	}
	for _, c := range []struct {
		header, value, path string
		want                int
	}{
		{"X-API-KEY", b.key, "/v2/sandboxes", 200},
		{"x-api-key", b.key, "/v2/sandboxes", 200},
		{"Authorization", "Bearer " + b.key, "/v2/sandboxes", 200},
		{"Authorization", "bearer  " + b.key, "/v2/sandboxes", 200},
		{"Authorization", "Basic " + b.key, "/v2/sandboxes", 401},
		{"Authorization", b.key, "/v2/sandboxes", 401},
		{"", "", "/v2/sandboxes", 401},
		{"X-API-KEY", "e2b_0000000000000000000000000000000000000000", "/v2/sandboxes", 401},
		{"X-API-KEY", b.key[:len(b.key)-1], "/v2/sandboxes", 401},
		{"X-API-KEY", b.key, "/v1/keys", 403},
		{"X-API-KEY", b.admin, "/v1/keys", 200},
		{"X-API-KEY", b.key, "/metrics", 403},
		{"Authorization", "Bearer " + b.admin, "/metrics", 200},
		{"", "", "/health", 200},
	} {
		if r := ask(c.header, c.value, c.path); r.status != c.want {
			t.Errorf("%s: %.12s… on %s: %d %s; want %d", c.header, c.value, c.path, r.status, r.body, c.want)
		}
	}
	open := newBench(t, func(cfg *api.Config) { cfg.OpenMetrics = true })
	if r := open.callAs("", "GET /metrics", ""); r.status != 200 || !strings.Contains(r.body, "bulkhead_api_requests_in_flight") {
		t.Errorf("open metrics: %d %.80s", r.status, r.body)
	}
}

func TestHealth(t *testing.T) {
	var sick error
	b := newBench(t, func(cfg *api.Config) { cfg.Healthy = func(context.Context) error { return sick } })
	if r := b.callAs("", "GET /health", ""); r.status != 200 {
		t.Errorf("healthy: %d %s", r.status, r.body)
	}
	sick = bulkhead.Errorf(bulkhead.CodeUnavailable, "the disk is full")
	if r := b.callAs("", "GET /health", ""); r.status != 503 || !strings.Contains(r.message(t), "the disk is full") {
		t.Errorf("sick: %d %s", r.status, r.body)
	}
}

func TestBusyServerRefuses(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	b := newBench(t, func(cfg *api.Config) {
		cfg.MaxInFlight = 1
		cfg.Lookup = slowLookup{cfg.Lookup, held, hold}
	})
	done := make(chan reply)
	go func() { done <- b.call("GET /v2/sandboxes", "") }()
	<-held
	r := b.call("GET /templates", "")
	if r.status != 503 || r.header.Get("Retry-After") != "1" || !strings.Contains(r.message(t), "busy with 1 requests") {
		t.Errorf("while busy: %d %s", r.status, r.body)
	}
	close(hold)
	if r := <-done; r.status != 200 {
		t.Errorf("the first one: %d", r.status)
	}
	if r := b.call("GET /templates", ""); r.status != 200 {
		t.Errorf("after it: %d", r.status)
	}
}

// slowLookup answers lists when it is let.
type slowLookup struct {
	api.Lookup
	held chan<- struct{}
	hold <-chan struct{}
}

func (s slowLookup) List(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error) {
	s.held <- struct{}{}
	<-s.hold
	return s.Lookup.List(ctx, f)
}

// The body of a request that is refused anyway is not waited for.
func TestRefusesBeforeReadingTheBody(t *testing.T) {
	b := newBench(t)
	body, unsent := io.Pipe()
	defer func() { _ = unsent.Close() }()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v2/sandboxes", body)
	rec := httptest.NewRecorder()
	b.handler.ServeHTTP(rec, req)
	if rec.Code != 401 {
		t.Errorf("without a key: %d", rec.Code)
	}
}

func TestPanicsAnswer500(t *testing.T) {
	b := newBench(t, func(cfg *api.Config) { cfg.Lookup = nil })
	r := b.call("GET /v2/sandboxes", "")
	if r.status != 500 || !strings.Contains(r.message(t), r.header.Get("X-Request-Id")) || strings.Contains(r.body, "nil pointer") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if !strings.Contains(b.log.String(), "nil pointer") || !strings.Contains(b.log.String(), r.header.Get("X-Request-Id")) {
		t.Errorf("log: %s", b.log)
	}
	if r := b.call("GET /templates", ""); r.status != 200 {
		t.Errorf("after the panic: %d", r.status)
	}
}

func TestRequestIDs(t *testing.T) {
	b := newBench(t)
	for given, kept := range map[string]bool{"abc-1": true, "": false, "evil id": false, strings.Repeat("x", 65): false} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", given)
		if got := b.send(req).header.Get("X-Request-Id"); got == "" || (got == given) != kept {
			t.Errorf("given %q, answered %q", given, got)
		}
	}
}

// What a client writes into a path must not become a label.
func TestMetricLabelsAreFew(t *testing.T) {
	b := newBench(t)
	for i := range 50 {
		b.call(fmt.Sprintf("GET /sandboxes/i%d", i), "")
		b.call(fmt.Sprintf("GET /nothing/%d", i), "")
		b.call(fmt.Sprintf("GET //sandboxes/../%d", i), "")
		for _, path := range []string{fmt.Sprintf("/volumecontent/%d", i), "/api-keys", fmt.Sprintf("/teams/%d", i)} {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodConnect, "/", nil)
			req.URL.Path = path
			rec := httptest.NewRecorder()
			if b.handler.ServeHTTP(rec, req); rec.Code != 405 {
				t.Errorf("CONNECT %s: %d", path, rec.Code)
			}
		}
	}
	r := b.callAs(b.admin, "GET /metrics", "")
	routes := map[string]bool{}
	for line := range strings.SplitSeq(r.body, "\n") {
		if _, after, ok := strings.Cut(line, `route="`); ok {
			routes[after[:strings.Index(after, `"`)]] = true
		}
	}
	if len(routes) > 5 || !routes["GET /sandboxes/{id}"] {
		t.Errorf("routes: %v", routes)
	}
}

func TestClientThatLeaves(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.failOnce("List", fmt.Errorf("list: %w", context.Canceled))
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/sandboxes", nil)
	req.Header.Set("X-API-KEY", b.key)
	b.handler.ServeHTTP(httptest.NewRecorder(), req)
	if strings.Contains(b.log.String(), "level=ERROR") {
		t.Errorf("logged as the server's failure: %s", b.log)
	}
}

// BenchmarkCreate is one create over HTTP: the edge, the key, a durable row; no box.
func BenchmarkCreate(b *testing.B) {
	bench := newBench(b)
	for b.Loop() {
		if r := bench.call("POST /v2/sandboxes", `{"templateID":"base","timeout":60,"metadata":{"user":"ada"}}`); r.status != 201 {
			b.Fatalf("%d %s", r.status, r.body)
		}
	}
}

// BenchmarkGet is one read over HTTP.
func BenchmarkGet(b *testing.B) {
	bench := newBench(b)
	id := bench.create(`{"templateID":"base"}`)
	for b.Loop() {
		if r := bench.call("GET /sandboxes/"+id, ""); r.status != 200 {
			b.Fatalf("%d %s", r.status, r.body)
		}
	}
}

// An answer that went well tells its client where the time went; a refusal tells
// nothing of the kind.
func TestServerTiming(t *testing.T) {
	tracer, err := trace.New(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *api.Config) { c.Tracer = tracer })
	got := b.call("GET /v2/sandboxes", "")
	if h := got.header.Get("Server-Timing"); !strings.HasPrefix(h, "key;dur=") || !strings.Contains(h, ", all;dur=") {
		t.Errorf("Server-Timing: %q", h)
	}
	if h := b.callAs("", "GET /v2/sandboxes", "").header.Get("Server-Timing"); h != "" {
		t.Errorf("a refusal tells its stages: %q", h)
	}
}
