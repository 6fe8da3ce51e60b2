package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// Start is cmd.Start with the child, and all it starts, in the group from the
// first instruction. It sets cmd.SysProcAttr's cgroup fields. A frozen group is
// refused with [bulkhead.CodeConflict].
//
// On v1 a thread of this process joins the group for the moment of the clone:
// that is the only way in that takes no grace period. The server's memory is
// not charged to the group meanwhile, since memory follows the main thread. A
// thread that cannot be brought back is not used again. Freeze and Kill wait
// until Start is through, so that they never hit the server's own thread.
func (g *Group) Start(cmd *exec.Cmd) error {
	mu := g.t.starting(g.name)
	mu.RLock()
	defer mu.RUnlock()
	if frozen, err := g.frozen(); err != nil {
		return fmt.Errorf("start in group %s: %w", g.name, err)
	} else if frozen {
		return bulkhead.Errorf(bulkhead.CodeConflict, "the box is frozen")
	}
	if dir := g.unified(); dir != "" {
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("open group %s: %w", g.name, err)
		}
		defer f.Close() //nolint:errcheck // only read
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	if len(g.t.layout.V1) == 0 {
		return cmd.Start()
	}
	return offMainThread(func() (keep bool, err error) {
		back, err := g.join()
		if err == nil {
			err = cmd.Start()
		}
		stuck := leave(back)
		if stuck != nil {
			g.t.log.Warn("a thread cannot leave a box's cgroup and is given up", "cgroup", g.name, "error", stuck)
		}
		return stuck == nil, err
	})
}

// offMainThread calls f on a thread of its own that is not the main one, and
// gives the thread back to the scheduler if f says so. The main thread must never
// join a box's group: the whole process's memory would go with it, and the box's
// limit would end the server.
func offMainThread(f func() (keep bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the main thread, another cannot get it.
			err := offMainThread(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		keep, err := f()
		if keep {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// canCloneInto reports whether a child can be started in a v2 group, which takes
// Linux 5.7. It gets as far as the exec of a program that does not exist.
func canCloneInto(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // only read
	cmd := &exec.Cmd{
		Path:        "/nonexistent/bulkhead",
		SysProcAttr: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())},
	}
	return errors.Is(cmd.Start(), os.ErrNotExist)
}

// join brings the calling thread into the group's v1 hierarchies and returns
// the files by which it goes back, the last joined first, also on an error.
func (g *Group) join() (back []string, err error) {
	own, err := ownGroups()
	if err != nil {
		return nil, err
	}
	for _, c := range controllers {
		mount, ok := g.t.layout.V1[c]
		if !ok {
			continue
		}
		inMount, err := filepath.Rel(g.t.layout.roots[c], own[c])
		if err != nil || strings.HasPrefix(inMount, "..") {
			return back, fmt.Errorf("join %s group %s: own group %s is not below the mounted %s", c, g.name, own[c], g.t.layout.roots[c])
		}
		back = slices.Insert(back, 0, filepath.Join(mount, inMount, "tasks"))
		if err := writeFile(g.in(c), "tasks", "0"); err != nil {
			return back, fmt.Errorf("join %s group %s: %w", c, g.name, err)
		}
	}
	return back, nil
}

// leave brings the calling thread back to where it was.
func leave(back []string) error {
	var errs []error
	for _, file := range back {
		errs = append(errs, writeFile("", file, "0"))
	}
	return errors.Join(errs...)
}

// ownGroups returns the calling thread's path in each v1 hierarchy.
func ownGroups() (map[Controller]string, error) {
	b, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroup: %w", err)
	}
	own := map[Controller]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // ID:controllers:path
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			own[Controller(name)] = parts[2]
		}
	}
	return own, nil
}

// Add moves a running process into the group, in every hierarchy. It can take
// tens of milliseconds on v1; prefer Start.
func (g *Group) Add(pid int) error {
	for _, dir := range g.Paths() {
		if err := writeFile(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move process %d to group %s: %w", pid, g.name, err)
		}
	}
	return nil
}

