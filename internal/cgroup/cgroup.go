// Package cgroup puts boxes into control groups on any host: cgroup v1, v2 and
// the hybrid of both that older distributions and this product's test machines
// have. One [Tree] holds one [Group] per box, made with its limits before the
// box starts.
//
// A box's processes come into the group by [Group.Start], which is exact (no
// instruction runs outside) and avoids what makes container runtimes slow on
// v1: moving a running process costs a grace period of the kernel, 14 ms and
// more, there and back. So runsc runs with --ignore-cgroups; measured on a
// v1-hybrid host, runsc create takes 60 to 70 ms then, 90 to 95 ms otherwise.
//
// In the hybrid layout a group of the controller-less v2 tree goes with the v1
// groups, because it alone can be killed in one step and has pressure figures.
//
// Limits are written by containerd/cgroups; everything read is read here, since
// only the few files that matter are wanted, in microseconds.
//
// All methods may be called concurrently, except that a group's Delete must be
// its last use.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bulkheadhq/bulkhead"
)

// Config configures a [Tree].
type Config struct {
	// Layout is what [Detect] found.
	Layout Layout
	// Root is the tree's place in every hierarchy, such as "/bulkhead", the
	// default. On v2 no process may be in the groups above it.
	Root string
	// Log receives what is repaired. Default: none.
	Log *slog.Logger
}

// Tree is the group under which all boxes' groups are.
type Tree struct {
	layout Layout
	root   string
	log    *slog.Logger
	swap   bool // memory and swap can be limited together

	locks [64]sync.RWMutex // by name; read-held while a thread of ours is in a group
}

// starting is the lock of the groups whose name hashes like this one.
func (t *Tree) starting(name string) *sync.RWMutex {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return &t.locks[h.Sum32()%uint32(len(t.locks))]
}

// New makes the root groups, which takes root, and finds out whether swap can
// be limited. It fails when the host has no memory, pids or cpu controller,
// since a box without those limits could take the host down.
func New(cfg Config) (*Tree, error) {
	if cfg.Root == "" {
		cfg.Root = "/bulkhead"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Root != path.Clean(cfg.Root) || !path.IsAbs(cfg.Root) || cfg.Root == "/" {
		return nil, fmt.Errorf("cgroup: Root is %q; it must be a clean absolute path below /", cfg.Root)
	}
	for _, c := range []Controller{Memory, Pids, CPU} {
		if !cfg.Layout.Has(c) {
			return nil, fmt.Errorf("cgroup: this host (cgroup %s) has no %s controller", cfg.Layout.Mode, c)
		}
	}
	t := &Tree{layout: cfg.Layout, root: cfg.Root, log: cfg.Log}
	for _, dir := range t.dirs("") {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // cgroupfs shows its groups to all
			return nil, fmt.Errorf("make root group: %w", err)
		}
	}
	if t.layout.Mode == ModeHybrid && !canCloneInto(filepath.Join(t.layout.V2, t.root)) {
		_ = os.Remove(filepath.Join(t.layout.V2, t.root)) // the v1 groups do without
		t.layout.V2 = ""
	}
	swapFile := "memory.memsw.limit_in_bytes"
	if t.layout.Mode == ModeV2 {
		if err := t.delegate(); err != nil {
			return nil, err
		}
		swapFile = "memory.swap.max"
	}
	_, err := os.Stat(filepath.Join(t.layout.dir(Memory), t.root, swapFile))
	t.swap = err == nil
	return t, nil
}

// SwapLimited reports whether a group's memory limit holds for memory and swap
// together.
func (t *Tree) SwapLimited() bool { return t.swap }

// delegate switches the controllers on for the groups below the root.
func (t *Tree) delegate() error {
	var err error
	for at, rest := "/", t.root; err == nil; {
		dir := filepath.Join(t.layout.V2, at)
		enable := func() error { return writeFile(dir, "cgroup.subtree_control", "+cpu +memory +pids") }
		if err = enable(); errors.Is(err, errBusy) && at == "/" {
			if err = Vacate(dir); err == nil {
				t.log.Info("moved the processes of the root group, a container's it seems", "to", serverGroup)
				err = enable()
			}
		}
		if at == t.root {
			break
		}
		next, after, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		at, rest = path.Join(at, next), after
	}
	if err != nil {
		return fmt.Errorf("switch controllers on for %s (no process may be in the groups above it): %w", t.root, err)
	}
	return nil
}

// dirs returns the directory of a group in each hierarchy that is used, the
// unified one last; "" is the root group.
func (t *Tree) dirs(name string) []string {
	var out []string
	for _, c := range controllers {
		if dir, ok := t.layout.V1[c]; ok {
			out = append(out, filepath.Join(dir, t.root, name))
		}
	}
	if t.layout.V2 != "" {
		out = append(out, filepath.Join(t.layout.V2, t.root, name))
	}
	return slices.Compact(out)
}

