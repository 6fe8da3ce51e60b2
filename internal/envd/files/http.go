package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// Register adds the service's HTTP routes to mux: reading and writing contents,
// which check the token or the signature of a call by themselves, and composing,
// which does not.
func (s *Service) Register(mux *http.ServeMux) {
	mux.Handle("GET /files", s.answer(s.download))
	mux.Handle("POST /files", s.answer(s.upload))
	mux.Handle("POST /files/compose", s.answer(s.compose))
}

// httpError is an answer to a call over HTTP. Its text may be shown.
type httpError struct {
	status int
	text   string
}

// Error implements error.
func (e *httpError) Error() string { return e.text }

func httpErrorf(status int, format string, args ...any) error {
	return &httpError{status: status, text: text(fmt.Sprintf(format, args...))}
}

// answer turns the error of f into E2B's form. f has not begun to answer when it
// returns one.
func (s *Service) answer(f func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			WriteError(w, statusOf(err), shownText(err))
		}
	})
}

// WriteError answers with E2B's form of an error.
func WriteError(w http.ResponseWriter, status int, message string) {
	h := w.Header()
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message}) // the client may be gone
}

// statuses says which status stands for an error of the operating system.
var statuses = []struct {
	err    error
	status int
}{
	{fs.ErrNotExist, http.StatusNotFound},
	{syscall.ENOTDIR, http.StatusNotFound},
	{fs.ErrPermission, http.StatusForbidden},
	{syscall.EROFS, http.StatusForbidden},
	{syscall.ENOSPC, http.StatusInsufficientStorage},
	{syscall.EDQUOT, http.StatusInsufficientStorage},
	{syscall.ENAMETOOLONG, http.StatusBadRequest},
	{syscall.EISDIR, http.StatusBadRequest},
	{syscall.ELOOP, http.StatusBadRequest},
	{syscall.ENXIO, http.StatusBadRequest}, // a socket or a pipe
	{syscall.ETXTBSY, http.StatusConflict},
}

func statusOf(err error) int {
	if e, ok := errors.AsType[*httpError](err); ok {
		return e.status
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// shownText is what a client may read of err: all of it, since what it names is
// in the client's own box.
func shownText(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "not enough disk space available: " + err.Error()
	}
	return err.Error()
}

// target returns the user that a call over HTTP names and the absolute form of
// path. The error is an *[httpError].
func (s *Service) target(username, path string) (ident.User, string, error) {
	u, err := s.cfg.Box.User(username)
	if err != nil {
		return u, "", &httpError{http.StatusUnauthorized, err.Error()}
	}
	path, err = s.cfg.Box.Resolve(u, path)
	if err != nil {
		return u, "", &httpError{http.StatusBadRequest, text(err.Error())}
	}
	return u, path, nil
}
