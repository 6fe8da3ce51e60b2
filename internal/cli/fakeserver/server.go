// Package fakeserver is a Bulkhead server in one process for tests of the client
// and the command line. Its control plane is the real one, internal/api, on top
// of the real store and of a node that keeps sandboxes and logs in memory. Its data plane routes
// by header to whatever handler a test puts behind a port, the real envd for one,
// and answers for sandboxes and ports that are not there.
//
// It isolates nothing, and has no quota but [Server.MaxSandboxes].
package fakeserver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/quota/quotatest"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply/supplytest"
)

// Server is an http.Handler. Its exported fields are set before it serves.
type Server struct {
	// Dir is the folder of its database. It must be set.
	Dir string
	// Key is the secret of a key of the tenant "default" with every scope.
	Key string
	// Domain is told to clients, for port URLs. It may be empty.
	Domain string
	// MaxSandboxes is each tenant's quota; 0 means none.
	MaxSandboxes int
	// Templates are the names that a create may give.
	Templates []string
	// Box makes what is behind a port of a new sandbox; nil means that nothing
	// listens there.
	Box func(sandbox bulkhead.Sandbox, port int) http.Handler
	// Fail, when not nil, may answer a request in the server's place.
	Fail func(w http.ResponseWriter, r *http.Request) bool

	once  sync.Once
	api   *api.Server
	books *quotatest.Books
	store *store.Store

	mu        sync.Mutex
	sandboxes []*sandbox // the newest last
}

// sandbox is one sandbox and what is behind its ports.
type sandbox struct {
	bulkhead.Sandbox
	ports map[int]http.Handler
	logs  []bulkhead.LogLine
}

// ServeHTTP serves both planes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.once.Do(s.start)
	switch {
	case s.Fail != nil && s.Fail(w, r):
	case r.Header.Get("E2b-Sandbox-Id") != "":
		s.serveBox(w, r)
	default:
		s.api.ServeHTTP(w, r)
	}
}

// start makes the control plane.
func (s *Server) start() {
	if s.Dir == "" {
		panic("fakeserver: Dir is not set")
	}
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	var err error
	if s.store, err = store.Open(ctx, filepath.Join(s.Dir, "bulkhead.db"), log); err != nil {
		panic(fmt.Sprintf("open store: %v", err)) // of a test
	}
	if _, err := s.store.CreateTenant(ctx, bulkhead.Tenant{ID: "acme", Tier: "basic"}); err != nil {
		panic(fmt.Sprintf("make tenant: %v", err))
	}
	if s.Key != "" {
		if _, _, err := s.store.CreateKey(ctx, store.KeyRequest{
			Tenant: bulkhead.DefaultTenant, Name: "test", Scopes: store.Scopes(), Secret: s.Key,
		}); err != nil {
			panic(fmt.Sprintf("make key: %v", err))
		}
	}
	n := node{s}
	s.books = quotatest.New()
	all := make([]bulkhead.Template, len(s.Templates))
	for i, name := range s.Templates {
		all[i] = bulkhead.Template{ID: templateID(name), Name: name, Digest: "sha256:" + strings.Repeat("0", 64)}
	}
	control, err := api.New(api.Config{
		Lifecycle: n, Lookup: n, Telemetry: n, Templates: templates{s}, History: n, Quotas: n, Host: s.books.Host, Pools: supplytest.New(all...),
		Authenticator: s.store, Keys: s.store, Tenants: s.store, Tiers: s.store, Usage: s.store, Audit: s.store,
		Prices: bulkhead.Prices{CPUSecond: 0.5}, Domain: s.Domain, Registry: prometheus.NewRegistry(), Log: log,
	})
	if err != nil {
		panic(fmt.Sprintf("make control plane: %v", err)) // a defect of this package
	}
	s.api = control
}

// Close closes the database.
func (s *Server) Close() error {
	s.once.Do(s.start)
	return s.store.Close()
}

// Store is where its tenants, keys and usage are.
func (s *Server) Store() *store.Store {
	s.once.Do(s.start)
	return s.store
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

// End ends a sandbox as a limit or an operator would.
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

// serveBox is the data plane: it routes by header, and answers for sandboxes and
// ports that are not there.
func (s *Server) serveBox(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("E2b-Sandbox-Id")
	port, err := strconv.Atoi(r.Header.Get("E2b-Sandbox-Port"))
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"code": http.StatusBadRequest, "message": "the header E2b-Sandbox-Port is missing"})
		return
	}
	s.mu.Lock()
	sb := s.find(id)
	var h http.Handler
	var token, traffic string
	gone := sb == nil || sb.End != nil
	if !gone {
		token, traffic = sb.EnvdToken, sb.TrafficToken
		if sb.ports[port] == nil && s.Box != nil {
			sb.ports[port] = s.Box(sb.Sandbox, port)
		}
		h = sb.ports[port]
	}
	s.mu.Unlock()
	switch own := port == boxrpc.EnvdPort || port == boxrpc.InterpreterPort; {
	case gone:
		answer(w, http.StatusBadGateway, map[string]any{"sandboxId": id, "message": "The sandbox was not found", "code": http.StatusBadGateway})
	case traffic != "" && port != boxrpc.EnvdPort && r.Header.Get("E2b-Traffic-Access-Token") != traffic:
		answer(w, http.StatusForbidden, map[string]any{"sandboxId": id, "message": "the traffic token is missing or wrong", "code": http.StatusForbidden})
	case own && token != "" && r.Header.Get("X-Access-Token") != token:
		answer(w, http.StatusUnauthorized, map[string]any{"code": http.StatusUnauthorized, "message": "unauthorized access"})
	case h == nil:
		answer(w, http.StatusBadGateway, map[string]any{
			"sandboxId": id, "message": "The sandbox is running but port is not open", "port": port, "code": http.StatusBadGateway,
		})
	default:
		h.ServeHTTP(w, r)
	}
}
