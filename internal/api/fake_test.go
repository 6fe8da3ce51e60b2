package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/quota/quotatest"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// node is a node without boxes: it keeps books as the real one does, and can be
// told to fail one named call.
type node struct {
	*quotatest.Books

	now   func() time.Time
	store *store.Store

	mu        sync.Mutex
	live      map[string]*bulkhead.Sandbox
	samples   map[string][]bulkhead.Sample
	logs      map[string][]bulkhead.LogLine
	fail      map[string]error
	requests  []bulkhead.CreateRequest
	templates []bulkhead.Template
	made      int
}

var (
	_ api.Lifecycle = (*node)(nil)
	_ api.Lookup    = (*node)(nil)
	_ api.Telemetry = (*node)(nil)
	_ api.Templates = templates{}
	_ api.History   = (*store.Store)(nil)
	_ api.Keys      = (*store.Store)(nil)
	_ api.Quotas    = (*node)(nil)
)

// failOnce makes the next call of the name fail.
func (n *node) failOnce(call string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail[call] = err
}

// enter takes the lock, and returns the error that the call was told to fail with.
func (n *node) enter(call string) (func(), error) {
	n.mu.Lock()
	err := n.fail[call]
	delete(n.fail, call)
	n.expireLocked()
	return n.mu.Unlock, err
}

func (n *node) expireLocked() {
	for id, sb := range n.live {
		if !sb.EndAt.After(n.now()) {
			n.endLocked(id, bulkhead.CauseExpired)
		}
	}
}

func (n *node) endLocked(id string, cause bulkhead.Cause) {
	delete(n.live, id)
	if err := n.store.EndSandbox(context.Background(), id, bulkhead.End{Cause: cause, At: n.now().UTC(), Detail: "by the test"}); err != nil {
		panic(err)
	}
}

func (n *node) findLocked(tenant, id string) (*bulkhead.Sandbox, error) {
	sb, ok := n.live[id]
	if !ok || (tenant != "" && sb.Tenant != tenant) {
		return nil, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q was not found", id)
	}
	return sb, nil
}

func (n *node) Create(ctx context.Context, req bulkhead.CreateRequest) (bulkhead.Sandbox, error) {
	unlock, err := n.enter("Create")
	defer unlock()
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	t, err := find(n.templates, req.Template)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	n.requests = append(n.requests, req)
	n.made++
	sb := bulkhead.Sandbox{
		ID: fmt.Sprintf("i%020d", n.made), Tenant: req.Tenant, TemplateID: t.ID, Template: t.Name,
		TemplateDigest: t.Digest, State: bulkhead.StateRunning, StartedAt: n.now().UTC(),
		EndAt: n.now().Add(req.TTL).UTC(), Limits: req.Limits.Or(t.Defaults), Metadata: req.Metadata,
		Env: req.Env, AllowInternet: req.AllowInternet, Network: req.Network, MaskHost: req.MaskHost, EnvdVersion: boxrpc.EnvdVersion,
	}
	if req.Secure {
		sb.EnvdToken = "envd-" + sb.ID
	}
	if req.PrivateTraffic {
		sb.TrafficToken = "traffic-" + sb.ID
	}
	if err := n.store.PutSandbox(ctx, sb); err != nil {
		return bulkhead.Sandbox{}, err
	}
	n.live[sb.ID] = &sb
	return sb, nil
}

