package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

func TestQuota(t *testing.T) {
	b := newBench(t)
	b.Add("acme", bulkhead.Limits{CPU: 1, MemoryMB: 1024, DiskMB: 100})
	for name, tt := range map[string]struct {
		key, route string
		status     int
		says       string
	}{
		"own":               {b.key, "GET /v1/quota", 200, `"used":{"sandboxes":1,"cpu":1,"memoryMB":1024,"diskMB":100},"waiting":0`},
		"another's":         {b.key, "GET /v1/quota?tenant=umbrella", 403, "umbrella"},
		"another's, admin":  {b.admin, "GET /v1/quota?tenant=acme", 200, `"tenant":"acme"`},
		"the host, admin":   {b.admin, "GET /v1/quota", 200, `"host":{"capacity":{"sandboxes":0,"cpu":8,"memoryMB":16384`},
		"nobody's":          {b.admin, "GET /v1/quota?tenant=nobody", 404, "nobody"},
		"its tier":          {b.other, "GET /v1/quota", 200, `"tier":{"name":"free","multiplier":0.5`},
		"no key":            {"none", "GET /v1/quota", 401, ""},
		"no such sandbox":   {b.key, "PATCH /v1/sandboxes/i00000000000000000000/resources {\"cpu\":1}", 404, "i00000000000000000000"},
		"what if":           {b.key, `POST /v1/quota/whatif {"template":"base"}`, 200, `"fits":true,"fitting":1`},
		"what if many":      {b.key, `POST /v1/quota/whatif {"template":"base","count":9}`, 200, `"fits":false,"fitting":2`},
		"what if, another":  {b.key, `POST /v1/quota/whatif {"template":"base","tenant":"umbrella"}`, 403, "umbrella"},
		"what if, admin":    {b.admin, `POST /v1/quota/whatif {"template":"base","tenant":"acme","count":3}`, 200, `"fitting":2`},
		"what if, no name":  {b.key, `POST /v1/quota/whatif {}`, 400, "template"},
		"what if, priority": {b.key, `POST /v1/quota/whatif {"template":"base","priority":"urgent"}`, 400, "priority"},
		"what if, limits":   {b.key, `POST /v1/quota/whatif {"template":"base","limits":{"memoryMB":1}}`, 400, "memoryMB"},
		"what if, unknown":  {b.key, `POST /v1/quota/whatif {"template":"base","colour":"red"}`, 400, "colour"},
	} {
		t.Run(name, func(t *testing.T) {
			route, body, _ := strings.Cut(tt.route, " {")
			if body != "" {
				body = "{" + body
			}
			r := b.callAs(tt.key, route, body)
			if r.status != tt.status || !strings.Contains(r.body, tt.says) {
				t.Errorf("%d %s, want %d with %s", r.status, r.body, tt.status, tt.says)
			}
			if tt.key != b.admin && strings.Contains(r.body, `"host":{`) {
				t.Errorf("a tenant sees the host: %s", r.body)
			}
		})
	}
}

