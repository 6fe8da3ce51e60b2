package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Stage says how far a box is made.
type Stage string

// The stages.
const (
	// StageNew: nothing of it exists yet.
	StageNew Stage = "new"
	// StageCold: created, its sentry waits for an image; next to no memory.
	StageCold Stage = "cold"
	// StageWarm: its envd serves, its kernels are up, its imports are done.
	StageWarm Stage = "warm"
)

// Box is a box with its parts. One goroutine at a time may use it; Gone may be
// watched by any.
type Box struct {
	// ID is the driver's name of the box.
	ID string
	// Template is what it was made from.
	Template bulkhead.Template
	// Made are the limits it was made with.
	Made bulkhead.Limits
	// Part is its share of the host.
	Part Part
	// MadeAt is when it was created, WarmAt when it became warm.
	MadeAt, WarmAt time.Time

	driver Driver
	gone   chan struct{}
	stop   context.CancelFunc // ends the watch

	mu       sync.Mutex // guards listener, end
	listener Say
	released bool
}

// Gone is closed when the box's main process is gone.
func (b *Box) Gone() <-chan struct{} { return b.gone }

// Dead reports whether the box's main process is gone.
func (b *Box) Dead() bool {
	select {
	case <-b.gone:
		return true
	default:
		return false
	}
}

// Listen makes say get the lines that the box's envd logs from now on.
func (b *Box) Listen(say Say) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listener = say
}

func (b *Box) say(level slog.Level, message string) {
	b.mu.Lock()
	say := b.listener
	b.mu.Unlock()
	if say != nil {
		say(level, message)
	}
}

// watch waits for the box's end in the background.
func (b *Box) watch(log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		defer close(b.gone)
		err := b.driver.Wait(ctx, b.ID, b.say)
		if err != nil && ctx.Err() == nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			log.Error("wait for box", "box", b.ID, "err", err)
		}
	}()
}

// releaseTimeout bounds a teardown, which must end even on a broken host.
const releaseTimeout = 30 * time.Second

// Release destroys the box and returns its parts. It may be repeated.
func (b *Box) Release(ctx context.Context) error {
	b.mu.Lock()
	again := b.released
	b.released = true
	b.mu.Unlock()
	if again {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	var errs []error
	if err := b.driver.Destroy(ctx, b.ID); err != nil {
		errs = append(errs, fmt.Errorf("destroy box: %w", err))
	}
	if b.stop != nil {
		b.stop()
		<-b.gone
	}
	if err := b.Part.Release(ctx); err != nil {
		errs = append(errs, fmt.Errorf("release parts: %w", err))
	}
	return errors.Join(errs...)
}
