package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   string
}

// message is the message of an error.
func (r reply) message(t testing.TB) string {
	t.Helper()
	var e struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("%q is not an error: %v", r.body, err)
	}
	if e.Code != r.status {
		t.Errorf("code %d in the body of a %d", e.Code, r.status)
	}
	return e.Message
}

// object is the body as JSON.
func (r reply) object(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%q is not an object: %v", r.body, err)
	}
	return v
}

// ids are the sandboxes in a list.
func (r reply) ids(t testing.TB) []string {
	t.Helper()
	var v []struct {
		SandboxID string `json:"sandboxID"`
	}
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%q is not a list: %v", r.body, err)
	}
	out := []string{}
	for _, e := range v {
		out = append(out, e.SandboxID)
	}
	return out
}

// call sends "METHOD /path" as acme.
func (b *bench) call(route, body string) reply {
	b.t.Helper()
	return b.callAs(b.key, route, body)
}

func (b *bench) callAs(key, route, body string) reply {
	b.t.Helper()
	method, path, _ := strings.Cut(route, " ")
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	return b.send(req)
}

func (b *bench) send(req *http.Request) reply {
	b.t.Helper()
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(out)}
}

// create makes a sandbox and returns its id.
func (b *bench) create(body string) string {
	b.t.Helper()
	r := b.call("POST /v2/sandboxes", body)
	if r.status != http.StatusCreated {
		b.t.Fatalf("create: %d %s", r.status, r.body)
	}
	id, _ := r.object(b.t)["sandboxID"].(string)
	return id
}

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
			bulkhead.CreateRequest{TTL: 300 * time.Second, Secure: true, PrivateTraffic: true, MaskHost: "localhost:${PORT}"},
		},
		{ // all that asks for nothing, and fields of a later SDK
			"POST /v2/sandboxes", `{"templateID":"base","timeout":86400,"autoPause":false,"autoPauseMemory":true,"autoResume":{"enabled":false},
			"volumeMounts":[],"mcp":null,"iam":{"tokens":{}},"metadata":null,"envVars":{},"allow_internet_access":null,"later":{"x":1},
			"network":{"allowOut":[],"denyOut":null,"rules":{},"egressProxy":null,"httpsPorts":[],"allowPublicTraffic":true,"later":1}}`,
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
		{`{"templateID":7}`, 400, "templateID: got number, want string"},
		{`{"templateID":"base","timeout":"60"}`, 400, "timeout: got string, want integer"},
		{`{"templateID":"base","timeout":1.5}`, 400, "timeout: got number 1.5, want integer"},
		{`{"templateID":"base","metadata":{"a":1}}`, 400, "metadata: got number, want string"},
		{`{"templateID":"base","metadata":[]}`, 400, "metadata: got array, want object"},
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
		{`{"templateID":"base","autoPause":true}`, 501, "autoPause is set, and this server does not have pausing sandboxes"},
		{`{"templateID":"base","autoResume":{"enabled":true}}`, 501, "autoResume.enabled"},
		{`{"templateID":"base","volumeMounts":[{"name":"v","path":"/v"}]}`, 501, "volumeMounts"},
		{`{"templateID":"base","mcp":{"exa":{}}}`, 501, "mcp"},
		{`{"templateID":"base","iam":{"tokens":{"a":{}}}}`, 501, "iam.tokens"},
		{`{"templateID":"base","network":{"rules":{"a.b":[]}}}`, 501, "network.rules"},
		{`{"templateID":"base","network":{"egressProxy":{"address":"a:1"}}}`, 501, "network.egressProxy"},
		{`{"templateID":"base","network":{"httpsPorts":[443]}}`, 501, "network.httpsPorts"},
		{`{"templateID":"base","network":{"allowOut":["1.1.1.1"]}}`, 501, "network.allowOut"},
		{`{"templateID":"base","network":{"denyOut":["1.1.1.1"]}}`, 501, "network.denyOut"},
		{`{"templateID":"base","network":{"denyOut":["0.0.0.0/0","1.1.1.1"]}}`, 501, "network.denyOut"},
		{`{"templateID":"base","network":{"denyOut":["::/0"]}}`, 501, "network.denyOut"},
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

func TestLifecycleCalls(t *testing.T) {
	b := newBench(t)
	id := b.create(`{"templateID":"base","timeout":100}`)
	endAt := func() time.Duration {
		t.Helper()
		sb, err := b.Get(t.Context(), "acme", id)
		if err != nil {
			t.Fatal(err)
		}
		return sb.EndAt.Sub(epoch).Round(time.Second)
	}
	for _, c := range []struct {
		route, body string
		status      int
		end         time.Duration
	}{
		{"POST /v2/sandboxes/ID/connect", ``, 200, 300 * time.Second},
		{"POST /v2/sandboxes/ID/connect", `{}`, 200, 300 * time.Second},
		{"POST /v2/sandboxes/ID/connect", `{"timeout":10,"memory":true}`, 200, 300 * time.Second}, // never shorter
		{"POST /sandboxes/ID/connect", `{"timeout":400}`, 200, 400 * time.Second},
		{"POST /sandboxes/ID-6532622b/connect", `{"timeout":410}`, 200, 410 * time.Second}, // an id of the first SDKs
		{"POST /sandboxes/ID/connect", `{}`, 400, 410 * time.Second},
		{"POST /sandboxes/ID/connect", `{"timeout":0}`, 400, 410 * time.Second},
		{"POST /v2/sandboxes/ID/connect", `{"memory":false}`, 501, 410 * time.Second},
		{"POST /sandboxes/ID/refreshes", `{"duration":500}`, 204, 500 * time.Second},
		{"POST /sandboxes/ID/refreshes", ``, 204, 500 * time.Second},
		{"POST /sandboxes/ID/refreshes", `{"duration":86401}`, 400, 500 * time.Second},
		{"POST /sandboxes/ID/timeout", `{"timeout":20}`, 204, 20 * time.Second}, // shorter too
		{"POST /sandboxes/ID/timeout", `{}`, 400, 20 * time.Second},
		{"POST /sandboxes/ID/timeout", `{"timeout":90000}`, 400, 20 * time.Second},
		{"POST /sandboxes/ID/resume", `{"timeout":20}`, 409, 20 * time.Second},
		{"POST /sandboxes/ID/resume", `{"autoPause":true}`, 501, 20 * time.Second},
	} {
		r := b.call(strings.Replace(c.route, "ID", id, 1), c.body)
		if r.status != c.status || endAt() != c.end {
			t.Errorf("%s %s: %d %s, ends after %v; want %d, %v", c.route, c.body, r.status, r.body, endAt(), c.status, c.end)
		}
		if r.status == 200 && r.object(t)["envdAccessToken"] != "envd-"+id {
			t.Errorf("%s: no token in %s", c.route, r.body)
		}
		if r.status == 204 && r.body != "" {
			t.Errorf("%s: a 204 with the body %q", c.route, r.body)
		}
	}
	if r := b.call("POST /sandboxes/"+id+"/timeout", `{"timeout":-5}`); r.status != 204 {
		t.Errorf("timeout below 0: %d %s", r.status, r.body)
	}
	if r := b.call("GET /sandboxes/"+id, ""); r.status != 404 {
		t.Errorf("after its end: %d %s", r.status, r.body)
	}
}

func TestSandboxesThatAreNotThere(t *testing.T) {
	b := newBench(t)
	theirs := b.callAs(b.other, "POST /v2/sandboxes", `{"templateID":"base"}`).object(t)["sandboxID"]
	killed := b.create(`{"templateID":"base"}`)
	if r := b.call("DELETE /sandboxes/"+killed, ""); r.status != 204 {
		t.Fatalf("kill: %d %s", r.status, r.body)
	}
	for _, id := range []string{theirs.(string), killed, "inone", "UPPER", "a%2Fb", strings.Repeat("a", 65)} {
		for _, c := range []struct{ route, body string }{
			{"GET /sandboxes/", ""},
			{"DELETE /sandboxes/", ""},
			{"POST /sandboxes/ID/connect", `{"timeout":1}`},
			{"POST /v2/sandboxes/ID/connect", ""},
			{"POST /sandboxes/ID/timeout", `{"timeout":1}`},
			{"POST /sandboxes/ID/refreshes", ""},
			{"POST /sandboxes/ID/resume", ""},
			{"GET /sandboxes/ID/metrics", ""},
			{"GET /sandboxes/ID/logs", ""},
			{"GET /v2/sandboxes/ID/logs", ""},
		} {
			route := strings.Replace(c.route, "ID", id, 1)
			if route == c.route {
				route += id
			}
			r := b.call(route, c.body)
			if r.status != 404 || !strings.Contains(r.message(t), "was not found") {
				t.Errorf("%s: %d %s", route, r.status, r.body)
			}
		}
	}
}

func TestStatesThatAreNotShown(t *testing.T) {
	b := newBench(t)
	id := b.create(`{"templateID":"base"}`)
	for _, state := range []bulkhead.State{bulkhead.StateStarting, bulkhead.StateEnding} {
		b.live[id].State = state
		if r := b.call("GET /sandboxes/"+id, ""); r.status != 404 {
			t.Errorf("%s: GET: %d %s", state, r.status, r.body)
		}
		if got := b.call("GET /v2/sandboxes", "").ids(t); len(got) != 0 {
			t.Errorf("%s: listed: %v", state, got)
		}
	}
	if r := b.call("POST /v2/sandboxes/"+id+"/connect", ""); r.status != 409 {
		t.Errorf("connect to one that ends: %d %s", r.status, r.body)
	}
}

func TestDetail(t *testing.T) {
	b := newBench(t)
	id := b.create(`{"templateID":"base","metadata":{"user":"ada"},"network":{"denyOut":["0.0.0.0/0"],"allowPublicTraffic":false,"maskRequestHost":"a"}}`)
	got := b.call("GET /sandboxes/"+id, "").object(t)
	delete(got, "startedAt")
	delete(got, "endAt")
	want := map[string]any{
		"templateID": "tplbase0000000000000", "sandboxID": id, "clientID": "bulkhead", "alias": "base", "state": "running",
		"cpuCount": 1.0, "memoryMB": 1024.0, "diskSizeMB": 2048.0, "metadata": map[string]any{"user": "ada"},
		"envdVersion": "0.6.4", "domain": "e2b.test:38443", "envdAccessToken": "envd-" + id, "allowInternetAccess": false,
		"network":   map[string]any{"denyOut": []any{"0.0.0.0/0"}, "allowPublicTraffic": false, "maskRequestHost": "a"},
		"lifecycle": map[string]any{"onTimeout": "kill", "autoResume": false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestListFiltersAndPages(t *testing.T) {
	b := newBench(t)
	var made []string // newest first
	for i := range 7 {
		template := "base"
		if i == 3 {
			template = "code-interpreter-v1"
		}
		id := b.create(fmt.Sprintf(`{"templateID":%q,"metadata":{"n":"%d","a b":"c&d","p":"50%%"}}`, template, i))
		made = append([]string{id}, made...)
	}
	b.callAs(b.other, "POST /v2/sandboxes", `{"templateID":"base"}`)
	third := b.live[made[4]].StartedAt.Format(time.RFC3339Nano)

	for _, c := range []struct {
		query string
		want  []string
	}{
		{"", made},
		{"?state=running,paused", made},
		{"?state=running&state=paused", made},
		{"?state=paused", []string{}},
		{"?template=code-interpreter-v1", made[3:4]},
		{"?template=tplcode0000000000000", made[3:4]},
		{"?startedAfter=" + url.QueryEscape(third), made[:5]},
		{"?metadata=n%3D2", made[4:5]},
		{"?metadata=a%252520b%3Dc%252526d", made},              // as the SDKs write {"a b":"c&d"}
		{"?metadata=a%252520b%3Dc%252526d%26n%3D2", made[4:5]}, // and with a second pair
		{"?metadata=p%3D50%252525", made},
		{"?metadata=n%3D9", []string{}},
		{"?limit=2", made[:2]},
		{"?order=asc&limit=2", []string{made[6], made[5]}},
	} {
		r := b.call("GET /v2/sandboxes"+c.query, "")
		if diff := cmp.Diff(c.want, r.ids(t)); diff != "" || r.status != 200 {
			t.Errorf("%s: %d (-want +got):\n%s", c.query, r.status, diff)
		}
		if v1 := b.call("GET /sandboxes"+c.query, ""); strings.HasPrefix(c.query, "?metadata") {
			if diff := cmp.Diff(c.want, v1.ids(t)); diff != "" {
				t.Errorf("first generation, %s (-want +got):\n%s", c.query, diff)
			}
		}
	}
	for _, order := range []string{"desc", "asc"} {
		var walked []string
		for token := ""; ; {
			r := b.call("GET /v2/sandboxes?limit=3&order="+order+"&nextToken="+url.QueryEscape(token), "")
			if r.header.Get("X-Total-Running") != "7" {
				t.Errorf("X-Total-Running is %q", r.header.Get("X-Total-Running"))
			}
			walked = append(walked, r.ids(t)...)
			if token = r.header.Get("X-Next-Token"); token == "" || len(walked) > 7 {
				break
			}
		}
		want := made
		if order == "asc" {
			want = reversed(made)
		}
		if diff := cmp.Diff(want, walked); diff != "" {
			t.Errorf("%s, page by page (-want +got):\n%s", order, diff)
		}
	}
	ascending := b.call("GET /v2/sandboxes?limit=1&order=asc", "").header.Get("X-Next-Token")
	descending := b.call("GET /v2/sandboxes?limit=1", "").header.Get("X-Next-Token")
	for query, message := range map[string]string{
		"?limit=0": "limit", "?limit=101": "limit", "?limit=x": "limit", "?order=up": "order", "?state=gone": "state",
		"?startedAfter=now": "startedAfter", "?nextToken=!!": "nextToken", "?nextToken=" + ascending: "nextToken",
		"?order=asc&nextToken=" + descending: "nextToken", "?metadata=a%3D%25zz": "metadata", "?metadata=%253Bx%3B": "metadata",
	} {
		if r := b.call("GET /v2/sandboxes"+query, ""); r.status != 400 || !strings.Contains(r.message(t), message) {
			t.Errorf("%s: %d %s; want 400 about %s", query, r.status, r.body, message)
		}
	}
}

func reversed(in []string) []string {
	var out []string
	for _, s := range in {
		out = append([]string{s}, out...)
	}
	return out
}

func TestMetricsAndLogs(t *testing.T) {
	b := newBench(t)
	id, idle := b.create(`{"templateID":"base"}`), b.create(`{"templateID":"base"}`)
	theirs, _ := b.callAs(b.other, "POST /v2/sandboxes", `{"templateID":"base"}`).object(t)["sandboxID"].(string)
	for i := range 3 {
		at := epoch.Add(time.Duration(i-3) * 10 * time.Second)
		s := bulkhead.Sample{At: at, CPUPercent: float64(i), CPUCount: 1, MemUsed: 2, MemTotal: 3, MemCache: 4, DiskUsed: 5, DiskTotal: 6}
		b.samples[id] = append(b.samples[id], s)
		b.samples[theirs] = append(b.samples[theirs], s)
		b.logs[id] = append(b.logs[id], bulkhead.LogLine{
			At: at, Level: []string{"debug", "warn", "error"}[i], Message: fmt.Sprintf("line %d", i), Fields: map[string]string{"k": "v"},
		})
	}
	sample := func(i int) map[string]any {
		at := epoch.Add(time.Duration(i-3) * 10 * time.Second)
		return map[string]any{
			"timestamp": at.Format(time.RFC3339), "timestampUnix": float64(at.Unix()), "cpuUsedPct": float64(i), "cpuCount": 1.0,
			"memUsed": 2.0, "memTotal": 3.0, "memCache": 4.0, "diskUsed": 5.0, "diskTotal": 6.0,
		}
	}
	entry := func(i int) map[string]any {
		return map[string]any{
			"timestamp": epoch.Add(time.Duration(i-3) * 10 * time.Second).Format(time.RFC3339), "level": []string{"debug", "warn", "error"}[i],
			"message": fmt.Sprintf("line %d", i), "fields": map[string]any{"k": "v"},
		}
	}
	line := func(i int) map[string]any {
		return map[string]any{
			"timestamp": epoch.Add(time.Duration(i-3) * 10 * time.Second).Format(time.RFC3339),
			"line":      fmt.Sprintf(`{"k":"v","level":%q,"message":"line %d"}`, []string{"debug", "warn", "error"}[i], i),
		}
	}
	second := epoch.Add(-20 * time.Second)
	for _, c := range []struct {
		path string
		want any
	}{
		{"/sandboxes/" + id + "/metrics", []any{sample(0), sample(1), sample(2)}},
		{fmt.Sprintf("/sandboxes/%s/metrics?start=%d&end=%d", id, second.Unix(), second.Unix()), []any{sample(1)}},
		{"/sandboxes/" + idle + "/metrics", []any{}},
		{"/sandboxes/metrics?sandbox_ids=" + strings.Join([]string{id, idle, theirs, "inone"}, ","), map[string]any{"sandboxes": map[string]any{id: sample(2)}}},
		{"/sandboxes/" + id + "/logs?limit=1", map[string]any{"logs": []any{line(0)}, "logEntries": []any{entry(0)}}},
		{fmt.Sprintf("/sandboxes/%s/logs?start=%d", id, second.UnixMilli()), map[string]any{"logs": []any{line(1), line(2)}, "logEntries": []any{entry(1), entry(2)}}},
		{"/sandboxes/" + idle + "/logs", map[string]any{"logs": []any{}, "logEntries": []any{}}},
		{"/v2/sandboxes/" + id + "/logs", map[string]any{"logs": []any{entry(0), entry(1), entry(2)}}},
		{"/v2/sandboxes/" + id + "/logs?level=warn&limit=1", map[string]any{"logs": []any{entry(1)}}},
		{"/v2/sandboxes/" + id + "/logs?search=line+2", map[string]any{"logs": []any{entry(2)}}},
		{"/v2/sandboxes/" + id + "/logs?search=LINE", map[string]any{"logs": []any{}}},
		{"/v2/sandboxes/" + id + "/logs?direction=backward&limit=2", map[string]any{"logs": []any{entry(2), entry(1)}}},
		{fmt.Sprintf("/v2/sandboxes/%s/logs?direction=backward&cursor=%d", id, second.UnixMilli()), map[string]any{"logs": []any{entry(1), entry(0)}}},
		{"/v2/sandboxes/" + id + "/logs?limit=0", map[string]any{"logs": []any{}}},
	} {
		r := b.call("GET "+c.path, "")
		var got any
		if err := json.Unmarshal([]byte(r.body), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" || r.status != 200 {
			t.Errorf("%s: %d (-want +got):\n%s", c.path, r.status, diff)
		}
	}
	for path, message := range map[string]string{
		"/sandboxes/" + id + "/metrics?start=x":                              "start",
		"/sandboxes/" + id + "/metrics?start=20&end=10":                      "start is after end",
		"/sandboxes/metrics":                                                 "sandbox_ids has 0 ids",
		"/sandboxes/metrics?sandbox_ids=" + strings.Repeat("a,", 101):        "sandbox_ids has 101 ids",
		"/sandboxes/" + id + "/logs?limit=1001":                              "limit",
		"/v2/sandboxes/" + id + "/logs?cursor=-1":                            "cursor",
		"/v2/sandboxes/" + id + "/logs?direction=up":                         "direction",
		"/v2/sandboxes/" + id + "/logs?level=loud":                           "level",
		"/sandboxes/" + id + "/metrics?end=99999999999999999999999999999999": "end",
	} {
		if r := b.call("GET "+path, ""); r.status != 400 || !strings.Contains(r.message(t), message) {
			t.Errorf("%s: %d %s; want 400 about %s", path, r.status, r.body, message)
		}
	}
}

func TestTemplates(t *testing.T) {
	b := newBench(t)
	list := func(path string) (names []string, next string) {
		t.Helper()
		r := b.call("GET "+path, "")
		var all []struct {
			Names, Aliases       []string
			TemplateID, BuildID  string
			BuildStatus          string
			CPUCount, DiskSizeMB int
		}
		if err := json.Unmarshal([]byte(r.body), &all); err != nil || r.status != 200 {
			t.Fatalf("%s: %d %s", path, r.status, r.body)
		}
		for _, e := range all {
			names = append(names, e.Names...)
			if e.BuildStatus != "ready" || len(e.BuildID) != 36 || e.TemplateID == "" || e.CPUCount == 0 || e.DiskSizeMB == 0 {
				t.Errorf("%s: %+v", path, e)
			}
		}
		return names, r.header.Get("X-Next-Token")
	}
	want := []string{"base", "code-interpreter-v1"}
	for _, path := range []string{"/templates", "/templates?teamID=acme", "/v2/templates"} {
		if got, next := list(path); !cmp.Equal(got, want) || next != "" {
			t.Errorf("%s: %v, next %q", path, got, next)
		}
	}
	first, next := list("/v2/templates?limit=1")
	second, end := list("/v2/templates?limit=1&nextToken=" + url.QueryEscape(next))
	if !cmp.Equal(append(first, second...), want) || end != "" {
		t.Errorf("page by page: %v, %v, then %q", first, second, end)
	}
	for _, name := range []string{"base", "tplbase0000000000000"} {
		if got := b.call("GET /templates/"+name, "").object(t); got["templateID"] != "tplbase0000000000000" || len(got["builds"].([]any)) != 1 {
			t.Errorf("%s: %v", name, got)
		}
		want := map[string]any{"templateID": "tplbase0000000000000", "public": true}
		if diff := cmp.Diff(want, b.call("GET /templates/aliases/"+name, "").object(t)); diff != "" {
			t.Errorf("alias %s (-want +got):\n%s", name, diff)
		}
	}
	for _, path := range []string{"/templates/none", "/templates/aliases/none", "/templates/aliases/tags"} {
		if r := b.call("GET "+path, ""); r.status != 404 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestHonestAboutWhatIsMissing(t *testing.T) {
	b := newBench(t)
	for _, route := range []string{
		"POST /sandboxes/i1/pause", "POST /sandboxes/i1/snapshots", "GET /snapshots", "POST /sandboxes/i1/fork",
		"PUT /sandboxes/i1/network", "POST /v3/templates", "POST /v2/templates/t/builds/b", "GET /templates/t/builds/b/status",
		"GET /templates/t/files/0a", "DELETE /templates/t", "POST /templates/tags", "GET /templates/t/tags", "PATCH /v2/templates/t",
		"GET /volumes", "POST /volumes", "PUT /volumecontent/v/file", "POST /secrets", "GET /teams/t/metrics", "GET /api-keys/",
	} {
		if r := b.call(route, "{}"); r.status != 501 || !strings.Contains(r.message(t), "this server does not have") {
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

func TestTeams(t *testing.T) {
	b := newBench(t)
	want := `[{"teamID":"acme","name":"acme","apiKey":"` + b.key + `","isDefault":true}]`
	if r := b.call("GET /teams", ""); r.body != want || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s, %v", r.body, r.header)
	}
}

func TestOwnSandboxes(t *testing.T) {
	b := newBench(t)
	r := b.call("POST /v1/sandboxes", `{"template":"base","timeoutSeconds":60,"limits":{"memoryMB":128,"cpu":0.25},"env":{"A":"1"},"privateTraffic":true,"allowInternet":false}`)
	if r.status != 201 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	want := []bulkhead.CreateRequest{{
		Tenant: "acme", Template: "base", TTL: time.Minute, Limits: bulkhead.Limits{MemoryMB: 128, CPU: 0.25},
		Env: map[string]string{"A": "1"}, Secure: true, PrivateTraffic: true,
	}}
	if diff := cmp.Diff(want, b.requests); diff != "" {
		t.Errorf("asked of the node (-want +got):\n%s", diff)
	}
	got := r.object(t)
	id, _ := got["sandboxID"].(string)
	if got["envdToken"] != "envd-"+id || got["trafficToken"] != "traffic-"+id || got["state"] != "running" ||
		got["limits"].(map[string]any)["memoryMB"] != 128.0 || got["limits"].(map[string]any)["pids"] != 512.0 {
		t.Errorf("created: %v", got)
	}
	if r := b.call("GET /v1/sandboxes/"+id, ""); r.status != 200 || r.object(t)["envdToken"] != "envd-"+id {
		t.Errorf("while it runs: %d %s", r.status, r.body)
	}
	admin := b.callAs(b.admin, "GET /v1/sandboxes/"+id, "").object(t)
	if admin["tenant"] != "acme" || admin["envdToken"] != nil || admin["trafficToken"] != nil || admin["env"] != nil {
		t.Errorf("an operator sees %v", admin)
	}
	if r := b.callAs(b.other, "GET /v1/sandboxes/"+id, ""); r.status != 404 {
		t.Errorf("another tenant: %d %s", r.status, r.body)
	}
	if r := b.call("DELETE /sandboxes/"+id, ""); r.status != 204 {
		t.Fatalf("kill: %d", r.status)
	}
	ended := b.call("GET /v1/sandboxes/"+id, "").object(t)
	end, _ := ended["end"].(map[string]any)
	if ended["state"] != "ended" || end["cause"] != "killed" || end["detail"] != "by the test" || ended["envdToken"] != nil {
		t.Errorf("after its end: %v", ended)
	}
	if r := b.call("GET /v1/sandboxes", ""); r.body != "[]" {
		t.Errorf("running after its end: %s", r.body)
	}
	for _, c := range []struct {
		body    string
		status  int
		message string
	}{
		{`{"template":"base","later":1}`, 400, `unknown field "later"`},
		{`{"template":"base","limits":{"memory":1}}`, 400, `unknown field "memory"`},
		{`{"template":"base","limits":{"memoryMB":1}}`, 400, "memoryMB is 1; it must be between 64"},
		{`{"template":"base","limits":{"cpu":1e9}}`, 400, "cpu is 1e+09"},
		{`{"template":"base","timeoutSeconds":0}`, 400, "Timeout must be greater than 0"},
		{`{"template":"base","secure":false,"privateTraffic":true}`, 400, "needs secure"},
		{`{"template":"base","maskHost":"/"}`, 400, `maskHost is "/"`},
		{`{}`, 400, "template is missing"},
	} {
		if r := b.call("POST /v1/sandboxes", c.body); r.status != c.status || !strings.Contains(r.message(t), c.message) {
			t.Errorf("%s: %d %s; want %d …%s…", c.body, r.status, r.body, c.status, c.message)
		}
	}
	var all []bulkhead.Template
	if r := b.call("GET /v1/templates", ""); json.Unmarshal([]byte(r.body), &all) != nil || len(all) != 2 || all[1].Name != "code-interpreter-v1" {
		t.Errorf("templates: %s", r.body)
	}
}

func TestOwnList(t *testing.T) {
	b := newBench(t)
	var ids []string // newest first
	for i := range 7 {
		r := b.call("POST /v1/sandboxes", fmt.Sprintf(`{"template":"base","metadata":{"n":"%d"}}`, i%2))
		if r.status != 201 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		ids = append([]string{r.object(t)["sandboxID"].(string)}, ids...)
	}
	var gone []string
	for i := 1; i < len(ids); i += 2 {
		if r := b.call("DELETE /sandboxes/"+ids[i], ""); r.status != 204 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		gone = append(gone, ids[i])
	}
	all := func(query string) (got []string, pages int) {
		t.Helper()
		for token := ""; pages == 0 || token != ""; pages++ {
			r := b.call("GET /v1/sandboxes?"+query+"&nextToken="+token, "")
			var page []bulkhead.Sandbox
			if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.status != 200 {
				t.Fatalf("%s: %d %s", query, r.status, r.body)
			}
			for _, sb := range page {
				if (sb.State == bulkhead.StateEnded) != (sb.End != nil) {
					t.Errorf("%s is %s with end %v", sb.ID, sb.State, sb.End)
				}
				got = append(got, sb.ID)
			}
			token = r.header.Get("X-Next-Token")
		}
		return got, pages
	}
	for _, c := range []struct {
		query string
		want  []string
		pages int
	}{
		{"", []string{ids[0], ids[2], ids[4], ids[6]}, 1},
		{"limit=4", []string{ids[0], ids[2], ids[4], ids[6]}, 1},
		{"state=ended", gone, 1},
		{"state=ended&limit=1", gone, 3},
		{"state=running,ended&limit=2", ids, 4},
		{"state=running&state=ending&state=ended", ids, 1},
		{"state=ended,running&limit=7", ids, 1},
		{"state=ended&metadata=n%3D1", []string{ids[1], ids[3], ids[5]}, 1},
		{"state=ended&template=code-interpreter-v1", nil, 1},
		{"state=running,ended&startedAfter=2100-01-01T00:00:00Z", nil, 1},
	} {
		got, pages := all(c.query)
		if diff := cmp.Diff(c.want, got); diff != "" || pages != c.pages {
			t.Errorf("%s: %d pages, want %d (-want +got):\n%s", c.query, pages, c.pages, diff)
		}
	}
	if r := b.callAs(b.other, "GET /v1/sandboxes?state=running,ended", ""); r.body != "[]" {
		t.Errorf("another tenant sees %s", r.body)
	}
	for query, message := range map[string]string{
		"state=paused": `state is "paused"; it must be running, ending or ended`, "state=": `state is ""`,
		"limit=101": "limit is", "nextToken=x": "nextToken", "startedAfter=x": "startedAfter",
	} {
		if r := b.call("GET /v1/sandboxes?"+query, ""); r.status != 400 || !strings.Contains(r.message(t), message) {
			t.Errorf("%s: %d %s; want 400 …%s…", query, r.status, r.body, message)
		}
	}
}

func TestOwnKeys(t *testing.T) {
	b := newBench(t)
	r := b.callAs(b.admin, "POST /v1/keys", `{"tenant":"newcomer","name":"ci","scopes":["sandboxes"]}`)
	if r.status != 201 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	made := r.object(t)
	secret, _ := made["secret"].(string)
	if r := b.callAs(secret, "POST /v2/sandboxes", `{"templateID":"base"}`); r.status != 201 || b.requests[0].Tenant != "newcomer" {
		t.Errorf("with the new key: %d %s", r.status, r.body)
	}
	r = b.callAs(b.admin, "GET /v1/keys?tenant=newcomer", "")
	var keys []store.Key
	if err := json.Unmarshal([]byte(r.body), &keys); err != nil || len(keys) != 1 || keys[0].ID != made["id"] || strings.Contains(r.body, secret) {
		t.Errorf("list: %s, %v", r.body, err)
	}
	if r := b.callAs(b.admin, "DELETE /v1/keys/"+keys[0].ID, ""); r.status != 204 {
		t.Errorf("revoke: %d %s", r.status, r.body)
	}
	if r := b.callAs(secret, "GET /v2/sandboxes", ""); r.status != 401 {
		t.Errorf("with the revoked key: %d %s", r.status, r.body)
	}
	for route, want := range map[string]int{
		`POST /v1/keys {"scopes":["root"]}`: 400, `POST /v1/keys {"role":"x"}`: 400, `DELETE /v1/keys/key_none`: 404, `GET /v1/keys?tenant=none`: 200,
	} {
		parts := strings.SplitN(route, " ", 3)
		body := ""
		if len(parts) == 3 {
			body = parts[2]
		}
		if r := b.callAs(b.admin, parts[0]+" "+parts[1], body); r.status != want {
			t.Errorf("%s: %d %s; want %d", route, r.status, r.body, want)
		}
	}
	if strings.Contains(b.log.String(), secret) {
		t.Error("the log has the secret")
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
	defer unsent.Close()
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
			b.handler.ServeHTTP(httptest.NewRecorder(), req)
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
