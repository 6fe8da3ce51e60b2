package interp

import "sync"

// mailbox is the line of messages between the reader of a socket and whoever
// handles them. A kernel's publisher drops what its subscriber is slow to take, so
// the reader must not wait for a slow client; only beyond max bytes it does.
type mailbox struct {
	max int64

	mu     sync.Mutex
	change sync.Cond
	items  []mail
	bytes  int64
	closed bool
}

// mail is one message, and how many bytes of it were dropped.
type mail struct {
	frames  [][]byte
	dropped int64
}

func (m mail) size() int64 {
	n := int64(64)
	for _, f := range m.frames {
		n += int64(len(f))
	}
	return n
}

func newMailbox(limit int64) *mailbox {
	b := &mailbox{max: limit}
	b.change.L = &b.mu
	return b
}

// put adds a message. It waits while there is too much, unless there is nothing.
func (b *mailbox) put(m mail) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := m.size()
	for !b.closed && len(b.items) > 0 && b.bytes+size > b.max {
		b.change.Wait()
	}
	b.items = append(b.items, m)
	b.bytes += size
	b.change.Broadcast()
}

// take returns all messages that there are, and waits for one if there is none.
// It returns none when the box is closed and empty.
func (b *mailbox) take() []mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && len(b.items) == 0 {
		b.change.Wait()
	}
	items := b.items
	b.items, b.bytes = nil, 0
	b.change.Broadcast()
	return items
}

// close lets everyone go on who waits.
func (b *mailbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.change.Broadcast()
}
