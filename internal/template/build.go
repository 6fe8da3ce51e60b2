package template

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// maxParents bounds a chain of templates, each from the next.
	maxParents = 16
	// leastSpace is how much disk a build leaves free for everybody else, in bytes.
	leastSpace = 512 << 20
)

// BuildOptions say how to build.
type BuildOptions struct {
	// Progress, if any, gets an event when a step begins and every second. It is
	// called by one goroutine at a time and must not block.
	Progress func(Event)
	// Force builds anew, with today's packages, although the recipe was built
	// already. The new image has another digest. Parents are not forced.
	Force bool
}

// Build builds what the recipe says, its parents first where they are missing or
// out of date, and makes the recipe's name stand for it. It blocks, for minutes
// if need be; a recipe that was built already returns at once. Of concurrent
// builds one goes on and the others wait, in all processes. When ctx ends, or the
// process dies, nothing of the build remains but what [Store.Reap] removes.
//
// The error has [bulkhead.CodeInvalid] when the recipe is wrong or one of its
// programs fails, with the end of that program's output as the message,
// [bulkhead.CodeUnavailable] when the disk has no room, [bulkhead.CodeUnsupported]
// when the host lacks a tool and [bulkhead.CodeTimeout] after [Config.Timeout].
// Needs root.
func (s *Store) Build(ctx context.Context, r Recipe, opts BuildOptions) (bulkhead.Template, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	p := &progress{log: s.cfg.Log, send: opts.Progress}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(ctx, func() {
			if err := needSpace(s.cfg.Dir, leastSpace); err != nil {
				stop(err)
			}
		})
	}()
	defer func() { <-watched }()
	defer stop(nil)
	b := &build{Store: s, progress: p, force: opts.Force}
	rec, err := b.ensure(ctx, r, 0)
	if errors.Is(err, context.DeadlineExceeded) {
		err = &bulkhead.Error{Code: bulkhead.CodeTimeout, Msg: fmt.Sprintf("the build took longer than %v", s.cfg.Timeout), Err: err}
	}
	if err != nil {
		return bulkhead.Template{}, fmt.Errorf("build template %q: %w", r.Name, err)
	}
	return rec.Template, nil
}

// build is one call of Build.
type build struct {
	*Store
	*progress

	force bool
}

// ensure returns the template that r stands for, building what is missing.
func (b *build) ensure(ctx context.Context, r Recipe, depth int) (record, error) {
	if err := r.Validate(); err != nil {
		return record{}, err
	}
	if depth > maxParents {
		return record{}, bulkhead.Errorf(bulkhead.CodeInvalid, "from.template: more than %d templates are built on each other", maxParents)
	}
	src, err := b.resolve(ctx, r, depth)
	if err != nil {
		return record{}, err
	}
	force := b.force && depth == 0
	if !force {
		if rec, err := b.existing(ctx, r.Name, src.key); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			return rec, err
		}
	}
	unlock, err := b.lock(ctx, buildLock, func() {
		b.begin(Event{Template: r.Name, Action: "wait for another build"})
	})
	if err != nil {
		return record{}, err
	}
	defer unlock()
	digest := src.key
	if force {
		src.id.Build = time.Now().UTC().Format(time.RFC3339Nano)
		digest = src.id.digest()
	} else if rec, err := b.existing(ctx, r.Name, src.key); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		return rec, err
	}
	return b.make(ctx, r, src, digest)
}

// existing returns what was built from the key before, and makes name stand for it.
func (b *build) existing(ctx context.Context, name, key string) (record, error) {
	if rec, err := b.named(name); err == nil && rec.Key == key {
		return rec, nil
	}
	if _, err := b.read(key); err != nil {
		return record{}, err
	}
	return b.publish(ctx, name, key, "")
}

// publish makes name stand for the image with the digest, which lies in out; or
// is in place already, when out is empty.
func (b *build) publish(ctx context.Context, name, digest, out string) (record, error) {
	unlock, err := b.lock(ctx, namesLock, nil)
	if err != nil {
		return record{}, err
	}
	defer unlock()
	if out != "" {
		place := b.dir(hexOf(digest))
		if _, err := os.Lstat(place); err == nil { // what was there cannot be read: see ensure
			if err := b.discard(digest); err != nil {
				return record{}, err
			}
		}
		if err := os.Rename(out, place); err != nil {
			return record{}, fmt.Errorf("put image in place: %w", err)
		}
		if err := syncPath(b.dir()); err != nil {
			return record{}, err
		}
	}
	if _, err := b.read(digest); err != nil {
		return record{}, err
	}
	if err := b.point(name, digest); err != nil {
		return record{}, err
	}
	return b.named(name)
}

// make builds the image and puts it in place. The build lock is held.
func (b *build) make(ctx context.Context, r Recipe, src source, digest string) (record, error) {
	begin := time.Now()
	if os.Geteuid() != 0 {
		return record{}, bulkhead.Errorf(bulkhead.CodeUnsupported, "building templates needs root")
	}
	if err := needSpace(b.cfg.Dir, src.space(r)); err != nil {
		return record{}, err
	}
	dir, err := os.MkdirTemp(b.dir("build"), "build-")
	if err != nil {
		return record{}, fmt.Errorf("make build directory: %w", err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			b.cfg.Log.ErrorContext(ctx, "remove build directory", slog.Any("error", err))
		}
	}()
	w, err := newWork(b, r, src, dir)
	if err != nil {
		return record{}, err
	}
	if err := privateMounts(func() error { return w.run(ctx) }); err != nil {
		return record{}, err
	}
	rec := w.record(digest)
	if err := w.seal(rec); err != nil {
		return record{}, err
	}
	rec, err = b.publish(ctx, r.Name, digest, w.out)
	if err != nil {
		return record{}, err
	}
	b.cfg.Log.InfoContext(ctx, "built template", slog.String("template", r.Name), slog.String("digest", digest),
		slog.Int64("size_bytes", rec.SizeBytes), slog.Duration("took", time.Since(begin)))
	if err := b.trimCache(); err != nil {
		b.cfg.Log.WarnContext(ctx, "cache of downloads", slog.Any("error", err))
	}
	return rec, nil
}

// seal writes the description beside the image and makes both durable.
func (w *work) seal(rec record) error {
	fi, err := os.Stat(filepath.Join(w.out, imageFile))
	if err != nil {
		return fmt.Errorf("seal image: %w", err)
	}
	rec.SizeBytes = fi.Size()
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("seal image: %w", err)
	}
	if err := writeFile(filepath.Join(w.out, recordFile), append(text, '\n'), w.dir); err != nil {
		return err
	}
	if err := os.Chmod(w.out, 0o755); err != nil { //nolint:gosec // drivers read it
		return fmt.Errorf("seal image: %w", err)
	}
	return errors.Join(syncPath(filepath.Join(w.out, imageFile)), syncPath(w.out))
}

// run does the steps of the build, in order.
func (w *work) run(ctx context.Context) error {
	defer w.closeParent()
	steps := w.steps()
	for i, step := range steps {
		w.build.begin(Event{Template: w.recipe.Name, Step: i + 1, Steps: len(steps), Action: step.action})
		err := step.do(ctx)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", step.action, context.Cause(ctx))
		}
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return &bulkhead.Error{
				Code: bulkhead.CodeInvalid,
				Msg:  fmt.Sprintf("step %d of %d, %s: %v: %s", i+1, len(steps), step.action, exit, w.build.output()),
			}
		}
		return fmt.Errorf("%s: %w", step.action, err)
	}
	return nil
}
