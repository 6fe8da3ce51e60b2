package client

import (
	"context"
	"net/http"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// Context is a running interpreter whose variables outlive one run.
type Context struct {
	// ID goes into [CodeOptions].
	ID string `json:"id"`
	// Language is what it runs.
	Language string `json:"language"`
	// Dir is its working directory.
	Dir string `json:"cwd"`
}

// CreateContext starts an interpreter. An empty language means python, an empty
// dir the user's home.
func (s *Sandbox) CreateContext(ctx context.Context, language, dir string) (Context, error) {
	in := struct {
		Language string `json:"language,omitempty"`
		Dir      string `json:"cwd,omitempty"`
	}{language, dir}
	var out Context
	err := s.callBox(ctx, s.interpreter("create context", http.MethodPost, ""), in, &out)
	return out, err
}

// Contexts returns the sandbox's interpreters, those running by default included.
func (s *Sandbox) Contexts(ctx context.Context) ([]Context, error) {
	var out []Context
	err := s.callBox(ctx, s.interpreter("list contexts", http.MethodGet, ""), nil, &out)
	return out, err
}

// RestartContext ends an interpreter and starts it anew under the same ID:
// nothing of its state is left.
func (s *Sandbox) RestartContext(ctx context.Context, id string) error {
	if err := checkID("restart context", id); err != nil {
		return err
	}
	return s.callBox(ctx, s.interpreter("restart context", http.MethodPost, "/"+id+"/restart"), nil, nil)
}

// RemoveContext ends an interpreter.
func (s *Sandbox) RemoveContext(ctx context.Context, id string) error {
	if err := checkID("remove context", id); err != nil {
		return err
	}
	return s.callBox(ctx, s.interpreter("remove context", http.MethodDelete, "/"+id), nil, nil)
}

// interpreter is a request to /contexts.
func (s *Sandbox) interpreter(op, method, path string) boxRequest {
	return boxRequest{op: op, method: method, path: "/contexts" + path, client: s.httpClient(boxrpc.InterpreterPort)}
}
