package proc

import (
	"sync"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
)

// The bounds of a hub.
const (
	// maxSubscribers is how many streams may follow one process.
	maxSubscribers = 64
	// queued is how many chunks wait for a subscriber before the process does.
	queued = 4
)

// hub hands the output of a process to whoever follows it. A subscriber that
// does not keep up makes the process wait, as a pipe would, so nothing piles
// up; one that is gone does not. Output that nobody follows is dropped.
type hub struct {
	// publishing is held for reading while a chunk is given out, so that close
	// comes between chunks.
	publishing sync.RWMutex

	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
}

// subscriber gets chunks until the channel is closed.
type subscriber struct {
	chunks chan *processpb.ProcessEvent_DataEvent
	gone   chan struct{}
	once   sync.Once
	hub    *hub
}

// subscribe adds a subscriber. On a closed hub its channel is closed already.
func (h *hub) subscribe() (*subscriber, error) {
	s := &subscriber{chunks: make(chan *processpb.ProcessEvent_DataEvent, queued), gone: make(chan struct{}), hub: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		close(s.chunks)
		return s, nil
	case len(h.subs) >= maxSubscribers:
		return nil, errorf(connect.CodeResourceExhausted, "the process is followed by %d streams already, the most allowed", maxSubscribers)
	case h.subs == nil:
		h.subs = make(map[*subscriber]struct{})
	}
	h.subs[s] = struct{}{}
	return s, nil
}

// leave ends the subscription. It may be called more than once.
func (s *subscriber) leave() {
	s.once.Do(func() { close(s.gone) })
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

// publish gives chunk to every subscriber and blocks until each has room for it
// or has left. Chunks that come after close are dropped.
func (h *hub) publish(chunk *processpb.ProcessEvent_DataEvent) {
	h.publishing.RLock()
	defer h.publishing.RUnlock()
	h.mu.Lock()
	subs := make([]*subscriber, 0, len(h.subs))
	for s := range h.subs {
		subs = append(subs, s)
	}
	h.mu.Unlock()
	for _, s := range subs {
		select {
		case s.chunks <- chunk:
		case <-s.gone:
		}
	}
}

// close ends every subscription once its queue is read. It waits for the chunk
// that is being given out.
func (h *hub) close() {
	h.publishing.Lock()
	defer h.publishing.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subs {
		close(s.chunks)
	}
	clear(h.subs)
}
