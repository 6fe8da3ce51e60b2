package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/trace"
)

// Maker makes boxes out of a driver and parts. It is safe for concurrent use.
type Maker struct {
	// Driver and Parts are what boxes are made of.
	Driver Driver
	Parts  Parts
	// Guest is the host folder with envd.
	Guest string
	// Snapshots holds warm images; nil, or a driver without the capability, makes
	// every box from nothing.
	Snapshots *Snapshots
	// Ready, when set, blocks until a box answers over its network, and may give it
	// an identity: see [Box.Told].
	Ready func(ctx context.Context, b *Box) error
	// Log gets what has nobody to return it to.
	Log *slog.Logger
}

// create makes a cold box.
func (m *Maker) create(ctx context.Context, t bulkhead.Template, l bulkhead.Limits) (*Box, error) {
	stageCtx, end := trace.Stage(ctx, "parts")
	part, err := m.Parts.Acquire(stageCtx, l)
	if end(err); err != nil {
		return nil, fmt.Errorf("acquire parts: %w", err)
	}
	spec := BoxSpec{
		ID: part.Box(), Image: t.Image, Netns: part.Netns(), Guest: m.Guest,
		Hostname: "sandbox", Limits: l, Env: guestEnv(t),
	}
	stageCtx, end = trace.Stage(ctx, "boot")
	err = m.Driver.Create(stageCtx, spec)
	if end(err); err != nil {
		return nil, errors.Join(fmt.Errorf("create box: %w", err), part.Release(context.WithoutCancel(ctx)))
	}
	return m.box(t, l, part), nil
}

// box wraps what exists and begins to watch it.
func (m *Maker) box(t bulkhead.Template, l bulkhead.Limits, part Part) *Box {
	b := &Box{
		ID: part.Box(), Template: t, Made: l, Part: part, MadeAt: time.Now(),
		driver: m.Driver, gone: make(chan struct{}),
	}
	b.watch(m.Log)
	return b
}

// adopt takes over a box that an earlier server made.
func (m *Maker) adopt(ctx context.Context, id string, t bulkhead.Template, l bulkhead.Limits) (*Box, error) {
	part, err := m.Parts.Adopt(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("adopt parts: %w", err)
	}
	return m.box(t, l, part), nil
}

// snapshots reports whether boxes of t can be restored, and whether the image is
// there already.
func (m *Maker) snapshots(t bulkhead.Template) (can, ready bool) {
	if m.Snapshots == nil || !m.Driver.Capabilities().Snapshots {
		return false, false
	}
	_, ready = m.Snapshots.dir(t)
	return true, ready
}

// warm takes a cold box to warm: from the template's snapshot where there is one
// that fits, else by starting it.
func (m *Maker) warm(ctx context.Context, b *Box) error {
	dir, ok := "", false
	if can, _ := m.snapshots(b.Template); can && b.Made == b.Template.Defaults {
		dir, ok = m.Snapshots.dir(b.Template)
	}
	if ok {
		stageCtx, end := trace.Stage(ctx, "restore")
		err := m.Driver.Restore(stageCtx, b.ID, dir)
		if end(err); err != nil {
			return fmt.Errorf("restore box: %w", err)
		}
	} else {
		b.hear()
		stageCtx, end := trace.Stage(ctx, "start")
		err := m.start(stageCtx, b)
		if end(err); err != nil {
			return err
		}
	}
	b.restored = ok
	if m.Ready != nil {
		stageCtx, end := trace.Stage(ctx, "reach")
		err := m.Ready(stageCtx, b)
		if end(err); err != nil {
			return fmt.Errorf("reach box: %w", err)
		}
	}
	b.WarmAt = time.Now()
	return nil
}

// start boots a box's envd with all that it warms up. The box must be heard.
func (m *Maker) start(ctx context.Context, b *Box) error {
	err := m.Driver.Start(ctx, b.ID)
	if err == nil {
		return nil
	}
	if b.Dead() || ctx.Err() == nil {
		for _, why := range b.heard().after(boxrpc.LogWarmupFailed) {
			return &bulkhead.Error{
				Code: bulkhead.CodeConflict, Op: "start box", Err: err,
				Msg: fmt.Sprintf("the warm-up of template %s failed: %s", b.Template.Name, why),
			}
		}
	}
	return fmt.Errorf("start box: %w", err)
}

// guestEnv tells envd what the template serves.
func guestEnv(t bulkhead.Template) []string {
	env := []string{boxrpc.EnvUser + "=" + t.User, boxrpc.EnvWorkdir + "=" + t.Workdir}
	if path := t.Env["PATH"]; path != "" {
		env = append(env, "PATH="+path)
	}
	if t.Interpreter {
		env = append(env, boxrpc.EnvInterpreter+"=1")
	}
	if t.Preload != nil {
		list, _ := json.Marshal(t.Preload) // strings always encode
		env = append(env, boxrpc.EnvPreload+"="+string(list))
	}
	if t.Warmup != "" {
		env = append(env, boxrpc.EnvWarmup+"="+t.Warmup)
	}
	return env
}
