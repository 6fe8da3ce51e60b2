// Package runc makes boxes from the host kernel's own namespaces and cgroups.
//
// It starts faster than gVisor and isolates less: a box's system calls reach the
// host's kernel, filtered by Docker's default seccomp profile and stripped of
// capabilities. It is for code that is trusted more, and for measuring against.
// It cannot snapshot.
//
// A box's root is an overlay: the template's EROFS image, mounted once for all
// boxes, below an ext4 file system in a sparse file, whose size is the box's
// disk limit.
package runc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/driver/oci"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var _ pool.Driver = (*Driver)(nil)

// Config is what a Driver needs. Every field must be set.
type Config struct {
	// Dir holds the driver's state: runc's own, images' mounts, a folder per box.
	Dir string
	// Runc is the path of the runc binary.
	Runc string
	// Cgroup returns a box's cgroup; nil lets runc make one of its own.
	Cgroup func(id string) (oci.Cgroup, error)
}

// Driver makes runc boxes. It is safe for concurrent use.
type Driver struct {
	cfg    Config
	boxes  string
	images string
	runc   oci.Runtime

	mu sync.Mutex // one mount or unmount of images at a time
}

// New checks cfg, makes the driver's folders and starts nothing.
func New(cfg Config) (*Driver, error) {
	if _, err := os.Stat(cfg.Runc); err != nil {
		return nil, fmt.Errorf("find runc: %w", err)
	}
	d := &Driver{cfg: cfg, boxes: filepath.Join(cfg.Dir, "boxes"), images: filepath.Join(cfg.Dir, "images")}
	root := filepath.Join(cfg.Dir, "runc")
	for _, dir := range []string{d.boxes, d.images, root} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make driver folder: %w", err)
		}
	}
	d.runc = oci.Runtime{Path: cfg.Runc, Name: "runc", Flags: []string{"--root=" + root}}
	return d, nil
}

// Close unmounts the images. Boxes must be destroyed before, or they live on and
// a later Driver finds them.
func (d *Driver) Close() error {
	boxes, err := oci.Boxes(d.boxes)
	if err != nil || len(boxes) > 0 {
		return err
	}
	entries, err := os.ReadDir(d.images)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(d.images, e.Name())
		errs = append(errs, unmount(dir), os.Remove(dir))
	}
	return errors.Join(errs...)
}

// Capabilities says that there are no snapshots.
func (d *Driver) Capabilities() pool.Capabilities {
	return pool.Capabilities{Name: "runc", Isolation: "namespaces and seccomp"}
}

func (d *Driver) box(id string) oci.Box {
	return oci.Box{ID: id, Dir: filepath.Join(d.boxes, id)}
}

// Create mounts the box's root and makes its container.
func (d *Driver) Create(ctx context.Context, spec pool.BoxSpec) (err error) {
	if err := oci.ValidID(spec.ID); err != nil {
		return err
	}
	s := oci.Spec(spec)
	s.Linux.Resources = oci.Resources(spec.Limits)
	s.Linux.Resources.Devices = oci.Devices()
	// The kernel is the host's: what it lets root set is not the box's. And the box
	// may read its own cgroup, for envd to see a limit coming.
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/proc/sys")
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/asound", "/proc/interrupts", "/sys/devices/virtual/powercap")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
	})
	// Only with CAP_SYS_RESOURCE could a box have more than the server itself.
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err == nil {
		for i := range s.Process.Rlimits {
			if l := &s.Process.Rlimits[i]; l.Type == "RLIMIT_NOFILE" {
				l.Hard, l.Soft = min(l.Hard, own.Max), min(l.Soft, own.Max)
			}
		}
	}
	if d.cfg.Cgroup != nil {
		group, err := d.cfg.Cgroup(spec.ID)
		if err != nil {
			return err
		}
		s.Linux.CgroupsPath = group.CgroupsPath()
	}
	if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err != nil {
		return fmt.Errorf("make seccomp profile: %w", err)
	}
	b := d.box(spec.ID)
	if err := b.Make(s); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Destroy(context.WithoutCancel(ctx), spec.ID))
		}
	}()
	if err := d.mountRoot(ctx, b, spec); err != nil {
		return err
	}
	// runc joins the group by itself, through the bundle.
	return d.runc.DoIn(ctx, b, nil, "create", "--bundle="+b.Bundle(), "--pid-file="+b.PidFile(), b.ID)
}

