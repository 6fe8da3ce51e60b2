package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
)

// Deps is what a probe is given.
type Deps struct {
	// Data is the data directory, or where it will be.
	Data string
	// Runtime runs the embedded runtime's version and a trivial sandbox. Nil: not
	// looked at.
	Runtime func(ctx context.Context) (version string, err error)
	// Root is prepended to /proc, /sys and /dev where files are only read. Empty
	// except in tests.
	Root string
}

// runtimeTimeout bounds the trial of the runtime.
const runtimeTimeout = 30 * time.Second

// settings are the numbers that are read, below /proc/sys.
var settings = []string{
	"vm/max_map_count", "user/max_user_namespaces", "kernel/pid_max", "kernel/threads-max", "fs/file-max", "fs/nr_open",
	"fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "net/netfilter/nf_conntrack_max",
}

// Probe looks at this host and tries what can be tried. Without root most trials
// fail, which the facts say.
func Probe(ctx context.Context, d Deps) Facts {
	f := Facts{
		Machine: runtime.GOARCH, CPUs: runtime.NumCPU(), UID: os.Geteuid(),
		Programs: map[string]string{}, Numbers: map[string]int64{},
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	f.Capabilities = d.capabilities()
	f.Memory, f.MemoryErr = cgroup.HostMemory()
	own, ownErr := os.Readlink("/proc/self/ns/mnt")
	first, firstErr := os.Readlink("/proc/1/ns/mnt")
	f.OwnMounts = ownErr == nil && firstErr == nil && own != first
	f.groups(ctx)
	f.network(d)
	f.disk(d)
	f.kernel(ctx, d)
	for _, name := range []string{"runc", "docker", "mkfs.erofs", "mmdebstrap"} {
		if path, err := exec.LookPath(name); err == nil {
			f.Programs[name] = path
		}
	}
	if d.Runtime != nil {
		ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
		defer cancel()
		start := time.Now()
		version, err := d.Runtime(ctx)
		f.Runtime = Runtime{Asked: true, Version: version, Took: time.Since(start), Err: err}
	}
	return f
}

// read returns a file's text, "" when it cannot be read.
func (d Deps) read(path string) string {
	b, err := os.ReadFile(filepath.Join("/", d.Root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// capabilities returns the effective set of this process.
func (d Deps) capabilities() uint64 {
	for line := range strings.Lines(d.read("/proc/self/status")) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err == nil {
				return caps
			}
		}
	}
	return 0
}

// groups tries a control group with limits.
func (f *Facts) groups(ctx context.Context) {
	f.Layout, f.LayoutErr = cgroup.Detect()
	if f.LayoutErr != nil {
		f.Groups, f.Freeze = f.LayoutErr, f.LayoutErr
		return
	}
	t, err := cgroup.New(cgroup.Config{Layout: f.Layout, Root: fmt.Sprintf("/bulkhead-doctor-%d", os.Getpid())})
	if err != nil {
		f.Groups, f.Freeze = err, err
		return
	}
	f.SwapLimited = t.SwapLimited()
	f.Groups, f.Freeze = tryGroup(ctx, t)
	if err := t.Close(); err != nil && f.Groups == nil {
		f.Groups = err
	}
	if f.Layout.V2 != "" {
		// The root of the tree does not have the file, every group in it does.
		f.KillFile = kernelAtLeast(f.Kernel, 5, 14)
	}
}

// tryGroup makes a group, reads its limits back, starts a child in it and
// freezes it.
func tryGroup(ctx context.Context, t *cgroup.Tree) (limits, freeze error) {
	want := bulkhead.Limits{CPU: 1, MemoryMB: 64, Pids: 32}
	g, err := t.Create("trial", want, cgroup.Extra{})
	if err != nil {
		return err, err
	}
	defer func() {
		if err := g.Delete(context.WithoutCancel(ctx)); err != nil && limits == nil {
			limits = err
		}
	}()
	s, err := g.Stat()
	switch {
	case err != nil:
		limits = err
	case s.MemoryLimit != want.MemoryMB<<20 || s.PidsLimit != want.Pids:
		limits = fmt.Errorf("the kernel took %d MiB and %d tasks for the limits %d MiB and %d",
			s.MemoryLimit>>20, s.PidsLimit, want.MemoryMB, want.Pids)
	default:
		// A program that does not exist is enough to get as far as its exec.
		if err := g.Start(exec.CommandContext(ctx, "/nonexistent/bulkhead-doctor")); !errors.Is(err, os.ErrNotExist) {
			limits = fmt.Errorf("start a process in a group: %w", err)
		}
	}
	return limits, errors.Join(g.Freeze(), g.Thaw())
}

// network tries a slot and looks at other firewalls.
func (f *Facts) network(d Deps) {
	f.Network = netslot.Try()
	f.Forwarding = d.read("/proc/sys/net/ipv4/ip_forward") == "1"
	f.ForeignDrops, f.ForeignErr = netslot.ForeignDrops()
	f.LegacyTables = strings.Fields(d.read("/proc/net/ip_tables_names"))
}

// disk looks at the data directory, or the nearest directory above it that
// exists, and tries file systems there.
func (f *Facts) disk(d Deps) {
	dir := filepath.Clean("/" + d.Data)
	for !isDir(dir) {
		dir = filepath.Dir(dir)
	}
	f.Disk.Path = dir
	var st unix.Statfs_t
	if f.Disk.Err = unix.Statfs(dir, &st); f.Disk.Err == nil {
		f.Disk.Free, f.Disk.Total = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize //nolint:gosec // less than 2^63
		f.Disk.FreeFiles, f.Disk.TotalFiles = st.Ffree, st.Files
	}
	tmp, err := os.MkdirTemp(dir, "bulkhead-doctor-")
	if err != nil {
		f.Disk.Err = errors.Join(f.Disk.Err, err)
		f.Erofs, f.Overlay = err, err
	} else {
		f.Erofs, f.Overlay = tryErofs(tmp), tryOverlay(tmp)
		if err := os.RemoveAll(tmp); err != nil && f.Overlay == nil {
			f.Overlay = err
		}
	}
	f.Loop = tryLoop(filepath.Join("/", d.Root, "dev/loop-control"))
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return path == "/" || (err == nil && st.IsDir())
}

// tryErofs mounts a file that is no erofs image: a kernel that knows the file
// system says that the image is wrong, another that there is no such device.
func tryErofs(dir string) error {
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, make([]byte, 8192), 0o600); err != nil {
		return err
	}
	target := filepath.Join(dir, "erofs")
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	err := unix.Mount(image, target, "erofs", unix.MS_RDONLY, "")
	switch {
	case err == nil:
		return unix.Unmount(target, unix.MNT_DETACH)
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM):
		return fmt.Errorf("mount erofs: %w", err)
	}
	return nil
}

