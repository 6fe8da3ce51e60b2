package template

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// privateMounts runs do where what it mounts is seen by itself and the programs
// it starts only, and goes away with it, or with this process: on a thread with
// a mount namespace of its own. Do must not leave mounts to other goroutines.
func privateMounts(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime keeps the main thread, and so would its namespace be kept.
			done <- privateMounts(do)
			runtime.UnlockOSThread()
			return
		}
		// The thread stays locked and ends with this goroutine.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- fmt.Errorf("make mount namespace: %w", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- fmt.Errorf("make mounts private: %w", err)
			return
		}
		done <- do()
	}()
	return <-done
}

// openParent shows the parent's image as the tree and takes what is written to
// it elsewhere. Where the file system of the data directory cannot be the upper
// one of an overlay, the image is copied.
func (w *work) openParent(ctx context.Context) error {
	p := w.src.parent
	maps.Copy(w.env, p.Env)
	w.user, w.workdir = p.User, p.Workdir
	for _, dir := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil { //nolint:gosec // upper is the tree's root directory
			return fmt.Errorf("open template: %w", err)
		}
	}
	const open = `
mount -t erofs -o loop,ro,nodev "$1" lower
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work bulkhead root || cp -a lower/. root`
	cmd := exec.CommandContext(ctx, "/bin/sh", "-ec", open, "sh", p.Image) //nolint:gosec // a path of our own
	cmd.Dir, cmd.Env = w.dir, []string{"PATH=" + hostPath, "LC_ALL=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = w.build, w.build
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("open template: %w", err)
	}
	return nil
}

// closeParent undoes openParent; what was not mounted stays as it is.
func (w *work) closeParent() {
	for _, dir := range []string{"root", "lower"} {
		_ = unix.Unmount(filepath.Join(w.dir, dir), unix.MNT_DETACH)
	}
}
