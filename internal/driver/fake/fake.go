// Package fake is a driver without boxes, for tests of what stands on one: it
// keeps the same rules as the real drivers, can take any time, and can fail one
// named call.
package fake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/driver/oci"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var _ pool.Driver = (*Driver)(nil)

// Config says how the Driver behaves. The zero value is a driver without
// snapshots that takes no time.
type Config struct {
	// Snapshots gives the driver the capability.
	Snapshots bool
	// Delay, when set, is called with the method's name and says how long it takes.
	Delay func(method string) time.Duration
}

// Driver is a driver in memory. It is safe for concurrent use.
type Driver struct {
	cfg Config

	mu    sync.Mutex
	boxes map[string]*box
	fail  map[string]error // by method name
	peak  int
}

type box struct {
	created time.Time
	started bool
	gone    chan struct{}
	dead    bool
}

// New returns a driver with no boxes.
func New(cfg Config) *Driver {
	return &Driver{cfg: cfg, boxes: map[string]*box{}, fail: map[string]error{}}
}

// Fail makes every later call of method return err; nil ends that.
func (d *Driver) Fail(method string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[method] = err
}

// Crash ends a box as if its process had died.
func (d *Driver) Crash(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boxes[id].end()
}

// Peak returns the largest number of boxes that ever existed at once.
func (d *Driver) Peak() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.peak
}

func (b *box) end() {
	if b != nil && !b.dead {
		b.dead = true
		close(b.gone)
	}
}

// enter waits the method's delay and returns its planned failure.
func (d *Driver) enter(ctx context.Context, method string) error {
	if d.cfg.Delay != nil {
		t := time.NewTimer(d.cfg.Delay(method))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // the caller's own
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fail[method]
}

// Capabilities are as configured.
func (d *Driver) Capabilities() pool.Capabilities {
	return pool.Capabilities{Name: "fake", Snapshots: d.cfg.Snapshots, Isolation: "none"}
}

// Create makes a box.
func (d *Driver) Create(ctx context.Context, spec pool.BoxSpec) error {
	if err := oci.ValidID(spec.ID); err != nil {
		return err
	}
	if err := d.enter(ctx, "Create"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.boxes[spec.ID] != nil {
		return fmt.Errorf("create box: %s exists", spec.ID)
	}
	d.boxes[spec.ID] = &box{created: time.Now(), gone: make(chan struct{})}
	d.peak = max(d.peak, len(d.boxes))
	return nil
}

// Start starts a created box.
func (d *Driver) Start(ctx context.Context, id string) error { return d.run(ctx, "Start", id) }

func (d *Driver) run(ctx context.Context, method, id string) error {
	if err := d.enter(ctx, method); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.boxes[id]
	switch {
	case b == nil:
		return bulkhead.Errorf(bulkhead.CodeNotFound, "no box %q", id)
	case b.started || b.dead:
		return errors.New("the box was started before")
	}
	b.started = true
	return nil
}

// Checkpoint writes a mark into dir and ends the box.
func (d *Driver) Checkpoint(ctx context.Context, id, dir string) error {
	if !d.cfg.Snapshots {
		return bulkhead.Errorf(bulkhead.CodeUnsupported, "this driver takes no snapshots")
	}
	if err := d.enter(ctx, "Checkpoint"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.boxes[id]
	if b == nil {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "no box %q", id)
	}
	if !b.started || b.dead {
		return errors.New("the box does not run")
	}
	b.end()
	if err := os.WriteFile(filepath.Join(dir, "checkpoint.img"), []byte(id), 0o600); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Restore fills a created box from dir.
func (d *Driver) Restore(ctx context.Context, id, dir string) error {
	if !d.cfg.Snapshots {
		return bulkhead.Errorf(bulkhead.CodeUnsupported, "this driver takes no snapshots")
	}
	if _, err := os.Stat(filepath.Join(dir, "checkpoint.img")); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	return d.run(ctx, "Restore", id)
}

// Wait blocks until the box is gone.
func (d *Driver) Wait(ctx context.Context, id string, _ pool.Say) error {
	d.mu.Lock()
	b := d.boxes[id]
	d.mu.Unlock()
	if b == nil {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "no box %q", id)
	}
	select {
	case <-b.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the caller's own
	}
}

// Destroy removes a box.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if err := d.enter(ctx, "Destroy"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boxes[id].end()
	delete(d.boxes, id)
	return nil
}

// List returns every box.
func (d *Driver) List(context.Context) ([]pool.BoxInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	infos := make([]pool.BoxInfo, 0, len(d.boxes))
	for id, b := range d.boxes {
		infos = append(infos, pool.BoxInfo{ID: id, Alive: !b.dead, CreatedAt: b.created})
	}
	return infos, nil
}

// Clone returns a driver with the same boxes, as a new server finds them after
// the old one was killed.
func (d *Driver) Clone() *Driver {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := New(d.cfg)
	for id, b := range d.boxes {
		c.boxes[id] = &box{created: b.created, started: b.started, gone: make(chan struct{})}
		if b.dead {
			c.boxes[id].end()
		}
	}
	return c
}
