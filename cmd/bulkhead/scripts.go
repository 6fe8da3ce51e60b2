package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// openScripts puts together what answers /v1/scripts.
func (s *server) openScripts(ctx context.Context, registry *prometheus.Registry) (*script.Service, error) {
	cfg, log := s.cfg, s.log
	if err := s.store.TakeScripts(ctx, filepath.Join(cfg.Data, "scripts.db")); err != nil {
		return nil, fmt.Errorf("take scripts over: %w", err)
	}
	e, err := engine.New()
	if err != nil {
		return nil, fmt.Errorf("open JavaScript engine: %w", err)
	}
	// Whoever the guard lets in finds a worker.
	workers, err := worker.New(worker.Config{
		Root: filepath.Join(cfg.Run, "scripts"), Max: min(max(cfg.MaxConcurrent+4, 16), 1024), HostOOM: s.guard.ReportOOM, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("open workers: %w", err)
	}
	conf := script.Config{
		Engine: e, Pool: workers, Guard: s.guard, Store: s.store, KeyValue: s.store, Tenant: scriptTenant(entitlements{s.store}),
		MaxResult: cfg.MaxResult, Log: log,
	}
	policy, err := newFetchPolicy(cfg)
	if err != nil {
		return nil, err
	}
	if policy != nil {
		conf.AllowFetch, conf.FetchClient = policy.allow, policy.client()
	}
	service, err := script.New(conf)
	if err != nil {
		return nil, fmt.Errorf("open script service: %w", err)
	}
	return service, errors.Join(registry.Register(s.guard), registry.Register(service))
}

// scriptTenant says for whom a script runs, and what its tier lets it use.
func scriptTenant(tenants node.Tenants) func(context.Context) (script.Tenant, error) {
	return func(ctx context.Context) (script.Tenant, error) {
		id, ok := api.TenantOf(ctx)
		if !ok {
			return script.Tenant{}, bulkhead.Errorf(bulkhead.CodeUnauthenticated, "no tenant")
		}
		tier, err := tenants.Entitlement(ctx, id)
		if err != nil {
			return script.Tenant{}, fmt.Errorf("find the tenant's quota: %w", err)
		}
		return script.Tenant{ID: id, Tier: tier}, nil
	}
}
