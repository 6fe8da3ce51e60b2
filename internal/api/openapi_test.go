package api_test

import (
	"bytes"
	gocmp "cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/openapi"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply/supplytest"
)

// document is what the server says of itself, to anyone.
func (b *bench) document() []byte {
	b.t.Helper()
	res, err := http.Get(b.url + "/v1/openapi.json")
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	doc, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("%d, %v", res.StatusCode, err)
	}
	return doc
}

// patterns are the routes that need a key.
func (b *bench) patterns() []string {
	b.t.Helper()
	s, ok := b.handler.(*api.Server)
	if !ok {
		b.t.Fatalf("the handler is a %T", b.handler)
	}
	return api.Patterns(s)
}

func validate(t *testing.T, doc []byte) validator.Validator {
	t.Helper()
	parsed, err := libopenapi.NewDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(parsed)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return v
}

// withPools has pools.
func withPools(c *api.Config) {
	c.Pools = supplytest.New(bulkhead.Template{Name: "base", ID: "tplbase0000000000000", Digest: "sha256:01"})
}

// withScripts mounts what the server mounts, without what is behind it.
func withScripts(c *api.Config) {
	c.Mounts = []api.Mount{{Calls: script.Calls(store.ScopeRun), Handler: http.NotFoundHandler()}}
}

// operations are the routes of a document, as patterns.
func operations(t *testing.T, doc []byte) []string {
	t.Helper()
	var d struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	var out []string
	for path, methods := range d.Paths {
		for method := range methods {
			out = append(out, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(out)
	return out
}

// The document is valid, and has every route under /v1 and no other.
func TestDocument(t *testing.T) {
	b := newBench(t, withScripts, withPools)
	doc := b.document()
	if ok, errs := validate(t, doc).ValidateDocument(); !ok {
		for _, err := range errs {
			t.Errorf("%s: %s", err.Message, err.Reason)
			for _, cause := range err.SchemaValidationErrors {
				t.Logf("%s: %s", cause.FieldPath, cause.Reason)
			}
		}
	}
	want := []string{"GET /v1/openapi.json"}
	for _, pattern := range b.patterns() {
		if _, path, _ := strings.Cut(pattern, " "); strings.HasPrefix(path, "/v1/") {
			want = append(want, pattern)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, operations(t, doc)); diff != "" {
		t.Errorf("documented routes (-served +documented):\n%s", diff)
	}
	var schemas struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Minimum float64 `json:"minimum"`
					Maximum float64 `json:"maximum"`
				} `json:"properties"`
			} `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(doc, &schemas); err != nil {
		t.Fatal(err)
	}
	limits := schemas.Components.Schemas["WantedLimits"].Properties
	for _, r := range bulkhead.LimitRanges() {
		if p := limits[r.Field]; p.Minimum != r.Least || p.Maximum != r.Most {
			t.Errorf("%s is between %v and %v in the document, %+v in truth", r.Field, p.Minimum, p.Maximum, r)
		}
	}
	if len(limits) != len(bulkhead.LimitRanges()) {
		t.Errorf("limits have the ranges %v, and the fields %v", bulkhead.LimitRanges(), limits)
	}
	ids := map[string]bool{}
	for id := range strings.SplitSeq(string(doc), `"operationId": "`) {
		id, _, _ = strings.Cut(id, `"`)
		if ids[id] {
			t.Errorf("operationId %s is there twice", id)
		}
		ids[id] = true
	}
}

// A call of another package gets the body that it takes, and not more.
func TestMountBody(t *testing.T) {
	const most = 4 << 20
	b := newBench(t, func(c *api.Config) {
		c.Mounts = []api.Mount{{
			Calls: []openapi.Call{{Pattern: "POST /v1/echo", Scope: store.ScopeRun, Summary: "Echo", MaxBody: most}},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				if tenant, ok := api.TenantOf(r.Context()); !ok || tenant != "acme" {
					t.Errorf("for the tenant %q", tenant)
				}
				if err != nil {
					w.WriteHeader(http.StatusRequestEntityTooLarge)
				}
				_, _ = fmt.Fprint(w, n)
			}),
		}}
	})
	for size, want := range map[int]int{most: http.StatusOK, most + 1: http.StatusRequestEntityTooLarge} {
		if r := b.call("POST /v1/echo", strings.Repeat("x", size)); r.status != want || r.body != strconv.Itoa(most) {
			t.Errorf("%d bytes: %d, %s read; want %d", size, r.status, r.body, want)
		}
	}
}

