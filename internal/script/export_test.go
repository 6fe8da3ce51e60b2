package script

import "testing"

// NewTestService returns a running service, for tests outside of the package.
func NewTestService(t *testing.T) *Service {
	t.Helper()
	return newService(t, nil)
}
