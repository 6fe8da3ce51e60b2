package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   string
}

// message is the message of an error.
func (r reply) message(tb testing.TB) string {
	tb.Helper()
	var e struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		tb.Fatalf("%q is not an error: %v", r.body, err)
	}
	if e.Code != r.status {
		tb.Errorf("code %d in the body of a %d", e.Code, r.status)
	}
	return e.Message
}

// object is the body as JSON.
func (r reply) object(tb testing.TB) map[string]any {
	tb.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		tb.Fatalf("%q is not an object: %v", r.body, err)
	}
	return v
}

// text is a field of the body that is a string, empty if it is not.
func (r reply) text(tb testing.TB, field string) string {
	tb.Helper()
	s, _ := r.object(tb)[field].(string)
	return s
}

// ids are the sandboxes in a list.
func (r reply) ids(tb testing.TB) []string {
	tb.Helper()
	var v []struct {
		SandboxID string `json:"sandboxID"`
	}
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		tb.Fatalf("%q is not a list: %v", r.body, err)
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
	defer func() { _ = res.Body.Close() }()
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
