package envd

import (
	"context"
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
// keep the environment they have.
//
// The answer comes as soon as the identity holds and the rebinders have it. What
// takes longer, files and limits, follows at once, and every other call waits for
// it. What the box does not let envd change, such as its host name, is logged and
// left; a limit that cannot be set makes every later call an error.
func (s *Server) init(w http.ResponseWriter, r *http.Request) {
	s.binding.Lock()
	in, err := s.bind(w, r)
	if err != nil {
		s.binding.Unlock()
		files.WriteError(w, bulkhead.CodeOf(err).HTTPStatus(), bulkhead.Message(err))
		return
	}
	go func() {
		defer s.binding.Unlock()
		s.broken = s.follow(context.WithoutCancel(r.Context()), in)
	}()
	w.WriteHeader(http.StatusNoContent)
}

// bind reads an identity and makes it the box's.
func (s *Server) bind(w http.ResponseWriter, r *http.Request) (in boxrpc.Init, err error) {
	if s.cfg.Box.Guarded() && !s.cfg.Box.Holds(r.Header.Get(boxrpc.TokenHeader)) {
		return in, bulkhead.Errorf(bulkhead.CodeUnauthenticated, "the box is bound already; another call needs its access token")
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, boxrpc.MaxInitBytes)).Decode(&in); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return in, bulkhead.Errorf(bulkhead.CodeTooLarge, "the body of /init has more than %d bytes", boxrpc.MaxInitBytes)
		}
		return in, bulkhead.Errorf(bulkhead.CodeInvalid, "the body of /init is not what it must be: %s", err)
	}
	if err := in.Validate(); err != nil {
		return in, err
	}
	s.cfg.Box.Bind(in)
	var wg sync.WaitGroup
	errs := make([]error, len(s.cfg.Rebinders))
	for i, rebind := range s.cfg.Rebinders {
		wg.Go(func() { errs[i] = rebind(r.Context(), in) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		s.cfg.Log.ErrorContext(r.Context(), "init", slog.Any("error", err))
		return in, &bulkhead.Error{Code: bulkhead.CodeInternal, Msg: err.Error()}
	}
	return in, nil
}

// follow makes the box itself follow its identity.
func (s *Server) follow(ctx context.Context, in boxrpc.Init) error {
	began := time.Now()
	if s.cfg.System != nil {
		if err := s.cfg.System.apply(in, began); err != nil {
			s.cfg.Log.WarnContext(ctx, "the box kept some of its own", slog.Any("error", err))
		}
	}
	if err := s.cfg.Guard.SetLimits(guard.Limits{MemoryBytes: in.MemoryBytes, Pids: in.Pids, Cores: in.CPUs, CPUTime: time.Duration(in.CPUSeconds) * time.Second, OutputRate: in.OutputBytesPerSecond}); err != nil {
		s.cfg.Log.ErrorContext(ctx, "init", slog.Any("error", err))
		return err
	}
	if in.SandboxID != "" {
		s.cfg.Log.InfoContext(ctx, "bound", slog.String("sandbox", in.SandboxID), slog.Duration("took", time.Since(began)))
	}
	return nil
}

// Bound returns next as a handler whose calls wait until the box is what the last
// /init made it.
func (s *Server) Bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/init", "/health":
		default:
			s.binding.RLock()
			err := s.broken
			s.binding.RUnlock()
			if err != nil {
				files.WriteError(w, http.StatusInternalServerError, "the box is not bound to its sandbox: "+err.Error())
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
