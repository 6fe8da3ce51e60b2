package api_test

import (
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/supply/supplytest"
)

func TestPools(t *testing.T) {
	b := newBench(t, func(c *api.Config) {
		c.Pools = supplytest.New(
			bulkhead.Template{Name: "base", ID: "tplbase0000000000000", Digest: "sha256:01"},
			bulkhead.Template{Name: "ns/own:1", ID: "tplown00000000000000", Digest: "sha256:02"},
		)
	})
	for _, c := range []struct {
		as, call, body string
		status         int
		says           string
	}{
		{b.key, "GET /v1/pools", "", 403, "admin"},
		{b.key, "PATCH /v1/pools/base", `{"pin":null}`, 403, "admin"},
		{b.admin, "GET /v1/pools", "", 200, `"template":"base"`},
		{b.admin, "PATCH /v1/pools/base", `{"pin":{"warm":2,"cold":1}}`, 200, `"pinned":true`},
		{b.admin, "GET /v1/pools", "", 200, `"totals":{"warm":2,"cold":1,`},
		{b.admin, "PATCH /v1/pools/ns%2Fown:1", `{"pin":{"warm":1}}`, 200, `"template":"ns/own:1"`},
		{b.admin, "PATCH /v1/pools/base", `{"pin":null}`, 200, `"pinned":false`},
		{b.admin, "PATCH /v1/pools/base", `{}`, 400, "pin is missing"},
		{b.admin, "PATCH /v1/pools/base", `{"pin":{}}`, 400, "pin.warm is missing"},
		{b.admin, "PATCH /v1/pools/base", `{"pin":{"warm":-1}}`, 400, "between 0 and 1000"},
		{b.admin, "PATCH /v1/pools/base", `{"pin":{"warm":1.5}}`, 400, "integer"},
		{b.admin, "PATCH /v1/pools/base", `{"pin":{"warm":1,"hot":2}}`, 400, "hot"},
		{b.admin, "PATCH /v1/pools/base", `{"pin":7}`, 400, ""},
		{b.admin, "PATCH /v1/pools/nope", `{"pin":null}`, 404, "nope"},
		{b.admin, "GET /v1/pools/base/forecast", "", 200, `"mean":0`},
		{b.admin, "GET /v1/pools/base/forecast?horizon=90m", "", 200, `"p99":0`},
		{b.admin, "GET /v1/pools/base/forecast?horizon=soon", "", 400, "soon"},
		{b.admin, "GET /v1/pools/base/forecast?horizon=1000h", "", 400, "horizon is 1000h"},
		{b.admin, "GET /v1/pools/nope/forecast", "", 404, "nope"},
	} {
		if r := b.callAs(c.as, c.call, c.body); r.status != c.status || !strings.Contains(r.body, c.says) {
			t.Errorf("%s %s: %d %s; want %d with %q", c.call, c.body, r.status, r.body, c.status, c.says)
		}
	}
}
