// Package drivertest is the contract of a driver: one suite that every
// implementation of [pool.Driver] passes, the fake as well as the real ones.
package drivertest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// Fixture is what a box in the suite is made of.
type Fixture struct {
	// Image is an EROFS image with the mount points of a template and nothing else.
	Image string
	// Guest holds a static envd.
	Guest string
	// Netns makes the network namespace of a box, with a loopback and nothing else,
	// which the test's end removes. nil makes none.
	Netns func(t *testing.T, box string) string
}

// Real makes a fixture for drivers that run real boxes: it builds this
// repository's envd, unless BULKHEAD_TEST_ENVD names one, and an empty image. It needs root and mkfs.erofs.
func Real(t *testing.T) Fixture {
	t.Helper()
	testenv.Need(t, "root")
	testenv.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"proc", "sys", "dev", "tmp/.keep", "run", "etc", "root", "home/user", "opt/bulkhead"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\nuser:x:1000:\n")
	f := Fixture{Image: filepath.Join(dir, "image", "rootfs.erofs"), Guest: filepath.Join(dir, "guest")}
	if err := os.MkdirAll(filepath.Dir(f.Image), 0o700); err != nil {
		t.Fatal(err)
	}
	// gVisor reads no data that is packed into inodes.
	command(t, "mkfs.erofs", "-d0", "-E", "noinline_data", f.Image, root)
	envd := filepath.Join(f.Guest, "envd")
	if built := os.Getenv("BULKHEAD_TEST_ENVD"); built != "" {
		if err := os.Mkdir(f.Guest, 0o700); err != nil {
			t.Fatal(err)
		}
		command(t, "cp", built, envd)
	} else {
		command(t, "env", "CGO_ENABLED=0", "go", "build", "-o", envd, "github.com/bulkheadhq/bulkhead/cmd/envd")
	}
	f.Netns = namespace
	return f
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// namespace makes a network namespace that the test's end removes.
func namespace(t *testing.T, name string) string {
	t.Helper()
	done := make(chan error)
	go func() { // the thread stays in the new namespace: it ends with the goroutine
		runtime.LockOSThread()
		ns, err := netns.NewNamed(name)
		if err == nil {
			err = ns.Close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			t.Error(err)
		}
	})
	return "/run/netns/" + name
}

// Opener opens a driver on the same state again, as a restarted server would.
type Opener func(t *testing.T) pool.Driver

// Run holds the driver that open returns to the contract. Boxes it makes are
// named bulkhead-test-…; none is left.
func Run(t *testing.T, f Fixture, open Opener) {
	d := open(t)
	t.Cleanup(func() { clean(t, d) })
	s := suite{f: f, open: open, d: d}
	for name, test := range map[string]func(*testing.T){
		"life":        s.life,
		"survives":    s.survives,
		"duplicate":   s.duplicate,
		"unknown":     s.unknown,
		"bad id":      s.badID,
		"wait ctx":    s.waitContext,
		"parallel":    s.parallel,
		"snapshot":    s.snapshot,
		"unsupported": s.unsupported,
	} {
		t.Run(name, test)
	}
}

type suite struct {
	f    Fixture
	open Opener
	d    pool.Driver
}

func (s suite) spec(t *testing.T, id string) pool.BoxSpec {
	t.Helper()
	b := pool.BoxSpec{
		ID: "bulkhead-test-" + id, Image: s.f.Image, Guest: s.f.Guest,
		Hostname: "box", Limits: bulkhead.Limits{MemoryMB: 256, DiskMB: 64}.Or(bulkhead.DefaultLimits()),
	}
	if s.f.Netns != nil {
		b.Netns = s.f.Netns(t, b.ID)
	}
	return b
}

// limit bounds a step; real boxes take a second on a busy machine.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, d pool.Driver, id string) (pool.BoxInfo, bool) {
	t.Helper()
	boxes, err := d.List(t.Context())
	ok(t, err)
	for _, b := range boxes {
		if b.ID == id {
			return b, true
		}
	}
	return pool.BoxInfo{}, false
}

func (s suite) start(t *testing.T, id string) pool.BoxSpec {
	t.Helper()
	spec := s.spec(t, id)
	ok(t, s.d.Create(limit(t), spec))
	ok(t, s.d.Start(limit(t), spec.ID))
	return spec
}

func (s suite) life(t *testing.T) {
	spec := s.start(t, "life")
	if b, found := find(t, s.d, spec.ID); !found || !b.Alive || b.CreatedAt.IsZero() {
		t.Fatalf("a started box is listed as %+v, %v", b, found)
	}
	gone := make(chan error, 1)
	go func() { gone <- s.d.Wait(limit(t), spec.ID, func(slog.Level, string) {}) }()
	ok(t, s.d.Destroy(limit(t), spec.ID))
	if err := <-gone; err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound { // it may have come too late
		t.Fatal(err)
	}
	if b, found := find(t, s.d, spec.ID); found {
		t.Fatalf("a destroyed box is listed: %+v", b)
	}
	ok(t, s.d.Destroy(limit(t), spec.ID)) // may be repeated
}

