package main

import (
	"context"
	"fmt"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/node"
)

// What a sandbox is taken to need while nothing is known of its template, in
// bytes: one that waits warm already has most of it, one that is made anew has
// an interpreter to start or not.
const (
	warmNeeds        = 32 << 20
	interpreterNeeds = 192 << 20
	plainNeeds       = 64 << 20
)

// templatesKnown is how many templates' needs are remembered.
const templatesKnown = 1024

// openGuard opens the memory guard, which admits scripts and sandboxes alike.
func (s *server) openGuard() (err error) {
	if s.probe, err = guard.OpenProbe("/"); err != nil {
		return fmt.Errorf("find the memory limit: %w", err)
	}
	limits, err := s.cfg.Guard()
	if err != nil {
		return err //nolint:wrapcheck // names variable, value and range
	}
	if s.guard, err = guard.New(limits, s.probe, s.log); err != nil {
		return fmt.Errorf("open memory guard: %w", err)
	}
	if s.needs, err = guard.NewLearner(templatesKnown); err != nil {
		return fmt.Errorf("open memory guard: %w", err)
	}
	return nil
}

// admit asks the guard whether a sandbox can be made now. What it costs is what
// boxes of its template grew by before, those that waited warm apart from those
// that did not; never more than its limit.
func (s *server) admit(ctx context.Context, a node.Ask) (node.Admitted, error) {
	stage, fallback := "made", int64(plainNeeds)
	if a.Template.Interpreter {
		fallback = interpreterNeeds
	}
	if warm, _, _ := s.pool.Waiting(a.Template); warm > 0 {
		stage, fallback = "warm", warmNeeds
	}
	known := s.needs.Kind(a.Template.Digest+" "+stage, 0)
	cost, _ := known.Estimate(fallback)
	grant, err := s.guard.AcquireClaim(ctx, guard.Claim{
		Cost: max(1, min(cost, a.Limits.MemoryMB<<20)), Priority: guardPriority(a.Priority), Standing: true,
	})
	if err != nil {
		return node.Admitted{}, err //nolint:wrapcheck // it says level and numbers
	}
	return node.Admitted{
		Made: grant.Settle,
		Ended: func(grown int64) {
			grant.Release()
			known.Observe(grown)
		},
	}, nil
}

// guardPriority is the guard's word for a request's wish.
func guardPriority(p bulkhead.Priority) guard.Priority {
	switch p {
	case bulkhead.PriorityLow:
		return guard.PriorityLow
	case bulkhead.PriorityHigh:
		return guard.PriorityHigh
	case bulkhead.PriorityNormal:
	}
	return guard.PriorityNormal
}
