package envd

import (
	"encoding/json"
	"net/http"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
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
	if err := s.cfg.Guard.SetLimits(guard.Limits{MemoryBytes: in.MemoryBytes, Pids: in.Pids}); err != nil {
		files.WriteError(w, bulkhead.CodeOf(err).HTTPStatus(), bulkhead.Message(err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
