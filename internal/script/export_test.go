package script

import (
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// NewTestService returns a running service, for tests outside of the package.
func NewTestService(t *testing.T) *Service {
	t.Helper()
	return newService(t, nil)
}

// trust makes the service believe that a program was quick, so that its next run
// begins in process if it may.
func (s *Service) trust(source string) { s.habit(engine.Fingerprint(source)).quick.Store(true) }