// Extra is what a group needs beyond a box's own limits.
type Extra struct {
	// PidsOverhead is added to [bulkhead.Limits].Pids: the host's tasks that
	// serve the box, such as the sentry's threads.
	PidsOverhead int64
	// MemoryOverheadMB is added to [bulkhead.Limits].MemoryMB: what the runtime
	// itself needs, such as the sentry's heap.
	MemoryOverheadMB int64
	// KillTogether ends every process of the group when one is killed for
	// memory. On cgroup v2 only.
	KillTogether bool
}

// validName is what a group may be called.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Create makes a group with limits. CPU, MemoryMB and Pids must be set and are
// hard limits; swap counts as memory where the kernel can do that, and cores
// are also the group's share when the host is busy. The error is a
// [bulkhead.CodeConflict] when the group exists.
func (t *Tree) Create(name string, l bulkhead.Limits, x Extra) (*Group, error) {
	if !validName.MatchString(name) {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "cgroup name %q; it must be 1 to 128 of [A-Za-z0-9._-]", name)
	}
	if err := check(l, x); err != nil {
		return nil, err
	}
	g := &Group{t: t, name: name}
	for i, dir := range t.dirs(name) {
		err := os.Mkdir(dir, 0o755) //nolint:gosec // cgroupfs shows its groups to all
		if errors.Is(err, os.ErrExist) && i == 0 {
			return nil, &bulkhead.Error{Code: bulkhead.CodeConflict, Msg: fmt.Sprintf("cgroup %s exists already", name)}
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, errors.Join(fmt.Errorf("make group %s: %w", name, err), g.remove())
		}
	}
	if err := g.Update(l, x); err != nil {
		return nil, errors.Join(err, g.remove())
	}
	return g, nil
}

// check refuses limits that are missing or out of range.
func check(l bulkhead.Limits, x Extra) error {
	if l.CPU == 0 || l.MemoryMB == 0 || l.Pids == 0 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "limits are cpu %v, memoryMB %d, pids %d; none may be 0", l.CPU, l.MemoryMB, l.Pids)
	}
	if x.PidsOverhead < 0 || x.PidsOverhead > 1<<16 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "pids overhead is %d; it must be between 0 and %d", x.PidsOverhead, 1<<16)
	}
	return l.Validate()
}

// Open returns a group that exists. The error wraps [os.ErrNotExist] when it
// does not.
func (t *Tree) Open(name string) (*Group, error) {
	if !validName.MatchString(name) {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "cgroup name %q; it must be 1 to 128 of [A-Za-z0-9._-]", name)
	}
	dir := filepath.Join(t.layout.dir(Memory), t.root, name)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open group %s: %w", name, err)
	}
	return &Group{t: t, name: name}, nil
}

