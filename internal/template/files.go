package template

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// writeFile replaces path by a file with the content, through a temporary file
// in tmp, on the same file system. After it returns, a crash does not undo it.
func writeFile(path string, content []byte, tmp string) (err error) {
	f, err := os.CreateTemp(tmp, "file-")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", filepath.Base(path), err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

// syncPath makes a file or directory durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// freeSpace returns how many bytes can be written below dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // far below 2^63
}

// needSpace gives a [bulkhead.CodeUnavailable] error unless dir has room.
func needSpace(dir string, need int64) error {
	have, err := freeSpace(dir)
	if err != nil {
		return err
	}
	if have < need {
		return bulkhead.Errorf(bulkhead.CodeUnavailable,
			"the build needs %d MiB of free disk space in %s and there are %d MiB", need>>20, dir, have>>20)
	}
	return nil
}

// trimCache removes the downloads used longest ago until the cache fits.
func (s *Store) trimCache() error {
	type file struct {
		path string
		size int64
		at   time.Time
	}
	var files []file
	var total int64
	err := filepath.WalkDir(s.cache(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		total += fi.Size()
		files = append(files, file{path, fi.Size(), fi.ModTime()})
		return nil
	})
	if err != nil {
		return fmt.Errorf("trim cache: %w", err)
	}
	slices.SortFunc(files, func(a, b file) int { return a.at.Compare(b.at) })
	for _, f := range files {
		if total <= s.cfg.CacheMB<<20 {
			return nil
		}
		if err := os.Remove(f.path); err != nil {
			return fmt.Errorf("trim cache: %w", err)
		}
		total -= f.size
	}
	return nil
}

// cache returns a path below the cache of downloads.
func (s *Store) cache(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir, "cache"}, parts...)...)
}
