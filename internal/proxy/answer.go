package proxy

import (
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// answer is what the proxy says itself, in E2B's shape.
type answer struct {
	SandboxID string `json:"sandboxId,omitempty"`
	Message   string `json:"message"`
	Port      int    `json:"port,omitempty"`
	Code      int    `json:"code"`
	Retry     bool   `json:"-"`
}

// Error implements error.
func (a *answer) Error() string { return a.Message }

// unknown is the answer for a sandbox that is not there, or no longer.
func unknown(id string) *answer {
	return &answer{Code: http.StatusBadGateway, SandboxID: id, Message: "The sandbox was not found"}
}

// page is what a person sees in a browser.
var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Message}}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#222;background:#fff}
code{background:#eee;padding:.1em .3em;border-radius:.2em}@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}code{background:#333}}</style>
<h1>{{.Message}}</h1>
{{with .SandboxID}}<p>Sandbox <code>{{.}}</code></p>{{end}}
{{with .Port}}<p>Port <code>{{.}}</code>. Is the server in the sandbox started, and does it listen on <code>0.0.0.0</code>?</p>{{end}}
<p>Status {{.Code}}</p></html>
`))

// refuse answers a request that goes to no box.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	a, ok := errors.AsType[*answer](err)
	if !ok {
		a = &answer{Code: http.StatusInternalServerError, Message: "Internal error"}
	}
	p.count(kindNone, a.Code)
	p.write(w, r, a)
}

// write writes a as a page for browsers and as JSON for everyone else.
func (p *Proxy) write(w http.ResponseWriter, r *http.Request, a *answer) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if a.Retry {
		h.Set("Retry-After", "1")
	}
	if browser(r) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.WriteHeader(a.Code)
		_ = page.Execute(w, a) // the client may be gone
		return
	}
	b, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(a.Code)
	_, _ = w.Write(b)
}

// browser reports whether a person looks at the answer.
func browser(r *http.Request) bool {
	return strings.HasPrefix(r.UserAgent(), "Mozilla/") && !strings.Contains(r.Header.Get("Accept"), "application/json")
}
