package fake

import (
	"context"
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

	preset bulkhead.Meter
}

// NewParts returns parts that nobody has taken.
func NewParts() *Parts { return &Parts{parts: map[string]*Part{}, fail: map[string]error{}} }

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

func (p *Parts) planned(method string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fail[method]
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
	part := &Part{parts: p, box: "bulkhead-" + strconv.Itoa(p.next), meter: p.preset}
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
			delete(p.parts, box)
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits, p.egress = l, e
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

// Usage returns what Use said.
func (p *Part) Usage() (pool.Usage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.usage, nil
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
	delete(p.parts.parts, p.box)
	return nil
}

// Clone returns parts that are taken by the same boxes.
func (p *Parts) Clone() *Parts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := NewParts()
	c.next = p.next
	for box, part := range p.parts {
		part.mu.Lock()
		c.parts[box] = &Part{parts: c, box: box, meter: part.meter}
		part.mu.Unlock()
	}
	return c
}
