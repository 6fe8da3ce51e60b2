package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/openapi"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/trace"
)

// requestIDHeader carries the request's name, ours or the client's.
const requestIDHeader = "X-Request-Id"

// clientGone is the status that the log and the metrics show for a request whose
// client left before the answer. Nobody receives it.
const clientGone = 499

// cleanID is a request id that may be taken over from a client.
var cleanID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// caller is who sent a request.
type caller struct {
	store.Key
	secret string
	act    *bulkhead.Act // what is recorded of a privileged call, else nil
}

// endpoint answers one route. An error it returns has not been written yet.
type endpoint func(w http.ResponseWriter, r *http.Request, c caller) error

// ServeHTTP answers one request. It does not return before the answer is written,
// and panics only with http.ErrAbortHandler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.cfg.Now()
	id := r.Header.Get(requestIDHeader)
	if !cleanID.MatchString(id) {
		id = rand.Text()
	}
	w.Header().Set(requestIDHeader, id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	rw := &recorder{ResponseWriter: w}
	r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is panicked with as it is
				panic(v)
			}
			s.fail(rw, r, &bulkhead.Error{Code: bulkhead.CodeInternal, Op: "serve", Err: fmt.Errorf("panic: %v\n%s", v, debug.Stack())})
		}
		s.note(rw, r, s.cfg.Now().Sub(start))
	}()
	s.route(rw, r)
}

// route finds the endpoint. What the mux would answer itself in plain text, 404
// and 405, gets E2B's shape here.
func (s *Server) route(w *recorder, r *http.Request) {
	if r.Method == http.MethodConnect { // the mux would take its pattern from the path
		writeJSON(w, http.StatusMethodNotAllowed, errorBody{Code: http.StatusMethodNotAllowed, Message: "CONNECT is not served"})
		return
	}
	h, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	probe := &muted{header: http.Header{}}
	h.ServeHTTP(probe, r)
	if allow := probe.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		writeJSON(w, http.StatusMethodNotAllowed, errorBody{
			Code: http.StatusMethodNotAllowed, Message: r.Method + " is not a method of this path; it has " + allow,
		})
		return
	}
	writeJSON(w, http.StatusNotFound, errorBody{Code: http.StatusNotFound, Message: "no such route"})
}

// handle registers an endpoint for callers with the scope.
func (s *Server) handle(pattern, scope string, serve endpoint) {
	s.handleCall(call{Call: openapi.Call{Pattern: pattern, Scope: scope}, serve: serve})
}

// handleCall registers what serves a call.
func (s *Server) handleCall(own call) {
	s.patterns = append(s.patterns, own.Pattern)
	s.mux.HandleFunc(own.Pattern, func(w http.ResponseWriter, r *http.Request) {
		if rec, ok := w.(*recorder); ok && s.cfg.Tracer != nil {
			var ctx context.Context
			ctx, rec.timing = s.cfg.Tracer.Request(r.Context(), own.Pattern)
			defer rec.timing.End()
			r = r.WithContext(ctx)
		}
		ctx, end := trace.Stage(r.Context(), "key")
		c, err := s.admit(r.WithContext(ctx), own.Scope)
		end(err)
		if c.ID != "" && own.act != "" {
			c = c.acting(r, own.act)
		}
		if c.ID != "" { // also a request that its key may not make
			if limited := s.take(w, r, c); limited != nil {
				err = limited
			}
		}
		if err != nil {
			s.acted(r, c, err)
			s.writeError(w, r, err)
			return
		}
		select {
		case s.places <- struct{}{}:
			defer func() { <-s.places }()
		default:
			s.writeError(w, r, &bulkhead.Error{
				Code: bulkhead.CodeUnavailable, RetryAfter: time.Second,
				Msg: fmt.Sprintf("the server is busy with %d requests; try again", cap(s.places)),
			})
			return
		}
		r.Body = http.MaxBytesReader(w, timed(w, r), cmp.Or(own.MaxBody, MaxBody))
		if c.act != nil {
			s.serveAct(w, r, c, own.serve)
		} else if err := own.serve(w, r, c); err != nil {
			s.writeError(w, r, err)
		}
	})
}

// admit says who the caller is, if it may use routes of the scope. The caller is
// known, too, when only the scope is what it lacks.
func (s *Server) admit(r *http.Request, scope string) (caller, error) {
	secret := r.Header.Get("X-Api-Key")
	if secret == "" {
		if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
			secret = strings.TrimSpace(token)
		}
	}
	if secret == "" {
		return caller{}, bulkhead.Errorf(bulkhead.CodeUnauthenticated,
			"no API key: send it in the header X-API-KEY, or in Authorization as a Bearer token")
	}
	// Looking a hash up takes a time that says nothing about the secret.
	key, err := s.cfg.Authenticator.LookupKey(r.Context(), store.HashKey(secret))
	if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
		return caller{}, bulkhead.Errorf(bulkhead.CodeUnauthenticated, "the API key is not known, or revoked")
	}
	if err != nil {
		return caller{}, fmt.Errorf("look up the API key: %w", err)
	}
	if !key.May(scope) {
		return caller{Key: key}, bulkhead.Errorf(bulkhead.CodeForbidden, "the API key %s… lacks the scope %q", key.Prefix, scope)
	}
	return caller{Key: key, secret: secret}, nil
}

