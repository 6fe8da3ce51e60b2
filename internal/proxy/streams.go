package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// streams counts the requests under way, in all and for each sandbox.
type streams struct {
	max, maxEach int

	mu    sync.Mutex
	total int
	each  map[string]*lane
}

func newStreams(most, mostEach int) *streams {
	return &streams{max: most, maxEach: mostEach, each: map[string]*lane{}}
}

// acquire takes a place on the sandbox's lane, which must be released, or says why
// there is none.
func (s *streams) acquire(id string) (*lane, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.each[id]
	switch {
	case l != nil && l.requests >= s.maxEach:
		return nil, &answer{
			Code: http.StatusTooManyRequests, SandboxID: id, Retry: true,
			Message: "The sandbox has as many requests under way as it may have",
		}
	case s.total >= s.max:
		return nil, &answer{
			Code: http.StatusServiceUnavailable, SandboxID: id, Retry: true,
			Message: "The server has as many requests to sandboxes under way as it may have",
		}
	}
	if l == nil {
		l = newLane()
		s.each[id] = l
	}
	s.total++
	l.requests++
	return l, nil
}

// release gives a place back.
func (s *streams) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	l := s.each[id]
	if l.requests--; l.requests == 0 {
		delete(s.each, id)
	}
}

// count returns the number of requests under way.
func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// buffers lends the memory through which bodies are copied.
type buffers struct{ pool sync.Pool }

// bufferSize is what one copy moves at a time, in bytes: a chunk of envd's.
const bufferSize = 32 << 10

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	buf, _ := b.pool.Get().(*[bufferSize]byte)
	return buf[:]
}

// Put implements [httputil.BufferPool].
func (b *buffers) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }

// clientGone is the status that the metrics show when the client left first.
const clientGone = 499

// recorder remembers the status, and stops a box that sends interim answers for ever.
type recorder struct {
	http.ResponseWriter
	flooded func() // ends the request to the box
	body    *upload
	interim int
	status  int
}

// WriteHeader implements [http.ResponseWriter].
func (w *recorder) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		if w.interim++; w.flood() {
			w.flooded()
			return
		}
	} else if w.status == 0 {
		w.status = status
		if status != http.StatusSwitchingProtocols && !w.body.done() {
			// The server will close the connection, and the client must not send its
			// next request over it meanwhile.
			w.Header().Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// upload is the body of a request over HTTP/1.1, which must be read to its end
// before another request can follow; nil is a body that need not.
type upload struct {
	io.ReadCloser

	left  atomic.Int64 // bytes; negative when that is not known
	ended atomic.Bool
}

// track makes the request tell how much of its body was read.
func track(r *http.Request) *upload {
	if r.ProtoMajor > 1 || r.ContentLength == 0 {
		return nil
	}
	u := &upload{ReadCloser: r.Body}
	u.left.Store(r.ContentLength)
	r.Body = u
	return u
}

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if left := u.left.Add(-int64(n)); errors.Is(err, io.EOF) || left == 0 {
		u.ended.Store(true)
	}
	return n, err //nolint:wrapcheck // EOF must stay one
}

func (u *upload) done() bool { return u == nil || u.ended.Load() }

// flood reports whether the box sent more interim answers than it may.
func (w *recorder) flood() bool { return w.interim > maxInterim }

// Unwrap lets [http.ResponseController] flush and hijack.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
