package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
)

func TestCreateBothGenerations(t *testing.T) {
	for _, c := range []struct {
		route, body string
		want        bulkhead.CreateRequest
	}{
		{
			"POST /v2/sandboxes", `{"templateID":"base"}`,
			bulkhead.CreateRequest{TTL: 300 * time.Second, Secure: true, AllowInternet: true},
		},
		{
			"POST /sandboxes", `{"templateID":"base"}`,
			bulkhead.CreateRequest{TTL: 15 * time.Second, AllowInternet: true},
		},
		{
			"POST /sandboxes", `{"templateID":"base","secure":true,"timeout":60,"allow_internet_access":false,"metadata":{"a":"b"},"envVars":{"X":"y"}}`,
			bulkhead.CreateRequest{TTL: time.Minute, Secure: true, Metadata: map[string]string{"a": "b"}, Env: map[string]string{"X": "y"}},
		},
		{
			"POST /v2/sandboxes", `{"templateID":"base","network":{"denyOut":["0.0.0.0/0"],"allowPublicTraffic":false,"maskRequestHost":"localhost:${PORT}"}}`,
			bulkhead.CreateRequest{
				TTL: 300 * time.Second, Secure: true, PrivateTraffic: true, MaskHost: "localhost:${PORT}",
				Network: bulkhead.Network{DenyOut: []string{"0.0.0.0/0"}},
			},
		},
		{
			"POST /v2/sandboxes", `{"templateID":"base","network":{"allowOut":["1.1.1.1","*.example.com"],"denyOut":["0.0.0.0/0"]}}`,
			bulkhead.CreateRequest{
				TTL: 300 * time.Second, Secure: true,
				Network: bulkhead.Network{AllowOut: []string{"1.1.1.1", "*.example.com"}, DenyOut: []string{"0.0.0.0/0"}},
			},
		},
		{
			"POST /v2/sandboxes", `{"templateID":"base","network":{"denyOut":["9.9.9.0/24","::/0"]}}`,
			bulkhead.CreateRequest{
				TTL: 300 * time.Second, Secure: true, AllowInternet: true,
				Network: bulkhead.Network{DenyOut: []string{"9.9.9.0/24", "::/0"}},
			},
		},
		{ // all that asks for nothing, and fields of a later SDK
			"POST /v2/sandboxes", `{"templateID":"base","timeout":86400,"autoPause":false,"autoPauseMemory":true,"autoResume":{"enabled":false},
			"volumeMounts":[],"mcp":null,"iam":{"tokens":{}},"metadata":null,"envVars":{},"allow_internet_access":null,"later":{"x":1},
			"network":{"allowOut":[],"denyOut":null,"rules":{},"egressProxy":null,"httpsPorts":[],"allowPublicTraffic":true,"dnsServers":[],"later":false}}`,
			bulkhead.CreateRequest{TTL: 24 * time.Hour, Secure: true, AllowInternet: true, Env: map[string]string{}},
		},
	} {
		b := newBench(t)
		r := b.call(c.route, c.body)
		if r.status != http.StatusCreated {
			t.Errorf("%s %s: %d %s", c.route, c.body, r.status, r.body)
			continue
		}
		c.want.Tenant, c.want.Template = "acme", "base"
		if diff := cmp.Diff([]bulkhead.CreateRequest{c.want}, b.requests); diff != "" {
			t.Errorf("%s %s: asked of the node (-want +got):\n%s", c.route, c.body, diff)
		}
		id := "i00000000000000000001"
		want := map[string]any{
			"templateID": "tplbase0000000000000", "sandboxID": id, "clientID": "bulkhead", "alias": "base",
			"envdVersion": "0.6.4", "domain": "e2b.test:38443", "trafficAccessToken": nil,
		}
		if c.want.Secure {
			want["envdAccessToken"] = "envd-" + id
		}
		if c.want.PrivateTraffic {
			want["trafficAccessToken"] = "traffic-" + id
		}
		if diff := cmp.Diff(want, r.object(t)); diff != "" {
			t.Errorf("%s %s: answer (-want +got):\n%s", c.route, c.body, diff)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("x", 17<<10)
	for _, c := range []struct {
		body    string
		status  int
		message string // a part of it
	}{
		{``, 400, "the body is empty"},
		{`[]`, 400, "must be a JSON object"},
		{`null`, 400, "must be a JSON object"},
		{`{"templateID":"base"`, 400, "ends in the middle"},
		{`{"templateID":"base",}`, 400, "not valid JSON"},
		{`{"templateID":"base"} {}`, 400, "goes on after"},
		{`{}`, 400, "templateID is missing"},
		{`{"templateID":7}`, 400, "templateID is 7; it must be a string"},
		{`{"templateID":"base","timeout":"60"}`, 400, `timeout is "60"; it must be an integer`},
		{`{"templateID":"base","timeout":1.5}`, 400, "timeout is 1.5; it must be an integer"},
		{`{"templateID":"base","metadata":{"a":1}}`, 400, "metadata.a is 1; it must be a string"},
		{`{"templateID":"base","metadata":[]}`, 400, "metadata is []; it must be an object"},
		{`{"templateID":"base","timeout":0}`, 400, "Timeout must be greater than 0"},
		{`{"templateID":"base","timeout":-1}`, 400, "Timeout must be greater than 0"},
		{`{"templateID":"base","timeout":86401}`, 400, "Timeout cannot be greater than 24 hours"},
		{`{"templateID":"base","timeout":9223372036854775807}`, 400, "Timeout cannot be greater than 24 hours"},
		{`{"templateID":"base","metadata":{"a":"` + long + `"}}`, 400, "metadata has 17409 bytes of names and values; it may have 16384"},
		{`{"templateID":"base","metadata":{` + manyPairs(65) + `}}`, 400, "metadata has 65 entries; it may have 64"},
		{`{"templateID":"base","envVars":{` + manyPairs(513) + `}}`, 400, "envVars has 513 entries; it may have 512"},
		{`{"templateID":"base","envVars":{"":"x"}}`, 400, `envVars has the name ""`},
		{`{"templateID":"base","envVars":{"A=B":"x"}}`, 400, `envVars has the name "A=B"`},
		{`{"templateID":"base","envVars":{"A":"x\u0000"}}`, 400, "envVars.A has a NUL byte"},
		{`{"templateID":"base","network":{"maskRequestHost":"a b"}}`, 400, "network.maskRequestHost"},
		{`{"templateID":"base","network":{"maskRequestHost":"host:99999"}}`, 400, "network.maskRequestHost"},
		{`{"templateID":"base","network":{"maskRequestHost":"x\r\nEvil: 1"}}`, 400, "network.maskRequestHost"},
		{`{"templateID":"none"}`, 404, `template "none" was not found`},
		{`{"templateID":"base","autoPause":true}`, 501, "autoPause is set; this server does not implement pausing sandboxes"},
		{`{"templateID":"base","autoResume":{"enabled":true}}`, 501, "autoResume.enabled"},
		{`{"templateID":"base","volumeMounts":[{"name":"v","path":"/v"}]}`, 501, "volumeMounts"},
		{`{"templateID":"base","mcp":{"exa":{}}}`, 501, "mcp"},
		{`{"templateID":"base","iam":{"tokens":{"a":{}}}}`, 501, "iam.tokens"},
		{`{"templateID":"base","network":{"rules":{"a.b":[]}}}`, 501, "network.rules"},
		{`{"templateID":"base","network":{"egressProxy":{"address":"a:1"}}}`, 501, "network.egressProxy"},
		{`{"templateID":"base","network":{"httpsPorts":[443]}}`, 501, "network.httpsPorts"},
		{`{"templateID":"base","network":{"allowOut":["1.1.1"]}}`, 400, `network.allowOut has "1.1.1"`},
		{`{"templateID":"base","network":{"denyOut":["example.com"]}}`, 400, `network.denyOut has "example.com"`},
		{`{"templateID":"base","network":{"allowOut":["example.com"]}}`, 400, `needs "0.0.0.0/0" in network.denyOut`},
		{`{"templateID":"base","network":{"dnsServers":["1.1.1.1"]}}`, 501, "network.dnsServers"},
		{`{"templateID":"base","network":{"later":true,"ALLOWOUT":[]}}`, 501, "network.later is set"},
		{`{"templateID":"base","network":{"allowOut":7}}`, 400, "network.allowOut is 7; it must be an array"},
		{`{"templateID":"base","network":7}`, 400, "network is 7; it must be an object"},
		{`{"templateID":"` + strings.Repeat("x", api.MaxBody) + `"}`, 413, "the body is larger than 1048576 bytes"},
	} {
		r := b.call("POST /v2/sandboxes", c.body)
		if r.status != c.status || !strings.Contains(r.message(t), c.message) {
			t.Errorf("%.80s: %d %s\n\twant %d …%s…", c.body, r.status, r.body, c.status, c.message)
		}
	}
	r := b.call("POST /sandboxes", `{"templateID":"base","network":{"allowPublicTraffic":false}}`)
	if r.status != 400 || !strings.Contains(r.message(t), "needs secure") {
		t.Errorf("private ports without secure: %d %s", r.status, r.body)
	}
	if len(b.requests) != 0 {
		t.Errorf("the node was asked for what was refused: %+v", b.requests)
	}
}

func manyPairs(n int) string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf(`"k%d":"v"`, i))
	}
	return strings.Join(pairs, ",")
}

