package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// keyOf makes a key.
func (b *bench) keyOf(tenant string, change func(*store.KeyRequest)) (secret, id string) {
	b.t.Helper()
	req := store.KeyRequest{Tenant: tenant}
	if change != nil {
		change(&req)
	}
	secret, k, err := b.store.CreateKey(b.t.Context(), req)
	if err != nil {
		b.t.Fatal(err)
	}
	return secret, k.ID
}

func (b *bench) scoped(tenant string, scopes ...string) string {
	secret, _ := b.keyOf(tenant, func(r *store.KeyRequest) { r.Scopes = scopes })
	return secret
}

// fill puts values where a pattern has names.
func fill(pattern string) string {
	out := pattern
	for _, name := range []string{"{id}", "{name}", "{alias}", "{template}", "{path...}"} {
		out = strings.ReplaceAll(out, name, "x")
	}
	if !strings.Contains(out, " ") {
		out = "GET " + out // of all methods
	}
	return out
}

// routeScopes is what each route needs. A route that is not here fails the test.
var routeScopes = map[string]string{
	"POST /v1/keys": "manage", "GET /v1/keys": "manage", "POST /v1/keys/{id}/rotate": "manage", "PATCH /v1/keys/{id}": "manage", "DELETE /v1/keys/{id}": "manage",
	"POST /v1/tenants": "admin", "GET /v1/tenants": "admin", "GET /v1/tenants/{id}": "manage", "PATCH /v1/tenants/{id}": "admin", "DELETE /v1/tenants/{id}": "admin",
	"GET /v1/tiers": "manage", "GET /v1/tiers/{name}": "manage", "PUT /v1/tiers/{name}": "admin", "DELETE /v1/tiers/{name}": "admin",
	"GET /v1/usage": "manage", "GET /v1/audit": "manage", "GET /metrics": "admin",
	"GET /v1/quota": "run", "POST /v1/quota/whatif": "run", "PATCH /v1/sandboxes/{id}/resources": "run",
	"GET /v1/pools": "admin", "PATCH /v1/pools/{template}": "admin", "GET /v1/pools/{template}/forecast": "admin",
	"POST /v1/sandboxes": "run", "GET /v1/sandboxes": "run", "GET /v1/sandboxes/{id}": "run", "GET /v1/templates": "run",
}

// Every route is open to the keys that have its scope, or admin, and to no other.
func TestScopes(t *testing.T) {
	b := newBench(t, withPools)
	keys := map[string]string{}
	for _, scope := range store.Scopes() {
		keys[scope] = b.scoped("acme", scope)
	}
	for _, pattern := range b.patterns() {
		need, ok := routeScopes[pattern]
		if _, path, _ := strings.Cut(pattern, " "); !ok && !strings.HasPrefix(path, "/v1") {
			need, ok = "run", true // E2B's routes all are for those who use sandboxes
		}
		if !ok {
			t.Errorf("%s is not in the table of scopes", pattern)
			continue
		}
		route := fill(pattern)
		for scope, key := range keys {
			may := scope == need || scope == store.ScopeAdmin
			r := b.callAs(key, route, "")
			if forbidden := r.status == http.StatusForbidden && strings.Contains(r.body, "lacks the scope"); forbidden == may {
				t.Errorf("%s with the scope %s: %d %s; may: %v", pattern, scope, r.status, r.body, may)
			}
		}
		for name, key := range map[string]string{"no key": "", "a wrong key": "e2b_" + strings.Repeat("0", 40)} {
			if r := b.callAs(key, route, ""); r.status != http.StatusUnauthorized {
				t.Errorf("%s with %s: %d", pattern, name, r.status)
			}
		}
	}
}