// Procs returns the processes of the group and of groups below it, sorted. This
// process, which may have a thread there for a moment, is not one of them.
func (g *Group) Procs() ([]int, error) {
	self := os.Getpid()
	var pids []int
	for _, dir := range g.Paths() {
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return err
			}
			s, err := readFile(p, "cgroup.procs")
			for f := range strings.FieldsSeq(s) {
				// A process of another namespace shows as 0.
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && pid != self {
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("list processes of group %s: %w", g.name, err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// gone says that a group vanished while it was looked at.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// Freeze stops every process of the group until Thaw. It asks and does not wait.
func (g *Group) Freeze() error {
	mu := g.t.starting(g.name)
	mu.Lock()
	defer mu.Unlock()
	return g.freeze(true)
}

// Thaw lets the processes of the group run on.
func (g *Group) Thaw() error { return g.freeze(false) }

// frozen reports whether the group is frozen, or about to be.
func (g *Group) frozen() (bool, error) {
	switch {
	case g.t.layout.V1[Freezer] != "":
		s, err := readFile(g.in(Freezer), "freezer.state")
		return s != "THAWED", err
	case g.t.layout.Mode == ModeV2:
		s, err := readFile(g.unified(), "cgroup.freeze")
		return s != "0", err
	}
	return false, nil
}

func (g *Group) freeze(on bool) error {
	var err error
	switch {
	case g.t.layout.V1[Freezer] != "":
		state := "THAWED"
		if on {
			state = "FROZEN"
		}
		err = writeFile(g.in(Freezer), "freezer.state", state)
	case g.t.layout.Mode == ModeV2:
		state := "0"
		if on {
			state = "1"
		}
		err = writeFile(g.unified(), "cgroup.freeze", state)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("freeze group %s: %w", g.name, err)
	}
	return nil
}

// Kill ends every process of the group, however fast it forks, and returns when
// none is left or ctx ends. A group that does not exist is fine.
func (g *Group) Kill(ctx context.Context) error {
	wait := time.Millisecond
	for {
		if dir := g.unified(); dir != "" {
			// Kernels before 5.14 do not have it; the rest goes without.
			_ = writeFile(dir, "cgroup.kill", "1")
		}
		pids, err := g.Procs()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		g.killAll()
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill group %s: %d processes are left: %w", g.name, len(pids), ctx.Err())
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

// killAll signals each process while all are frozen: none can fork meanwhile,
// and no number can pass on to a process outside.
func (g *Group) killAll() {
	mu := g.t.starting(g.name)
	mu.Lock()
	defer mu.Unlock()
	frozen := g.freeze(true) == nil
	pids, err := g.Procs()
	if err != nil {
		pids = nil
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // it may be gone already
	}
	if frozen {
		if err := g.Thaw(); err != nil && !gone(err) {
			g.t.log.Warn("thaw a group that is being killed", "cgroup", g.name, "error", err)
		}
	}
}

// Delete removes the group and the groups below it. Processes must be gone;
// the kernel may need a moment to notice, for which Delete waits until ctx
// ends. It may be repeated.
func (g *Group) Delete(ctx context.Context) error {
	wait := time.Millisecond
	for {
		err := g.remove()
		if !errors.Is(err, errBusy) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

// remove is one attempt at Delete.
func (g *Group) remove() error {
	var errs []error
	dirs := g.Paths()
	for _, o := range g.t.layout.others {
		dirs = append(dirs, filepath.Join(o, g.t.root, g.name))
	}
	for _, dir := range dirs {
		if err := removeTree(dir); err != nil {
			errs = append(errs, fmt.Errorf("remove group %s: %w", g.name, err))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a group and those below it.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || gone(err) {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	below := false
	for _, e := range entries {
		if e.IsDir() {
			below = true
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if !below {
		return err
	}
	if err := unix.Rmdir(dir); err != nil && !gone(err) {
		return err
	}
	return nil
}
