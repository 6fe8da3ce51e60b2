package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// moveAcross moves source to destination on another file system: it copies
// beside the destination, puts the copy in place and removes the source. When it
// fails the source is whole and the copy is gone.
func moveAcross(ctx context.Context, source, destination string) error {
	copied, err := os.MkdirTemp(filepath.Dir(destination), ".bulkhead-move-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(copied) }() // nothing is there after a success
	inside := filepath.Join(copied, "entry")
	if err := copyTree(ctx, source, inside); err != nil {
		return err
	}
	if err := os.Rename(inside, destination); err != nil {
		return err
	}
	return os.RemoveAll(source)
}

// copyTree copies what is at from, with owners, modes, times and metadata.
func copyTree(ctx context.Context, from, to string) error {
	type dir struct {
		path string
		st   fs.FileInfo
	}
	var dirs []dir
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch mode := st.Mode(); {
		case mode.IsDir():
			dirs = append(dirs, dir{target, st})
			return os.Mkdir(target, 0o700)
		case mode&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return errors.Join(os.Symlink(link, target), likeOwner(target, st)) //nolint:gosec // all of it is in the client's box
		case mode.IsRegular():
			return copyFile(path, target, st)
		default:
			return fmt.Errorf("'%s' is a %v, which cannot be moved to another file system", path, mode.Type())
		}
	})
	if err != nil {
		return err
	}
	// Last and from the inside out: filling a directory changes its times.
	for _, d := range slices.Backward(dirs) {
		if err := errors.Join(likeOwner(d.path, d.st), like(d.path, d.st)); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a regular file.
func copyFile(from, to string, st fs.FileInfo) error {
	src, err := sysfile.Open(from, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read
	dst, err := sysfile.Open(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = dst.ReadFrom(src)
	if m := readMetadata(from); err == nil && m != nil {
		err = writeMetadata(dst, m)
	}
	return errors.Join(err, dst.Close(), likeOwner(to, st), like(to, st))
}

// like gives path the mode and the times in st.
func like(path string, st fs.FileInfo) error {
	return errors.Join(os.Chmod(path, st.Mode()), os.Chtimes(path, st.ModTime(), st.ModTime()))
}

// likeOwner gives path the owner in st, which only root can.
func likeOwner(path string, st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(sys.Uid), int(sys.Gid))
}