func (s suite) survives(t *testing.T) {
	spec := s.start(t, "survives")
	again := s.open(t)
	if b, found := find(t, again, spec.ID); !found || !b.Alive {
		t.Fatalf("a driver opened later sees %+v, %v", b, found)
	}
	ok(t, again.Destroy(limit(t), spec.ID))
	if err := s.d.Wait(limit(t), spec.ID, nil); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("Wait for a box that another driver destroyed: %v", err)
	}
}

func (s suite) duplicate(t *testing.T) {
	spec := s.start(t, "duplicate")
	if err := s.d.Create(limit(t), spec); err == nil {
		t.Fatal("a second box of the same name was made")
	}
	if b, found := find(t, s.d, spec.ID); !found || !b.Alive {
		t.Fatalf("the first box did not survive it: %+v, %v", b, found)
	}
	if err := s.d.Start(limit(t), spec.ID); err == nil {
		t.Fatal("a running box was started")
	}
	ok(t, s.d.Destroy(limit(t), spec.ID))
}

func (s suite) unknown(t *testing.T) {
	const id = "bulkhead-test-nobody"
	if err := s.d.Start(limit(t), id); err == nil {
		t.Error("Start of an unknown box worked")
	}
	if err := s.d.Wait(limit(t), id, nil); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("Wait for an unknown box: %v", err)
	}
	ok(t, s.d.Destroy(limit(t), id))
}

func (s suite) badID(t *testing.T) {
	spec := s.spec(t, "bad")
	for _, id := range []string{"", "../x", "a b", "A", strings.Repeat("x", 41)} {
		spec.ID = id
		if err := s.d.Create(limit(t), spec); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("Create(%q): %v", id, err)
		}
	}
}

func (s suite) waitContext(t *testing.T) {
	spec := s.start(t, "wait")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.d.Wait(ctx, spec.ID, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with a cancelled context: %v", err)
	}
	ok(t, s.d.Destroy(limit(t), spec.ID))
}

func (s suite) parallel(t *testing.T) {
	const n = 4
	errs := make(chan error, n)
	for i := range n {
		spec := s.spec(t, "parallel-"+string(rune('a'+i)))
		go func() {
			err := s.d.Create(limit(t), spec)
			if err == nil {
				err = s.d.Start(limit(t), spec.ID)
			}
			errs <- errors.Join(err, s.d.Destroy(limit(t), spec.ID))
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func (s suite) snapshot(t *testing.T) {
	if !s.d.Capabilities().Snapshots {
		t.Skip("the driver takes no snapshots")
	}
	dir := t.TempDir()
	spec := s.start(t, "saved")
	ok(t, s.d.Checkpoint(limit(t), spec.ID, dir))
	ok(t, s.d.Wait(limit(t), spec.ID, nil))
	ok(t, s.d.Destroy(limit(t), spec.ID))
	for _, id := range []string{"restored-a", "restored-b"} { // a snapshot serves any number
		copied := s.spec(t, id)
		ok(t, s.d.Create(limit(t), copied))
		ok(t, s.d.Restore(limit(t), copied.ID, dir))
		if b, found := find(t, s.d, copied.ID); !found || !b.Alive {
			t.Errorf("a restored box is listed as %+v, %v", b, found)
		}
		ok(t, s.d.Destroy(limit(t), copied.ID))
	}
	empty := s.spec(t, "empty")
	ok(t, s.d.Create(limit(t), empty))
	if err := s.d.Restore(limit(t), empty.ID, t.TempDir()); err == nil {
		t.Error("a box was restored from an empty folder")
	}
	ok(t, s.d.Destroy(limit(t), empty.ID))
}

func (s suite) unsupported(t *testing.T) {
	if s.d.Capabilities().Snapshots {
		t.Skip("the driver takes snapshots")
	}
	if err := s.d.Checkpoint(limit(t), "bulkhead-test-x", t.TempDir()); bulkhead.CodeOf(err) != bulkhead.CodeUnsupported {
		t.Errorf("Checkpoint: %v", err)
	}
	if err := s.d.Restore(limit(t), "bulkhead-test-x", t.TempDir()); bulkhead.CodeOf(err) != bulkhead.CodeUnsupported {
		t.Errorf("Restore: %v", err)
	}
}

// clean destroys what a failed test left and fails when anything stays.
func clean(t *testing.T, d pool.Driver) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	boxes, err := d.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, b := range boxes {
		if err := d.Destroy(ctx, b.ID); err != nil {
			t.Errorf("destroy %s: %v", b.ID, err)
		}
	}
	if c, can := d.(interface{ Close() error }); can {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
