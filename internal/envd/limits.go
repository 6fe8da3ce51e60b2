package envd

import (
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
)

// maxLimits bounds the body of POST /limits in bytes.
const maxLimits = 4096

// limits answers POST /limits: programs, those that run too, are bounded by what it
// says from now on. Whoever may start programs may call it: the host keeps to its
// own limits whatever the box believes.
func (s *Server) limits(w http.ResponseWriter, r *http.Request) {
	s.binding.Lock()
	defer s.binding.Unlock()
	var in boxrpc.Limits
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLimits)).Decode(&in); err != nil {
		files.WriteError(w, http.StatusBadRequest, "the body of /limits is not what it must be: "+err.Error())
		return
	}
	l := s.cfg.Guard.Limits()
	l.MemoryBytes, l.Pids, l.OutputRate = in.MemoryBytes, in.Pids, in.OutputBytesPerSecond
	if in.CPUs > 0 {
		l.Cores = in.CPUs
	}
	if err := s.cfg.Guard.SetLimits(l); err != nil {
		files.WriteError(w, bulkhead.CodeOf(err).HTTPStatus(), bulkhead.Message(err))
		return
	}
	if sys := s.cfg.System; sys != nil && sys.Bind != nil && in.CPUs > 0 {
		if err := sys.writeOnline(in.CPUs); err != nil {
			s.cfg.Log.WarnContext(r.Context(), "the box kept its number of processors", slog.Any("error", err))
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