func TestNodeErrorsReachTheClient(t *testing.T) {
	secret := errors.New("dial /run/secret.sock")
	for _, c := range []struct {
		err        error
		status     int
		message    string
		errorCode  string
		retryAfter string
	}{
		{bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "you have reached the maximum number of concurrent sandboxes (2)"), 429, "you have reached the maximum number of concurrent sandboxes (2)", "", ""},
		{&bulkhead.Error{Code: bulkhead.CodeQuotaExceeded, Msg: "too fast", RetryAfter: 1200 * time.Millisecond}, 429, "too fast", "", "2"},
		{&bulkhead.Error{Code: bulkhead.CodeUnavailable, Msg: "the node is full", RetryAfter: time.Second, Err: secret}, 503, "Failed to place sandbox: the node is full", "sandbox_capacity_unavailable", "1"},
		{fmt.Errorf("create: %w", bulkhead.Errorf(bulkhead.CodeTimeout, "the box did not start in 10s")), 504, "Failed to place sandbox: the box did not start in 10s", "sandbox_placement_timeout", ""},
		{context.DeadlineExceeded, 504, "the request took too long", "sandbox_placement_timeout", ""},
		{secret, 500, "internal error; the log has more under request the-request", "internal_server_error", ""},
	} {
		b := newBench(t)
		b.failOnce("Create", c.err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/v2/sandboxes", strings.NewReader(`{"templateID":"base"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", b.key)
		req.Header.Set("X-Request-Id", "the-request")
		r := b.send(req)
		got, _ := r.object(t)["error_code"].(string)
		if r.status != c.status || r.message(t) != c.message || got != c.errorCode || r.header.Get("Retry-After") != c.retryAfter {
			t.Errorf("%v: %d %s, Retry-After %q", c.err, r.status, r.body, r.header.Get("Retry-After"))
		}
		if strings.Contains(r.body, "secret.sock") {
			t.Errorf("%v: the cause reached the client: %s", c.err, r.body)
		}
		if c.status >= 500 && !strings.Contains(b.log.String(), "the-request") {
			t.Errorf("%v: the log does not name the request: %s", c.err, b.log)
		}
	}
}

