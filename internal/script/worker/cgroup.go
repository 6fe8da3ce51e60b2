package worker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/cgroup"
)

// Where the memory controllers are mounted.
const (
	cgroup1Root = "/sys/fs/cgroup/memory"
	cgroup1CPU  = "/sys/fs/cgroup/cpu"
	cgroup2Root = "/sys/fs/cgroup"
)

// cgroups makes the groups of workers, on either version. They stand beside each
// other and, but for memory on version 1, beside or in the server's own group, so
// that each has its own share of processor time against the server's. The zero
// value is a host without a usable controller.
type cgroups struct {
	dir  string // where they are made, "" without a memory controller
	cpu  string // the same for processor time on version 1, "" where there is none
	name string // how their names begin
	v2   bool
}

// newCgroups finds where groups are made whose names begin with this prefix and
// our process ID. What servers that were killed have left under the prefix is
// removed.
func newCgroups(prefix string) (cgroups, error) {
	c := cgroups{name: prefix + "-" + strconv.Itoa(os.Getpid()) + "-"}
	if _, err := os.Stat(filepath.Join(cgroup1Root, "memory.limit_in_bytes")); err == nil {
		c.dir = filepath.Join(cgroup1Root, ownGroup("memory"))
		c.cpu = filepath.Join(cgroup1CPU, ownGroup("cpu"))
		if _, err := os.Stat(filepath.Join(c.cpu, "cpu.shares")); err != nil {
			c.cpu = ""
		}
		sweep(c.dir, prefix)
		sweep(c.cpu, prefix)
		_ = writeControl(c.dir, "memory.use_hierarchy", 1) // the default, or set above us
		return c, nil
	}
	if _, err := os.Stat(filepath.Join(cgroup2Root, "cgroup.controllers")); err != nil {
		return cgroups{}, fmt.Errorf("find a memory controller: %w", err)
	}
	// A group with processes cannot hand its controllers down, so that workers
	// live beside the server's group, not in it.
	c.v2, c.dir = true, filepath.Dir(filepath.Join(cgroup2Root, ownGroup("")))
	if !strings.HasPrefix(c.dir, cgroup2Root) {
		c.dir = cgroup2Root
	}
	sweep(c.dir, prefix)
	enable := func(controller string) error {
		return os.WriteFile(filepath.Join(c.dir, "cgroup.subtree_control"), []byte("+"+controller), 0o600)
	}
	err := enable("memory")
	if errors.Is(err, unix.EBUSY) && c.dir == cgroup2Root {
		if err = cgroup.Vacate(c.dir); err == nil {
			err = enable("memory")
		}
	}
	if err != nil {
		return cgroups{}, fmt.Errorf("enable the memory controller: %w", err)
	}
	_ = enable("cpu") // a matter of speed only
	return c, nil
}

// rank is how much of a busy processor a worker gets.
type rank int

const (
	// rankFront is as much as any other process.
	rankFront rank = iota
	// rankTurn is half of that.
	rankTurn
	// rankIdle is what nobody else wants.
	rankIdle
)

// part is one in how many parts of the kernel's default share a rank gets; for
// rankIdle only where the kernel has no better.
var part = [...]int64{rankFront: 1, rankTurn: 2, rankIdle: 64}

// fullShare and fullWeight are the kernel's defaults for processor time.
const (
	fullShare  = 1024
	fullWeight = 100
)

// sweep removes groups under parent whose names begin with prefix and a hyphen,
// unless there are still processes in them.
func sweep(parent, prefix string) {
	if parent == "" {
		return
	}
	dirs, err := filepath.Glob(filepath.Join(parent, prefix+"-*"))
	if err != nil {
		return // the prefix is no pattern
	}
	for _, d := range dirs {
		_ = os.Remove(d) // the kernel refuses what is in use
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
	dir   string
	cpu   string // its group for processor time, "" for none
	v2    bool
	limit int64

	mu   sync.Mutex
	rank rank
}

// make makes a group without a limit yet.
func (c cgroups) make(id int) (*group, error) {
	if c.dir == "" {
		return nil, nil //nolint:nilnil // a nil group is one that does nothing
	}
	name := c.name + strconv.Itoa(id)
	g := &group{dir: filepath.Join(c.dir, name), v2: c.v2}
	if err := mkdir(g.dir); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	if g.v2 {
		_ = writeControl(g.dir, "memory.swap.max", 0)
		_ = writeControl(g.dir, "memory.oom.group", 1)
		g.cpu = g.dir
		return g, nil
	}
	_ = writeControl(g.dir, "memory.swappiness", 0)
	if c.cpu != "" { // a matter of speed only
		if g.cpu = filepath.Join(c.cpu, name); mkdir(g.cpu) != nil {
			g.cpu = ""
		}
	}
	return g, nil
}

// setRank gives the group its share of a busy processor. Where the kernel
// cannot, nothing happens. It may be called from any goroutine.
func (g *group) setRank(r rank) {
	if g == nil || g.cpu == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rank == r {
		return
	}
	was := g.rank
	g.rank = r
	if r == rankIdle && writeControl(g.cpu, "cpu.idle", 1) == nil {
		return
	}
	if was == rankIdle {
		_ = writeControl(g.cpu, "cpu.idle", 0)
	}
	name, full := "cpu.shares", int64(fullShare)
	if g.v2 {
		name, full = "cpu.weight", fullWeight
	}
	_ = writeControl(g.cpu, name, full/part[r])
}

// add moves a process in.
func (g *group) add(pid int) error {
	if g == nil {
		return nil
	}
	if g.cpu != "" && g.cpu != g.dir {
		_ = writeControl(g.cpu, "cgroup.procs", int64(pid))
	}
	return writeControl(g.dir, "cgroup.procs", int64(pid))
}

// setLimit sets the hard limit, unless it is set already. It refuses one below what
// is in use: v1 does so itself, v2 would kill.
func (g *group) setLimit(n int64) error {
	if g == nil || g.limit == n {
		return nil
	}
	if used := g.used(); used > n {
		return fmt.Errorf("set memory limit: %d bytes are in use, more than %d", used, n)
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

// peak returns the most the group ever used, 0 on version 2 before Linux 5.19.
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

// byHost reports whether these kills were not for the group's own limit: then it was
// the limit of a group above, or the host's memory. Version 2 counts how often the
// group's own limit was the reason; on version 1 it stayed well below it.
func (g *group) byHost(kills int64) bool {
	if g == nil || kills == 0 || g.limit == 0 {
		return false
	}
	if g.v2 {
		return readControl(g.dir, "memory.events", "oom") == 0
	}
	return g.peak() < g.limit-g.limit/16
}

// remove removes the group; its process must be gone.
func (g *group) remove() error {
	if g == nil {
		return nil
	}
	err := removeGroup(g.dir)
	if g.cpu != "" && g.cpu != g.dir {
		err = errors.Join(err, removeGroup(g.cpu))
	}
	return err
}

func writeControl(dir, name string, n int64) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10))
	return errors.Join(err, f.Close())
}

// readControl returns the number in a file, or the one after key; 0 where there
// is none.
func readControl(dir, name, key string) int64 {
	data, err := os.ReadFile(filepath.Join(dir, name))
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