// Whatever comes of a request, the answer says what its key has left, and no refusal
// is free.
func TestEveryAnswerHasItsRate(t *testing.T) {
	b := newBench(t, withPools)
	const rate = 1000
	key, _ := b.keyOf("acme", func(r *store.KeyRequest) { r.Scopes, r.RequestsPerSecond = []string{store.ScopeRun}, rate })
	statuses := map[int]bool{}
	for _, pattern := range b.patterns() {
		r := b.callAs(key, fill(pattern), "")
		statuses[r.status] = true
		if r.header.Get("RateLimit-Limit") != strconv.Itoa(10*rate) || r.header.Get("RateLimit-Remaining") == "" || r.header.Get("RateLimit-Reset") == "" ||
			r.header.Get("RateLimit") == "" || r.header.Get("RateLimit-Policy") == "" {
			t.Errorf("%s: %d with %v", pattern, r.status, r.header)
		}
	}
	for _, status := range []int{200, 400, 403, 404, 501} {
		if !statuses[status] {
			t.Errorf("no answer was %d", status)
		}
	}
	slow, _ := b.keyOf("acme", func(r *store.KeyRequest) { r.Scopes, r.RequestsPerSecond = []string{store.ScopeRun}, 0.1 })
	for i, want := range []int{http.StatusForbidden, http.StatusTooManyRequests} {
		if r := b.callAs(slow, "GET /v1/tenants", ""); r.status != want || (r.header.Get("Retry-After") != "") != (want == http.StatusTooManyRequests) {
			t.Errorf("request %d for what the key may not: %d %v, want %d", i, r.status, r.header, want)
		}
	}
}

// Every call that changes something and needs more than the scope run is recorded,
// also one that is refused.
func TestEveryPrivilegedCallIsRecorded(t *testing.T) {
	b := newBench(t, withPools)
	seen := 0
	for _, pattern := range b.patterns() {
		method, _, _ := strings.Cut(pattern, " ")
		if need := routeScopes[pattern]; need == "" || need == store.ScopeRun || method == http.MethodGet || !strings.Contains(pattern, " ") {
			continue
		}
		seen++
		key, id := b.keyOf("acme", nil) // each of its own: of one key not many refusals are recorded
		if r := b.callAs(key, fill(pattern), "{}"); r.status != http.StatusForbidden {
			t.Errorf("%s with the scope run: %d %s", pattern, r.status, r.body)
		}
		acts, err := b.store.Acts(t.Context(), store.ActQuery{Key: id, Limit: 10})
		if err != nil || len(acts) != 1 || acts[0].Outcome != string(bulkhead.CodeForbidden) || acts[0].Action == "" {
			t.Errorf("%s: recorded is %+v, %v", pattern, acts, err)
		}
	}
	if seen < 10 {
		t.Errorf("only %d calls are privileged", seen)
	}
}

// A key of one tenant finds nothing of another's: what is not its own does not
// exist, whether it does or not.
func TestTenantsDoNotSeeEachOther(t *testing.T) {
	b := newBench(t)
	mine := b.scoped("acme", store.ScopeRun, store.ScopeManage)
	_, theirs := b.keyOf("umbrella", nil)
	box := b.callAs(b.other, "POST /v1/sandboxes", `{"template":"base"}`).text(t, "sandboxID")
	if err := b.store.Record(t.Context(), bulkhead.Act{Tenant: "umbrella", Action: "key.create", Target: theirs, TargetTenant: "umbrella"}); err != nil {
		t.Fatal(err)
	}
	for _, route := range []string{"GET /v1/keys", "GET /v1/usage?by=tenant", "GET /v1/usage?by=sandbox&sandbox=" + box, "GET /v1/audit", "GET /v1/sandboxes"} {
		if r := b.callAs(mine, route, ""); r.status != http.StatusOK || strings.Contains(r.body, "umbrella") || strings.Contains(r.body, theirs) {
			t.Errorf("%s: %d %s", route, r.status, r.body)
		}
	}
	for _, route := range []string{
		"GET /v1/tenants/umbrella", "GET /v1/tenants/nobody", "GET /v1/keys?tenant=umbrella", "GET /v1/keys?tenant=nobody",
		"DELETE /v1/keys/" + theirs, "DELETE /v1/keys/key_0", "POST /v1/keys/" + theirs + "/rotate",
		`POST /v1/keys {"tenant":"umbrella"}`, `POST /v1/keys {"tenant":"nobody"}`,
		"GET /v1/usage?tenant=umbrella", "GET /v1/audit?tenant=umbrella", "GET /v1/sandboxes/" + box, "GET /v1/sandboxes/ixxxxxxxxxxxxxxxxxxxx",
	} {
		parts := strings.SplitN(route, " ", 3)
		body := ""
		if len(parts) == 3 {
			body = parts[2]
		}
		r := b.callAs(mine, parts[0]+" "+parts[1], body)
		if r.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", route, r.status, r.body)
		}
	}
	if k, err := b.store.Key(t.Context(), "umbrella", theirs); err != nil || !k.RevokedAt.IsZero() || !k.PreviousUntil.IsZero() {
		t.Errorf("their key is %+v, %v", k, err)
	}
}