func TestResize(t *testing.T) {
	b := newBench(t)
	id := b.call("POST /v1/sandboxes", `{"template":"base"}`).text(t, "sandboxID")
	route := "PATCH /v1/sandboxes/" + id + "/resources"
	r := b.call(route, `{"cpu":0.25,"memoryMB":300,"pids":77,"bandwidthKbps":900}`)
	limits, _ := r.object(t)["limits"].(map[string]any)
	if r.status != 200 || limits["cpu"] != 0.25 || limits["memoryMB"] != 300.0 || limits["pids"] != 77.0 || limits["bandwidthKbps"] != 900.0 {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := b.callAs(b.other, route, `{"cpu":1}`); r.status != 404 {
		t.Errorf("another tenant's: %d %s", r.status, r.body)
	}
	if r := b.callAs(b.admin, route, `{"cpu":1}`); r.status != 200 {
		t.Errorf("an operator's: %d %s", r.status, r.body)
	}
	for body, says := range map[string]string{`{"cores":1}`: "cores", `[]`: "object", ``: "empty", `{"cpu":"x"}`: "cpu"} {
		if r := b.call(route, body); r.status != 400 || !strings.Contains(r.body, says) {
			t.Errorf("%q: %d %s", body, r.status, r.body)
		}
	}
	b.failOnce("Resize", &bulkhead.Error{
		Code: bulkhead.CodeConflict, Msg: "memoryMB cannot be lowered to 64: 90 MiB are in use",
		Limit: &bulkhead.LimitEvidence{Name: "sandbox.memoryMB", Limit: 115, Used: 90, Asked: 64, Unit: "MiB"},
	})
	r = b.call(route, `{"memoryMB":64}`)
	want := map[string]any{"name": "sandbox.memoryMB", "limit": 115.0, "used": 90.0, "asked": 64.0, "unit": "MiB"}
	if diff := cmp.Diff(want, r.object(t)["limit"]); r.status != 409 || diff != "" {
		t.Errorf("%d %s\n%s", r.status, r.body, diff)
	}
}

// What a request says of its place among those that wait reaches the node, in our
// words and in headers beside E2B's.
func TestWaitAndPriority(t *testing.T) {
	b := newBench(t)
	for name, tt := range map[string]struct {
		route, body    string
		priority, wait string // headers
		want           bulkhead.CreateRequest
		status         int
		says           string
	}{
		"own":            {"/v1/sandboxes", `{"template":"base","priority":"high","waitSeconds":1.5}`, "", "", bulkhead.CreateRequest{Priority: "high", Wait: 1500 * time.Millisecond}, 201, ""},
		"own, nothing":   {"/v1/sandboxes", `{"template":"base"}`, "", "", bulkhead.CreateRequest{}, 201, ""},
		"own, no wait":   {"/v1/sandboxes", `{"template":"base","waitSeconds":0}`, "", "", bulkhead.CreateRequest{Wait: -1}, 201, ""},
		"own, priority":  {"/v1/sandboxes", `{"template":"base","priority":"urgent"}`, "", "", bulkhead.CreateRequest{}, 400, "urgent"},
		"own, for ever":  {"/v1/sandboxes", `{"template":"base","waitSeconds":301}`, "", "", bulkhead.CreateRequest{}, 400, "301"},
		"own, backwards": {"/v1/sandboxes", `{"template":"base","waitSeconds":-1}`, "", "", bulkhead.CreateRequest{}, 400, "waitSeconds"},
		"v2":             {"/v2/sandboxes", `{"templateID":"base"}`, "low", "30", bulkhead.CreateRequest{Priority: "low", Wait: 30 * time.Second}, 201, ""},
		"v1":             {"/sandboxes", `{"templateID":"base"}`, "high", "0", bulkhead.CreateRequest{Priority: "high", Wait: -1}, 201, ""},
		"v2, not a time": {"/v2/sandboxes", `{"templateID":"base"}`, "", "soon", bulkhead.CreateRequest{}, 400, "Bulkhead-Wait-Seconds"},
		"v2, NaN":        {"/v2/sandboxes", `{"templateID":"base"}`, "", "NaN", bulkhead.CreateRequest{}, 400, "waitSeconds"},
		"v2, priority":   {"/v2/sandboxes", `{"templateID":"base"}`, "urgent", "", bulkhead.CreateRequest{}, 400, "urgent"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+tt.route, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-API-KEY", b.key)
			for name, value := range map[string]string{"Bulkhead-Priority": tt.priority, "Bulkhead-Wait-Seconds": tt.wait} {
				if value != "" {
					req.Header.Set(name, value)
				}
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
				t.Fatalf("%d %s, %v", resp.StatusCode, body, err)
			}
			if tt.status == 201 {
				got := b.requests[len(b.requests)-1]
				if got.Priority != tt.want.Priority || got.Wait != tt.want.Wait {
					t.Errorf("priority %q, wait %s", got.Priority, got.Wait)
				}
			}
		})
	}
}

// A refusal says in both generations which limit it was, and when to come again.
func TestRefusalsHaveEvidence(t *testing.T) {
	b := newBench(t)
	limit := bulkhead.LimitEvidence{Name: "tenant.memoryMB", Limit: 2048, Used: 1024, Asked: 2000, Unit: "MiB", WaitSeconds: 2.5}
	for _, route := range []string{"/v1/sandboxes", "/v2/sandboxes", "/sandboxes"} {
		for _, code := range []bulkhead.Code{bulkhead.CodeQuotaExceeded, bulkhead.CodeUnavailable} {
			b.failOnce("Create", &bulkhead.Error{Code: code, Msg: "no room", RetryAfter: 2500 * time.Millisecond, Limit: &limit})
			r := b.call("POST "+route, `{"template":"base","templateID":"base"}`)
			if route == "/v1/sandboxes" {
				r = b.call("POST "+route, `{"template":"base"}`)
			}
			var body struct {
				Code  int                     `json:"code"`
				Limit *bulkhead.LimitEvidence `json:"limit"`
			}
			if err := json.Unmarshal([]byte(r.body), &body); err != nil {
				t.Fatal(err)
			}
			if r.status != code.HTTPStatus() || body.Code != r.status || r.header.Get("Retry-After") != "3" || cmp.Diff(&limit, body.Limit) != "" {
				t.Errorf("%s, %s: %d %s, retry after %q", route, code, r.status, r.body, r.header.Get("Retry-After"))
			}
		}
	}
}

// deadlines is a writer that keeps the deadlines that are set on it.
type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.set = append(d.set, at)
	return nil
}

// A body must come in time; a request that waits for a place after that is not cut
// off when the body's time is over.
func TestBodyTimeIsTheBodysOnly(t *testing.T) {
	b := newBench(t)
	for body, want := range map[string]int{`{"template":"base","waitSeconds":60}`: 2, "": 0} {
		method := http.MethodPost
		if body == "" {
			method = http.MethodGet
		}
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(t.Context(), method, "/v1/sandboxes", strings.NewReader(body))
		if body == "" {
			r.Body = http.NoBody
		}
		r.Header.Set("X-API-KEY", b.key)
		b.handler.ServeHTTP(w, r)
		if w.Code/100 != 2 || len(w.set) != want || want > 0 && (w.set[0].IsZero() || !w.set[want-1].IsZero()) {
			t.Errorf("%s: status %d, deadlines %v", method, w.Code, w.set)
		}
	}
}