// note counts and logs a request that was answered.
func (s *Server) note(w *recorder, r *http.Request, took time.Duration) {
	route := r.Pattern
	if route == "" {
		route = "none"
	}
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	if r.Context().Err() != nil && errors.Is(context.Cause(r.Context()), context.Canceled) {
		status = clientGone
	}
	s.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	s.seconds.WithLabelValues(route).Observe(took.Seconds())
	log := s.cfg.Log.DebugContext
	if status >= 400 {
		log = s.cfg.Log.InfoContext
	}
	log(r.Context(), "answered", "request", requestID(r), "route", route, "status", status, "took", took)
}

// errorBody is E2B's error. Bulkhead's own routes use it too.
type errorBody struct {
	Code      int    `json:"code"`
	Message   string `json:"message"`
	ErrorCode string `json:"error_code,omitempty"`
	// Limit is ours: which limit the request met, and its figures.
	Limit *bulkhead.LimitEvidence `json:"limit,omitempty"`
}

// writeError answers with err, unless the client is gone.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil && errors.Is(err, context.Canceled):
		w.WriteHeader(clientGone)
		return
	case errors.Is(err, context.DeadlineExceeded) && bulkhead.CodeOf(err) == bulkhead.CodeInternal:
		err = &bulkhead.Error{Code: bulkhead.CodeTimeout, Msg: "the request took too long", Err: err}
	}
	code := bulkhead.CodeOf(err)
	status := code.HTTPStatus()
	if status == http.StatusInternalServerError {
		s.fail(w, r, err)
		return
	}
	if status > http.StatusInternalServerError && status != http.StatusNotImplemented {
		s.cfg.Log.WarnContext(r.Context(), "refused", "request", requestID(r), "error", err)
	}
	body := errorBody{Code: status, Message: bulkhead.Message(err), ErrorCode: errorCode(r, code)}
	if typed, ok := errors.AsType[*bulkhead.Error](err); ok {
		body.Limit = typed.Limit
		if typed.RetryAfter > 0 {
			// The SDKs wait for whole seconds only.
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(typed.RetryAfter.Seconds()))))
		}
	}
	writeJSON(w, status, body)
}

// fail answers 500 with the request's id and logs the cause.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	id := requestID(r)
	s.cfg.Log.ErrorContext(r.Context(), "serve request", "request", id, "route", r.Pattern, "error", err)
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		return // too late for an answer
	}
	writeJSON(w, http.StatusInternalServerError, errorBody{
		Code: http.StatusInternalServerError, Message: "internal error; the log has more under request " + id,
		ErrorCode: errorCode(r, bulkhead.CodeInternal),
	})
}

// errorCode is E2B's word for why a create failed; other routes have none.
func errorCode(r *http.Request, code bulkhead.Code) string {
	if code == bulkhead.CodeInternal {
		return "internal_server_error"
	}
	if r.Method != http.MethodPost || !strings.HasSuffix(r.Pattern, "sandboxes") {
		return ""
	}
	switch code {
	case bulkhead.CodeUnavailable:
		return "sandbox_capacity_unavailable"
	case bulkhead.CodeTimeout:
		return "sandbox_placement_timeout"
	default:
		return ""
	}
}

// writeJSON writes v, which must be encodable.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Errorf("encode answer: %w", err))
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client may be gone
}

// requestIDKey is the context key of the request's id.
type requestIDKey struct{}

func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

// recorder remembers the status that was written.
type recorder struct {
	http.ResponseWriter
	status int
	timing *trace.Timing // nil for a request that nobody times
}

// WriteHeader implements [http.ResponseWriter].
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		w.tell()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
		w.tell()
	}
	return w.ResponseWriter.Write(b)
}

// tell puts the stages of a request that went well into its answer.
func (w *recorder) tell() {
	if w.timing != nil && w.status < http.StatusBadRequest {
		w.Header().Set("Server-Timing", w.timing.Header())
	}
}

// Unwrap lets [http.ResponseController] reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// muted takes an answer that nobody is to see.
type muted struct{ header http.Header }

// Header implements [http.ResponseWriter].
func (m *muted) Header() http.Header { return m.header }

// Write implements [http.ResponseWriter].
func (m *muted) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements [http.ResponseWriter].
func (m *muted) WriteHeader(int) {}