// A key that manages its tenant cannot become more than that.
func TestManageDoesNotEscalate(t *testing.T) {
	b := newBench(t)
	manage := b.scoped("ops", store.ScopeManage)
	_, admin := b.keyOf("ops", func(r *store.KeyRequest) { r.Scopes = []string{store.ScopeAdmin} })
	for route, want := range map[string]int{
		`POST /v1/keys {"scopes":["admin"]}`:           http.StatusForbidden,
		`POST /v1/keys {"scopes":["run","manage"]}`:    http.StatusCreated,
		"POST /v1/keys/" + admin + "/rotate {}":        http.StatusForbidden,
		"DELETE /v1/keys/" + admin + " ":               http.StatusForbidden,
		`PATCH /v1/tenants/ops {"tier":"enterprise"}`:  http.StatusForbidden,
		`PUT /v1/tiers/unlimited {"multiplier":10}`:    http.StatusForbidden,
		"POST /v1/keys/" + admin + `/rotate {"g":"x"}`: http.StatusBadRequest,
	} {
		parts := strings.SplitN(route, " ", 3)
		if r := b.callAs(manage, parts[0]+" "+parts[1], parts[2]); r.status != want {
			t.Errorf("%s: %d %s; want %d", route, r.status, r.body, want)
		}
	}
}

