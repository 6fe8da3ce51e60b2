package api

import (
	"io"
	"net/http"
	"time"
)

// timedBody is a body that has to come within [BodyTime]. Once it is there the
// client may be silent for as long as its answer takes: a deadline that is left on
// a connection cancels the request when it passes.
type timedBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

// timed starts the clock on a request's body, if it has one.
func timed(w http.ResponseWriter, r *http.Request) io.ReadCloser {
	if r.Body == http.NoBody {
		return r.Body
	}
	b := timedBody{r.Body, http.NewResponseController(w)}
	// Not every writer has deadlines; those in tests do not need them.
	_ = b.conn.SetReadDeadline(time.Now().Add(BodyTime))
	return b
}

// Read implements [io.Reader].
func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err //nolint:wrapcheck // it is io.EOF, or the reader's own
}
