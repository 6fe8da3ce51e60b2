// Package supplytest has the in-memory twins of what a [supply.Planner] stands
// on, for tests of what stands on a Planner.
package supplytest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply"
)

var (
	_ supply.Boxes     = (*Boxes)(nil)
	_ supply.Store     = (*Store)(nil)
	_ supply.Templates = (*Templates)(nil)
)

// Boxes is a pool whose targets are met at once.
type Boxes struct {
	mu      sync.Mutex
	targets map[string]pool.Stats // by template name
}

// SetTarget makes that many boxes of t wait.
func (b *Boxes) SetTarget(t bulkhead.Template, target pool.Target) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.targets == nil {
		b.targets = map[string]pool.Stats{}
	}
	b.targets[t.Name] = pool.Stats{
		Template: t.Name, Digest: t.Digest, Warm: target.Warm, Cold: target.Cold, Target: target,
		Hits: map[pool.Stage]int64{}, Misses: map[string]int64{}, Wasted: map[string]int64{}, Image: pool.Image{State: pool.ImageReady},
	}
}

// Retain drops the boxes of other templates.
func (b *Boxes) Retain(templates []bulkhead.Template) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.targets {
		if !slices.ContainsFunc(templates, func(t bulkhead.Template) bool { return t.Name == name }) {
			delete(b.targets, name)
		}
	}
}

// Stats returns what waits.
func (b *Boxes) Stats() []pool.Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.targets))
}

// Waiting counts what waits of a template.
func (b *Boxes) Waiting(t bulkhead.Template) (warm, cold int, failed string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.targets[t.Name]
	return s.Warm, s.Cold, ""
}

// Store keeps pools in memory. The zero value is empty.
type Store struct {
	mu   sync.Mutex
	rows map[string]store.Pool
	fail error
}

// Fail makes every later call return err; nil ends that.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Pools returns what was put, by name.
func (s *Store) Pools(context.Context) ([]store.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []store.Pool
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		all = append(all, s.rows[name])
	}
	return all, s.fail
}

// PutPools keeps pools.
func (s *Store) PutPools(_ context.Context, pools ...store.Pool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if s.rows == nil {
		s.rows = map[string]store.Pool{}
	}
	for _, p := range pools {
		s.rows[p.Template] = p
	}
	return nil
}

// Row returns what is kept of a template.
func (s *Store) Row(template string) store.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[template]
}

// Templates are templates that come and go. The zero value has none.
type Templates struct {
	mu   sync.Mutex
	list []bulkhead.Template
}

// Set replaces them.
func (t *Templates) Set(list ...bulkhead.Template) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
}

// List returns all.
func (t *Templates) List() ([]bulkhead.Template, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list), nil
}

// Get returns one by name, ID or digest.
func (t *Templates) Get(name string) (bulkhead.Template, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range t.list {
		if x.Name == name || x.Digest == name || x.ID == name {
			return x, nil
		}
	}
	return bulkhead.Template{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q was not found", name)
}

// New returns a planner on all of them that knows the given templates.
func New(templates ...bulkhead.Template) *supply.Planner {
	list := &Templates{}
	list.Set(templates...)
	p, err := supply.New(context.Background(), supply.Config{
		Boxes: &Boxes{}, Templates: list, Store: &Store{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(fmt.Sprintf("make planner: %v", err)) // a defect of this package
	}
	return p
}