func TestTenantLife(t *testing.T) {
	b := newBench(t)
	admin := func(route, body string, want int) reply {
		t.Helper()
		r := b.callAs(b.admin, route, body)
		if r.status != want {
			t.Fatalf("%s %s: %d %s; want %d", route, body, r.status, r.body, want)
		}
		return r
	}
	admin("POST /v1/tenants", `{"id":"new","tier":"free","quota":{"sandboxes":9,"sandbox":{"cpu":1}}}`, 201)
	admin("POST /v1/tenants", `{"id":"new"}`, 409)
	key, _ := b.keyOf("new", func(r *store.KeyRequest) { r.Scopes = []string{store.ScopeRun, store.ScopeManage} })
	r := b.callAs(key, "GET /v1/tenants/new", "")
	var view struct {
		Quota     bulkhead.Quota `json:"quota"`
		Effective bulkhead.Quota `json:"effective"`
	}
	if err := json.Unmarshal([]byte(r.body), &view); err != nil || r.status != 200 {
		t.Fatalf("%d %s, %v", r.status, r.body, err)
	}
	if e := view.Effective; view.Quota.Sandboxes != 9 || e.Sandboxes != 9 || e.CPU != 4 || e.Sandbox.CPU != 1 || e.Sandbox.MemoryMB != 2048 {
		t.Errorf("the tenant sees %+v", view)
	}
	admin("PATCH /v1/tenants/new", `{"tier":"basic","quota":{"cpu":3,"sandbox":{"pids":100}}}`, 200)
	admin("PATCH /v1/tenants/new", `{"quota":{"sandboxes":0}}`, 200)
	got, err := b.store.Tenant(t.Context(), "new")
	want := bulkhead.Tenant{ID: "new", Tier: "basic", CreatedAt: got.CreatedAt, Quota: bulkhead.Quota{CPU: 3, Sandbox: bulkhead.Limits{CPU: 1, Pids: 100}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("after two patches (-want +got): %v\n%s", err, diff)
	}
	for body, message := range map[string]string{
		`{}`: "nothing is to be changed", `{"quota":{"cpus":3}}`: `unknown field "quota.cpus"`, `{"quota":{"cpu":"x"}}`: `quota.cpu is "x"; it must be a number`,
		`{"quota":{"cpu":-1}}`: "quota.cpu is -1; it must be between 0", `{"tier":"gold"}`: `tier is "gold"; there is no such tier`,
		`{"quota":{"sandbox":{"pids":1}}}`: "quota.sandbox.pids is 1; it must be between 16 and 65536", `{"id":"other"}`: `"id"`,
	} {
		if r := admin("PATCH /v1/tenants/new", body, 400); !strings.Contains(r.message(t), message) {
			t.Errorf("%s: %s; want …%s…", body, r.message(t), message)
		}
	}
	box := b.callAs(key, "POST /v1/sandboxes", `{"template":"base"}`).text(t, "sandboxID")
	admin("DELETE /v1/tenants/new", "", 409)
	admin("DELETE /v1/tenants/new?force=maybe", "", 400)
	admin("DELETE /v1/tenants/ops", "", 409) // the key's own
	admin("DELETE /v1/tenants/default", "", 409)
	admin("DELETE /v1/tenants/new?force=true", "", 204)
	admin("GET /v1/tenants/new", "", 404)
	if r := b.callAs(key, "GET /v1/sandboxes", ""); r.status != 401 {
		t.Errorf("the key of a deleted tenant: %d", r.status)
	}
	if sb, err := b.store.Sandbox(t.Context(), "", box); err != nil || sb.State != bulkhead.StateEnded {
		t.Errorf("its sandbox is %s, %v", sb.State, err)
	}
	admin("PUT /v1/tiers/gold", `{"multiplier":2,"priority":5}`, 200)
	admin("PUT /v1/tiers/Gold", `{"multiplier":2,"priority":5}`, 400)
	admin("DELETE /v1/tiers/unlimited", "", 409)
	admin("DELETE /v1/tiers/gold", "", 204)
}

func TestRotateKey(t *testing.T) {
	b := newBench(t)
	manage := b.scoped("acme", store.ScopeManage)
	old, id := b.keyOf("acme", nil)
	r := b.callAs(manage, "POST /v1/keys/"+id+"/rotate", `{"graceSeconds":60}`)
	fresh := r.text(t, "secret")
	if r.status != 200 || fresh == old || fresh == "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	until, err := time.Parse(time.RFC3339, r.text(t, "previousUntil"))
	if left := time.Until(until); err != nil || left > time.Minute || left < 50*time.Second {
		t.Errorf("the old one is good until %v, %v", until, err)
	}
	for name, key := range map[string]string{"old": old, "new": fresh} {
		if r := b.callAs(key, "GET /v1/sandboxes", ""); r.status != 200 {
			t.Errorf("with the %s secret: %d", name, r.status)
		}
	}
	r = b.callAs(manage, "POST /v1/keys/"+id+"/rotate", `{"graceSeconds":0}`)
	if r := b.callAs(fresh, "GET /v1/sandboxes", ""); r.status != 401 {
		t.Errorf("without grace the old secret gets %d", r.status)
	}
	if r := b.callAs(manage, "POST /v1/keys/"+id+"/rotate", `{"graceSeconds":2592001}`); r.status != 400 || !strings.Contains(r.body, "graceSeconds is 2592001; it must be between 0 and 2592000") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if strings.Contains(b.log.String(), r.text(t, "secret")) {
		t.Error("the log has a secret")
	}
}

func TestChangeKey(t *testing.T) {
	b := newBench(t, func(c *api.Config) { c.Now = func() time.Time { return epoch } }) // no token comes back
	manage := b.scoped("acme", store.ScopeManage)
	key, id := b.keyOf("acme", nil)
	list := func() reply { return b.callAs(key, "GET /v2/sandboxes", "") }
	if r := list(); r.status != 200 || r.header.Get("RateLimit-Limit") != "" {
		t.Errorf("without a rate: %d %v", r.status, r.header)
	}
	r := b.callAs(manage, "PATCH /v1/keys/"+id, `{"requestsPerSecond":0.2,"name":"slower"}`)
	if r.status != 200 || r.text(t, "name") != "slower" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for i, want := range []int{200, 200, 429} {
		if r := list(); r.status != want {
			t.Errorf("request %d at 0.2 a second: %d, want %d", i, r.status, want)
		}
	}
	if r := b.callAs(manage, "PATCH /v1/keys/"+id, `{"requestsPerSecond":0}`); r.status != 200 {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := list(); r.status != 200 {
		t.Errorf("without a rate again: %d", r.status)
	}
	_, admin := b.keyOf("acme", func(r *store.KeyRequest) { r.Scopes = []string{store.ScopeAdmin} })
	for name, c := range map[string]struct {
		key, id, body string
		want          int
	}{
		"nothing":                {manage, id, `{}`, 400},
		"a wrong rate":           {manage, id, `{"createsPerSecond":-1}`, 400},
		"no such key":            {manage, "key_0", `{"name":"x"}`, 404},
		"its own, without scope": {key, id, `{"requestsPerSecond":0}`, 403},
		"another tenant's":       {b.scoped("umbrella", store.ScopeManage), id, `{"name":"x"}`, 404},
		"an administrator's":     {manage, admin, `{"name":"x"}`, 403},
	} {
		if r := b.callAs(c.key, "PATCH /v1/keys/"+c.id, c.body); r.status != c.want {
			t.Errorf("%s: %d %s, want %d", name, r.status, r.body, c.want)
		}
	}
}

func TestKeyRates(t *testing.T) {
	b := newBench(t, func(c *api.Config) { c.Now = func() time.Time { return epoch } }) // no token comes back
	key, _ := b.keyOf("acme", func(r *store.KeyRequest) { r.RequestsPerSecond, r.CreatesPerSecond = 0.5, 0.2 })
	create := func() reply { return b.callAs(key, "POST /v2/sandboxes", `{"templateID":"base"}`) }
	for i := range 2 {
		r := create()
		if r.status != 201 || r.header.Get("RateLimit-Limit") != "2" || r.header.Get("RateLimit-Remaining") != strconv.Itoa(1-i) {
			t.Errorf("create %d: %d %v", i, r.status, r.header)
		}
	}
	r := create()
	if r.status != 429 || r.header.Get("Retry-After") != "5" || r.header.Get("RateLimit-Remaining") != "0" || r.header.Get("RateLimit-Reset") != "10" ||
		r.header.Get("RateLimit-Policy") != `"creates";q=2;w=10` || r.header.Get("RateLimit") != `"creates";r=0;t=10` ||
		!strings.Contains(r.message(t), "may make 0.2 creates a second") {
		t.Errorf("a third create: %d %v %s", r.status, r.header, r.body)
	}
	for i := range 2 { // of five requests, three creates are gone
		if r := b.callAs(key, "GET /v2/sandboxes", ""); r.status != 200 || r.header.Get("RateLimit-Remaining") != strconv.Itoa(1-i) {
			t.Errorf("request %d: %d %v", i, r.status, r.header)
		}
	}
	if r := b.callAs(key, "GET /v2/sandboxes", ""); r.status != 429 || r.header.Get("Retry-After") != "2" {
		t.Errorf("a sixth request: %d %v", r.status, r.header)
	}
	if r := b.call("GET /v2/sandboxes", ""); r.status != 200 || r.header.Get("RateLimit-Limit") != "" {
		t.Errorf("a key without rates: %d %v", r.status, r.header)
	}
}

// Every privileged call is in the log before it is answered, with what came of it.
func TestAudit(t *testing.T) {
	b := newBench(t)
	_, id := b.keyOf("acme", nil)
	box := b.callAs(b.other, "POST /v1/sandboxes", `{"template":"base"}`).text(t, "sandboxID")
	for _, c := range []struct {
		key, route, body string
		want             []string // action, target, target's tenant, outcome, part of the detail
	}{
		{b.admin, "POST /v1/tenants", `{"id":"new","tier":"free"}`, []string{"tenant.create", "new", "new", "ok", "tier free"}},
		{b.admin, "POST /v1/tenants", `{"id":"new","tier":"free"}`, []string{"tenant.create", "new", "new", "conflict", "exists already"}},
		{b.admin, "PATCH /v1/tenants/new", `{"quota":{"cpu":2}}`, []string{"tenant.update", "new", "new", "ok", `"cpu":2`}},
		{b.admin, "PATCH /v1/tenants/nobody", `{"tier":"free"}`, []string{"tenant.update", "nobody", "nobody", "not_found", "was not found"}},
		{b.admin, "PUT /v1/tiers/gold", `{"multiplier":2,"priority":5}`, []string{"tier.put", "gold", "", "ok", `"priority":5`}},
		{b.admin, "DELETE /v1/tiers/gold", "", []string{"tier.delete", "gold", "", "ok", ""}},
		{b.admin, "POST /v1/keys/" + id + "/rotate", "", []string{"key.rotate", id, "acme", "ok", "grace 24h"}},
		{b.admin, "DELETE /v1/keys/" + id, "", []string{"key.revoke", id, "acme", "ok", ""}},
		{b.admin, "DELETE /v1/tenants/new?force=true", "", []string{"tenant.delete", "new", "new", "ok", "forced"}},
		{b.admin, "PATCH /v1/sandboxes/" + box + "/resources", `{"pids":100}`, []string{"sandbox.resize", box, "umbrella", "ok", `{"pids":100}`}},
		{b.key, "DELETE /v1/tenants/acme", "", []string{"tenant.delete", "acme", "", "forbidden", "lacks the scope"}},
	} {
		r := b.callAs(c.key, c.route, c.body)
		acts, err := b.store.Acts(t.Context(), store.ActQuery{Limit: 1})
		if err != nil || len(acts) != 1 {
			t.Fatalf("%s: %v, %v", c.route, acts, err)
		}
		a := acts[0]
		if got := []string{a.Action, a.Target, a.TargetTenant, a.Outcome}; !slices.Equal(got, c.want[:4]) || !strings.Contains(a.Detail, c.want[4]) {
			t.Errorf("%s: recorded %q, %q; want %q", c.route, got, a.Detail, c.want)
		}
		if a.Source != "127.0.0.1" || a.Request != r.header.Get("X-Request-Id") || !strings.HasPrefix(a.Key, "key_") || a.Tenant == "" {
			t.Errorf("%s: recorded %+v", c.route, a)
		}
	}
	secret := b.callAs(b.admin, "POST /v1/keys", `{"tenant":"acme"}`).text(t, "secret")
	all := b.callAs(b.admin, "GET /v1/audit", "")
	if all.status != 200 || secret == "" || strings.Contains(all.body, secret) {
		t.Errorf("the log shows %s", all.body)
	}
	page := b.callAs(b.admin, "GET /v1/audit?limit=3", "")
	var acts []bulkhead.Act
	if err := json.Unmarshal([]byte(page.body), &acts); err != nil || len(acts) != 3 || page.header.Get("X-Next-Token") != acts[2].ID {
		t.Errorf("a page: %s, %v, %v", page.body, page.header, err)
	}
	for query, message := range map[string]string{"limit=1001": "limit is", "from=yesterday": `from is "yesterday"; it must be a time`} {
		if r := b.callAs(b.admin, "GET /v1/audit?"+query, ""); r.status != 400 || !strings.Contains(r.message(t), message) {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
	for range 50 { // which a key that may nothing cannot fill
		b.call("DELETE /v1/tenants/acme", "")
	}
	refused, err := b.store.Acts(t.Context(), store.ActQuery{Limit: 100, Action: "tenant.delete", Tenant: "acme"})
	if err != nil || len(refused) > 15 {
		t.Errorf("%d refused acts of one key are recorded, %v", len(refused), err)
	}
}

func TestUsage(t *testing.T) {
	b := newBench(t, func(c *api.Config) {
		c.Prices = bulkhead.Prices{SandboxSecond: 0.001, CPUSecond: 0.01, GBSecond: 0.1, EgressGB: 1}
	})
	manage := b.scoped("acme", store.ScopeManage)
	for i, tenant := range []string{"acme", "acme", "umbrella"} {
		from := epoch.Add(time.Duration(i) * -24 * time.Hour)
		if err := b.store.AddUsage(t.Context(), []bulkhead.Metered{{
			Sandbox: fmt.Sprintf("i%d", i), Tenant: tenant, First: true, From: from, To: bulkhead.Meter{At: from.Add(10 * time.Second)},
			CPU: 2 * time.Second, Egress: 1 << 29, Ingress: 3, MemoryMiBMillis: 512 * 10_000,
		}}); err != nil {
			t.Fatal(err)
		}
	}
	const cost = 0.001*10 + 0.01*2 + 0.1*5 + 0.5
	var got struct {
		From  string           `json:"from"`
		To    string           `json:"to"`
		Rows  []store.UsageRow `json:"rows"`
		Total bulkhead.Usage   `json:"total"`
	}
	get := func(key, query string) reply {
		t.Helper()
		r := b.callAs(key, "GET /v1/usage?"+query, "")
		got.Rows = nil
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != 200 {
			t.Fatalf("%s: %d %s, %v", query, r.status, r.body, err)
		}
		return r
	}
	one := bulkhead.Usage{Sandboxes: 1, Seconds: 10, CPUSeconds: 2, GBSeconds: 5, EgressBytes: 1 << 29, IngressBytes: 3, Cost: cost}
	get(manage, "")
	if diff := cmp.Diff([]store.UsageRow{{Day: "2026-11-21", Usage: one}, {Day: "2026-11-22", Usage: one}}, got.Rows); diff != "" || got.From != "2026-11-01" || got.To != "2026-11-22" {
		t.Errorf("this month, %s to %s (-want +got):\n%s", got.From, got.To, diff)
	}
	if got.Total.Cost != 2*cost || got.Total.Sandboxes != 2 {
		t.Errorf("total %+v", got.Total)
	}
	get(b.admin, "by=tenant&from=2026-11-20&to=2026-11-21")
	if diff := cmp.Diff([]store.UsageRow{{Tenant: "acme", Usage: one}, {Tenant: "umbrella", Usage: one}}, got.Rows); diff != "" {
		t.Errorf("by tenant (-want +got):\n%s", diff)
	}
	get(b.admin, "by=sandbox&sandbox=i2&tenant=umbrella")
	if diff := cmp.Diff([]store.UsageRow{{Tenant: "umbrella", Sandbox: "i2", Usage: one}}, got.Rows); diff != "" {
		t.Errorf("by sandbox (-want +got):\n%s", diff)
	}

	const table = "day,tenant,sandbox,sandboxes,seconds,cpu_seconds,gb_seconds,egress_bytes,ingress_bytes,cost\n" +
		",acme,i0,1,10,2,5,536870912,3,1.03\n,acme,i1,1,10,2,5,536870912,3,1.03\n"
	if r := b.callAs(manage, "GET /v1/usage?by=sandbox&format=csv", ""); r.body != table || !strings.HasPrefix(r.header.Get("Content-Type"), "text/csv") {
		t.Errorf("format=csv: %s %s", r.header.Get("Content-Type"), r.body)
	}
	for accept, csv := range map[string]bool{"text/csv": true, "application/json, text/csv;q=0.5": false, "text/csv, */*": true, "*/*": false, "": false} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/usage?by=sandbox", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", manage)
		req.Header.Set("Accept", accept)
		if r := b.send(req); (r.body == table) != csv {
			t.Errorf("Accept: %s: %s", accept, r.body)
		}
	}
	for query, message := range map[string]string{
		"by=node": `by is "node"; it must be one of day, tenant, sandbox`, "from=1.1.2026": `from is "1.1.2026"; it must be a day such as`,
		"from=2026-11-22&to=2026-11-21": "to is 2026-11-21, which is before from, 2026-11-22", "from=2020-01-01": "days apart; they may be 400", "format=xml": "format is",
	} {
		if r := b.callAs(manage, "GET /v1/usage?"+query, ""); r.status != 400 || !strings.Contains(r.message(t), message) {
			t.Errorf("%s: %d %s; want …%s…", query, r.status, r.body, message)
		}
	}
}
