package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// Snapshots keeps one warm image per template: a box of it, started and with its
// imports done, saved. It is safe for concurrent use.
//
// An image is good only for the envd, the runtime and the machine it was taken
// with, so its folder is named after all of them; others are reaped.
type Snapshots struct {
	root string
	salt string

	taking sync.Mutex // held while an image is taken: one at a time

	mu       sync.Mutex
	ready    map[string]snapshot // by template digest
	underWay string              // the folder that Take fills
}

// snapshot is an image that is there.
type snapshot struct {
	dir   string
	image Image
}

// ImageState says whether a template's boxes can be restored. The set is closed.
type ImageState string

// The states of an image.
const (
	// ImageNone: nobody asked for a box yet.
	ImageNone ImageState = "none"
	// ImageUnsupported: the driver takes no snapshots.
	ImageUnsupported ImageState = "unsupported"
	// ImageTaking: a box is being warmed up for it.
	ImageTaking ImageState = "taking"
	// ImageReady: boxes are restored from it.
	ImageReady ImageState = "ready"
	// ImageFailed: it could not be taken; Error says why. It is tried again.
	ImageFailed ImageState = "failed"
)

// Image describes the snapshot of a template.
type Image struct {
	State ImageState `json:"state"`
	// Error is why it could not be taken the last time.
	Error string `json:"error,omitempty"`
	// Skipped are the imports that failed while it was taken, each with its error.
	Skipped []string `json:"skipped,omitempty"`
	// SizeBytes is its size on disk, TakenAt when it was taken, and Took how long
	// that was, warm-up and imports included.
	SizeBytes int64         `json:"sizeBytes,omitempty"`
	TakenAt   time.Time     `json:"takenAt,omitzero"`
	Took      time.Duration `json:"tookNs,omitempty"`
}

// imageFile, in the folder of a snapshot, holds its [Image].
const imageFile = "bulkhead.json"

// OpenSnapshots opens the images in folder root. salt stands for everything but
// the template that an image depends on: envd, runtime, processor.
func OpenSnapshots(root, salt string) (*Snapshots, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make snapshot folder: %w", err)
	}
	return &Snapshots{root: root, salt: salt, ready: map[string]snapshot{}}, nil
}

func (s *Snapshots) path(t bulkhead.Template) string {
	h := sha256.Sum256([]byte(t.Digest + "\x00" + s.salt + "\x00" + fmt.Sprint(t.Defaults, t.Preload, t.Warmup)))
	return filepath.Join(s.root, hex.EncodeToString(h[:16]))
}

// dir returns the template's image, if there is one.
func (s *Snapshots) dir(t bulkhead.Template) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap, ok := s.ready[t.Digest]
	return snap.dir, ok
}

// image describes the template's image, which is there.
func (s *Snapshots) image(t bulkhead.Template) Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready[t.Digest].image
}

// Take makes the template's image if there is none yet: it boots a box, waits
// for it and saves it. It blocks for as long as the template takes to warm up.
// Imports that fail are skipped, and kept with the image; warm-up code that fails
// is a CodeConflict error which says so.
func (m *Maker) Take(ctx context.Context, t bulkhead.Template) (err error) {
	s := m.Snapshots
	if s == nil || !m.Driver.Capabilities().Snapshots {
		return nil
	}
	s.taking.Lock()
	defer s.taking.Unlock()
	dir := s.path(t)
	if img, err := readImage(dir); err == nil {
		s.add(t, dir, img)
		return nil
	}
	if err := os.RemoveAll(dir); err != nil { // what an older version left
		return fmt.Errorf("remove old snapshot: %w", err)
	}
	tmp, err := s.begin()
	if err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		s.underWay = ""
		s.mu.Unlock()
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	img, err := m.takeInto(ctx, t, tmp)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("keep snapshot: %w", err)
	}
	for _, skipped := range img.Skipped {
		m.Log.WarnContext(ctx, "import skipped", "template", t.Name, "import", skipped)
	}
	m.Log.InfoContext(ctx, "snapshot taken", "template", t.Name, "digest", t.Digest, "bytes", img.SizeBytes, "took", img.Took)
	s.add(t, dir, img)
	return nil
}

// begin makes the folder of an image that is being taken.
func (s *Snapshots) begin() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, err := os.MkdirTemp(s.root, ".taking-")
	if err != nil {
		return "", fmt.Errorf("make snapshot folder: %w", err)
	}
	s.underWay = dir
	return dir, nil
}

// takeInto warms a box up and saves it in dir.
func (m *Maker) takeInto(ctx context.Context, t bulkhead.Template, dir string) (img Image, err error) {
	began := time.Now()
	b, err := m.create(ctx, t, t.Defaults)
	if err != nil {
		return img, fmt.Errorf("make box for snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, b.Release(ctx)) }()
	heard := b.hear()
	if err := m.start(ctx, b); err != nil {
		return img, err
	}
	if err := m.Driver.Checkpoint(ctx, b.ID, dir); err != nil {
		return img, fmt.Errorf("take snapshot of template %s: %w", t.Name, err)
	}
	img = Image{State: ImageReady, TakenAt: time.Now().UTC(), Took: time.Since(began), Skipped: heard.after(boxrpc.LogSkipped)}
	if img.SizeBytes, err = sizeOf(dir); err != nil {
		return img, err
	}
	data, err := json.Marshal(img)
	if err != nil {
		return img, fmt.Errorf("encode snapshot's description: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, imageFile), data, 0o600); err != nil {
		return img, fmt.Errorf("keep snapshot: %w", err)
	}
	return img, nil
}

// sizeOf adds up the files of a folder.
func sizeOf(dir string) (n int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("measure snapshot: %w", err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			n += fi.Size()
		}
	}
	return n, nil
}

func readImage(dir string) (img Image, err error) {
	data, err := os.ReadFile(filepath.Join(dir, imageFile))
	if err != nil {
		return img, err //nolint:wrapcheck // the caller only asks whether
	}
	err = json.Unmarshal(data, &img)
	return img, err //nolint:wrapcheck // the caller only asks whether
}

func (s *Snapshots) add(t bulkhead.Template, dir string, img Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready[t.Digest] = snapshot{dir: dir, image: img}
}

// Reap removes what an interrupted Take left and every image that is of none of
// the given templates. It may run beside a Take, whose image it leaves.
func (s *Snapshots) Reap(templates []bulkhead.Template) error {
	keep := map[string]bool{}
	for _, t := range templates {
		keep[s.path(t)] = true
	}
	s.mu.Lock()
	if s.underWay != "" {
		keep[s.underWay] = true
	}
	for digest, snap := range s.ready {
		if !keep[snap.dir] {
			delete(s.ready, digest)
		}
	}
	s.mu.Unlock()
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(s.root, e.Name())
		if !keep[path] {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
