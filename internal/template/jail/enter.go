package jail

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kept are the capabilities of a jailed program: those that package scripts need.
// Without CAP_MKNOD and CAP_SYS_ADMIN it reaches neither devices nor mounts.
var kept = map[uintptr]bool{
	unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FOWNER: true, unix.CAP_FSETID: true,
	unix.CAP_SETUID: true, unix.CAP_SETGID: true, unix.CAP_SETFCAP: true, unix.CAP_SETPCAP: true,
	unix.CAP_NET_BIND_SERVICE: true, unix.CAP_SYS_CHROOT: true, unix.CAP_KILL: true, unix.CAP_AUDIT_WRITE: true,
}

// devices are the nodes of the host that a jailed program sees.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// devLinks are the links that programs expect in /dev.
var devLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
	"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}

// enter builds the jail around this process and executes the program. It
// returns only an error.
func enter(s Spec) error {
	if len(s.Argv) == 0 || !path.IsAbs(s.Argv[0]) {
		return fmt.Errorf("program %q: the path must be absolute", s.Argv)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte("localhost")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	unix.Umask(0o022)
	if s.Root == "" {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	} else if err := enterRoot(s); err != nil {
		return err
	}
	if s.Dir != "" {
		if err := unix.Chdir(s.Dir); err != nil {
			return fmt.Errorf("change to %s: %w", s.Dir, err)
		}
	}
	if err := nullStdin(); err != nil {
		return err
	}
	if err := unix.Exec(s.Argv[0], s.Argv, s.Env); err != nil {
		return fmt.Errorf("execute %s: %w", s.Argv[0], err)
	}
	return nil
}

func enterRoot(s Spec) error {
	if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", s.Root, err)
	}
	t := &tree{dir: s.Root}
	if err := t.open(); err != nil {
		return err
	}
	for _, m := range []struct{ target, fs, options string }{
		{"proc", "proc", ""},
		{"dev", "tmpfs", "mode=755,size=1m"},
		{"run", "tmpfs", "mode=755,size=256m"},
	} {
		if err := t.mount(m.fs, m.target, m.options); err != nil {
			return err
		}
	}
	if err := t.fillDev(); err != nil {
		return err
	}
	for _, b := range s.Binds {
		if err := t.bind(b); err != nil {
			return err
		}
	}
	return t.pivot()
}

// tree is the new root while the host's file systems are still in reach. Every
// path in it is resolved without following symbolic links.
type tree struct {
	dir  string
	root *os.Root
	fd   int
}

func (t *tree) open() (err error) {
	if t.root, err = os.OpenRoot(t.dir); err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	t.fd, err = unix.Open(t.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	return nil
}

// at returns a name of target for mount(2) that does not change under it. The
// descriptor stays open until the program starts.
func (t *tree) at(target string) (string, error) {
	fd, err := unix.Openat2(t.fd, target, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("find mount point %s: %w", target, err)
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}

func (t *tree) mount(fs, target, options string) error {
	at, err := t.at(target)
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NOEXEC)
	if fs == "proc" {
		flags |= unix.MS_NODEV
	}
	if err := unix.Mount(fs, at, fs, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fs, target, err)
	}
	return nil
}

func (t *tree) fillDev() error {
	for _, d := range devices {
		if err := t.root.WriteFile("dev/"+d, nil, 0o666); err != nil {
			return fmt.Errorf("make device: %w", err)
		}
		if err := t.bind(Bind{Source: "/dev/" + d, Target: "dev/" + d, Writable: true}); err != nil {
			return err
		}
	}
	for link, target := range devLinks {
		if err := t.root.Symlink(target, "dev/"+link); err != nil {
			return fmt.Errorf("link device: %w", err)
		}
	}
	for dir, options := range map[string]string{"dev/pts": "newinstance,ptmxmode=0666,mode=620", "dev/shm": "mode=1777,size=256m"} {
		if err := t.root.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make device directory: %w", err)
		}
		fs := "tmpfs"
		if dir == "dev/pts" {
			fs = "devpts"
		}
		if err := t.mount(fs, dir, options); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) bind(b Bind) error {
	if strings.HasPrefix(b.Target, "run/") {
		if err := t.makeTarget(b); err != nil {
			return err
		}
	}
	at, err := t.at(b.Target)
	if err != nil {
		return err
	}
	source, err := filepath.EvalSymlinks(b.Source)
	if err != nil {
		return fmt.Errorf("bind %s: %w", b.Source, err)
	}
	if err := unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", b.Source, err)
	}
	if b.Writable {
		return nil
	}
	if at, err = t.at(b.Target); err != nil { // now what is mounted there
		return err
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", b.Target, err)
	}
	return nil
}

func (t *tree) makeTarget(b Bind) error {
	fi, err := os.Stat(b.Source)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if fi.IsDir() {
		err = t.root.MkdirAll(b.Target, 0o755)
	} else if err = t.root.MkdirAll(path.Dir(b.Target), 0o755); err == nil {
		err = t.root.WriteFile(b.Target, nil, 0o644)
	}
	if err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return nil
}

// pivot makes the tree the root, lets go of the host's and gives up what a
// package script has no use for.
func (t *tree) pivot() error {
	if err := unix.Chdir(t.dir); err != nil {
		return fmt.Errorf("change to root: %w", err)
	}
	// With both arguments "." the old root lies over the new one and is the
	// next thing unmounted there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("change to /: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for c := range uintptr(64) {
		if kept[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel knows no further ones
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

// nullStdin replaces the pipe that brought the Spec.
func nullStdin() error {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("open standard input: %w", err)
	}
	if err := unix.Dup3(int(f.Fd()), 0, 0); err != nil {
		return fmt.Errorf("set standard input: %w", err)
	}
	return nil
}
