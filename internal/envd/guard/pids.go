package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// groupName begins the name of the group below the mount that programs are in;
// the rest is envd's pid, so that two on one machine do not share one.
const groupName = "bulkhead-programs-"

// maxProcs bounds the list of a group's processes, in bytes.
const maxProcs = 1 << 20

// pidsGroup is a group of the pids controller, version 1, which gVisor gives
// every box: the kernel itself refuses one task too many there.
type pidsGroup struct {
	mount, dir string
}

// mountPids mounts the controller at dir, which is made for root alone, and
// makes the group.
func mountPids(dir string) (*pidsGroup, error) {
	// Others may keep what is theirs beside it.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // as above
		return nil, fmt.Errorf("mount pids controller: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("mount pids controller: %w", err)
	}
	if err := unix.Mount("cgroup", dir, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "pids"); err != nil {
		return nil, fmt.Errorf("mount pids controller: %w", err)
	}
	p := &pidsGroup{mount: dir, dir: filepath.Join(dir, groupName+strconv.Itoa(os.Getpid()))}
	if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, errors.Join(fmt.Errorf("make pids group: %w", err), p.close())
	}
	return p, nil
}

// close removes the group, which must be empty, and the mount.
func (p *pidsGroup) close() error {
	err := unix.Rmdir(p.dir)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, unix.Unmount(p.mount, unix.MNT_DETACH))
}

// busy reports whether a task is left in the group.
func (p *pidsGroup) busy() bool {
	n, err := readNumber(filepath.Join(p.dir, "pids.current"))
	return err == nil && n > 0
}

// enter moves the calling thread into the group.
func (p *pidsGroup) enter() error { return p.write("tasks", int64(unix.Gettid())) }

// leave moves the calling thread back to the root group.
func (p *pidsGroup) leave() error {
	root := pidsGroup{mount: p.mount, dir: p.mount}
	return root.enter()
}

// strays are the pids that are in the root group, where programs of a box are
// only when something else than the guard started them.
func (p *pidsGroup) strays() ([]int, error) {
	text, err := sysfile.Read(filepath.Join(p.mount, "cgroup.procs"), maxProcs)
	if err != nil {
		return nil, fmt.Errorf("read root group: %w", err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// add moves all threads of pid into the group.
func (p *pidsGroup) add(pid int) error { return p.write("cgroup.procs", int64(pid)) }

// setMax bounds the group to n tasks, the spawning thread not counted; 0 means
// no bound.
func (p *pidsGroup) setMax(n int64) error {
	if n == 0 {
		return p.writeText("pids.max", "max")
	}
	return p.write("pids.max", n+1)
}

// freeze refuses every new task until setMax is called again.
func (p *pidsGroup) freeze() error { return p.write("pids.max", 0) }

// current is the number of tasks, the spawning thread not counted.
func (p *pidsGroup) current() (int64, error) {
	n, err := readNumber(filepath.Join(p.dir, "pids.current"))
	return max(0, n-1), err
}

func (p *pidsGroup) write(file string, n int64) error {
	return p.writeText(file, strconv.FormatInt(n, 10))
}

func (p *pidsGroup) writeText(file, text string) error {
	f, err := sysfile.Open(filepath.Join(p.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
