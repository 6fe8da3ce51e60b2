package interp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/bulkheadhq/bulkhead"
)

// session is what E2B calls a context: a name for a kernel, which outlives it.
type session struct {
	id, language, cwd string
	start             func(context.Context) (Kernel, *lease, error)
	maxQueue          int
	preload           []string // for the first kernel; used by who has the turn

	// turn is full while somebody uses the kernel. Who waits gets it in order.
	turn    chan struct{}
	waiting atomic.Int64
	// removed is closed when the context is deleted.
	removed chan struct{}

	mu     sync.Mutex
	kernel Kernel // nil when there is none
	ending string // why the kernel is being closed on purpose, or empty
}

// Why a kernel is closed on purpose: the names of the errors that E2B reports.
const (
	endRestart = "ContextRestarting"
	endRemove  = "UnexpectedEndOfExecution"
)

var errRemoved = errors.New("context was deleted")

// enter joins the line, unless it is too long.
func (s *session) enter() error {
	if n := s.waiting.Add(1); n > int64(s.maxQueue)+1 { // one of them runs
		s.waiting.Add(-1)
		return bulkhead.Errorf(bulkhead.CodeQuotaExceeded,
			"Context %s already has %d executions waiting; the limit is %d", s.id, s.maxQueue, s.maxQueue)
	}
	return nil
}

// acquire waits for the kernel; wait is called before it if it may take time. Who
// has entered must call acquire, and release if it returns no error.
func (s *session) acquire(ctx context.Context, wait func()) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	default:
	}
	wait()
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		s.waiting.Add(-1)
		return context.Cause(ctx)
	case <-s.removed:
		s.waiting.Add(-1)
		return errRemoved
	}
}

// release lets the next one have the kernel.
func (s *session) release() {
	<-s.turn
	s.waiting.Add(-1)
}

// alive returns the kernel, started if need be. The caller has acquired s. now
// returns the lease in force.
func (s *session) alive(ctx context.Context, now func() *lease) (Kernel, error) {
	s.mu.Lock()
	k := s.kernel
	s.mu.Unlock()
	if s.gone() {
		return nil, errRemoved
	}
	if k != nil {
		select {
		case <-k.Done():
		default:
			return k, nil
		}
	}
	k, began, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone() {
		k.Close()
		return nil, errRemoved
	}
	s.kernel, s.ending = k, ""
	if l := now(); l != began { // it was leased while it started
		l.bind(s.id, k)
	}
	return k, nil
}

// touch has the kernel run nothing, if there is one and it has nothing to do.
func (s *session) touch(ctx context.Context) {
	select {
	case s.turn <- struct{}{}:
	default:
		return
	}
	s.waiting.Add(1)
	defer s.release()
	s.mu.Lock()
	k := s.kernel
	s.mu.Unlock()
	if k != nil {
		_ = k.Run(ctx, Request{Touch: true}, discard{}) //nolint:errcheck // the next execution finds out
	}
}

// gone reports whether the context was deleted.
func (s *session) gone() bool {
	select {
	case <-s.removed:
		return true
	default:
		return false
	}
}

// rebind passes a lease on to the kernel, if there is one.
func (s *session) rebind(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel != nil {
		l.bind(s.id, s.kernel)
	}
}

// shut closes the kernel, and says why to the execution that it interrupts.
func (s *session) shut(why string) {
	s.mu.Lock()
	k := s.kernel
	s.kernel, s.ending = nil, why
	s.mu.Unlock()
	if k != nil {
		k.Close()
	}
}

// remove ends the context for good. It must be called once.
func (s *session) remove() {
	close(s.removed)
	s.shut(endRemove)
}

// death returns the event that stands for the death of the kernel.
func (s *session) death(dead *DeadError, verdict func(int) (bulkhead.End, bool)) Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.ending {
	case endRestart:
		return Event{Kind: EventError, Name: endRestart, Value: "Context was restarted"}
	case endRemove:
		return Event{Kind: EventError, Name: endRemove, Value: "Context was deleted"}
	default:
		return dead.event(verdict)
	}
}
