// Package gvisor makes boxes that gVisor isolates: a user-space kernel serves
// the box's system calls, so that the host's kernel sees none of them.
//
// The runtime is runsc, called through its OCI command line; the bulkhead
// binary is runsc when it is executed under that name. A box's root is the
// template's EROFS image, which the sentry maps by itself, under an overlay
// whose upper layer is an unlinked file of bounded size on the host.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/driver/oci"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var _ pool.Driver = (*Driver)(nil)

// Config is what a Driver needs. Every field must be set.
type Config struct {
	// Dir holds the driver's state: runsc's own, and a folder per box.
	Dir string
	// Runsc is the path of a runsc binary.
	Runsc string
	// Log gets what boxes and runsc say.
	Log *slog.Logger
}

// Driver makes gVisor boxes. It is safe for concurrent use.
type Driver struct {
	cfg     Config
	boxes   string
	overlay string
	runsc   *runc.Runc
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
	}
	root := filepath.Join(cfg.Dir, "runsc")
	for _, dir := range []string{d.boxes, d.overlay, root} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make driver folder: %w", err)
		}
	}
	d.runsc = &runc.Runc{
		Command: cfg.Runsc, Root: root, LogFormat: runc.JSON, Setpgid: true,
		ExtraArgs: []string{
			"--platform=systrap",
			"--network=sandbox",
			// The annotation on each bundle says where the root's upper layer goes;
			// this is the default it replaces.
			"--overlay2=root:dir=" + d.overlay,
			"--allow-suid",                     // sudo works in a box
			"--host-settings=ignore",           // doctor reports them
			"--net-disconnect-ok",              // a restored box has new peers
			"--allow-live-tcp-migration=false", // and none of the old ones
		},
	}
	return d, nil
}

// Close returns what the driver keeps for all boxes together. Boxes must be
// destroyed before, or they live on and a later Driver finds them.
func (d *Driver) Close() error {
	boxes, err := oci.Boxes(d.boxes)
	if err != nil || len(boxes) > 0 {
		return err
	}
	// runsc parks its gofers in an empty network namespace bound here.
	ns := filepath.Join(d.runsc.Root, "null-netns")
	if err := unix.Unmount(ns, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
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

// with returns runsc with its log in the box's folder.
func (d *Driver) with(b oci.Box) *runc.Runc {
	r := *d.runsc
	r.Log = b.RuntimeLog()
	return &r
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
	b := d.box(spec.ID)
	if err := b.Make(s); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Destroy(context.WithoutCancel(ctx), spec.ID))
		}
	}()
	io, err := b.Pipes()
	if err != nil {
		return err
	}
	defer io.Close()
	err = d.with(b).Create(ctx, b.ID, b.Bundle(), &runc.CreateOpts{IO: io, PidFile: b.PidFile()})
	return b.Failure("create box", err)
}

// Start runs envd in a created box and waits until it is ready.
func (d *Driver) Start(ctx context.Context, id string) error {
	b := d.box(id)
	if err := d.with(b).Start(ctx, id); err != nil {
		return b.Failure("start box", err)
	}
	return d.ready(ctx, b)
}

func (d *Driver) ready(ctx context.Context, b oci.Box) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		if d.Wait(ctx, b.ID) == nil {
			close(gone)
		}
	}()
	return b.Ready(ctx, gone)
}

// Checkpoint saves a running box and ends it.
func (d *Driver) Checkpoint(ctx context.Context, id, dir string) error {
	b := d.box(id)
	err := d.with(b).Checkpoint(ctx, id, &runc.CheckpointOpts{
		ImagePath: dir,
		// Uncompressed, since restore may then load pages in the background.
		ExtraArgs: []string{"--compression=none", "--exclude-committed-zero-pages"},
	})
	return b.Failure("checkpoint box", err)
}

// Restore fills a created box from a checkpoint. The pages go on loading in the
// background after it returns.
func (d *Driver) Restore(ctx context.Context, id, dir string) error {
	b := d.box(id)
	io, err := b.Pipes()
	if err != nil {
		return err
	}
	defer io.Close()
	_, err = d.with(b).Restore(ctx, id, b.Bundle(), &runc.RestoreOpts{
		CheckpointOpts: runc.CheckpointOpts{ImagePath: dir},
		IO:             io, Detach: true,
		ExtraArgs: []string{"--background"},
	})
	return b.Failure("restore box", err)
}

// Wait blocks until the box's sentry is gone.
func (d *Driver) Wait(ctx context.Context, id string) error {
	b := d.box(id)
	if _, err := os.Stat(b.Dir); err != nil {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "no box %q", id)
	}
	pid := b.Pid()
	if pid == 0 {
		return nil
	}
	return oci.WaitPid(ctx, pid)
}

// Destroy ends the box and removes every trace of it.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	b := d.box(id)
	if _, err := os.Stat(b.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	err := d.with(b).Delete(ctx, id, &runc.DeleteOpts{Force: true})
	if err != nil && !strings.Contains(b.Failure("", err).Error(), "does not exist") {
		errs = append(errs, b.Failure("delete box", err))
	}
	if err := os.RemoveAll(b.Dir); err != nil {
		errs = append(errs, fmt.Errorf("remove box folder: %w", err))
	}
	return errors.Join(errs...)
}

// List returns every box with a folder, and whether its sentry runs.
func (d *Driver) List(context.Context) ([]pool.BoxInfo, error) { return oci.List(d.boxes) }

// Log copies what the box's envd says to the driver's log until ctx is done.
func (d *Driver) Log(ctx context.Context, id string) error {
	return d.box(id).Log(ctx, d.cfg.Log.With("box", id))
}
