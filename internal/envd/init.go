package envd

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
)

// init answers POST /init: it binds the box to a sandbox. The first call needs no
// token; once the box has one, every further call needs it. Programs that run
// keep the environment they have. What the box does not let envd change, such as
// its host name, is logged and left; a rebinder that fails is an error.
func (s *Server) init(w http.ResponseWriter, r *http.Request) {
	s.binding.Lock()
	defer s.binding.Unlock()
	if s.cfg.Box.Guarded() && !s.cfg.Box.Holds(r.Header.Get(boxrpc.TokenHeader)) {
		files.WriteError(w, http.StatusUnauthorized, "the box is bound already; another call needs its access token")
		return
	}
	var in boxrpc.Init
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, boxrpc.MaxInitBytes)).Decode(&in); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			files.WriteError(w, http.StatusRequestEntityTooLarge, "the body of /init has more than 1048576 bytes")
			return
		}
		files.WriteError(w, http.StatusBadRequest, "the body of /init is not what it must be: "+err.Error())
		return
	}
	if err := in.Validate(); err != nil {
		files.WriteError(w, http.StatusBadRequest, bulkhead.Message(err))
		return
	}
	began := time.Now()
	s.cfg.Box.Bind(in)
	if err := s.bind(r, in); err != nil {
		s.cfg.Log.ErrorContext(r.Context(), "init", slog.Any("error", err))
		files.WriteError(w, http.StatusInternalServerError, err.Error())
		return
	}
	s.cfg.Log.InfoContext(r.Context(), "bound", slog.String("sandbox", in.SandboxID), slog.Duration("took", time.Since(began)))
	w.WriteHeader(http.StatusNoContent)
}

// bind makes everything but the identity itself follow in, all at once.
func (s *Server) bind(r *http.Request, in boxrpc.Init) error {
	var wg sync.WaitGroup
	errs := make([]error, len(s.cfg.Rebinders)+1)
	for i, rebind := range s.cfg.Rebinders {
		wg.Go(func() { errs[i] = rebind(r.Context(), in) })
	}
	wg.Go(func() {
		errs[len(s.cfg.Rebinders)] = s.cfg.Guard.SetLimits(guard.Limits{MemoryBytes: in.MemoryBytes, Pids: in.Pids})
	})
	if s.cfg.System != nil {
		if err := s.cfg.System.apply(in, time.Now()); err != nil {
			s.cfg.Log.WarnContext(r.Context(), "the box kept some of its own", slog.Any("error", err))
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
