// Package envd is the process inside every box: it serves E2B's process and
// filesystem services, file contents and metrics on one port, and takes the
// identity that the host binds to the box.
//
// It is in the box, so it belongs to the tenant: it keeps one program from
// ending the whole box and clients from each other's way, but the host trusts
// nothing that it says. The pieces are in the packages below: ident (who the box
// is), guard (limits), proc (programs), files (files), reap (orphans), proctree
// (the process table).
package envd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
	"github.com/bulkheadhq/bulkhead/internal/envd/proc"
)

// The bounds of the server.
const (
	// maxMessage bounds one message of a service, in bytes.
	maxMessage = 16 << 20
	// minCompressed is from which size on an answer is compressed for a client
	// that asks for it, in bytes.
	minCompressed = 16 << 10
	// maxHeader bounds the headers of a call, in bytes.
	maxHeader = 64 << 10
	// maxStreams is how many calls one HTTP/2 connection may carry: every running
	// command holds one.
	maxStreams = 4096
	// writeStall is for how long a client may take no byte of an answer.
	writeStall = time.Minute
	// idle is for how long a connection without calls is kept.
	// The host keeps one to every box that waits.
	idle = 2 * time.Hour
	// shutdown is how long programs and calls may take to end.
	shutdown = 3 * time.Second
)

// Rebinder takes the identity of the box, such as the code interpreter.
type Rebinder func(context.Context, boxrpc.Init) error

// Config is what envd works with. Box, Guard and Log must be set.
type Config struct {
	// Box is the box's identity; /init changes it.
	Box *ident.Box
	// Guard bounds programs. Its Run must run.
	Guard *guard.Guard
	// Rebinders are called, all at once, by every /init.
	Rebinders []Rebinder
	// System changes the box itself; nil changes nothing.
	System *System
	// Log takes what envd does.
	Log *slog.Logger
}

// Server is envd. It is an [http.Handler] for [boxrpc.EnvdPort].
type Server struct {
	cfg     Config
	proc    *proc.Service
	files   *files.Service
	cpu     cpuMeter
	handler http.Handler

	binding sync.RWMutex // held by an /init until the box has followed it
	broken  error        // why it could not; guarded by binding
}

// New returns a server that has no programs and listens nowhere.
func New(cfg Config) (*Server, error) {
	if cfg.Box == nil || cfg.Guard == nil || cfg.Log == nil {
		return nil, errors.New("envd: box, guard and log must be set")
	}
	s := &Server{cfg: cfg, cpu: cpuMeter{path: "/proc/stat"}}
	var err error
	if s.proc, err = proc.New(proc.Config{Box: cfg.Box, Guard: cfg.Guard, Log: cfg.Log}); err != nil {
		return nil, fmt.Errorf("envd: %w", err)
	}
	if s.files, err = files.New(files.Config{Box: cfg.Box, Log: cfg.Log}); err != nil {
		return nil, fmt.Errorf("envd: %w", err)
	}
	s.handler = s.routes()
	return s, nil
}

// routes is the handler with everything around it.
func (s *Server) routes() http.Handler {
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(maxMessage), connect.WithCompressMinBytes(minCompressed),
	}
	mux := http.NewServeMux()
	mux.Handle(processpbconnect.NewProcessHandler(s.proc, options...))
	mux.Handle(filesystempbconnect.NewFilesystemHandler(s.files, options...))
	s.files.Register(mux)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /envs", s.envs)
	mux.HandleFunc("POST /init", s.init)
	mux.HandleFunc("POST /limits", s.limits)
	return withDeadlines(withCORS(s.Bound(s.withToken(mux))))
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Serve answers calls on l until ctx is done; then it ends all programs and
// closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// Streams that follow a program end with it.
	return serve(ctx, l, s, func(ending context.Context) error {
		s.files.Close()
		return s.proc.Close(ending)
	})
}

// Serve answers calls to a port of the box with h, over HTTP/1.1 and HTTP/2
// without TLS, until ctx is done; then it closes l.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	return serve(ctx, l, h, func(context.Context) error { return nil })
}

func serve(ctx context.Context, l net.Listener, h http.Handler, end func(context.Context) error) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: h, Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idle, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // a client's mistakes
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
	defer cancel()
	err := end(ending)
	if server.Shutdown(ending) != nil {
		err = errors.Join(err, server.Close()) // streams that watch go on for ever
	}
	if err != nil {
		return fmt.Errorf("end serving: %w", err)
	}
	return nil
}

// envs answers GET /envs with what every process of the box has.
func (s *Server) envs(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.cfg.Box.Env()) }

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
