// Package host gives boxes their share of this host: a network slot and a
// cgroup, made together, returned together.
//
// A box's name carries the number of its slot, bulkhead-SLOT-RANDOM, so that a
// server that starts anew finds the slot of a box that still runs.
package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var (
	_ pool.Parts   = (*Parts)(nil)
	_ pool.Part    = (*part)(nil)
	_ pool.Grouped = (*cgroup.Group)(nil)
)

// Parts makes parts. It is safe for concurrent use.
type Parts struct {
	// Slots and Groups are where they come from.
	Slots  *netslot.Allocator
	Groups *cgroup.Tree
	// Overhead is what the runtime itself needs of each box's cgroup.
	Overhead cgroup.Extra
}

// part is one box's.
type part struct {
	box   string
	slot  *netslot.Slot
	group *cgroup.Group
	extra cgroup.Extra
	birth cgroup.Stat

	mu       sync.Mutex
	limits   bulkhead.Limits  // in force
	egress   *bulkhead.Egress // in force; nil is not known
	conns    int              // as egress
	released bool
}

// Acquire takes a slot and makes a cgroup with the limits.
func (p *Parts) Acquire(ctx context.Context, l bulkhead.Limits) (pool.Part, error) {
	slot, err := p.Slots.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("acquire network slot: %w", err)
	}
	box := fmt.Sprintf("bulkhead-%d-%s", slot.Index(), strings.ToLower(rand.Text()[:8]))
	if err := slot.Prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare network slot: %w", err), slot.Release())
	}
	group, err := p.Groups.Create(box, l, p.Overhead)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make cgroup: %w", err), slot.Release())
	}
	pt := p.part(box, slot, group)
	// A new queue drops what the old one holds; here nothing is under way yet.
	if err := slot.SetBandwidth(l.BandwidthKbps, l.PacketsPerSecond); err != nil {
		return nil, errors.Join(fmt.Errorf("set bandwidth: %w", err), pt.Release(context.WithoutCancel(ctx)))
	}
	pt.limits = l
	return pt, nil
}

// Adopt takes over the slot and the cgroup of a box that was named before.
func (p *Parts) Adopt(_ context.Context, box string) (pool.Part, error) {
	n, ok := slotOf(box)
	if !ok {
		return nil, bulkhead.Errorf(bulkhead.CodeNotFound, "box %q has no slot in its name", box)
	}
	group, err := p.Groups.Open(box)
	if err != nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeNotFound, Msg: "the box has no cgroup", Err: err}
	}
	slot, err := p.Slots.Adopt(n)
	if err != nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeNotFound, Msg: "the box has no network slot", Err: err}
	}
	return p.part(box, slot, group), nil
}

func (p *Parts) part(box string, slot *netslot.Slot, group *cgroup.Group) *part {
	return &part{box: box, slot: slot, group: group, extra: p.Overhead}
}

// slotOf takes the slot's number out of a box's name.
func slotOf(box string) (int, bool) {
	rest, ok := strings.CutPrefix(box, "bulkhead-")
	if !ok {
		return 0, false
	}
	num, _, ok := strings.Cut(rest, "-")
	n, err := strconv.Atoi(num)
	return n, ok && err == nil && n >= 0
}

// Reap removes every slot and cgroup of a box that is not in use.
func (p *Parts) Reap(ctx context.Context, inUse func(box string) bool) error {
	slots := map[int]bool{}
	used := func(box string) bool {
		if !inUse(box) {
			return false
		}
		if n, ok := slotOf(box); ok {
			slots[n] = true
		}
		return true
	}
	_, err := p.Groups.Reap(ctx, used) // before the slots: their processes must be gone
	if err != nil {
		return fmt.Errorf("reap cgroups: %w", err)
	}
	if _, err := p.Slots.Reap(ctx, func(n int) bool { return slots[n] }); err != nil {
		return fmt.Errorf("reap network slots: %w", err)
	}
	return nil
}

// Group returns a box's cgroup, for drivers that start processes in it.
func (p *Parts) Group(box string) (pool.Grouped, error) {
	g, err := p.Groups.Open(box)
	if err != nil {
		return nil, fmt.Errorf("open cgroup of %s: %w", box, err)
	}
	return g, nil
}

// Box returns the box's name.
func (p *part) Box() string { return p.box }

// Netns returns the path of the slot's network namespace.
func (p *part) Netns() string { return p.slot.Path() }

// Addr returns the box's address.
func (p *part) Addr() netip.Addr { return p.slot.Addr() }

