package api_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
)

// What is wrong with a value is said with its field, itself and what it must be,
// on every call that takes JSON, and nothing is changed by it.
func TestWrongValues(t *testing.T) {
	b := newBench(t, withPools)
	_, key := b.keyOf("acme", nil)
	id := b.callAs(b.key, "POST /v1/sandboxes", `{"template":"base"}`).text(t, "sandboxID")
	// Where numbers are: the call, its body around the field, and where that is in it.
	type place struct {
		route, body, path string
		fields            map[string]bool // to whether it is an integer
		zero              bool            // is a value
	}
	limits := map[string]bool{}
	var all map[string]any
	raw, err := json.Marshal(bulkhead.DefaultLimits())
	if err != nil || json.Unmarshal(raw, &all) != nil {
		t.Fatal(err)
	}
	for name := range maps.Keys(all) {
		limits[name] = name != "cpu"
	}
	sums := map[string]bool{
		"sandboxes": true, "cpu": false, "memoryMB": true, "diskMB": true, "ttlSeconds": true, "createsPerSecond": false,
		"cpuSecondsPerDay": false, "gbHoursPerDay": false,
	}
	rates := map[string]bool{"requestsPerSecond": false, "createsPerSecond": false}
	for _, p := range []place{
		{"POST /v1/sandboxes", `{"template":"base","limits":{%}}`, "limits.", limits, false},
		{"POST /v1/sandboxes", `{"template":"base",%}`, "", map[string]bool{"timeoutSeconds": true}, false},
		{"POST /v1/sandboxes", `{"template":"base",%}`, "", map[string]bool{"waitSeconds": false}, true},
		{"POST /v1/quota/whatif", `{"template":"base","limits":{%}}`, "limits.", limits, false},
		{"PATCH /v1/sandboxes/" + id + "/resources", `{%}`, "", limits, false},
		{"POST /v2/sandboxes", `{"templateID":"base",%}`, "", map[string]bool{"timeout": true}, false},
		{"POST /sandboxes", `{"templateID":"base",%}`, "", map[string]bool{"timeout": true}, false},
		{"POST /v1/tenants", `{"id":"new","quota":{%}}`, "quota.", sums, true},
		{"POST /v1/tenants", `{"id":"new","quota":{"sandbox":{%}}}`, "quota.sandbox.", limits, true},
		{"PATCH /v1/tenants/acme", `{"quota":{%}}`, "quota.", sums, true},
		{"PATCH /v1/tenants/acme", `{"quota":{"sandbox":{%}}}`, "quota.sandbox.", limits, true},
		{"PUT /v1/tiers/gold", `{"multiplier":1,"priority":1,"quota":{%}}`, "quota.", sums, true},
		{"PUT /v1/tiers/gold", `{"multiplier":1,"priority":1,"quota":{"sandbox":{%}}}`, "quota.sandbox.", limits, true},
		{"PUT /v1/tiers/gold", `{"priority":1,%}`, "", map[string]bool{"multiplier": false}, false},
		{"PUT /v1/tiers/gold", `{"multiplier":1,%}`, "", map[string]bool{"priority": true}, false},
		{"POST /v1/keys", `{%}`, "", rates, true},
		{"PATCH /v1/keys/" + key, `{%}`, "", rates, true},
		{"POST /v1/keys/" + key + "/rotate", `{%}`, "", map[string]bool{"graceSeconds": true}, true},
		{"PATCH /v1/pools/base", `{"pin":{%}}`, "pin.", map[string]bool{"warm": true}, true},
	} {
		for _, name := range slices.Sorted(maps.Keys(p.fields)) {
			integer := p.fields[name]
			type wrong struct{ value, says string }
			// A range is said of the field alone: it is the same wherever the field is.
			tries := []wrong{
				{"-1", name + " is -1; it must be "},
				{`"x"`, p.path + name + ` is "x"; it must be `},
				{"true", p.path + name + " is true; it must be "},
				{"[1]", p.path + name + " is [1]; it must be "},
				{`{"a":1}`, p.path + name + ` is {"a":1}; it must be `},
				{"1e400", p.path + name + " is 1e400; it must be "},
			}
			if integer {
				tries = append(
					tries, wrong{"70.5", p.path + name + " is 70.5; it must be an integer"}, wrong{"9223372036854775807", name + " is 9"},
					wrong{"9223372036854775808", p.path + name + " is 9223372036854775808; it must be an integer between "},
				)
			} else {
				tries = append(tries, wrong{"1e300", name + " is 1e+300; it must be "})
			}
			if !p.zero {
				tries = append(tries, wrong{"0", name + " is 0; it must be "})
			}
			for _, w := range tries {
				body := strings.Replace(p.body, "%", `"`+name+`":`+w.value, 1)
				r := b.callAs(b.admin, p.route, body)
				said := r.message(t)
				switch { // E2B's words, and those of pools
				case strings.HasPrefix(name, "timeout") && strings.HasPrefix(said, "Timeout "), name == "warm" && strings.HasPrefix(said, "pin is "):
					w.says = strings.TrimSuffix(w.says, "; it must be ")
					said = strings.ReplaceAll(said, "pin is ", "warm is ")
				}
				if r.status != 400 || !strings.Contains(said, w.says) {
					t.Errorf("%s %s: %d %s; want 400 …%s…", p.route, body, r.status, r.body, w.says)
				}
			}
		}
	}
	for _, w := range []struct{ route, body, says string }{
		{"POST /v1/sandboxes", `{"template":7}`, "template is 7; it must be a string"},
		{"POST /v1/sandboxes", `{"template":"base","metadata":{"a":"b","c":7}}`, "metadata.c is 7; it must be a string"},
		{"POST /v1/sandboxes", `{"template":"base","env":"A=1"}`, `env is "A=1"; it must be an object`},
		{"POST /v1/sandboxes", `{"template":"base","secure":"yes"}`, `secure is "yes"; it must be true or false`},
		{"POST /v1/sandboxes", `{"template":"base","limits":{"memory":1}}`, `unknown field "memory"`},
		{"POST /v1/sandboxes", `{"template":"` + strings.Repeat("x", 300) + `","limits":"` + strings.Repeat("x", 300) + `"}`, strings.Repeat("x", 79) + "…; it must be an object"},
		{"POST /v2/sandboxes", `{"templateID":"base","network":{"allowOut":"x"}}`, `network.allowOut is "x"; it must be an array`},
		{"POST /v2/sandboxes", `{"templateID":"base","network":{"denyOut":["1.1.1.1",7]}}`, "network.denyOut[1] is 7; it must be a string"},
		{"PUT /sandboxes/" + id + "/network", `{"allowOut":7}`, "allowOut is 7; it must be an array"},
		{"PUT /sandboxes/" + id + "/network", `{"allow_internet_access":7}`, "allow_internet_access is 7; it must be true or false"},
		{"POST /v1/keys", `{"scopes":"run"}`, `scopes is "run"; it must be an array`},
		{"POST /v1/keys", `{"scopes":["run",7]}`, "scopes[1] is 7; it must be a string"},
		{"PATCH /v1/tenants/acme", `{"quota":7}`, "quota is 7; it must be an object"},
		{"PATCH /v1/tenants/acme", `{"quota":null}`, "nothing is to be changed"},
		{"PATCH /v1/pools/base", `{"pin":7}`, "pin is 7; it must be an object"},
		{"PATCH /v1/pools/base", `{"pin":{"hot":7}}`, `unknown field "pin.hot"`},
	} {
		key := b.admin
		if strings.HasPrefix(w.route, "PUT /sandboxes") {
			key = b.key
		}
		if r := b.callAs(key, w.route, w.body); r.status != 400 || !strings.Contains(r.message(t), w.says) {
			t.Errorf("%s %.100s: %d %s; want 400 …%s…", w.route, w.body, r.status, r.body, w.says)
		}
	}
	if len(b.requests) != 1 {
		t.Errorf("%d sandboxes were asked for", len(b.requests))
	}
}
