package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
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
	// Told is the identity that it was given while nobody had it, without its seed;
	// the zero value when it was given none. [Maker.Ready] sets it.
	Told boxrpc.Init

	driver Driver
	gone   chan struct{}
	stop   context.CancelFunc // ends the watch

	restored bool   // it is warm by a snapshot
	returned func() // called once when it is released; nil while it waits

	mu       sync.Mutex // guards the rest
	listener Say
	ear      *heard
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

// hear begins to keep the first lines of the box's log.
func (b *Box) hear() *heard {
	h := &heard{}
	b.mu.Lock()
	b.ear = h
	b.mu.Unlock()
	b.Listen(h.line)
	return h
}

// heard returns what was kept since hear.
func (b *Box) heard() *heard {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ear
}

// maxHeard bounds how many lines are kept, and maxHeardLine the bytes of each.
const (
	maxHeard     = 200
	maxHeardLine = 500
)

// heard are lines of a log. It is safe for concurrent use.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) line(_ slog.Level, message string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lines) < maxHeard {
		h.lines = append(h.lines, strings.ToValidUTF8(message[:min(len(message), maxHeardLine)], ""))
	}
}

// after returns the lines that begin with prefix, without it. h may be nil.
func (h *heard) after(prefix string) (out []string) {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.lines {
		if rest, ok := strings.CutPrefix(l, prefix); ok {
			out = append(out, rest)
		}
	}
	return out
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
	if b.returned != nil {
		defer b.returned()
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