// tryOverlay mounts one directory over another and writes through.
func tryOverlay(dir string) error {
	var opts []string
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if name != "merged" {
			opts = append(opts, name+"dir="+path)
		}
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, strings.Join(opts, ",")); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	err := os.WriteFile(filepath.Join(merged, "file"), []byte("x"), 0o600)
	return errors.Join(err, unix.Unmount(merged, unix.MNT_DETACH))
}

// tryLoop asks for the number of a free loop device.
func tryLoop(path string) error {
	c, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // only asked
	_, err = unix.IoctlRetInt(int(c.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return fmt.Errorf("ask for a free loop device: %w", err)
	}
	return nil
}

// kernel reads settings and tries what needs no other place.
func (f *Facts) kernel(ctx context.Context, d Deps) {
	f.UserNS = tryUserNS(ctx)
	f.SeccompActions = strings.Fields(d.read("/proc/sys/kernel/seccomp/actions_avail"))
	_, err := os.Stat(filepath.Join("/", d.Root, "dev/kvm"))
	f.KVM = err == nil
	_, f.PSI = cgroup.HostPressure()
	f.ShmemHuge = chosen(d.read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))
	for _, name := range settings {
		if n, err := strconv.ParseInt(d.read("/proc/sys/"+name), 10, 64); err == nil {
			f.Numbers[name] = n
		}
	}
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
		f.OpenFiles = lim.Max
	}
	f.ClockSource = d.read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	f.ClockSynced = err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
}

// chosen returns the word in brackets, as /sys marks the chosen one of several.
func chosen(s string) string {
	_, rest, _ := strings.Cut(s, "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}

// tryUserNS gets as far as the exec of a child in a new user namespace.
func tryUserNS(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/nonexistent/bulkhead-doctor")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if err := cmd.Start(); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	return nil
}

// kernelAtLeast compares a release such as "6.1.0-18-amd64". One that cannot be
// read is not old.
func kernelAtLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 {
		return true
	}
	return a > major || (a == major && b >= minor)
}
