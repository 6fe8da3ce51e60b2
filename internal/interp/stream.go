package interp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// keepalive is how often a silent stream says that it is alive, as E2B does.
const keepalive = 5 * time.Second

// stream is the response to an execution: one JSON object per line.
type stream struct {
	rc *http.ResponseController
	w  http.ResponseWriter

	mu   sync.Mutex
	buf  []byte
	err  error // the client is gone
	stop chan struct{}
}

// maxBuffered is how much is held back for a flush to come.
const maxBuffered = 64 << 10

// newStream begins the response; the first flush sends its headers.
func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	s := &stream{w: w, rc: http.NewResponseController(w), stop: make(chan struct{})}
	go s.keepAlive()
	return s
}

var _ Sink = (*stream)(nil)

// Emit implements [Sink].
func (s *stream) Emit(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.buf, err = appendEvent(s.buf, e, time.Now()); err != nil {
		// What a kernel sends is checked only here.
		e = Event{Kind: EventError, Name: "InvalidResult", Value: "The kernel sent a result that is no JSON."}
		s.buf, err = appendEvent(s.buf, e, time.Now())
	}
	if err != nil || len(s.buf) > maxBuffered {
		s.flushLocked()
	}
}

// Flush implements [Sink].
func (s *stream) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buf) > 0 {
		s.flushLocked()
	}
}

// begin sends the headers when it will be a while until there is more.
func (s *stream) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushLocked()
}

// end sends the last line.
func (s *stream) end() {
	close(s.stop)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf, `{"type":"end_of_execution"}`+"\n"...)
	s.flushLocked()
}

func (s *stream) flushLocked() {
	if s.err == nil {
		if _, s.err = s.w.Write(s.buf); s.err == nil {
			s.err = s.rc.Flush()
		}
	}
	s.buf = s.buf[:0]
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
}

func (s *stream) keepAlive() {
	ticker := time.NewTicker(keepalive)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			s.mu.Lock()
			select {
			case <-s.stop: // end has been, or is about to be, written
			default:
				s.buf = append(s.buf, `{"type":"keepalive"}`+"\n"...)
				s.flushLocked()
			}
			s.mu.Unlock()
		}
	}
}

var errOutputLimit = errors.New("output limit exceeded")

// meter lets through the events of one execution until they exceed a limit. Then
// it says so in the place of the rest and cancels the execution. Of several errors
// only the first is passed on.
type meter struct {
	next   Sink
	wait   func(n int) // holds an event of so many bytes up for the rate of output
	cancel context.CancelCauseFunc
	limit  int64 // bytes, 0 for none
	max    int64 // bytes of one event

	mu     sync.Mutex
	used   int64
	over   bool
	failed bool
}

var _ Sink = (*meter)(nil)

// Emit implements [Sink].
func (m *meter) Emit(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	if e.Kind == EventOversize {
		m.exceed(fmt.Sprintf("one result takes %d bytes; the limit is %d", e.Size, m.max))
		return
	}
	if e.Kind == EventError {
		if m.failed {
			return
		}
		m.failed = true
		m.next.Emit(e)
		return
	}
	size := e.size()
	m.wait(int(min(size, m.max)))
	if m.limit > 0 && m.used+size > m.limit {
		if e.Text != "" {
			e.Text = strings.ToValidUTF8(e.Text[:m.limit-m.used], "")
			m.next.Emit(e)
		}
		m.exceed(fmt.Sprintf("the execution printed and showed more than %d bytes", m.limit))
		return
	}
	m.used += size
	m.next.Emit(e)
}

func (m *meter) exceed(what string) {
	m.over = true
	if !m.failed {
		m.failed = true
		end := bulkhead.End{Cause: bulkhead.CauseOutputLimit, At: time.Now().UTC(), Limit: m.limit, Detail: what}
		m.next.Emit(Event{
			End:  &end,
			Kind: EventError, Name: "OutputLimitExceeded",
			Value: "output_limit: " + what + ". The execution was interrupted; its variables are kept.",
		})
	}
	m.cancel(errOutputLimit)
}

// Flush implements [Sink].
func (m *meter) Flush() { m.next.Flush() }
