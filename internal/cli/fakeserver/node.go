package fakeserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// node is what the control plane asks, in memory.
type node struct{ s *Server }

var (
	_ api.Lifecycle = node{}
	_ api.Lookup    = node{}
	_ api.Telemetry = node{}
	_ api.Templates = templates{}
	_ api.History   = node{}
	_ api.Quotas    = node{}
)

// Create makes a sandbox.
func (n node) Create(_ context.Context, req bulkhead.CreateRequest) (bulkhead.Sandbox, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if !slices.Contains(n.s.Templates, req.Template) {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q was not found", req.Template)
	}
	running := 0
	for _, sb := range n.s.sandboxes {
		if sb.Tenant == req.Tenant && sb.End == nil {
			running++
		}
	}
	if n.s.MaxSandboxes > 0 && running >= n.s.MaxSandboxes {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeQuotaExceeded,
			"you have reached the maximum number of concurrent sandboxes (%d)", n.s.MaxSandboxes)
	}
	now := time.Now().UTC()
	sb := bulkhead.Sandbox{
		ID: fmt.Sprintf("i%020d", len(n.s.sandboxes)+1), Tenant: req.Tenant, TemplateID: templateID(req.Template),
		Template: req.Template, TemplateDigest: "sha256:" + strings.Repeat("0", 64), State: bulkhead.StateRunning,
		StartedAt: now, EndAt: now.Add(req.TTL), Limits: req.Limits.Or(bulkhead.DefaultLimits()),
		Metadata: req.Metadata, Env: req.Env, AllowInternet: req.AllowInternet, Network: req.Network, MaskHost: req.MaskHost,
		EnvdVersion: boxrpc.EnvdVersion,
	}
	if req.Secure {
		sb.EnvdToken = rand.Text()
	}
	if req.PrivateTraffic {
		sb.TrafficToken = rand.Text()
	}
	n.s.sandboxes = append(n.s.sandboxes, &sandbox{Sandbox: sb, ports: map[int]http.Handler{}})
	return sb, nil
}

// lookup finds a tenant's sandbox that runs.
func (n node) lookup(tenant, id string) (*sandbox, error) {
	sb := n.s.find(id)
	if sb == nil || sb.End != nil || tenant != "" && sb.Tenant != tenant {
		return nil, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q was not found", id)
	}
	return sb, nil
}

// Quota returns what every tenant may use.
func (n node) Quota(ctx context.Context, tenant string) (bulkhead.QuotaState, error) {
	return n.s.books.Quota(ctx, tenant)
}

// WhatIf says whether more would fit.
func (n node) WhatIf(ctx context.Context, req bulkhead.CreateRequest, count int) (bulkhead.WhatIf, error) {
	return n.s.books.WhatIf(ctx, req, count)
}

// Resize changes a sandbox's limits, to any.
func (n node) Resize(_ context.Context, tenant, id string, l bulkhead.Limits) (bulkhead.Sandbox, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb, err := n.lookup(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	sb.Limits = l.Or(sb.Limits)
	sb.Allocation = &bulkhead.Allocation{Sandbox: id, Tenant: tenant, Limits: sb.Limits}
	return sb.Sandbox, nil
}

// Kill ends a sandbox.
func (n node) Kill(_ context.Context, tenant, id string) error {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb, err := n.lookup(tenant, id)
	if err != nil {
		return err
	}
	sb.State, sb.End, sb.ports = bulkhead.StateEnded, &bulkhead.End{Cause: bulkhead.CauseKilled, At: time.Now().UTC()}, nil
	return nil
}

// SetDeadline moves the end of a sandbox's life.
func (n node) SetDeadline(_ context.Context, tenant, id string, at time.Time, extendOnly bool) (bulkhead.Sandbox, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb, err := n.lookup(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	if !extendOnly || at.After(sb.EndAt) {
		sb.EndAt = at.UTC()
	}
	return sb.Sandbox, nil
}

// Get returns a sandbox that runs.
func (n node) Get(_ context.Context, tenant, id string) (bulkhead.Sandbox, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb, err := n.lookup(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	return sb.Sandbox, nil
}

// Sandbox returns any sandbox.
func (n node) Sandbox(_ context.Context, tenant, id string) (bulkhead.Sandbox, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb := n.s.find(id)
	if sb == nil || tenant != "" && sb.Tenant != tenant {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q was not found", id)
	}
	return sb.Sandbox, nil
}

// List returns the sandboxes that f selects.
func (n node) List(_ context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	var out []bulkhead.Sandbox
	for _, sb := range n.s.sandboxes {
		has := true
		for k, v := range f.Metadata {
			has = has && sb.Metadata[k] == v
		}
		if has && (f.Tenant == "" || sb.Tenant == f.Tenant) &&
			(len(f.States) == 0 || slices.Contains(f.States, sb.State)) &&
			(f.Template == "" || f.Template == sb.Template || f.Template == sb.TemplateID) &&
			sb.StartedAt.After(f.StartedAfter) {
			out = append(out, sb.Sandbox)
		}
	}
	return out, nil
}

// Ended returns the newest sandboxes that have ended.
func (n node) Ended(ctx context.Context, f bulkhead.Filter, latest time.Time, limit int) ([]bulkhead.Sandbox, error) {
	f.States = []bulkhead.State{bulkhead.StateEnded}
	all, err := n.List(ctx, f)
	out := []bulkhead.Sandbox{}
	for _, sb := range slices.Backward(all) {
		if len(out) < limit && (latest.IsZero() || !sb.StartedAt.After(latest)) {
			out = append(out, sb)
		}
	}
	return out, err
}

// Metrics returns one sample.
func (n node) Metrics(_ context.Context, tenant, id string, _, _ time.Time) ([]bulkhead.Sample, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb, err := n.lookup(tenant, id)
	if err != nil {
		return nil, err
	}
	return []bulkhead.Sample{{
		At: sb.StartedAt, CPUPercent: 12.5, CPUCount: 2, MemUsed: 100 << 20, MemTotal: sb.Limits.MemoryMB << 20,
		DiskUsed: 10 << 20, DiskTotal: sb.Limits.DiskMB << 20,
	}}, nil
}

// Logs returns the lines that [Server.Log] was given.
func (n node) Logs(_ context.Context, tenant, id string, since time.Time, limit int) ([]bulkhead.LogLine, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	sb, err := n.lookup(tenant, id)
	if err != nil {
		return nil, err
	}
	var out []bulkhead.LogLine
	for _, l := range sb.logs {
		if !l.At.Before(since) && len(out) < limit {
			out = append(out, l)
		}
	}
	return out, nil
}

func templateID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:10])
}

// templates implements [api.Templates], whose List differs from the sandboxes'.
type templates struct{ s *Server }

// List returns the templates.
func (t templates) List(context.Context) ([]bulkhead.Template, error) {
	out := make([]bulkhead.Template, len(t.s.Templates))
	for i, name := range t.s.Templates {
		out[i] = bulkhead.Template{ID: templateID(name), Name: name, Defaults: bulkhead.DefaultLimits(), User: "user"}
	}
	return out, nil
}

// Get returns a template by name or ID.
func (t templates) Get(ctx context.Context, nameOrID string) (bulkhead.Template, error) {
	all, err := t.List(ctx)
	if err != nil {
		return bulkhead.Template{}, err
	}
	for _, tm := range all {
		if tm.Name == nameOrID || tm.ID == nameOrID {
			return tm, nil
		}
	}
	return bulkhead.Template{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q was not found", nameOrID)
}
