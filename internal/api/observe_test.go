package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

func TestMetricsAndLogs(t *testing.T) {
	b := newBench(t)
	id, idle := b.create(`{"templateID":"base"}`), b.create(`{"templateID":"base"}`)
	theirs := b.callAs(b.other, "POST /v2/sandboxes", `{"templateID":"base"}`).text(t, "sandboxID")
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
			Names       []string `json:"names"`
			TemplateID  string   `json:"templateID"`
			BuildID     string   `json:"buildID"`
			BuildStatus string   `json:"buildStatus"`
			CPUCount    int      `json:"cpuCount"`
			DiskSizeMB  int      `json:"diskSizeMB"`
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
	for _, path := range []string{"/templates", "/templates?teamID=acme", "/default-templates", "/v2/templates"} {
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
		got := b.call("GET /templates/"+name, "").object(t)
		if builds, _ := got["builds"].([]any); got["templateID"] != "tplbase0000000000000" || len(builds) != 1 {
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
