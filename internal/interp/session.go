package interp

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/bulkheadhq/bulkhead"
)

// session is what E2B calls a context: a name for a kernel, which outlives it.
type session struct {
	id, language, cwd string
	start             func(context.Context) (Kernel, *lease, error)
	maxQueue          int
	warmup            string   // as preload
	preload           []string // for the first kernel; used by who has the turn in queue

	queue queue
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

// queue gives a kernel to one user at a time, in the order in which they joined.
type queue struct {
	mu   sync.Mutex
	held bool
	line []*turn
}

// turn is a place in a queue. ready is closed when it has come.
type turn struct{ ready chan struct{} }

// join takes a place, unless more than most wait already.
func (q *queue) join(most int) (*turn, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &turn{ready: make(chan struct{})}
	switch {
	case !q.held:
		q.held = true
		close(t.ready)
	case len(q.line) >= most:
		return nil, false
	default:
		q.line = append(q.line, t)
	}
	return t, true
}

// leave gives up a place, whether it has come or not. It must be called once.
func (q *queue) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.line, t); i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		return
	}
	if len(q.line) == 0 {
		q.held = false
		return
	}
	close(q.line[0].ready)
	q.line = slices.Delete(q.line, 0, 1)
}

// enter joins the line, unless it is too long. Who has entered must leave.
func (s *session) enter() (*turn, error) {
	t, ok := s.queue.join(s.maxQueue)
	if !ok {
		return nil, bulkhead.Errorf(bulkhead.CodeQuotaExceeded,
			"Context %s already has %d executions waiting; the limit is %d", s.id, s.maxQueue, s.maxQueue)
	}
	return t, nil
}

// await waits until the turn has come; idle is called before if it may take time.
func (s *session) await(ctx context.Context, t *turn, idle func()) error {
	select {
	case <-t.ready:
		return nil
	default:
	}
	idle()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.removed:
		return errRemoved
	}
}

// alive returns the kernel, started if need be. It is the caller's turn. now
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
	t, ok := s.queue.join(0)
	if !ok {
		return
	}
	defer s.queue.leave(t)
	s.mu.Lock()
	k := s.kernel
	s.mu.Unlock()
	if k != nil {
		_ = k.Run(ctx, Request{Touch: true}, discard{}) // the next execution finds out
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
