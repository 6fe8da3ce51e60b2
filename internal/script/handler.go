package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
	"github.com/bulkheadhq/bulkhead/internal/openapi"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 16 << 20

// writeTime is how long a client of a stream may take for one line.
const writeTime = 10 * time.Second

// PutRequest stores a script.
type PutRequest struct {
	// Source is the text, at most MaxSource bytes.
	Source string `json:"source"`
	// Language is "javascript", the default, or "typescript".
	Language string `json:"language,omitempty"`
}

// Stats is what GET /v1/scripts/stats answers.
type Stats struct {
	// Guard are the memory guard's statistics.
	Guard guard.Stats `json:"guard"`
	// Workers are the worker processes.
	Workers worker.Stats `json:"workers"`
	// Programs is how many compiled programs are kept, Learned how many kinds of
	// run the guard knows the memory of.
	Programs int `json:"programs"`
	Learned  int `json:"learned"`
}

// StreamLine is one line of a streamed run: any number of logs, then the result
// or an error.
type StreamLine struct {
	Log    *engine.LogLine `json:"log,omitempty"`
	Result *Result         `json:"result,omitempty"`
	Error  *WireError      `json:"error,omitempty"`
}

// WireError is the body of every error.
type WireError struct {
	// Code is the kind of failure.
	Code bulkhead.Code `json:"code"`
	// Message is for a person, and safe for a tenant to read.
	Message string `json:"message"`
}

// Handler returns the HTTP side, to be mounted at /v1/scripts and below:
//
//	POST   /v1/scripts/run      run code or a stored script; with "?stream=1" or
//	                            Accept: application/x-ndjson, as [StreamLine]s
//	GET    /v1/scripts          list the newest versions
//	GET    /v1/scripts/stats    statistics
//	PUT    /v1/scripts/{name}   store a version
//	GET    /v1/scripts/{name}   read one; "?version=3" for an old one
//	DELETE /v1/scripts/{name}   remove all versions
//
// The tenant comes from the request's context through Config.Tenant. Errors are
// {"code","message"} with the code's status.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request, t Tenant) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			t, err := s.cfg.Tenant(r.Context())
			if err == nil {
				err = f(w, r, t)
			}
			if err != nil {
				s.writeError(w, err)
			}
		})
	}
	handle("POST /v1/scripts/run", s.serveRun)
	handle("GET /v1/scripts", s.serveList)
	handle("GET /v1/scripts/stats", s.serveStats)
	handle("PUT /v1/scripts/{name}", s.servePut)
	handle("GET /v1/scripts/{name}", s.serveGet)
	handle("DELETE /v1/scripts/{name}", s.serveDelete)
	return mux
}

// Calls describes what [Service.Handler] answers, for a key with the given scope.
func Calls(scope string) []openapi.Call {
	type name struct {
		Name string `path:"name" description:"The script's name."`
	}
	type version struct {
		name
		Version int `query:"version" description:"An old version; the newest unless given."`
	}
	type stream struct {
		Stream string `query:"stream" enum:"1" description:"1 for a line of JSON for each log line, then the result; so does Accept: application/x-ndjson."`
	}
	return []openapi.Call{
		{Pattern: "POST /v1/scripts/run", Scope: scope, Summary: "Run code, or a stored script", Params: stream{}, Body: Request{}, MaxBody: maxBody, Answer: Result{}, Formats: []string{"application/x-ndjson"}},
		{Pattern: "GET /v1/scripts", Scope: scope, Summary: "List the newest versions of scripts", Answer: []bulkhead.Script{}},
		{Pattern: "GET /v1/scripts/stats", Scope: scope, Summary: "Statistics of the memory guard and of the workers", Answer: Stats{}},
		{Pattern: "PUT /v1/scripts/{name}", Scope: scope, Summary: "Store a version of a script", Params: name{}, Body: PutRequest{}, MaxBody: maxBody, Answer: bulkhead.Script{}},
		{Pattern: "GET /v1/scripts/{name}", Scope: scope, Summary: "A script", Params: version{}, Answer: bulkhead.Script{}},
		{Pattern: "DELETE /v1/scripts/{name}", Scope: scope, Summary: "Remove all versions of a script", Params: name{}},
	}
}

// wire returns what a tenant sees of err.
func wire(err error) *WireError { return &WireError{bulkhead.CodeOf(err), bulkhead.Message(err)} }

