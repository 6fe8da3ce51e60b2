package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// scripts is what answers /v1/scripts.
type scripts struct {
	guard   *guard.Guard
	probe   *guard.Probe
	store   *script.SQLite
	service *script.Service
}

// openScripts puts it together.
func openScripts(ctx context.Context, cfg *config.Config, registry *prometheus.Registry, log *slog.Logger) (s *scripts, err error) {
	s = &scripts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.probe, err = guard.OpenProbe("/"); err != nil {
		return s, fmt.Errorf("find the memory limit: %w", err)
	}
	s.guard, err = guard.New(guard.Config{
		Disabled: !cfg.GuardEnabled, MaxPercent: cfg.GuardMax, WarningPercent: cfg.GuardWarning, CriticalPercent: cfg.GuardCritical,
		CheckInterval:        time.Duration(cfg.GuardInterval) * time.Second,
		EstimatedMemPerReqMB: cfg.GuardEstimate, MaxConcurrent: cfg.MaxConcurrent,
	}, s.probe, log)
	if err != nil {
		return s, fmt.Errorf("open memory guard: %w", err)
	}
	if s.store, err = script.OpenSQLite(ctx, filepath.Join(cfg.Data, "scripts.db")); err != nil {
		return s, fmt.Errorf("open scripts' store: %w", err)
	}
	e, err := engine.New()
	if err != nil {
		return s, fmt.Errorf("open JavaScript engine: %w", err)
	}
	workers, err := worker.New(worker.Config{Root: filepath.Join(cfg.Run, "scripts"), Log: log})
	if err != nil {
		return s, fmt.Errorf("open workers: %w", err)
	}
	s.service, err = script.New(script.Config{
		Engine: e, Pool: workers, Guard: s.guard, Store: s.store, KeyValue: s.store, Tenant: scriptTenant,
		MaxResult: cfg.MaxResult, Log: log,
	})
	if err != nil {
		return s, fmt.Errorf("open script service: %w", err)
	}
	return s, errors.Join(registry.Register(s.guard), registry.Register(s.service))
}

// scriptTenant says for whom a script runs.
func scriptTenant(ctx context.Context) (script.Tenant, error) {
	tenant, ok := api.TenantOf(ctx)
	if !ok {
		return script.Tenant{}, bulkhead.Errorf(bulkhead.CodeUnauthenticated, "no tenant")
	}
	return script.Tenant{ID: tenant}, nil
}

// close returns what scripts hold, once nothing runs any more.
func (s *scripts) close() error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.probe != nil {
		errs = append(errs, s.probe.Close())
	}
	return errors.Join(errs...)
}
