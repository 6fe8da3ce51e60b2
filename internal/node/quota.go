package node

import (
	"context"
	"fmt"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// Tenants knows what tenants may use.
type Tenants interface {
	// Entitlement returns a tenant's tier with the tenant's own overrides in its
	// quota. Code: not_found.
	Entitlement(ctx context.Context, tenant string) (bulkhead.Tier, error)
	// UsageToday returns what the tenant's sandboxes have used since midnight, UTC.
	UsageToday(ctx context.Context, tenant string) (bulkhead.Usage, error)
}

// everything is the tier of a node that knows no tenants.
var everything = bulkhead.Tier{Name: bulkhead.TierUnlimited, Multiplier: 1}

func (n *Node) tier(ctx context.Context, tenant string) (bulkhead.Tier, error) {
	if n.cfg.Tenants == nil {
		return everything, nil
	}
	t, err := n.cfg.Tenants.Entitlement(ctx, tenant)
	if err != nil {
		return t, fmt.Errorf("find the tenant's quota: %w", err)
	}
	return t, nil
}

// floorMB is the memory, in MiB, that a box of the template needs to run at all:
// the interpreter's kernel, or envd alone. What a box really holds is looked at
// when it is leased; see [Node.widen].
func floorMB(t bulkhead.Template) int64 {
	if t.Interpreter {
		return 192
	}
	return 64
}

// today is what a tenant has used since midnight, UTC.
func (n *Node) today(ctx context.Context, tenant string) (bulkhead.DayUse, error) {
	if n.cfg.Tenants == nil {
		return bulkhead.DayUse{}, nil
	}
	u, err := n.cfg.Tenants.UsageToday(ctx, tenant)
	if err != nil {
		return bulkhead.DayUse{}, fmt.Errorf("read the tenant's usage: %w", err)
	}
	return bulkhead.DayUse{CPUSeconds: u.CPUSeconds, GBHours: u.GBHours()}, nil
}

// claim is what the book is asked for a request.
func (n *Node) claim(ctx context.Context, id string, req bulkhead.CreateRequest, t bulkhead.Template) (quota.Request, error) {
	r := quota.Request{
		Sandbox: id, Tenant: req.Tenant, Asked: req.Limits, Defaults: t.Defaults, FloorMB: floorMB(t), TTL: req.TTL,
		Priority: req.Priority, WaitOwn: req.Wait > 0, WaitHost: n.wait(req) > 0,
	}
	var err error
	if r.Tier, err = n.tier(ctx, req.Tenant); err != nil {
		return r, err
	}
	r.Firm = r.Tier.Name == bulkhead.TierUnlimited
	if q := r.Tier.Quota; q.CPUSecondsPerDay > 0 || q.GBHoursPerDay > 0 {
		r.Today, err = n.today(ctx, req.Tenant)
	}
	return r, err
}

// wait is how long a request may wait for a place.
func (n *Node) wait(req bulkhead.CreateRequest) time.Duration {
	if req.Wait == 0 {
		return n.cfg.Wait
	}
	return req.Wait
}

// book reserves a place for a new sandbox before anything of it is made. It blocks
// while the request waits for one. The booking must be returned. Codes:
// quota_exceeded, unavailable, invalid, timeout.
func (n *Node) book(ctx context.Context, req bulkhead.CreateRequest, t bulkhead.Template) (*quota.Booking, error) {
	select {
	case <-n.drained:
		return nil, errDraining
	default:
	}
	claim, err := n.claim(ctx, newID(), req, t)
	if err != nil {
		return nil, err
	}
	k, err := n.cfg.Book.Offer(time.Now(), claim)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says which limit
	}
	if k.Ready() == nil {
		return k, nil
	}
	n.cfg.Log.InfoContext(ctx, "a request waits for a place", "tenant", req.Tenant, "priority", k.Allocation().Priority,
		"predicted", k.Wait(time.Now()), "limit", n.wait(req))
	timer := time.NewTimer(n.wait(req))
	defer timer.Stop()
	select {
	case <-k.Ready():
		return k, nil
	case <-timer.C:
		if err := k.Withdraw(time.Now()); err != nil {
			return nil, err //nolint:wrapcheck // it says which limit
		}
		return k, nil // in the same instant
	case <-n.drained:
		k.Return(time.Now())
		return nil, errDraining
	case <-ctx.Done():
		k.Return(time.Now())
		return nil, fmt.Errorf("wait for a place: %w", ctx.Err())
	}
}