// List returns the names of all groups of which anything exists, sorted.
func (t *Tree) List() ([]string, error) {
	var names []string
	for _, dir := range t.dirs("") {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("list groups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && validName.MatchString(e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Reap kills and removes every group that inUse (which may be nil) does not
// claim. It returns the names removed, also next to an error, and stops when
// ctx ends.
func (t *Tree) Reap(ctx context.Context, inUse func(name string) bool) ([]string, error) {
	names, err := t.List()
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, name := range names {
		if inUse != nil && inUse(name) {
			continue
		}
		g := &Group{t: t, name: name}
		if err := errors.Join(g.Kill(ctx), g.Delete(ctx)); err != nil {
			errs = append(errs, err)
			continue
		}
		t.log.InfoContext(ctx, "removed a cgroup that nobody owns", "cgroup", name)
		removed = append(removed, name)
	}
	return removed, errors.Join(errs...)
}

// Close removes the root groups. It fails when a box's group is still there.
func (t *Tree) Close() error {
	var errs []error
	_ = os.Remove(filepath.Join(t.layout.dir(CPU), t.root, ownName)) // of a server that was killed
	for _, dir := range t.dirs("") {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove root group: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Group is the control group of one box.
type Group struct {
	t    *Tree
	name string
}

// Name is the group's name in its tree.
func (g *Group) Name() string { return g.name }

// CgroupsPath is the group's path in every hierarchy, as an OCI spec's
// linux.cgroupsPath names it.
func (g *Group) CgroupsPath() string { return path.Join(g.t.root, g.name) }

// MemoryLimitFile is the kernel's file that holds the group's memory limit in
// bytes.
func (g *Group) MemoryLimitFile() string {
	if g.t.layout.Mode == ModeV2 {
		return filepath.Join(g.unified(), "memory.max")
	}
	return filepath.Join(g.in(Memory), "memory.limit_in_bytes")
}

// Paths are the group's directories in the file system.
func (g *Group) Paths() []string { return g.t.dirs(g.name) }

// unified is the group's directory in the v2 tree, "" without one.
func (g *Group) unified() string {
	if g.t.layout.V2 == "" {
		return ""
	}
	return filepath.Join(g.t.layout.V2, g.t.root, g.name)
}

// in is the group's directory that a controller's files are in.
func (g *Group) in(c Controller) string {
	return filepath.Join(g.t.layout.dir(c), g.t.root, g.name)
}

// resources are limits in the words of the OCI.
func (t *Tree) resources(l bulkhead.Limits, x Extra) *specs.LinuxResources {
	// µs. The kernel's default of 100 ms would let a box with several busy threads
	// hold every core for that long before it is stopped.
	const period = 20_000
	quota, shares := int64(l.CPU*period), uint64(l.CPU*1024)
	memory, pids := (l.MemoryMB+x.MemoryOverheadMB)<<20, l.Pids+x.PidsOverhead
	r := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: new(uint64(period)), Shares: &shares},
		Memory: &specs.LinuxMemory{Limit: &memory},
		Pids:   &specs.LinuxPids{Limit: pids},
	}
	if t.swap {
		r.Memory.Swap = &memory // memory and swap together
	}
	return r
}

// Update changes the limits of a group in use. A memory limit below what is in use
// makes the kernel take back what it can; where that is not enough it is refused
// with [bulkhead.CodeConflict], and on v1 the other limits may have changed already.
func (g *Group) Update(l bulkhead.Limits, x Extra) (err error) {
	if err := check(l, x); err != nil {
		return err
	}
	if g.inBackground() { // where the kernel refuses a weight
		if err := g.Background(false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.Background(true)) }()
	}
	if err := g.write(g.t.resources(l, x), x); err != nil {
		return fmt.Errorf("limit group %s: %w", g.name, err)
	}
	return nil
}

func (g *Group) write(r *specs.LinuxResources, x Extra) error {
	write := g.writeV1
	if g.t.layout.Mode == ModeV2 {
		write = g.writeV2
	}
	err := write(r, x)
	if errors.Is(err, errBusy) {
		return &bulkhead.Error{
			Code: bulkhead.CodeConflict, Err: err,
			Msg: fmt.Sprintf("more than %d MiB of memory are in use", *r.Memory.Limit>>20),
		}
	}
	return err
}

func (g *Group) writeV1(r *specs.LinuxResources, _ Extra) error {
	c, err := cgroup1.Load(cgroup1.StaticPath(g.CgroupsPath()), cgroup1.WithHierarchy(g.t.layout.limiting))
	if err != nil {
		return err
	}
	if err := g.raise(c, r); err != nil {
		return err
	}
	return c.Update(r)
}

func (g *Group) writeV2(r *specs.LinuxResources, x Extra) (err error) {
	m, err := cgroup2.Load(g.CgroupsPath(), cgroup2.WithMountpoint(g.t.layout.V2))
	if err != nil {
		return err
	}
	dir := g.unified()
	now := reader{}
	if limit := now.number(dir, "memory.max"); limit > *r.Memory.Limit {
		// For a limit below what is in use the kernel would kill. This one makes it take
		// back what it can and holds the programs there, for the moment of the change.
		defer func() { err = errors.Join(err, writeFile(dir, "memory.high", "max")) }()
		if err := writeFile(dir, "memory.high", strconv.FormatInt(*r.Memory.Limit, 10)); err != nil {
			return err
		}
		if now.number(dir, "memory.current") > *r.Memory.Limit {
			return errBusy
		}
	}
	if now.err != nil {
		return now.err
	}
	together := "0"
	if x.KillTogether {
		together = "1"
	}
	return errors.Join(m.Update(cgroup2.ToResources(r)), writeFile(dir, "memory.oom.group", together))
}

// Background lets every other group of the tree go first on the processors, or no
// longer: who is in the background shares, evenly and up to its quota, what the
// others leave, and a process of theirs that wakes up need not wait for its own. It
// is forgotten with the group only. The error is [errors.ErrUnsupported] on a kernel
// before 5.15.
func (g *Group) Background(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	err := writeFile(g.in(CPU), cpuIdle, value)
	if errors.Is(err, os.ErrNotExist) {
		if _, gone := os.Stat(g.in(CPU)); gone == nil {
			err = errors.ErrUnsupported
		}
	}
	if err != nil {
		return fmt.Errorf("group %s: %w", g.name, err)
	}
	return nil
}

const cpuIdle = "cpu.idle"

func (g *Group) inBackground() bool {
	s, err := readFile(g.in(CPU), cpuIdle)
	return err == nil && s == "1"
}

// raise lifts the limit of memory and swap together when it shall be higher, so
// that the limit of memory alone never exceeds it. The library means to do so
// and, as of v3.0.5, writes them in the wrong order.
func (g *Group) raise(c cgroup1.Cgroup, r *specs.LinuxResources) error {
	if r.Memory.Swap == nil {
		return nil
	}
	s, err := readFile(g.in(Memory), "memory.memsw.limit_in_bytes")
	if err != nil {
		return err
	}
	now, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return fmt.Errorf("memory.memsw.limit_in_bytes: %w", err)
	}
	if uint64(*r.Memory.Swap) <= now { //nolint:gosec // positive
		return nil
	}
	return c.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: r.Memory.Swap}})
}

// writeFile writes a control file.
func writeFile(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// readFile reads a control file without the line's end.
func readFile(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err
}