// Bind puts limits and egress in force, those limits only that change.
func (p *part) Bind(_ context.Context, l bulkhead.Limits, e bulkhead.Egress) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.CPU != p.limits.CPU || l.MemoryMB != p.limits.MemoryMB || l.Pids != p.limits.Pids {
		if err := p.group.Update(l, p.extra); err != nil {
			return fmt.Errorf("set limits: %w", err)
		}
	}
	if l.BandwidthKbps != p.limits.BandwidthKbps || l.PacketsPerSecond != p.limits.PacketsPerSecond {
		if err := p.slot.SetBandwidth(l.BandwidthKbps, l.PacketsPerSecond); err != nil {
			return fmt.Errorf("set bandwidth: %w", err)
		}
	}
	p.limits = l
	conns := int(l.Connections)
	if p.egress != nil && p.conns == conns && sameEgress(*p.egress, e) {
		return nil
	}
	p.egress = nil
	if err := p.slot.SetEgress(netslot.Egress{
		Internet: e.Internet, DNS: e.Internet, Allow: e.Allow, Deny: e.Deny, Domains: e.Domains, Conns: conns,
	}); err != nil {
		return fmt.Errorf("set egress: %w", err)
	}
	p.egress, p.conns = &e, conns
	return nil
}

// sameEgress reports whether both open and close the same.
func sameEgress(a, b bulkhead.Egress) bool {
	return a.Internet == b.Internet && slices.Equal(a.Domains, b.Domains) &&
		slices.Equal(a.Allow, b.Allow) && slices.Equal(a.Deny, b.Deny)
}

// Usage measures the box and says which limit ended something in it, if any.
func (p *part) Usage() (pool.Usage, error) {
	s, err := p.group.Stat()
	if err != nil {
		return pool.Usage{}, fmt.Errorf("measure box: %w", err)
	}
	u := pool.Usage{
		CPU: s.CPU, Memory: s.Memory, MemoryPeak: s.MemoryPeak, Cache: s.Cache, Pids: s.Pids, PidsPeak: s.PidsPeak,
	}
	cause, limit, peak := cgroup.Evidence(p.birth, s)
	switch cause { //nolint:exhaustive // a cgroup can tell only these two
	case bulkhead.CauseMemoryLimit:
		limit -= p.extra.MemoryOverheadMB << 20 // the box's own part is what its owner knows
	case bulkhead.CausePidsLimit:
		limit -= p.extra.PidsOverhead
	}
	if cause != "" {
		u.Limit = bulkhead.End{Cause: cause, Limit: limit, Peak: peak, Detail: detail(cause, limit, peak)}
	}
	return u, nil
}

// Background lets all other boxes go first on the processors, or no longer.
func (p *part) Background(on bool) error {
	return p.group.Background(on) //nolint:wrapcheck // it names the group
}

// CPUTime reads one small file.
func (p *part) CPUTime() (time.Duration, error) {
	return p.group.CPUTime() //nolint:wrapcheck // it names the group
}

// Meter reads the counters that usage is made of: three small files.
func (p *part) Meter() (bulkhead.Meter, error) {
	cpu, err := p.group.CPUTime()
	if err != nil {
		return bulkhead.Meter{}, fmt.Errorf("read meter: %w", err)
	}
	egress, ingress, err := p.slot.Counters()
	if err != nil {
		return bulkhead.Meter{}, fmt.Errorf("read meter: %w", err)
	}
	return bulkhead.Meter{At: time.Now().UTC(), CPU: cpu, Egress: egress, Ingress: ingress}, nil
}

// detail says in a sentence what the numbers mean.
func detail(cause bulkhead.Cause, limit, peak int64) string {
	switch cause { //nolint:exhaustive // a cgroup can tell only these two
	case bulkhead.CauseMemoryLimit:
		return fmt.Sprintf("it needed more memory than its limit of %d MiB (peak %d MiB, the runtime's own included)", limit>>20, peak>>20)
	case bulkhead.CausePidsLimit:
		return fmt.Sprintf("it needed more than its limit of %d processes and threads (peak %d)", limit, peak)
	}
	return ""
}

// Release ends what is left in the cgroup and returns cgroup and slot.
func (p *part) Release(ctx context.Context) error {
	p.mu.Lock()
	again := p.released
	p.released = true
	p.mu.Unlock()
	if again {
		return nil
	}
	var errs []error
	if err := p.group.Kill(ctx); err != nil {
		errs = append(errs, fmt.Errorf("kill what is left: %w", err))
	}
	if err := p.group.Delete(ctx); err != nil {
		errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
	}
	if err := p.slot.Release(); err != nil {
		errs = append(errs, fmt.Errorf("return network slot: %w", err))
	}
	return errors.Join(errs...)
}