// errDraining is the answer to whoever wants a sandbox of a node that drains.
var errDraining = &bulkhead.Error{
	Code: bulkhead.CodeUnavailable, Msg: "this node is draining and takes no new sandboxes", RetryAfter: 5 * time.Second,
}

// widen sees to it that neither tier nor load leaves a sandbox less memory than
// its box holds already. It costs a sandbox that got all it asked for nothing.
func (n *Node) widen(ctx context.Context, l *lease, base int64) error {
	limits := l.sb.Limits
	if limits.MemoryMB >= base {
		return nil
	}
	usage, err := l.box.Part.Usage()
	if err != nil {
		return fmt.Errorf("measure box: %w", err)
	}
	held := (usage.Memory - usage.Cache) >> 20
	if need := min(base, held+held/4+16); need > limits.MemoryMB {
		tier, err := n.tier(ctx, l.sb.Tenant)
		if err != nil {
			return err
		}
		limits.MemoryMB = need
		if err := l.booking.Change(time.Now(), tier, limits, "raised to what its box needs"); err != nil {
			return err //nolint:wrapcheck // it says which limit
		}
		l.allocate(l.booking.Allocation())
	}
	return nil
}

// allocate makes a the sandbox's allocation; l.mu is held, or nobody knows l yet.
func (l *lease) allocate(a bulkhead.Allocation) { l.sb.Limits, l.sb.Allocation = a.Limits, &a }

// adopt books a sandbox that runs already.
func (n *Node) adopt(sb *bulkhead.Sandbox) *quota.Booking {
	a := bulkhead.Allocation{
		Sandbox: sb.ID, Tenant: sb.Tenant, TTLSeconds: int64(sb.EndAt.Sub(sb.StartedAt) / time.Second),
		Priority: quota.DefaultPriority, At: sb.StartedAt,
	}
	if sb.Allocation != nil {
		a = *sb.Allocation
	}
	a.Limits = sb.Limits
	return n.cfg.Book.Adopt(time.Now(), a)
}

// Quota returns what a tenant may use and does. Code: not_found.
func (n *Node) Quota(ctx context.Context, tenant string) (bulkhead.QuotaState, error) {
	tier, err := n.tier(ctx, tenant)
	if err != nil {
		return bulkhead.QuotaState{}, err
	}
	state := n.cfg.Book.View(tenant, tier)
	state.Today, err = n.today(ctx, tenant)
	return state, err
}

// Host returns what this node promises and has promised.
func (n *Node) Host() bulkhead.HostState { return n.cfg.Book.Host() }

// WhatIf says whether count more sandboxes like this would fit now, and what is in
// the way. It changes nothing. Codes: not_found, invalid.
func (n *Node) WhatIf(ctx context.Context, req bulkhead.CreateRequest, count int) (bulkhead.WhatIf, error) {
	if count < 1 || count > quota.MaxWhatIf {
		return bulkhead.WhatIf{}, bulkhead.Errorf(bulkhead.CodeInvalid, "count is %d; it must be between 1 and %d", count, quota.MaxWhatIf)
	}
	t, err := n.cfg.Templates.Get(req.Template)
	if err == nil {
		err = req.Limits.Validate()
	}
	if err != nil {
		return bulkhead.WhatIf{}, err
	}
	claim, err := n.claim(ctx, "", req, t)
	if err != nil {
		return bulkhead.WhatIf{}, err
	}
	return n.cfg.Book.WhatIf(time.Now(), claim, count), nil
}