func (n *node) Resize(_ context.Context, tenant, id string, l bulkhead.Limits) (bulkhead.Sandbox, error) {
	unlock, err := n.enter("Resize")
	defer unlock()
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb, err := n.findLocked(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb.Limits = l.Or(sb.Limits)
	sb.Allocation = &bulkhead.Allocation{Sandbox: id, Tenant: sb.Tenant, Limits: sb.Limits}
	return *sb, nil
}

func (n *node) Kill(_ context.Context, tenant, id string) error {
	unlock, err := n.enter("Kill")
	defer unlock()
	if err != nil {
		return err
	}
	if _, err := n.findLocked(tenant, id); err != nil {
		return err
	}
	n.endLocked(id, bulkhead.CauseKilled)
	return nil
}

func (n *node) SetNetwork(_ context.Context, tenant, id string, internet bool, network bulkhead.Network) (bulkhead.Sandbox, error) {
	unlock, err := n.enter("SetNetwork")
	defer unlock()
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb, err := n.findLocked(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb.AllowInternet, sb.Network = internet, network
	return *sb, nil
}

func (n *node) SetDeadline(_ context.Context, tenant, id string, at time.Time, extendOnly bool) (bulkhead.Sandbox, error) {
	unlock, err := n.enter("SetDeadline")
	defer unlock()
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb, err := n.findLocked(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	if sb.State == bulkhead.StateEnding {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeConflict, "sandbox %q is ending", id)
	}
	if at.After(sb.EndAt) || !extendOnly {
		sb.EndAt = at.UTC()
	}
	return *sb, nil
}

func (n *node) Get(_ context.Context, tenant, id string) (bulkhead.Sandbox, error) {
	unlock, err := n.enter("Get")
	defer unlock()
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb, err := n.findLocked(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	return *sb, nil
}

func (n *node) List(_ context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error) {
	unlock, err := n.enter("List")
	defer unlock()
	if err != nil {
		return nil, err
	}
	var out []bulkhead.Sandbox
	for _, sb := range n.live {
		if (f.Tenant == "" || f.Tenant == sb.Tenant) &&
			(len(f.States) == 0 || slices.Contains(f.States, sb.State)) &&
			(f.Template == "" || f.Template == sb.Template || f.Template == sb.TemplateID) &&
			(f.StartedAfter.IsZero() || sb.StartedAt.After(f.StartedAfter)) && hasAll(sb.Metadata, f.Metadata) {
			out = append(out, *sb)
		}
	}
	return out, nil
}

func hasAll(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (n *node) Metrics(_ context.Context, tenant, id string, start, end time.Time) ([]bulkhead.Sample, error) {
	unlock, err := n.enter("Metrics")
	defer unlock()
	if err != nil {
		return nil, err
	}
	if _, err := n.findLocked(tenant, id); err != nil {
		return nil, err
	}
	var out []bulkhead.Sample
	for _, s := range n.samples[id] {
		if !s.At.Before(start) && !s.At.After(end) {
			out = append(out, s)
		}
	}
	return out, nil
}

func (n *node) Logs(_ context.Context, tenant, id string, since time.Time, limit int) ([]bulkhead.LogLine, error) {
	unlock, err := n.enter("Logs")
	defer unlock()
	if err != nil {
		return nil, err
	}
	if _, err := n.findLocked(tenant, id); err != nil {
		return nil, err
	}
	var out []bulkhead.LogLine
	for _, l := range n.logs[id] {
		if !l.At.Before(since) && len(out) < limit {
			out = append(out, l)
		}
	}
	return out, nil
}

// templates are the node's; another type, since the names of the methods are taken.
type templates struct{ *node }

func (t templates) List(context.Context) ([]bulkhead.Template, error) {
	unlock, err := t.enter("Templates.List")
	defer unlock()
	return slices.Clone(t.templates), err
}

func (t templates) Get(_ context.Context, nameOrID string) (bulkhead.Template, error) {
	unlock, err := t.enter("Templates.Get")
	defer unlock()
	if err != nil {
		return bulkhead.Template{}, err
	}
	return find(t.templates, nameOrID)
}

func find(all []bulkhead.Template, nameOrID string) (bulkhead.Template, error) {
	for _, t := range all {
		if t.ID == nameOrID || t.Name == nameOrID {
			return t, nil
		}
	}
	return bulkhead.Template{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q was not found", nameOrID)
}

// bench is a server on a node without boxes and a real store.
type bench struct {
	*node
	t       testing.TB
	url     string
	handler http.Handler
	log     *strings.Builder
	key     string // scope run, tenant acme
	other   string // scope run, tenant umbrella
	admin   string // scope admin, tenant ops
}

// epoch is when the bench's clock stands at the beginning.
var epoch = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func newBench(tb testing.TB, change ...func(*api.Config)) *bench {
	tb.Helper()
	st, err := store.Open(tb.Context(), filepath.Join(tb.TempDir(), "store.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := st.Close(); err != nil {
			tb.Error(err)
		}
	})
	clock := &clock{at: epoch}
	limits := bulkhead.DefaultLimits()
	limits.CPU = 0.5
	b := &bench{t: tb, log: &strings.Builder{}, node: &node{
		Books: quotatest.New(), now: clock.now, store: st, live: map[string]*bulkhead.Sandbox{}, samples: map[string][]bulkhead.Sample{},
		logs: map[string][]bulkhead.LogLine{}, fail: map[string]error{},
		templates: []bulkhead.Template{
			{ID: "tplcode0000000000000", Name: "code-interpreter-v1", Digest: "sha256:02", CreatedAt: epoch, Defaults: bulkhead.DefaultLimits(), Interpreter: true},
			{ID: "tplbase0000000000000", Name: "base", Digest: "sha256:01", CreatedAt: epoch, Defaults: limits},
		},
	}}
	for _, id := range []string{"acme", "umbrella", "ops", "newcomer"} {
		if _, err := st.CreateTenant(tb.Context(), bulkhead.Tenant{ID: id, Tier: bulkhead.TierUnlimited}); err != nil {
			tb.Fatal(err)
		}
	}
	for _, k := range []struct {
		into *string
		req  store.KeyRequest
	}{
		{&b.key, store.KeyRequest{Tenant: "acme"}},
		{&b.other, store.KeyRequest{Tenant: "umbrella"}},
		{&b.admin, store.KeyRequest{Tenant: "ops", Scopes: []string{store.ScopeAdmin, store.ScopeRun}}},
	} {
		if *k.into, _, err = st.CreateKey(tb.Context(), k.req); err != nil {
			tb.Fatal(err)
		}
	}
	cfg := api.Config{
		Lifecycle: b.node, Networks: b.node, Lookup: b.node, Telemetry: b.node, Templates: templates{b.node},
		History: st, Authenticator: st, Keys: st, Tenants: st, Tiers: st, Usage: st, Audit: st, Quotas: b.node, Host: b.Host, Domain: "e2b.test:38443", Registry: prometheus.NewRegistry(),
		Log: slog.New(slog.NewTextHandler(&lockedWriter{w: b.log}, nil)), Now: clock.now,
	}
	for _, f := range change {
		f(&cfg)
	}
	srv, err := api.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	b.handler = srv
	ts := httptest.NewServer(srv)
	tb.Cleanup(ts.Close)
	b.url = ts.URL
	return b
}

// clock goes on by a microsecond whenever it is read, so that no two sandboxes
// start together.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Microsecond)
	return c.at
}

type lockedWriter struct {
	mu sync.Mutex
	w  *strings.Builder
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
