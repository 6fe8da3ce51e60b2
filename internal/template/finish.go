package template

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/bulkheadhq/bulkhead"
)

// mountPoints are the directories that a runtime, a build and envd need, each
// after the one that it is in. A real one is a directory itself; another may be
// a link to one inside the tree.
var mountPoints = []struct {
	path string
	mode fs.FileMode
	real bool
}{
	{"dev", 0o755, true},
	{"proc", 0o555, true},
	{"sys", 0o555, true},
	{"run", 0o755, true},
	{"tmp", 0o777 | fs.ModeSticky, true},
	{"etc", 0o755, true},
	{"home", 0o755, false},
	{"root", 0o700, false},
	{"var", 0o755, false},
	{"var/tmp", 0o777 | fs.ModeSticky, false},
	{"opt", 0o755, false},
	{"opt/bulkhead", 0o755, false},
}

// mountFiles are the files that a driver writes or mounts over, and what they
// hold before that.
var mountFiles = map[string]string{
	"etc/resolv.conf": "",
	"etc/hostname":    "localhost\n",
	"etc/hosts":       "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
	"etc/machine-id":  "",
}

// leftovers are what programs of a build leave and no box needs.
var leftovers = []string{
	"tmp/*", "var/tmp/*", "run/*", "dev/*", "proc/*", "sys/*", "var/lib/apt/lists/*", "var/cache/apt/*.bin",
	"var/cache/apt/archives/*.deb", "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/log/*.log", "var/log/apt/*",
	"var/lib/dpkg/*-old", "root/.cache", "root/.npm", "etc/*-", "etc/.pwd.lock", ".dockerenv",
}

// prepare makes the mount points real directories and real files: in the tree of
// a stranger they may be links to anywhere.
func (w *work) prepare() error {
	root, err := os.OpenRoot(w.root)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	defer root.Close()
	for _, m := range mountPoints {
		stat := root.Stat
		if m.real {
			stat = root.Lstat
		}
		if fi, err := stat(m.path); err == nil && fi.IsDir() {
			continue
		}
		if err := errors.Join(root.RemoveAll(m.path), root.Mkdir(m.path, 0o755), root.Chmod(m.path, m.mode)); err != nil {
			return fmt.Errorf("make /%s: %w", m.path, err)
		}
	}
	for file, content := range mountFiles {
		fi, err := root.Lstat(file)
		if err == nil && fi.Mode().IsRegular() {
			continue
		}
		if err := errors.Join(root.RemoveAll(file), root.WriteFile(file, []byte(content), 0o644)); err != nil {
			return fmt.Errorf("make /%s: %w", file, err)
		}
	}
	return nil
}

// finish leaves the tree as boxes will see it.
func (w *work) finish(context.Context) error {
	if err := w.prepare(); err != nil {
		return err
	}
	root, err := os.OpenRoot(w.root)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	defer root.Close()
	for _, pattern := range leftovers {
		names, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return fmt.Errorf("clean %s: %w", pattern, err)
		}
		for _, name := range names {
			if err := root.RemoveAll(name); err != nil {
				return fmt.Errorf("clean: %w", err)
			}
		}
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := root.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
			return fmt.Errorf("open /%s to all: %w", dir, err)
		}
	}
	for _, file := range []string{"etc/resolv.conf", "etc/machine-id"} { // the host's, or one for all boxes
		if err := root.WriteFile(file, nil, 0o644); err != nil {
			return fmt.Errorf("empty /%s: %w", file, err)
		}
	}
	if w.user, err = finishAccounts(root, w.user); err != nil {
		return err
	}
	if w.recipe.CABundle && w.build.cfg.CABundle != "" {
		return w.keepCABundle(root)
	}
	return nil
}

func (w *work) keepCABundle(root *os.Root) error {
	const file = "etc/ssl/certs/ca-certificates.crt"
	bundle, err := os.ReadFile(w.build.cfg.CABundle)
	if err != nil {
		return fmt.Errorf("read certificate authorities: %w", err)
	}
	if err := errors.Join(root.MkdirAll(path.Dir(file), 0o755), root.WriteFile(file, bundle, 0o644)); err != nil {
		return fmt.Errorf("keep certificate authorities: %w", err)
	}
	return nil
}

// writeImage packs the tree. gVisor maps files out of the image, so their data
// is neither compressed nor inline, and it knows no extended attributes.
// Times are kept, since compiled Python files are checked against them.
func (w *work) writeImage(ctx context.Context) error {
	image := filepath.Join(w.out, imageFile)
	if err := w.host(ctx, "mkfs.erofs", "-x-1", "-Enoinline_data", "--preserve-mtime", image, w.root); err != nil {
		return err
	}
	if err := os.Chmod(image, 0o644); err != nil { //nolint:gosec // drivers read it
		return fmt.Errorf("write image: %w", err)
	}
	return checkImage(image)
}

// checkImage makes sure that gVisor can serve the image.
func checkImage(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check image: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	var super [128]byte
	if _, err := f.ReadAt(super[:], 1024); err != nil {
		return fmt.Errorf("check image: %w", err)
	}
	const magic, blockBits = 0xE0F5E1E2, 12
	if !bytes.Equal(super[:4], binary.LittleEndian.AppendUint32(nil, magic)) || super[12] != blockBits {
		return errors.New("check image: not an EROFS image with blocks of 4096 bytes")
	}
	if features := binary.LittleEndian.Uint32(super[80:]); features != 0 {
		return bulkhead.Errorf(bulkhead.CodeUnsupported,
			"mkfs.erofs of this host makes images that gVisor cannot read (incompatible features %#x)", features)
	}
	return nil
}
