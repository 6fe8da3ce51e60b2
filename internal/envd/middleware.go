package envd

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
)

// selfGuarded are the routes that check the token themselves or need none.
var selfGuarded = map[string]bool{
	"GET /health": true, "HEAD /health": true,
	"GET /files": true, "HEAD /files": true, "POST /files": true, // a signature does
	"POST /init": true, // its answer is its own
}

// withToken asks for the box's token, once it has one.
func (s *Server) withToken(next http.Handler) http.Handler {
	refuse := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.cfg.Box.Guarded() || selfGuarded[r.Method+" "+r.URL.Path] || s.cfg.Box.Holds(r.Header.Get(boxrpc.TokenHeader)) {
			next.ServeHTTP(w, r)
			return
		}
		err := errors.New("unauthorized access, please provide a valid access token or method signing if supported")
		if isRPC(r.URL.Path) && refuse.IsSupported(r) {
			_ = refuse.Write(w, r, connect.NewError(connect.CodeUnauthenticated, err)) // the client may be gone
			return
		}
		files.WriteError(w, http.StatusUnauthorized, err.Error())
	})
}

// isRPC reports whether path is that of a service's method.
func isRPC(path string) bool {
	return strings.HasPrefix(path, "/"+processpbconnect.ProcessName+"/") || strings.HasPrefix(path, "/"+filesystempbconnect.FilesystemName+"/")
}

// withCORS lets pages of any origin call the box. There are no cookies, so a page
// can do only what the token it was given can.
func withCORS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if r.Header.Get("Origin") != "" {
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Access-Control-Expose-Headers", "*, Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Content-Range, Etag")
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
			// "*" does not stand for Authorization.
			h.Set("Access-Control-Allow-Headers", "*, Authorization")
			h.Set("Access-Control-Max-Age", "7200")
			h.Add("Vary", "Access-Control-Request-Method")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// withDeadlines ends the answer to a client that takes nothing of it for long, so
// that a program it follows can go on.
func withDeadlines(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := &deadlineWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		d.clear()        // of the call before on this connection
		defer d.extend() // for what the server itself writes at the end
		next.ServeHTTP(d, r)
	})
}

// deadlineWriter gives every write a deadline of its own. Between writes there is
// none: over HTTP/2 a deadline that passes ends the stream, written to or not.
type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// extend begins a deadline and clear ends it. A writer without deadlines has none.
func (d *deadlineWriter) extend() { _ = d.control.SetWriteDeadline(time.Now().Add(writeStall)) }

func (d *deadlineWriter) clear() { _ = d.control.SetWriteDeadline(time.Time{}) }

// Write implements [http.ResponseWriter].
func (d *deadlineWriter) Write(p []byte) (int, error) {
	d.extend()
	defer d.clear()
	return d.ResponseWriter.Write(p) //nolint:wrapcheck // it stands for the writer
}

// Flush implements [http.Flusher], which Connect asks for.
func (d *deadlineWriter) Flush() {
	d.extend()
	defer d.clear()
	_ = d.control.Flush() // the next write tells
}

// Unwrap is for [http.ResponseController].
func (d *deadlineWriter) Unwrap() http.ResponseWriter { return d.ResponseWriter }
