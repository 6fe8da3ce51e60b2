package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// ownShares is this process's share of a busy host's processors, where the boxes
	// together have the default: four to one, so that it has 80 % when it needs them.
	// Among the boxes, which have that for each of their cores, it is for each core of
	// the host, and maxShares the most that the kernel takes.
	ownShares, ownWeight, maxShares = 4096, 400, 1 << 18
	// ownOOM keeps the kernel from choosing this process first when the host is out
	// of memory; expendableOOM is for what it starts.
	ownOOM, expendableOOM = -500, 500
)

// ownName is our group's name among the boxes'; it is no valid name of theirs.
const ownName = "_server"

// Protect gives this process what keeps it working beside boxes that take all they
// can: a floor of processor time above the boxes' groups, memory that is not
// reclaimed before theirs (reserveMB, on v2), and a low rank among those that the
// kernel may kill for memory.
//
// A process that shares its group with the whole host, as one does that was not
// started by a service manager, moves to a group of its own; one that has a group
// keeps it. On v1 it is among the boxes' groups: the kernel lets a process that wakes
// up interrupt only the background of its own level, see [Group.Background]. undo, which may be repeated, brings everything back;
// it is never nil. What the host does not allow is in the error, and the rest is in
// force all the same. Protect must not run beside [Group.Start].
func (t *Tree) Protect(reserveMB int64) (undo func() error, err error) {
	p := &protection{}
	return p.undo, errors.Join(p.oom("/proc/self/oom_score_adj"), p.group(t, reserveMB))
}

// protection is a stack of what to undo.
type protection struct{ back []func() error }

// undo brings back what was before, the last change first.
func (p *protection) undo() error {
	var errs []error
	for _, back := range slices.Backward(p.back) {
		errs = append(errs, back())
	}
	p.back = nil
	return errors.Join(errs...)
}

// set writes a control file and remembers what was in it. A file that is not there
// is left alone.
func (p *protection) set(dir, name, value string) error {
	was, err := readFile(dir, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = writeFile(dir, name, value)
	}
	if err != nil {
		return fmt.Errorf("set %s of our own: %w", name, err)
	}
	p.back = append(p.back, func() error { return writeFile(dir, name, was) })
	return nil
}

// oom lowers our rank, unless somebody lowered it further. Without CAP_SYS_RESOURCE
// it stays, and that what we start is ranked higher must do.
func (p *protection) oom(file string) error {
	dir, name := filepath.Split(file)
	s, err := readFile(dir, name)
	if err != nil {
		return fmt.Errorf("read our rank for out of memory: %w", err)
	}
	if now, err := strconv.Atoi(s); err == nil && now <= ownOOM {
		return nil
	}
	if err := p.set(dir, name, strconv.Itoa(ownOOM)); !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}

// group finds or makes our group and raises its shares.
func (p *protection) group(t *Tree, reserveMB int64) error {
	mount, own, err := t.ownGroup()
	if err != nil {
		return err
	}
	dir, shares := filepath.Join(mount, own), ownShares
	if own == "/" {
		name := t.root + "-server"
		if t.layout.Mode != ModeV2 {
			name, shares = filepath.Join(t.root, ownName), min(ownShares*runtime.NumCPU(), maxShares)
		}
		if dir, err = p.move(mount, name); err != nil {
			return err
		}
	}
	if t.layout.Mode != ModeV2 {
		return p.set(dir, "cpu.shares", strconv.Itoa(shares))
	}
	return errors.Join(
		p.set(dir, "cpu.weight", strconv.Itoa(ownWeight)),
		p.set(dir, "memory.low", strconv.FormatInt(reserveMB<<20, 10)))
}

// ownGroup is where the hierarchy that shares processors is mounted, and our group
// in it.
func (t *Tree) ownGroup() (mount, own string, err error) {
	groups, err := ownGroups()
	if err != nil {
		return "", "", err
	}
	c := CPU
	if t.layout.Mode == ModeV2 {
		c = "" // as the kernel lists the unified hierarchy
	}
	path, ok := groups[c]
	if !ok {
		return "", "", errors.New("find our own group: it is in no hierarchy that shares processors")
	}
	root := t.layout.roots[CPU] // of a part that is mounted; "" on v2
	if root != "" && root != "/" {
		path = "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
	}
	return t.layout.dir(CPU), path, nil
}

// move makes a group and puts this process into it.
func (p *protection) move(mount, name string) (dir string, err error) {
	dir = filepath.Join(mount, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // cgroupfs shows its groups to all
		return "", fmt.Errorf("make our own group: %w", err)
	}
	p.back = append(p.back, func() error {
		// Another server may be in it, and has as much use for it.
		_ = os.Remove(dir)
		return nil
	})
	if err := writeFile(dir, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return "", fmt.Errorf("move to our own group: %w", err)
	}
	p.back = append(p.back, func() error { return writeFile(mount, "cgroup.procs", strconv.Itoa(os.Getpid())) })
	return dir, nil
}

// serverGroup is where Vacate moves processes to.
const serverGroup = "/bulkhead-server"

// Vacate moves all processes of the v2 tree's root group into one below it. A
// container sees its own group as the root: while processes are in there, the kernel
// does not let it have groups with limits. The root of the host needs none of this.
func Vacate(mount string) error {
	dir := filepath.Join(mount, serverGroup)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // cgroupfs shows its groups to all
		return fmt.Errorf("make a group for the processes of the root group: %w", err)
	}
	for range 100 { // they may fork meanwhile
		s, err := readFile(mount, "cgroup.procs")
		if err != nil {
			return fmt.Errorf("list the processes of the root group: %w", err)
		}
		left := 0
		for pid := range strings.FieldsSeq(s) {
			if pid == "0" {
				return errors.New("empty the root group: there are processes of another namespace in it")
			}
			if err := writeFile(dir, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s out of the root group: %w", pid, err)
			}
			left++
		}
		if left == 0 {
			return nil
		}
	}
	return errors.New("empty the root group: its processes start others faster than they can be moved")
}

// Expendable lets the kernel kill this process before others when the host is out
// of memory, whatever rank it was started with.
func Expendable() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(expendableOOM)), 0o600); err != nil {
		return fmt.Errorf("raise our rank for out of memory: %w", err)
	}
	return nil
}
