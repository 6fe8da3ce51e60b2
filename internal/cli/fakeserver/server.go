// Package fakeserver is a Bulkhead server in one process for tests of the client
// and the command line. Its control plane keeps sandboxes, keys and logs in
// memory and answers as the real one does, errors included. Its data plane
// routes by header to whatever handler a test puts behind a port, the real envd
// for one, and answers for sandboxes and ports that are not there.
//
// It runs no code of its own accord and has no quotas but [Server.MaxSandboxes].
package fakeserver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Server is an http.Handler. Its exported fields are set before it serves.
type Server struct {
	// Key is the one key that is let in.
	Key string
	// Domain is told to clients, for port URLs. It may be empty.
	Domain string
	// MaxSandboxes is the tenant's quota; 0 means none.
	MaxSandboxes int
	// PageSize bounds a page of a list whatever its limit says; 0 means 100.
	PageSize int
	// Templates are the names that a create may give.
	Templates []string
	// Box makes what is behind a port of a new sandbox; nil means that nothing
	// listens there.
	Box func(sandbox bulkhead.Sandbox, port int) http.Handler
	// Fail, when not nil, may answer a request in the server's place.
	Fail func(w http.ResponseWriter, r *http.Request) bool

	mu        sync.Mutex
	sandboxes []*sandbox // the newest last
	keys      []map[string]any
	created   int
}

// sandbox is one sandbox and what is behind its ports.
type sandbox struct {
	bulkhead.Sandbox
	ports map[int]http.Handler
	logs  []bulkhead.LogLine
}

// ServeHTTP serves both planes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Fail != nil && s.Fail(w, r) {
		return
	}
	if r.Header.Get("E2b-Sandbox-Id") != "" {
		s.serveBox(w, r)
		return
	}
	if s.Key != "" && r.Header.Get("X-API-KEY") != s.Key {
		Refuse(w, bulkhead.Errorf(bulkhead.CodeUnauthenticated, "the API key is not known"))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mux().ServeHTTP(w, r)
}

// mux is the control plane. Its handlers run under mu.
func (s *Server) mux() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("POST /sandboxes", s.create)
	m.HandleFunc("POST /v2/sandboxes", s.create)
	m.HandleFunc("POST /v2/sandboxes/{id}/connect", s.with(s.connect))
	m.HandleFunc("GET /v2/sandboxes", s.list)
	m.HandleFunc("GET /sandboxes/{id}", s.with(func(w http.ResponseWriter, _ *http.Request, sb *sandbox) {
		answer(w, http.StatusOK, s.wire(sb, true))
	}))
	m.HandleFunc("DELETE /sandboxes/{id}", s.with(s.kill))
	m.HandleFunc("POST /sandboxes/{id}/timeout", s.with(s.timeout))
	m.HandleFunc("GET /sandboxes/{id}/metrics", s.with(s.metrics))
	m.HandleFunc("GET /v2/sandboxes/{id}/logs", s.with(s.logs))
	m.HandleFunc("GET /v1/keys", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.keys) })
	m.HandleFunc("POST /v1/keys", s.createKey)
	m.HandleFunc("DELETE /v1/keys/{id}", s.revokeKey)
	return m
}

// Refuse answers with an error as the control plane words it.
func Refuse(w http.ResponseWriter, err *bulkhead.Error) {
	if err.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(err.RetryAfter.Seconds())))
	}
	answer(w, err.Code.HTTPStatus(), map[string]any{"code": err.Code.HTTPStatus(), "message": err.Msg})
}

func answer(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // the client has gone otherwise
}

// End ends a sandbox as a limit or an operator would, cutting its streams.
func (s *Server) End(id string, end bulkhead.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb := s.find(id); sb != nil {
		sb.State, sb.End, sb.ports = bulkhead.StateEnded, &end, nil
	}
}

// Log adds a line to a sandbox's log.
func (s *Server) Log(id string, line bulkhead.LogLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb := s.find(id); sb != nil {
		sb.logs = append(sb.logs, line)
	}
}

// Sandboxes returns all that were ever made, the oldest first.
func (s *Server) Sandboxes() []bulkhead.Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]bulkhead.Sandbox, len(s.sandboxes))
	for i, sb := range s.sandboxes {
		list[i] = sb.Sandbox
	}
	return list
}

func (s *Server) find(id string) *sandbox {
	for _, sb := range s.sandboxes {
		if sb.ID == id {
			return sb
		}
	}
	return nil
}

