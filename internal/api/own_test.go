package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

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
	id := r.text(t, "sandboxID")
	limits, _ := got["limits"].(map[string]any)
	if got["envdToken"] != "envd-"+id || got["trafficToken"] != "traffic-"+id || got["state"] != "running" ||
		limits["memoryMB"] != 128.0 || limits["pids"] != 512.0 {
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
		{`{"template":"base","timeoutSeconds":0}`, 400, "Timeout must be greater than 0; timeoutSeconds is 0"},
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
		ids = append([]string{r.text(t, "sandboxID")}, ids...)
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
	r := b.callAs(b.admin, "POST /v1/keys", `{"tenant":"newcomer","name":"ci","scopes":["run"]}`)
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
