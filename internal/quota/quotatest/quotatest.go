// Package quotatest gives fake nodes a real book, for tests of what asks a node.
package quotatest

import (
	"context"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// Books answers for one tier that all tenants have, from a book without sandboxes.
type Books struct {
	// Tier is every tenant's.
	Tier bulkhead.Tier

	book *quota.Book
}

// New returns books of a host of 8 cores and 16 GiB, with a tenant of a free tier
// that may have 3 sandboxes and 4096 MiB.
func New() *Books {
	b := quota.New(quota.Config{})
	const none = quota.Unlimited
	b.See(time.Now(), quota.Host{Most: quota.Amounts{none, 8000, 16 << 10, none}, Free: quota.Amounts{none, none, none, none}})
	return &Books{book: b, Tier: bulkhead.Tier{
		Name: "free", Multiplier: 0.5, Priority: 1, Quota: bulkhead.Quota{Sandboxes: 3, MemoryMB: 4096},
	}}
}

// Quota implements what the control plane asks of a node. A tenant that is called
// "nobody" does not exist.
func (b *Books) Quota(_ context.Context, tenant string) (bulkhead.QuotaState, error) {
	if tenant == "nobody" {
		return bulkhead.QuotaState{}, bulkhead.Errorf(bulkhead.CodeNotFound, "tenant %q was not found", tenant)
	}
	return b.book.View(tenant, b.Tier), nil
}

// WhatIf implements what the control plane asks of a node.
func (b *Books) WhatIf(_ context.Context, req bulkhead.CreateRequest, count int) (bulkhead.WhatIf, error) {
	if err := req.Limits.Validate(); err != nil {
		return bulkhead.WhatIf{}, err //nolint:wrapcheck // it names the field
	}
	return b.book.WhatIf(time.Now(), quota.Request{
		Tenant: req.Tenant, Tier: b.Tier, Asked: req.Limits, Defaults: bulkhead.DefaultLimits(), Priority: req.Priority, TTL: req.TTL,
	}, count), nil
}

// Host returns what the host promises.
func (b *Books) Host() bulkhead.HostState { return b.book.Host() }

// Add books a sandbox.
func (b *Books) Add(tenant string, l bulkhead.Limits) {
	b.book.Adopt(time.Now(), bulkhead.Allocation{Tenant: tenant, Limits: l})
}
