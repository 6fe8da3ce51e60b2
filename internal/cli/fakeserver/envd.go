package fakeserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/bulkheadhq/bulkhead/internal/envd"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// Envd is the real envd on this host. It must be closed.
type Envd struct {
	http.Handler
	stop  context.CancelFunc
	ended chan error
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
	server, err := envd.New(envd.Config{Box: box, Guard: g, Log: log})
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0") // its end is what ends the programs
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &Envd{Handler: server, stop: stop, ended: make(chan error, 2)}
	guarding, unguard := context.WithCancel(context.Background())
	go func() {
		_ = g.Run(guarding) // it ends with its context
		e.ended <- nil
	}()
	go func() {
		err := server.Serve(ctx, l)
		unguard()
		e.ended <- err
	}()
	return e, nil
}

// Close ends every program.
func (e *Envd) Close() error {
	e.stop()
	first, second := <-e.ended, <-e.ended
	if first != nil {
		return first
	}
	return second
}