// late answers a create once its client has left.
type late struct {
	api.Lifecycle
	leave  context.CancelFunc
	killed chan string
}

func (l late) Create(ctx context.Context, req bulkhead.CreateRequest) (bulkhead.Sandbox, error) {
	sb, err := l.Lifecycle.Create(ctx, req)
	l.leave()
	<-ctx.Done()
	return sb, err
}

func (l late) Kill(ctx context.Context, tenant, id string) error {
	err := errors.Join(ctx.Err(), l.Lifecycle.Kill(ctx, tenant, id))
	l.killed <- tenant + "/" + id
	return err
}

// A sandbox whose client left before its answer is nobody's: it is ended.
func TestClientThatLeftGetsNoSandbox(t *testing.T) {
	for route, body := range map[string]string{"/v1/sandboxes": `{"template":"base"}`, "/v2/sandboxes": `{"templateID":"base"}`, "/sandboxes": `{"templateID":"base"}`} {
		ctx, leave := context.WithCancel(t.Context())
		killed := make(chan string, 1)
		b := newBench(t, func(c *api.Config) { c.Lifecycle = late{c.Lifecycle, leave, killed} })
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+route, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", b.key)
		if res, err := http.DefaultClient.Do(req); err == nil {
			t.Errorf("%s: %s", route, res.Status)
			_ = res.Body.Close()
		}
		id := strings.TrimPrefix(<-killed, "acme/")
		if sb, err := b.store.Sandbox(t.Context(), "acme", id); err != nil || sb.State != bulkhead.StateEnded {
			t.Errorf("%s: %s is %s, %v", route, id, sb.State, err)
		}
	}
}