func (s *Service) writeError(w http.ResponseWriter, err error) {
	body := wire(err)
	if body.Code == bulkhead.CodeInternal {
		s.log.Error("a script request broke", "error", err)
	}
	if e, ok := errors.AsType[*bulkhead.Error](err); ok && e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	writeJSON(w, body.Code.HTTPStatus(), body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone then
}

// decode reads a JSON body into v.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return jsonbody.Decode(r, v, false, true) //nolint:wrapcheck // it says what is wrong
}

// decodeRun reads the body of a run. A limit that is named must not be 0.
func decodeRun(w http.ResponseWriter, r *http.Request) (Request, error) {
	var body struct {
		Request
		Limits json.RawMessage `json:"limits"`
	}
	if err := decode(w, r, &body); err != nil || len(body.Limits) == 0 {
		return body.Request, err
	}
	if err := jsonbody.Part("limits", body.Limits, &body.Request.Limits); err != nil {
		return body.Request, err //nolint:wrapcheck // it says what is wrong
	}
	return body.Request, body.Request.Limits.ValidateNamed(jsonbody.Named(body.Limits)) //nolint:wrapcheck // it says what is wrong
}

func (s *Service) serveRun(w http.ResponseWriter, r *http.Request, t Tenant) error {
	req, err := decodeRun(w, r)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("stream") != "1" && r.Header.Get("Accept") != "application/x-ndjson" {
		res, err := s.Execute(r.Context(), t, req, nil)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, res)
		return nil
	}
	control := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	broken, began := false, false
	line := func(l StreamLine) {
		if broken {
			return
		}
		if !began {
			began = true
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTime)) // a writer without deadlines is a test's
		broken = enc.Encode(l) != nil || control.Flush() != nil
	}
	res, err := s.Execute(r.Context(), t, req, func(l engine.LogLine) { line(StreamLine{Log: &l}) })
	switch {
	case err == nil:
		line(StreamLine{Result: &res})
	case !began:
		return err
	default:
		line(StreamLine{Error: wire(err)})
	}
	return nil
}

func (s *Service) serveList(w http.ResponseWriter, r *http.Request, t Tenant) error {
	list, err := s.cfg.Store.Scripts(r.Context(), t.ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func (s *Service) serveStats(w http.ResponseWriter, _ *http.Request, _ Tenant) error {
	writeJSON(w, http.StatusOK, s.Stats())
	return nil
}

// Stats returns a snapshot.
func (s *Service) Stats() Stats {
	return Stats{
		Guard: s.cfg.Guard.Stats(), Workers: s.cfg.Pool.Stats(),
		Programs: s.programs.Len(), Learned: s.learner.Len(),
	}
}

func (s *Service) servePut(w http.ResponseWriter, r *http.Request, t Tenant) error {
	name := r.PathValue("name")
	if err := ValidateName(name); err != nil {
		return err
	}
	var req PutRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if req.Source == "" || len(req.Source) > MaxSource {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the source has %d bytes; it must have 1 to %d", len(req.Source), MaxSource)
	}
	if err := validateLanguage(req.Language); err != nil {
		return err
	}
	if req.Language == "" {
		req.Language = "javascript"
	}
	stored, err := s.cfg.Store.PutScript(r.Context(), t.ID, bulkhead.Script{
		Name: name, Language: req.Language, Source: req.Source, CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
		Fingerprint: engine.Fingerprint(req.Source), SizeBytes: int64(len(req.Source)),
	})
	if err != nil {
		return err
	}
	stored.Source = ""
	writeJSON(w, http.StatusOK, stored)
	return nil
}

func (s *Service) serveGet(w http.ResponseWriter, r *http.Request, t Tenant) error {
	version := 0
	if v := r.URL.Query().Get("version"); v != "" {
		var err error
		if version, err = strconv.Atoi(v); err != nil || version < 1 {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "version is %.40q; it must be a number from 1", v)
		}
	}
	sc, err := s.cfg.Store.Script(r.Context(), t.ID, r.PathValue("name"), version)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, sc)
	return nil
}

func (s *Service) serveDelete(w http.ResponseWriter, r *http.Request, t Tenant) error {
	if err := s.cfg.Store.DeleteScript(r.Context(), t.ID, r.PathValue("name")); err != nil {
		return fmt.Errorf("delete script: %w", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
