package interp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// executeBody is the body of /execute. Fields that are not known are ignored.
type executeBody struct {
	Code      *string           `json:"code"`
	ContextID string            `json:"context_id"`
	Language  string            `json:"language"`
	Env       map[string]string `json:"env_vars"`
}

// contextBody is the body of /contexts, and with the id also its answer.
type contextBody struct {
	ID       string `json:"id,omitempty"`
	Language string `json:"language"`
	CWD      string `json:"cwd"`
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	guarded := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			token := r.Header.Get("X-Access-Token")
			// The SDKs up to JavaScript 2.8 and Python 2.11 send the token to /execute
			// only, so the contexts, which run nothing, must do without; a wrong token
			// is refused everywhere.
			needed := token != "" || r.URL.Path == "/execute"
			if needed && !s.authorized(token) {
				refuse(w, http.StatusUnauthorized, "Unauthorized")
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxRequestBytes)
			if err := h(w, r); err != nil {
				refuse(w, bulkhead.CodeOf(err).HTTPStatus(), bulkhead.Message(err))
			}
		})
	}
	guarded("POST /execute", s.execute)
	guarded("POST /contexts", s.postContext)
	guarded("GET /contexts", s.getContexts)
	guarded("DELETE /contexts/{id}", s.deleteContext)
	guarded("POST /contexts/{id}/restart", s.restartContext)
	return mux
}

// health tells whether Python is ready, and has its kernel run nothing unless it is
// at work: after the snapshot of a box was restored, asking for its health once
// brings in the memory that the first execution would otherwise wait for.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.settled:
	default:
		refuse(w, http.StatusServiceUnavailable, "the interpreter is starting")
		return
	}
	if s.ready != nil {
		refuse(w, http.StatusServiceUnavailable, s.ready.Error())
		return
	}
	s.mu.Lock()
	sess := s.defaults[python]
	s.mu.Unlock()
	if sess != nil {
		sess.touch(r.Context())
	}
	answer(w, "OK")
}

// refuse answers with bare text, as E2B does.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client being gone is no error
}

// answer writes v as JSON. The client being gone is no error.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // plain values, and see above
}

// decode reads a JSON body. An empty one leaves v as it is if that is allowed.
func decode(r io.Reader, v any, allowEmpty bool) error {
	data, err := io.ReadAll(r)
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return bulkhead.Errorf(bulkhead.CodeTooLarge, "the request is longer than %d bytes", tooLong.Limit)
	}
	if err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: "the request could not be read", Err: err}
	}
	if len(data) == 0 && allowEmpty {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the request is not valid JSON: %s", err)
	}
	return nil
}

// decodeExecute reads and checks the body of /execute.
func decodeExecute(r io.Reader) (executeBody, error) {
	var body executeBody
	if err := decode(r, &body, false); err != nil {
		return body, err
	}
	if body.Code == nil {
		return body, bulkhead.Errorf(bulkhead.CodeInvalid, "code is missing")
	}
	if body.ContextID != "" && body.Language != "" {
		return body, bulkhead.Errorf(bulkhead.CodeInvalid, "Only one of context_id or language can be provided")
	}
	for name, value := range body.Env {
		if err := checkVariable(name, value); err != nil {
			return body, err
		}
	}
	return body, nil
}

// checkVariable refuses what no process can have in its environment.
func checkVariable(name, value string) error {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "env_vars: %q is no name of a variable", name)
	}
	if strings.Contains(value, "\x00") {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "env_vars: the value of %q contains a NUL byte", name)
	}
	return nil
}

func (s *Server) execute(w http.ResponseWriter, r *http.Request) error {
	body, err := decodeExecute(r.Body)
	if err != nil {
		return err
	}
	var sess *session
	if body.ContextID != "" {
		sess, err = s.byID(body.ContextID)
	} else {
		sess, err = s.byLanguage(body.Language)
	}
	if err != nil {
		return err
	}
	if known := languages[sess.language]; len(body.Env) > 0 && sess.language != python && known.set == nil {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "env_vars cannot be set per execution in %s", sess.language)
	}
	running, ok := s.begin()
	if !ok {
		return bulkhead.Errorf(bulkhead.CodeUnavailable, "the interpreter is not running")
	}
	defer s.wg.Done()
	t, err := sess.enter()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(running, func() { cancel(context.Cause(running)) })()
	out := newStream(w)
	defer out.end()
	defer sess.queue.leave(t) // before the client hears of the end
	s.run(ctx, sess, t, Request{Code: *body.Code, Env: body.Env}, out)
	return nil
}

// run runs one execution in a session when its turn has come.
func (s *Server) run(ctx context.Context, sess *session, t *turn, req Request, out *stream) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := &meter{
		next: out, cancel: cancel, limit: s.lease.Load().output, max: s.cfg.MaxMessageBytes,
		wait: func(n int) { s.cfg.AwaitOutput(ctx, n) },
	}
	err := sess.await(ctx, t, out.begin)
	if err == nil {
		var k Kernel
		if k, err = sess.alive(ctx, s.lease.Load); err == nil {
			s.runIn(ctx, k, sess, req, m)
			return
		}
	}
	switch {
	case errors.Is(err, errRemoved):
		m.Emit(Event{Kind: EventError, Name: endRemove, Value: "Context was deleted"})
	case ctx.Err() == nil:
		s.cfg.Log.ErrorContext(ctx, "start kernel", "language", sess.language, "error", err)
		m.Emit(Event{Kind: EventError, Name: "KernelStartFailed", Value: fmt.Sprintf("The kernel could not be started: %s", err)})
	}
}

// runIn runs one execution in a kernel that nobody else uses.
func (s *Server) runIn(ctx context.Context, k Kernel, sess *session, req Request, sink Sink) {
	defer s.cfg.Watch(k.PID())()
	err := k.Run(ctx, req, sink)
	if dead := (*DeadError)(nil); errors.As(err, &dead) {
		s.cfg.Log.InfoContext(ctx, "kernel ended", "language", sess.language, "pid", dead.PID, "status", dead.Status)
		sink.Emit(sess.death(dead, s.cfg.Verdict))
		s.wake(sess, nil) // so that the next execution need not wait for it
	} else if err != nil {
		sink.Emit(Event{Kind: EventError, Name: "KernelFailed", Value: err.Error()})
	}
}

func (s *Server) postContext(w http.ResponseWriter, r *http.Request) error {
	var body contextBody
	if err := decode(r.Body, &body, true); err != nil {
		return err
	}
	sess, err := s.add(body.Language, body.CWD)
	if err != nil {
		return err
	}
	s.wake(sess, nil)
	answer(w, sess.describe())
	return nil
}

func (s *session) describe() contextBody {
	return contextBody{ID: s.id, Language: s.language, CWD: s.cwd}
}

func (s *Server) getContexts(w http.ResponseWriter, _ *http.Request) error {
	s.mu.Lock()
	list := make([]contextBody, len(s.sessions))
	for i, sess := range s.sessions {
		list[i] = sess.describe()
	}
	s.mu.Unlock()
	answer(w, list)
	return nil
}

func (s *Server) deleteContext(w http.ResponseWriter, r *http.Request) error {
	if err := s.drop(r.PathValue("id")); err != nil {
		return err
	}
	answer(w, nil)
	return nil
}

func (s *Server) restartContext(w http.ResponseWriter, r *http.Request) error {
	sess, err := s.byID(r.PathValue("id"))
	if err != nil {
		return err
	}
	sess.shut(endRestart)
	s.wake(sess, nil)
	answer(w, nil)
	return nil
}
