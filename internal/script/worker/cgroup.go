package worker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Where the memory controllers are mounted.
const (
	cgroup1Root = "/sys/fs/cgroup/memory"
	cgroup1CPU  = "/sys/fs/cgroup/cpu"
	cgroup2Root = "/sys/fs/cgroup"
)

// cgroups is the directory under which every worker has a group of its own, on
// either version. The zero value is a host without a usable controller.
type cgroups struct {
	dir string
	v2  bool
	// cpu is where version 1 weighs processor time, "" where it does not: a
	// group for workers, and beside it one for those that run long, so that the
	// short ones do not answer for the time the long ones took.
	cpu string
}

// long returns the group for those that run long.
func (c cgroups) long() string { return c.cpu + "-long" }

// newCgroups makes a directory with this prefix and our process ID, below this
// process's own group, or beside it on version 2. What servers that were killed
// have left under the prefix is removed.
func newCgroups(prefix string) (cgroups, error) {
	name := prefix + "-" + strconv.Itoa(os.Getpid())
	if _, err := os.Stat(filepath.Join(cgroup1Root, "memory.limit_in_bytes")); err == nil {
		c := cgroups{dir: filepath.Join(cgroup1Root, ownGroup("memory"), name)}
		sweep(filepath.Dir(c.dir), prefix)
		sweep(filepath.Join(cgroup1CPU, ownGroup("cpu")), prefix)
		if err := mkdir(c.dir); err != nil {
			return cgroups{}, fmt.Errorf("make cgroup: %w", err)
		}
		_ = writeControl(c.dir, "memory.use_hierarchy", 1) // the default, or set above us
		c.cpu = filepath.Join(cgroup1CPU, ownGroup("cpu"), name)
		if mkdir(c.cpu) != nil || mkdir(c.long()) != nil || writeControl(c.long(), "cpu.shares", fullShare/longPart) != nil {
			c.cpu = ""
		}
		return c, nil
	}
	if _, err := os.Stat(filepath.Join(cgroup2Root, "cgroup.controllers")); err != nil {
		return cgroups{}, fmt.Errorf("find a memory controller: %w", err)
	}
	// A group with processes cannot hand its controllers down, so that workers
	// live beside the server's group, not in it.
	parent := filepath.Dir(filepath.Join(cgroup2Root, ownGroup("")))
	if !strings.HasPrefix(parent, cgroup2Root) {
		parent = cgroup2Root
	}
	c := cgroups{dir: filepath.Join(parent, name), v2: true}
	sweep(parent, prefix)
	_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+memory"), 0o600)
	_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+cpu"), 0o600)
	if err := mkdir(c.dir); err != nil {
		return cgroups{}, fmt.Errorf("make cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "cgroup.subtree_control"), []byte("+memory"), 0o600); err != nil {
		return cgroups{}, fmt.Errorf("enable the memory controller: %w", errors.Join(err, os.Remove(c.dir)))
	}
	_ = os.WriteFile(filepath.Join(c.dir, "cgroup.subtree_control"), []byte("+cpu"), 0o600)
	return c, nil
}

// fullShare and fullWeight are the kernel's defaults for processor time, of
// which programs that run long get one part in longPart.
const (
	fullShare  = 1024
	fullWeight = 100
	longPart   = 50
)

// sweep removes groups under parent whose names begin with prefix and a hyphen,
// unless there are still processes in them.
func sweep(parent, prefix string) {
	for _, pattern := range []string{prefix + "-*/w*", prefix + "-*"} {
		dirs, err := filepath.Glob(filepath.Join(parent, pattern))
		if err != nil {
			return // the prefix is no pattern
		}
		for _, d := range dirs {
			_ = os.Remove(d) // the kernel refuses what is in use
		}
	}
}

// mkdir makes a directory unless there is one.
func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // cgroupfs has its own rules
		return err
	}
	return nil
}

// ownGroup returns this process's path for a controller of version 1, or on
// version 2 for "".
func ownGroup(controller string) string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "/"
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			continue
		}
		for c := range strings.SplitSeq(f[1], ",") {
			if c == controller {
				return f[2]
			}
		}
	}
	return "/"
}