// mountRoot makes the overlay at the bundle's rootfs.
func (d *Driver) mountRoot(ctx context.Context, b oci.Box, spec pool.BoxSpec) error {
	lower, err := d.mountImage(ctx, spec.Image)
	if err != nil {
		return err
	}
	img, disk := filepath.Join(b.Dir, "disk.img"), filepath.Join(b.Dir, "disk")
	f, err := os.OpenFile(img, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	// ext4 keeps about 4 % for itself: inode tables and its own records.
	if err := errors.Join(f.Truncate(spec.Limits.DiskMB<<20*104/100), f.Close()); err != nil {
		return fmt.Errorf("size disk: %w", err)
	}
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", img); err != nil {
		return err
	}
	if err := os.Mkdir(disk, 0o700); err != nil {
		return fmt.Errorf("make disk folder: %w", err)
	}
	if err := run(ctx, "mount", "-o", "loop,nodev", img, disk); err != nil {
		return err
	}
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // upper becomes the box's /
			return fmt.Errorf("make overlay folder: %w", err)
		}
	}
	opts := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", filepath.Join(b.Dir, "rootfs"), "overlay", unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount box root: %w", err)
	}
	return nil
}

// mountImage mounts an EROFS image once and returns where.
func (d *Driver) mountImage(ctx context.Context, image string) (string, error) {
	// An image lives at …/DIGEST/rootfs.erofs: the folder's name tells images apart.
	dir := filepath.Join(d.images, filepath.Base(filepath.Dir(image)))
	d.mu.Lock()
	defer d.mu.Unlock()
	if mounted(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make image folder: %w", err)
	}
	if err := run(ctx, "mount", "-t", "erofs", "-o", "loop,ro,nodev", image, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// Start runs envd in a created box and waits until it is ready.
func (d *Driver) Start(ctx context.Context, id string) error {
	b := d.box(id)
	if err := d.runc.Do(ctx, b, "start", id); err != nil {
		return err
	}
	return b.Ready(ctx)
}

// Checkpoint is unsupported.
func (d *Driver) Checkpoint(context.Context, string, string) error {
	return bulkhead.Errorf(bulkhead.CodeUnsupported, "the runc driver takes no snapshots")
}

// Restore is unsupported.
func (d *Driver) Restore(context.Context, string, string) error {
	return bulkhead.Errorf(bulkhead.CodeUnsupported, "the runc driver takes no snapshots")
}

// Wait blocks until the box's main process is gone.
func (d *Driver) Wait(ctx context.Context, id string, say pool.Say) error {
	return d.box(id).Wait(ctx, say)
}

// Destroy ends the box, unmounts its root and removes every trace of it.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	b := d.box(id)
	if _, err := os.Stat(b.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	if err := d.runc.Do(ctx, b, "delete", "--force", id); err != nil && !errors.Is(err, oci.ErrNoContainer) {
		errs = append(errs, err)
	}
	errs = append(errs, unmount(filepath.Join(b.Dir, "rootfs")), unmount(filepath.Join(b.Dir, "disk")))
	if err := errors.Join(errs...); err != nil {
		return err // what is still mounted must not be removed recursively
	}
	if err := os.RemoveAll(b.Dir); err != nil {
		return fmt.Errorf("remove box folder: %w", err)
	}
	return nil
}

// List returns every box with a folder, and whether it runs.
func (d *Driver) List(context.Context) ([]pool.BoxInfo, error) { return oci.List(d.boxes) }

// mounted reports whether dir is a mount point of its own.
func mounted(dir string) bool {
	var self, parent unix.Stat_t
	return unix.Stat(dir, &self) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && self.Dev != parent.Dev
}

// unmount undoes a mount at dir, and is nil when there is none.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// run runs a program of the host and returns what it said when it fails.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