// with looks up the sandbox of a path.
func (s *Server) with(next func(http.ResponseWriter, *http.Request, *sandbox)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sb := s.find(r.PathValue("id"))
		if sb == nil || sb.End != nil && r.Method != http.MethodGet {
			Refuse(w, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %s was not found", r.PathValue("id")))
			return
		}
		next(w, r, sb)
	}
}

// create makes a sandbox.
func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var req struct {
		TemplateID    string            `json:"templateID"`
		Timeout       int64             `json:"timeout"`
		Metadata      map[string]string `json:"metadata"`
		EnvVars       map[string]string `json:"envVars"`
		AllowInternet bool              `json:"allow_internet_access"`
		Secure        bool              `json:"secure"`
		Limits        bulkhead.Limits   `json:"limits"`
		Network       struct {
			AllowPublicTraffic *bool  `json:"allowPublicTraffic"`
			MaskRequestHost    string `json:"maskRequestHost"`
		} `json:"network"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		Refuse(w, bulkhead.Errorf(bulkhead.CodeInvalid, "the body is not JSON: %v", err))
		return
	}
	running := 0
	for _, sb := range s.sandboxes {
		if sb.End == nil {
			running++
		}
	}
	switch {
	case !slices.Contains(s.Templates, req.TemplateID):
		Refuse(w, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q was not found", req.TemplateID))
		return
	case req.Timeout <= 0:
		Refuse(w, bulkhead.Errorf(bulkhead.CodeInvalid, "Timeout must be greater than 0"))
		return
	case s.MaxSandboxes > 0 && running >= s.MaxSandboxes:
		Refuse(w, bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "you have reached the maximum number of concurrent sandboxes (%d)", s.MaxSandboxes))
		return
	}
	s.created++
	now := time.Now().UTC()
	sb := &sandbox{Sandbox: bulkhead.Sandbox{
		ID: fmt.Sprintf("i%020d", s.created), Tenant: "default", TemplateID: "t" + req.TemplateID, Template: req.TemplateID,
		TemplateDigest: "sha256:" + strings.Repeat("0", 64), State: bulkhead.StateRunning, StartedAt: now,
		EndAt: now.Add(time.Duration(req.Timeout) * time.Second), Limits: req.Limits.Or(bulkhead.DefaultLimits()),
		Metadata: req.Metadata, Env: req.EnvVars, AllowInternet: req.AllowInternet, EnvdVersion: "0.6.4",
		MaskHost: req.Network.MaskRequestHost,
	}, ports: map[int]http.Handler{}}
	if req.Secure {
		sb.EnvdToken = "token-" + sb.ID
	}
	if public := req.Network.AllowPublicTraffic; public != nil && !*public {
		sb.TrafficToken = "traffic-" + sb.ID
	}
	s.sandboxes = append(s.sandboxes, sb)
	answer(w, http.StatusCreated, s.wire(sb, false))
}

// wire is a sandbox as E2B writes it, with Bulkhead's own fields in details.
func (s *Server) wire(sb *sandbox, details bool) map[string]any {
	m := map[string]any{
		"templateID": sb.TemplateID, "sandboxID": sb.ID, "clientID": "", "envdVersion": sb.EnvdVersion,
		"alias": sb.Template, "domain": nil, "trafficAccessToken": nil,
	}
	if s.Domain != "" {
		m["domain"] = s.Domain
	}
	if sb.EnvdToken != "" {
		m["envdAccessToken"] = sb.EnvdToken
	}
	if sb.TrafficToken != "" {
		m["trafficAccessToken"] = sb.TrafficToken
	}
	if details {
		m["state"], m["startedAt"], m["endAt"], m["metadata"] = sb.State, sb.StartedAt, sb.EndAt, sb.Metadata
		m["cpuCount"], m["memoryMB"], m["diskSizeMB"] = int(sb.Limits.CPU+0.999), sb.Limits.MemoryMB, sb.Limits.DiskMB
		m["limits"], m["template"], m["templateDigest"] = sb.Limits, sb.Template, sb.TemplateDigest
		m["allowInternetAccess"] = sb.AllowInternet
		if sb.End != nil {
			m["end"] = sb.End
		}
	}
	return m
}

func (s *Server) connect(w http.ResponseWriter, r *http.Request, sb *sandbox) {
	var req struct {
		Timeout int64 `json:"timeout"`
	}
	_ = json.NewDecoder(r.Body).Decode(&req) // the body may be absent
	if end := time.Now().Add(time.Duration(cmp.Or(req.Timeout, 300)) * time.Second); end.After(sb.EndAt) {
		sb.EndAt = end
	}
	answer(w, http.StatusOK, s.wire(sb, false))
}

func (s *Server) kill(w http.ResponseWriter, _ *http.Request, sb *sandbox) {
	sb.State, sb.End, sb.ports = bulkhead.StateEnded, &bulkhead.End{Cause: bulkhead.CauseKilled, At: time.Now().UTC()}, nil
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) timeout(w http.ResponseWriter, r *http.Request, sb *sandbox) {
	var req struct {
		Timeout int64 `json:"timeout"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		Refuse(w, bulkhead.Errorf(bulkhead.CodeInvalid, "the body is not JSON: %v", err))
		return
	}
	sb.EndAt = time.Now().UTC().Add(time.Duration(req.Timeout) * time.Second)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request, sb *sandbox) {
	answer(w, http.StatusOK, []bulkhead.Sample{{
		At: sb.StartedAt, CPUPercent: 12.5, CPUCount: 2, MemUsed: 100 << 20, MemTotal: sb.Limits.MemoryMB << 20,
		DiskUsed: 10 << 20, DiskTotal: sb.Limits.DiskMB << 20,
	}})
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request, sb *sandbox) {
	limit, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("limit"), "1000"))
	if err != nil || limit < 1 || limit > 1000 {
		Refuse(w, bulkhead.Errorf(bulkhead.CodeInvalid, "limit must be between 1 and 1000"))
		return
	}
	cursor, err := strconv.ParseInt(cmp.Or(r.URL.Query().Get("cursor"), "0"), 10, 64)
	if err != nil {
		Refuse(w, bulkhead.Errorf(bulkhead.CodeInvalid, "cursor must be a number"))
		return
	}
	lines := []bulkhead.LogLine{}
	for _, l := range sb.logs {
		if l.At.UnixMilli() >= cursor && len(lines) < limit {
			lines = append(lines, l)
		}
	}
	answer(w, http.StatusOK, map[string]any{"logs": lines})
}