// remove removes the directory; its groups must be gone.
func (c cgroups) remove() error {
	if c.dir == "" {
		return nil
	}
	err := removeGroup(c.dir)
	if c.cpu != "" {
		err = errors.Join(err, removeGroup(c.cpu), removeGroup(c.long()))
	}
	return err
}

// removeGroup removes a group, for whose last process the kernel may need a moment.
func removeGroup(dir string) error {
	var err error
	for range 50 {
		if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		wait := time.NewTimer(10 * time.Millisecond)
		<-wait.C
	}
	return fmt.Errorf("remove cgroup: %w", err)
}

// group is the cgroup of one worker. A nil group does nothing.
type group struct {
	dir    string
	all    cgroups
	pid    int
	v2     bool
	limit  int64
	behind bool // the processor share is the small one
}

// make makes a group without a limit yet.
func (c cgroups) make(id int) (*group, error) {
	if c.dir == "" {
		return nil, nil //nolint:nilnil // a nil group is one that does nothing
	}
	g := &group{dir: filepath.Join(c.dir, "w"+strconv.Itoa(id)), v2: c.v2, all: c}
	if err := mkdir(g.dir); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	if g.v2 {
		_ = writeControl(g.dir, "memory.swap.max", 0)
		_ = writeControl(g.dir, "memory.oom.group", 1)
	} else {
		_ = writeControl(g.dir, "memory.swappiness", 0)
	}
	return g, nil
}

// stepBehind gives the group a small share of a busy processor, or its full
// share again: programs that run long do it behind those that do not. Where
// the kernel cannot, nothing happens.
func (g *group) stepBehind(behind bool) {
	if g == nil || g.behind == behind {
		return
	}
	g.behind = behind
	switch {
	case g.v2 && behind:
		_ = writeControl(g.dir, "cpu.weight", fullWeight/longPart)
	case g.v2:
		_ = writeControl(g.dir, "cpu.weight", fullWeight)
	case g.all.cpu != "" && behind:
		_ = writeControl(g.all.long(), "cgroup.procs", int64(g.pid))
	case g.all.cpu != "":
		_ = writeControl(g.all.cpu, "cgroup.procs", int64(g.pid))
	}
}

// add moves a process in.
func (g *group) add(pid int) error {
	if g == nil {
		return nil
	}
	g.pid = pid
	if g.all.cpu != "" {
		_ = writeControl(g.all.cpu, "cgroup.procs", int64(pid)) // a matter of speed only
	}
	return writeControl(g.dir, "cgroup.procs", int64(pid))
}

// setLimit sets the hard limit, unless it is set already.
func (g *group) setLimit(n int64) error {
	if g == nil || g.limit == n {
		return nil
	}
	name := "memory.limit_in_bytes"
	if g.v2 {
		name = "memory.max"
	}
	if err := writeControl(g.dir, name, n); err != nil {
		return fmt.Errorf("set memory limit: %w", err)
	}
	g.limit = n
	return nil
}

// used returns what the group uses.
func (g *group) used() int64 {
	if g == nil {
		return 0
	}
	if g.v2 {
		return readControl(g.dir, "memory.current", "")
	}
	return readControl(g.dir, "memory.usage_in_bytes", "")
}

// peak returns the most the group ever used.
func (g *group) peak() int64 {
	if g == nil {
		return 0
	}
	if g.v2 {
		return readControl(g.dir, "memory.peak", "")
	}
	return readControl(g.dir, "memory.max_usage_in_bytes", "")
}

// kills returns how often the kernel killed in the group for memory.
func (g *group) kills() int64 {
	if g == nil {
		return 0
	}
	if g.v2 {
		return readControl(g.dir, "memory.events", "oom_kill")
	}
	return readControl(g.dir, "memory.oom_control", "oom_kill")
}

// remove removes the group; its process must be gone.
func (g *group) remove() error {
	if g == nil {
		return nil
	}
	return removeGroup(g.dir)
}

func writeControl(dir, name string, n int64) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0) //nolint:gosec // a kernel file
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10))
	return errors.Join(err, f.Close())
}

// readControl returns the number in a file, or the one after key; 0 where there
// is none.
func readControl(dir, name, key string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // a kernel file
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if key != "" && (len(f) < 2 || f[0] != key) || len(f) == 0 {
			continue
		}
		n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
		if err == nil {
			return n
		}
	}
	return 0
}
