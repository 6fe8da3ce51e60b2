package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bulkheadhq/bulkhead"
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

	mu    sync.Mutex
	ready map[string]string // template digest → folder
}

// OpenSnapshots opens the images in folder root. salt stands for everything but
// the template that an image depends on: envd, runtime, processor.
func OpenSnapshots(root, salt string) (*Snapshots, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make snapshot folder: %w", err)
	}
	return &Snapshots{root: root, salt: salt, ready: map[string]string{}}, nil
}

func (s *Snapshots) path(t bulkhead.Template) string {
	h := sha256.Sum256([]byte(t.Digest + "\x00" + s.salt + "\x00" + fmt.Sprint(t.Defaults, t.Preload)))
	return filepath.Join(s.root, hex.EncodeToString(h[:16]))
}

// dir returns the template's image, if there is one.
func (s *Snapshots) dir(t bulkhead.Template) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, ok := s.ready[t.Digest]
	return dir, ok
}

// Take makes the template's image if there is none yet: it boots a box, waits
// for it and saves it. It blocks for as long as the template takes to warm up.
func (m *Maker) Take(ctx context.Context, t bulkhead.Template) (err error) {
	s := m.Snapshots
	if s == nil || !m.Driver.Capabilities().Snapshots {
		return nil
	}
	s.taking.Lock()
	defer s.taking.Unlock()
	dir := s.path(t)
	if _, err := os.Stat(dir); err == nil {
		s.add(t, dir)
		return nil
	}
	tmp, err := os.MkdirTemp(s.root, ".taking-")
	if err != nil {
		return fmt.Errorf("make snapshot folder: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	b, err := m.create(ctx, t, t.Defaults)
	if err != nil {
		return fmt.Errorf("make box for snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, b.Release(ctx)) }()
	if err := m.Driver.Start(ctx, b.ID); err != nil {
		return fmt.Errorf("warm up template %s: %w", t.Name, err)
	}
	if err := m.Driver.Checkpoint(ctx, b.ID, tmp); err != nil {
		return fmt.Errorf("take snapshot of template %s: %w", t.Name, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("keep snapshot: %w", err)
	}
	s.add(t, dir)
	return nil
}

func (s *Snapshots) add(t bulkhead.Template, dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready[t.Digest] = dir
}

// Reap removes what an interrupted Take left and every image that is of none of
// the given templates.
func (s *Snapshots) Reap(templates []bulkhead.Template) error {
	keep := map[string]bool{}
	for _, t := range templates {
		keep[s.path(t)] = true
	}
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(s.root, e.Name())
		if strings.HasPrefix(e.Name(), ".taking-") || !keep[path] {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
