// Package gvisor makes boxes that gVisor isolates: a user-space kernel serves
// the box's system calls, so that the host's kernel sees none of them.
//
// The runtime is runsc, which the bulkhead binary carries and lays out on the
// host, called through its OCI command line. A box's root is the template's EROFS image, which the sentry maps by itself, under an overlay
// whose upper layer is an unlinked file of bounded size on the host.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/driver/oci"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var _ pool.Driver = (*Driver)(nil)

// Config is what a Driver needs. Every field must be set.
type Config struct {
	// Dir holds the driver's state: runsc's own, and a folder per box.
	Dir string
	// Runsc is the path of a program that is runsc when its argv[0] is "runsc".
	Runsc string
	// Cgroup returns a box's cgroup; nil runs boxes in the server's own.
	Cgroup func(id string) (oci.Cgroup, error)
}

// Driver makes gVisor boxes. It is safe for concurrent use.
type Driver struct {
	cfg     Config
	boxes   string
	overlay string
	root    string
	runsc   oci.Runtime
}

// New checks cfg, makes the driver's folders and starts nothing.
func New(cfg Config) (*Driver, error) {
	if _, err := os.Stat(cfg.Runsc); err != nil {
		return nil, fmt.Errorf("find runsc: %w", err)
	}
	d := &Driver{
		cfg:     cfg,
		boxes:   filepath.Join(cfg.Dir, "boxes"),
		overlay: filepath.Join(cfg.Dir, "overlay"),
		root:    filepath.Join(cfg.Dir, "runsc"),
	}
	for _, dir := range []string{d.boxes, d.overlay, d.root} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make driver folder: %w", err)
		}
	}
	d.runsc = oci.Runtime{Path: cfg.Runsc, Name: "runsc", Flags: []string{
		"--root=" + d.root,
		"--platform=systrap",
		"--network=sandbox",
		// Without, a sentry would hold capabilities and the user that files have, for
		// its gofer's sake. It has one file of the host, envd.
		"--directfs=false",
		// The group is made and filled by us; see oci.Runtime.
		"--ignore-cgroups",
		// The annotation on each bundle says where the root's upper layer goes;
		// this is the default it replaces.
		"--overlay2=root:dir=" + d.overlay,
		"--allow-suid",                     // sudo works in a box
		"--host-settings=ignore",           // doctor reports them
		"--net-disconnect-ok",              // a restored box has new peers
		"--allow-live-tcp-migration=false", // and none of the old ones
	}}
	return d, nil
}

// Close returns what the driver keeps for all boxes together. Boxes must be
// destroyed before, or they live on and a later Driver finds them.
func (d *Driver) Close() error {
	boxes, err := oci.Boxes(d.boxes)
	if err != nil || len(boxes) > 0 {
		return err
	}
	// runsc parks its gofers in an empty network namespace bound here, more than
	// once when several boxes are the first at the same time.
	ns := filepath.Join(d.root, "null-netns")
	for err = nil; err == nil; {
		err = unix.Unmount(ns, unix.MNT_DETACH)
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the gofers' network namespace: %w", err)
	}
	if err := os.Remove(ns); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the gofers' network namespace: %w", err)
	}
	return nil
}

// Capabilities says that boxes can be checkpointed and restored.
func (d *Driver) Capabilities() pool.Capabilities {
	return pool.Capabilities{Name: "gvisor", Snapshots: true, Isolation: "user-space kernel"}
}

func (d *Driver) box(id string) oci.Box {
	return oci.Box{ID: id, Dir: filepath.Join(d.boxes, id)}
}

func (d *Driver) group(id string) (oci.Cgroup, error) {
	if d.cfg.Cgroup == nil {
		return nil, nil //nolint:nilnil // the server's own group
	}
	return d.cfg.Cgroup(id)
}

// Create boots a sentry that waits to be started or restored.
func (d *Driver) Create(ctx context.Context, spec pool.BoxSpec) (err error) {
	if err := oci.ValidID(spec.ID); err != nil {
		return err
	}
	s := oci.Spec(spec)
	for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
		// Against the sentry only: mounts, tracing and priorities inside the box.
		*set = append(*set, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_MKNOD")
	}
	s.Annotations = map[string]string{
		"dev.gvisor.spec.rootfs.source":  spec.Image,
		"dev.gvisor.spec.rootfs.type":    "erofs",
		"dev.gvisor.spec.rootfs.overlay": "dir=" + d.overlay,
		"dev.gvisor.spec.rootfs.options": "size=" + strconv.FormatInt(spec.Limits.DiskMB, 10) + "m",
	}
	s.Linux.Resources = oci.Resources(spec.Limits)
	group, err := d.group(spec.ID)
	if err != nil {
		return err
	}
	if group != nil {
		s.Annotations[oci.MemoryLimitFile] = group.MemoryLimitFile()
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
	return d.runsc.DoIn(ctx, b, group, "create", "--bundle="+b.Bundle(), "--pid-file="+b.PidFile(), b.ID)
}

// Start runs envd in a created box and waits until it is ready.
func (d *Driver) Start(ctx context.Context, id string) error {
	b := d.box(id)
	if err := d.runsc.Do(ctx, b, "start", id); err != nil {
		return err
	}
	return b.Ready(ctx)
}

// Checkpoint saves a running box and ends it.
func (d *Driver) Checkpoint(ctx context.Context, id, dir string) error {
	// Uncompressed, since restore may then load pages in the background.
	return d.runsc.Do(ctx, d.box(id), "checkpoint", "--image-path="+dir,
		"--compression=none", "--exclude-committed-zero-pages", id)
}

// Restore fills a created box from a checkpoint. The pages go on loading in the
// background after it returns.
func (d *Driver) Restore(ctx context.Context, id, dir string) error {
	b := d.box(id)
	group, err := d.group(id)
	if err != nil {
		return err
	}
	return d.runsc.DoIn(ctx, b, group, "restore", "--bundle="+b.Bundle(), "--image-path="+dir,
		"--detach", "--background", id)
}

// Wait blocks until the box's main process is gone.
func (d *Driver) Wait(ctx context.Context, id string, say pool.Say) error {
	return d.box(id).Wait(ctx, say)
}

// Destroy ends the box and removes every trace of it.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	b := d.box(id)
	if _, err := os.Stat(b.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	if err := d.runsc.Do(ctx, b, "delete", "--force", id); err != nil && !errors.Is(err, oci.ErrNoContainer) {
		errs = append(errs, err)
	}
	if err := os.RemoveAll(b.Dir); err != nil {
		errs = append(errs, fmt.Errorf("remove box folder: %w", err))
	}
	return errors.Join(errs...)
}

// List returns every box with a folder, and whether its sentry runs.
func (d *Driver) List(context.Context) ([]pool.BoxInfo, error) { return oci.List(d.boxes) }
