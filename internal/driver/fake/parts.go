package fake

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var _ pool.Parts = (*Parts)(nil)

// Parts is the in-memory twin of package host: it hands out names and addresses
// and keeps count. It is safe for concurrent use.
type Parts struct {
	mu    sync.Mutex
	next  int
	parts map[string]*Part
	fail  map[string]error
	once  map[string]error
	sum   Sum
	peak  Sum
	usage pool.Usage // of a new box

	preset bulkhead.Meter
}

// Sum is what several boxes may use together.
type Sum struct {
	// Bound is how many have been given limits.
	Bound int
	// MilliCPU is in thousandths of a core, MemoryMB in MiB.
	MilliCPU, MemoryMB int64
}

func (s *Sum) add(n int, l bulkhead.Limits) {
	s.Bound += n
	s.MilliCPU += int64(n) * int64(math.Round(l.CPU*1000))
	s.MemoryMB += int64(n) * l.MemoryMB
}

// Sum returns the limits in force, summed over all boxes, and the most that each
// has been.
func (p *Parts) Sum() (now, peak Sum) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sum, p.peak
}

// NewParts returns parts that nobody has taken.
func NewParts() *Parts {
	return &Parts{parts: map[string]*Part{}, fail: map[string]error{}, once: map[string]error{}}
}

// Fail makes every later call of method ("Acquire", "Bind", "Release") return
// err; nil ends that.
func (p *Parts) Fail(method string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail[method] = err
}

// Preset makes the meters of parts that are acquired from now on show m.
func (p *Parts) Preset(m bulkhead.Meter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.preset = m
}

// FailOnce makes the next call of method return err.
func (p *Parts) FailOnce(method string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.once[method] = err
}

func (p *Parts) planned(method string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.once[method]; err != nil {
		delete(p.once, method)
		return err
	}
	return p.fail[method]
}

// PresetUsage makes every later box use u from the beginning.
func (p *Parts) PresetUsage(u pool.Usage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.usage = u
}

// Taken returns how many parts are taken.
func (p *Parts) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.parts)
}

// Part returns the parts of a box, or nil.
func (p *Parts) Part(box string) *Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parts[box]
}

// Acquire takes the parts of a new box.
func (p *Parts) Acquire(context.Context, bulkhead.Limits) (pool.Part, error) {
	if err := p.planned("Acquire"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	part := &Part{parts: p, box: "bulkhead-" + strconv.Itoa(p.next), meter: p.preset, usage: p.usage}
	p.parts[part.box] = part
	return part, nil
}

// Adopt returns the parts of a box that exists, with its egress closed.
func (p *Parts) Adopt(_ context.Context, box string) (pool.Part, error) {
	if part := p.Part(box); part != nil {
		part.mu.Lock()
		part.egress = bulkhead.Egress{}
		part.mu.Unlock()
		return part, nil
	}
	return nil, bulkhead.Errorf(bulkhead.CodeNotFound, "box %q has no parts", box)
}

// Reap removes what is not in use.
func (p *Parts) Reap(_ context.Context, inUse func(string) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for box := range p.parts {
		if !inUse(box) {
			p.dropLocked(box)
		}
	}
	return nil
}

// Part is one box's parts.
type Part struct {
	parts *Parts
	box   string

	mu     sync.Mutex
	usage  pool.Usage
	meter  bulkhead.Meter
	limits bulkhead.Limits
	egress bulkhead.Egress

	background bool
}

// Box returns the box's name.
func (p *Part) Box() string { return p.box }

// Netns returns a path that does not exist.
func (p *Part) Netns() string { return "/nonexistent/" + p.box }

// Addr returns the loopback address.
func (p *Part) Addr() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// Bind keeps limits and egress.
func (p *Part) Bind(_ context.Context, l bulkhead.Limits, e bulkhead.Egress) error {
	if err := p.parts.planned("Bind"); err != nil {
		return err
	}
	all := p.parts
	all.mu.Lock()
	defer all.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if all.parts[p.box] != p {
		return fmt.Errorf("box %s has been released", p.box)
	}
	if p.limits != (bulkhead.Limits{}) {
		all.sum.add(-1, p.limits)
	}
	p.limits, p.egress = l, e
	all.sum.add(1, l)
	all.peak.Bound = max(all.peak.Bound, all.sum.Bound)
	all.peak.MilliCPU = max(all.peak.MilliCPU, all.sum.MilliCPU)
	all.peak.MemoryMB = max(all.peak.MemoryMB, all.sum.MemoryMB)
	return nil
}

// Bound returns the limits in force.
func (p *Part) Bound() bulkhead.Limits {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits
}

// Egress returns what the box may reach.
func (p *Part) Egress() bulkhead.Egress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.egress
}

// Use makes Usage return u from now on.
func (p *Part) Use(u pool.Usage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.usage = u
}

// Background keeps whether the others go first.
func (p *Part) Background(on bool) error {
	if err := p.parts.planned("Background"); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.background = on
	return nil
}

// InBackground returns what Background was told last.
func (p *Part) InBackground() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.background
}

// CPUTime returns the processor time that Use said.
func (p *Part) CPUTime() (time.Duration, error) { return p.now().CPU, nil }

// Usage returns what Use said.
func (p *Part) Usage() (pool.Usage, error) { return p.now(), nil }

func (p *Part) now() pool.Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.usage
}

// Meter returns what Count said, and the time.
func (p *Part) Meter() (bulkhead.Meter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.meter
	m.At = time.Now().UTC()
	return m, nil
}

// Count makes Meter show m from now on, but for its time.
func (p *Part) Count(m bulkhead.Meter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meter = m
}

// Release gives the parts back.
func (p *Part) Release(context.Context) error {
	if err := p.parts.planned("Release"); err != nil {
		return err
	}
	p.parts.mu.Lock()
	defer p.parts.mu.Unlock()
	p.parts.dropLocked(p.box)
	return nil
}

func (p *Parts) dropLocked(box string) {
	part := p.parts[box]
	if part == nil {
		return
	}
	if l := part.Bound(); l != (bulkhead.Limits{}) {
		p.sum.add(-1, l)
	}
	delete(p.parts, box)
}

// Clone returns parts that are taken by the same boxes.
func (p *Parts) Clone() *Parts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := NewParts()
	c.next = p.next
	for box, part := range p.parts {
		l := part.Bound()
		c.parts[box] = &Part{parts: c, box: box, limits: l, usage: part.now()}
		part.mu.Lock()
		c.parts[box].meter = part.meter
		part.mu.Unlock()
		if l != (bulkhead.Limits{}) {
			c.sum.add(1, l)
		}
	}
	return c
}
