package fakeserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Event is one line of an interpreter's answer.
type Event map[string]any

// Interpreter is an http.Handler that speaks the interpreter's protocol and runs
// nothing: it plays what was written down for a piece of code.
type Interpreter struct {
	// Play writes the events of a run by calling emit. An error is answered as a
	// traceback. The number and the end of the execution are written around it.
	Play func(r *http.Request, code string, emit func(Event)) error

	mu    sync.Mutex
	count int
}

// ServeHTTP serves /execute and /contexts.
func (i *Interpreter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/execute":
		i.execute(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/contexts":
		answer(w, http.StatusOK, []map[string]string{{"id": "default", "language": "python", "cwd": "/home/user"}})
	case r.Method == http.MethodPost && r.URL.Path == "/contexts":
		var req struct {
			Language string `json:"language"`
			Dir      string `json:"cwd"`
		}
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, http.StatusOK, map[string]string{"id": "ctx-1", "language": req.Language, "cwd": req.Dir})
	case r.Method == http.MethodPost && r.URL.Path == "/contexts/ctx-1/restart":
		w.WriteHeader(http.StatusOK)
	case r.Method == http.MethodDelete && r.URL.Path == "/contexts/ctx-1":
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "Context not found", http.StatusNotFound)
	}
}

func (i *Interpreter) execute(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Code      string `json:"code"`
		ContextID string `json:"context_id"`
		Language  string `json:"language"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if req.ContextID != "" && req.Language != "" {
		http.Error(w, "Only one of context_id or language can be provided", http.StatusBadRequest)
		return
	}
	if req.ContextID != "" && req.ContextID != "ctx-1" {
		http.Error(w, fmt.Sprintf("Context %s not found", req.ContextID), http.StatusNotFound)
		return
	}
	i.mu.Lock()
	i.count++
	n := i.count
	i.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	emit := func(ev Event) {
		_ = enc.Encode(ev) // the client has gone otherwise
		_ = flush.Flush()
	}
	emit(Event{"type": "number_of_executions", "execution_count": n})
	ended := false
	err := i.Play(r, req.Code, func(ev Event) {
		ended = ended || ev["type"] == "end_of_execution"
		emit(ev)
	})
	if err != nil {
		emit(Event{"type": "error", "name": "Exception", "value": err.Error(), "traceback": err.Error()})
	}
	if !ended {
		emit(Event{"type": "end_of_execution"})
	}
}

// Print is the event of text on standard output.
func Print(text string) Event {
	return Event{"type": "stdout", "text": text, "timestamp": time.Now().UTC().Format(time.RFC3339Nano)}
}
