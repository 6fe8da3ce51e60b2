package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// lookup opens the directory with the tree as its root: ".." stops there and
// absolute links begin there.
func (t *Tree) lookup(name string) (int, error) {
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(t.root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("look up directory: %w", err)
	}
	return fd, nil
}

// parent opens the directory that an entry goes into and makes what is missing
// of it. The depth is bounded by [maxPath] and by the kernel's limit on names.
func (t *Tree) parent(name string) (int, error) {
	fd, err := t.lookup(name)
	if errors.Is(err, unix.ENOENT) {
		var up int
		if up, err = t.parent(parentOf(name)); err != nil {
			return -1, err
		}
		err = unix.Mkdirat(up, path.Base(name), 0o755)
		if err = errors.Join(err, unix.Close(up)); err != nil {
			return -1, invalid(err, "make parent directory")
		}
		fd, err = t.lookup(name)
	}
	if err != nil {
		return -1, invalid(err, "open parent directory")
	}
	full, err := os.Readlink(procPath(fd))
	if err != nil || len(full) > maxPath {
		return -1, errors.Join(bulkhead.Errorf(bulkhead.CodeInvalid,
			"a directory is deeper than %d bytes of path", maxPath), unix.Close(fd))
	}
	return fd, nil
}

func parentOf(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

// procPath names an open directory, for calls that take a path.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func list(dir int) ([]string, error) {
	d, err := os.Open(procPath(dir))
	if err != nil {
		return nil, fmt.Errorf("list directory: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("list directory: %w", err)
	}
	return names, nil
}

func removeAll(dir int, base string) error {
	root, err := os.OpenRoot(procPath(dir))
	if err != nil {
		return fmt.Errorf("remove %s: %w", base, err)
	}
	if err := errors.Join(root.RemoveAll(base), root.Close()); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// clearWay removes what is at base, unless both that and the entry are directories.
func clearWay(dir int, base string, typ byte) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return invalid(err, "stat")
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && typ == tar.TypeDir:
		return nil
	}
	return removeAll(dir, base)
}

func chown(dir int, base string, h *tar.Header) error {
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || id >= math.MaxUint32 {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "owner %d; it must be between 0 and %d", id, uint32(math.MaxUint32-1))
		}
	}
	if err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	return nil
}

// chmod sets the mode of what was just made; it is not a symbolic link.
func chmod(dir int, base string, h *tar.Header) error {
	if err := unix.Fchmodat(dir, base, uint32(h.Mode)&0o7777, 0); err != nil { //nolint:gosec // masked to 12 bits
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}

// setTime sets the times of base in dir, or of dir itself when base is empty.
func setTime(dir int, base string, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil || at.Unix() < 0 {
		return nil //nolint:nilerr // a time before 1970 or past the range is not worth an error
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if base == "" {
		base, flags = procPath(dir), 0
	}
	if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, flags); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
