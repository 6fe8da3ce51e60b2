package fakeserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
	"github.com/bulkheadhq/bulkhead/internal/envd/proc"
)

// closeTime bounds how long the programs of an [Envd] may take to end.
const closeTime = 10 * time.Second

// Envd is the real envd's services on this host. It must be closed.
type Envd struct {
	http.Handler
	processes *proc.Service
	files     *files.Service
	stop      context.CancelFunc
	ended     chan struct{}
}

// NewEnvd returns an envd with one user, "user", who is this process's, with the
// home given. In dir it keeps its own files.
func NewEnvd(dir, home string) (*Envd, error) {
	passwd := filepath.Join(dir, "passwd")
	line := fmt.Sprintf("user:x:%d:%d::%s:/bin/sh\n", os.Geteuid(), os.Getegid(), home)
	if err := os.WriteFile(passwd, []byte(line), 0o600); err != nil {
		return nil, err
	}
	box := ident.New(ident.Accounts{Passwd: passwd, Group: filepath.Join(dir, "group")}, "/usr/local/bin:/usr/bin:/bin")
	log := slog.New(slog.DiscardHandler)
	g, err := guard.New(guard.Config{Log: log})
	if err != nil {
		return nil, err
	}
	e := &Envd{ended: make(chan struct{})}
	if e.processes, err = proc.New(proc.Config{Box: box, Guard: g, Log: log}); err != nil {
		return nil, err
	}
	if e.files, err = files.New(files.Config{Box: box, Log: log}); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(processpbconnect.NewProcessHandler(e.processes))
	mux.Handle(filesystempbconnect.NewFilesystemHandler(e.files))
	e.files.Register(mux)
	e.Handler = mux
	var ctx context.Context
	ctx, e.stop = context.WithCancel(context.Background())
	go func() {
		defer close(e.ended)
		_ = g.Run(ctx) // it ends with ctx
	}()
	return e, nil
}

// Close ends every program.
func (e *Envd) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := e.processes.Close(ctx)
	e.files.Close()
	e.stop()
	<-e.ended
	return err
}