// list answers a page, the newest first. Its token is the number of those before.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	states := strings.Split(cmp.Or(q.Get("state"), "running"), ",")
	chosen := []map[string]any{}
	for _, sb := range slices.Backward(s.sandboxes) {
		if slices.Contains(states, string(sb.State)) && (q.Get("template") == "" || q.Get("template") == sb.Template) &&
			hasMetadata(sb.Metadata, q.Get("metadata")) {
			chosen = append(chosen, s.wire(sb, true))
		}
	}
	skip, _ := strconv.Atoi(q.Get("nextToken"))
	limit, _ := strconv.Atoi(q.Get("limit"))
	limit = min(max(limit, 1), 100, cmp.Or(s.PageSize, 100))
	end := min(skip+limit, len(chosen))
	if end < len(chosen) {
		w.Header().Set("X-Next-Token", strconv.Itoa(end))
	}
	answer(w, http.StatusOK, chosen[min(skip, end):end])
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Name   string   `json:"name"`
		Tenant string   `json:"tenant"`
		Scopes []string `json:"scopes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		Refuse(w, bulkhead.Errorf(bulkhead.CodeInvalid, "the body is not JSON: %v", err))
		return
	}
	if len(req.Scopes) == 0 {
		req.Scopes = []string{"sandboxes"}
	}
	id := fmt.Sprintf("key_%016x", len(s.keys)+1)
	key := map[string]any{
		"id": id, "name": req.Name, "tenant": cmp.Or(req.Tenant, "default"), "prefix": "e2b_0000",
		"scopes": req.Scopes, "createdAt": time.Now().UTC(),
	}
	s.keys = append(s.keys, key)
	shown := map[string]any{"key": "e2b_" + strings.Repeat("0", 40)}
	for k, v := range key {
		shown[k] = v
	}
	answer(w, http.StatusCreated, shown)
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request) {
	for _, k := range s.keys {
		if k["id"] == r.PathValue("id") {
			k["revokedAt"] = time.Now().UTC()
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	Refuse(w, bulkhead.Errorf(bulkhead.CodeNotFound, "key %s was not found", r.PathValue("id")))
}
