package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
	"github.com/bulkheadhq/bulkhead/internal/interp"
)

// maxSaid is how much of a failed script's output is told, in bytes, its end.
const maxSaid = 400

// tellWarmup logs what the host looks for when err is of the warm-up.
func tellWarmup(ctx context.Context, log *slog.Logger, err error) {
	if failed, ok := errors.AsType[interp.WarmupError](err); ok {
		log.ErrorContext(ctx, boxrpc.LogWarmupFailed+string(failed)) //nolint:sloglint // the host looks for the beginning
	}
}

// script is the warm-up of a box without an interpreter.
type script struct {
	code, user, workdir string
	box                 *ident.Box
	start               func(*exec.Cmd) error
}

// run runs it as the user that programs run as. The error is an
// interp.WarmupError.
func (s script) run(ctx context.Context) error {
	u, err := s.box.User(s.user)
	if err != nil {
		return interp.WarmupError(err.Error())
	}
	dir, err := s.box.Resolve(u, s.workdir)
	if err != nil {
		return interp.WarmupError(err.Error())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, boxrpc.WarmupTime, fmt.Errorf("not done after %s", boxrpc.WarmupTime))
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-e", "-c", s.code) //nolint:gosec // the template's owner wrote it, for the box
	cmd.Dir, cmd.Env = dir, s.box.Environ(u, nil)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}, Setsid: true}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err = s.start(cmd); err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	out := strings.TrimSpace(said.String())
	return interp.WarmupError(strings.TrimSpace(err.Error() + ": " + out[max(0, len(out)-maxSaid):]))
}
