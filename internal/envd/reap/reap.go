// Package reap collects the processes that process 1 inherits when their parent
// ends, and leaves the caller's own children to os/exec.
//
// The kernel gives an orphan to the first thread of its new parent, while a
// process that os/exec starts is a child of the thread that started it. So the
// main thread does nothing but wait for its own children, with __WNOTHREAD, and
// can never take an exit status from an exec.Cmd. Two things keep that true: no
// goroutine but the reaper runs on the main thread, and no goroutine ends while
// it is locked to a thread that started a process, since the kernel would hand
// the children of that thread to the main thread.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// ErrNotMainThread says that [Orphans] was not called from the main thread.
var ErrNotMainThread = errors.New("reap orphans: not on the main thread")

// Adopt makes the calling process the parent of its orphaned descendants, which
// process 1 is anyway.
func Adopt() error {
	if os.Getpid() == 1 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	return nil
}

// Orphans reaps inherited children until ctx is done. It must be called on the
// main thread, by a goroutine that an init function locked to it; see
// [runtime.LockOSThread].
func Orphans(ctx context.Context) error {
	if unix.Gettid() != os.Getpid() {
		return ErrNotMainThread
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		if err := collect(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		}
	}
}

// collect reaps the children of this thread that have ended.
func collect() error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("reap orphans: %w", err)
		case pid == 0:
			return nil
		}
	}
}