// Every documented call answers, as it is documented.
func TestEveryCallAnswersAsDocumented(t *testing.T) {
	b := newBench(t, withPools)
	doc := b.document()
	v := validate(t, doc)
	made := b.callAs(b.admin, "POST /v1/sandboxes", `{"template":"base"}`).text(t, "sandboxID")
	key := b.callAs(b.admin, "POST /v1/keys", `{"tenant":"acme"}`).text(t, "id")
	examples := map[string]struct{ path, body string }{
		"POST /v1/sandboxes":     {"/v1/sandboxes", `{"template":"base","metadata":{"a":"b"}}`},
		"GET /v1/sandboxes":      {"/v1/sandboxes?limit=1&state=running,ended", ""},
		"GET /v1/sandboxes/{id}": {"/v1/sandboxes/" + made, ""},
		"GET /v1/templates":      {"/v1/templates", ""},

		"PATCH /v1/sandboxes/{id}/resources": {"/v1/sandboxes/" + made + "/resources", `{"pids":100}`},
		"GET /v1/quota":                      {"/v1/quota?tenant=acme", ""},
		"POST /v1/quota/whatif":              {"/v1/quota/whatif", `{"template":"base","count":2}`},
		"GET /v1/pools":                      {"/v1/pools", ""},
		"PATCH /v1/pools/{template}":         {"/v1/pools/base", `{"pin":{"warm":1}}`},
		"GET /v1/pools/{template}/forecast":  {"/v1/pools/base/forecast?horizon=30m", ""},
		"POST /v1/keys":                      {"/v1/keys", `{"name":"x","scopes":["run","manage"],"requestsPerSecond":5}`},
		"GET /v1/keys":                       {"/v1/keys?tenant=acme", ""},
		"POST /v1/keys/{id}/rotate":          {"/v1/keys/" + key + "/rotate", `{"graceSeconds":60}`},
		"PATCH /v1/keys/{id}":                {"/v1/keys/" + key, `{"requestsPerSecond":5}`},
		"DELETE /v1/keys/{id}":               {"/v1/keys/" + key, ""},
		"POST /v1/tenants":                   {"/v1/tenants", `{"id":"made","tier":"free","quota":{"sandboxes":1}}`},
		"GET /v1/tenants":                    {"/v1/tenants", ""},
		"GET /v1/tenants/{id}":               {"/v1/tenants/acme", ""},
		"PATCH /v1/tenants/{id}":             {"/v1/tenants/acme", `{"name":"Acme"}`},
		"DELETE /v1/tenants/{id}":            {"/v1/tenants/newcomer?force=true", ""},
		"GET /v1/tiers":                      {"/v1/tiers", ""},
		"GET /v1/tiers/{name}":               {"/v1/tiers/free", ""},
		"PUT /v1/tiers/{name}":               {"/v1/tiers/gold", `{"multiplier":2,"priority":5,"quota":{"sandbox":{"cpu":2}}}`},
		"DELETE /v1/tiers/{name}":            {"/v1/tiers/gold", ""},
		"GET /v1/usage":                      {"/v1/usage?by=tenant&from=2026-11-01&to=2026-11-30", ""},
		"GET /v1/audit":                      {"/v1/audit?limit=5&from=2026-01-01T00:00:00Z", ""},
		"GET /v1/openapi.json":               {"/v1/openapi.json", ""},
	}
	// Removals come last: DELETE of what others read, or a tier that PUT makes.
	order := slices.SortedFunc(maps.Keys(examples), func(a, b string) int {
		last := func(s string) int {
			if strings.HasPrefix(s, "DELETE") {
				return 1
			}
			return 0
		}
		return gocmp.Or(last(a)-last(b), strings.Compare(a, b))
	})
	got := slices.Clone(order)
	slices.Sort(got)
	if diff := cmp.Diff(operations(t, doc), got); diff != "" {
		t.Fatalf("examples (-documented +there):\n%s", diff)
	}
	for _, pattern := range order {
		ex := examples[pattern]
		method, _, _ := strings.Cut(pattern, " ")
		for name, body := range map[string]string{"well": ex.body, "badly": `{"nonsense":1}`} {
			if name == "badly" && ex.body == "" {
				continue
			}
			req, err := http.NewRequestWithContext(t.Context(), method, b.url+ex.path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-API-KEY", b.admin)
			if body != "" {
				req.Header.Set("Content-Type", "application/json")
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if ok := res.StatusCode < 300; ok != (name == "well") {
				t.Errorf("%s, asked %s: %d %s", pattern, name, res.StatusCode, answer)
			}
			res.Body, req.Body = io.NopCloser(bytes.NewReader(answer)), io.NopCloser(strings.NewReader(body))
			if ok, errs := v.ValidateHttpResponse(req, res); !ok {
				for _, err := range errs {
					t.Errorf("%s, asked %s: %s: %s\n%s", pattern, name, err.Message, err.Reason, answer)
					for _, cause := range err.SchemaValidationErrors {
						t.Logf("%s: %s", cause.FieldPath, cause.Reason)
					}
				}
			}
		}
	}
}
