package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

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
	theirs := b.callAs(b.other, "POST /v2/sandboxes", `{"templateID":"base"}`).text(t, "sandboxID")
	killed := b.create(`{"templateID":"base"}`)
	if r := b.call("DELETE /sandboxes/"+killed, ""); r.status != 204 {
		t.Fatalf("kill: %d %s", r.status, r.body)
	}
	for _, id := range []string{theirs, killed, "inone", "UPPER", "a%2Fb", strings.Repeat("a", 65)} {
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
