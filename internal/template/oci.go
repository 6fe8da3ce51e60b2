package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/template/layer"
)

// platform is what boxes of this host run.
func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// unpackImage applies the layers of the image and adopts its settings.
func (w *work) unpackImage(ctx context.Context) error {
	layers, err := w.src.image.Layers()
	if err != nil {
		return invalidImage(err)
	}
	config, err := w.src.image.ConfigFile()
	if err != nil {
		return invalidImage(err)
	}
	if config.OS != "" && config.OS != "linux" || config.Architecture != "" && config.Architecture != runtime.GOARCH {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the image is for %s/%s, not for linux/%s", config.OS, config.Architecture, runtime.GOARCH)
	}
	if err := w.unpack(ctx, layers...); err != nil {
		return err
	}
	return w.adoptConfig(config.Config)
}

func invalidImage(err error) error {
	return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "read image", Msg: "the image cannot be read", Err: err}
}

// adoptConfig takes ENV, USER and WORKDIR over. An image without a USER gets
// the usual one of a box, not root.
func (w *work) adoptConfig(c v1.Config) error {
	if len(c.Env) > maxItems {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the image sets %d variables; at most %d are allowed", len(c.Env), maxItems)
	}
	for _, kv := range c.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && envSyntax.MatchString(k) && len(v) <= maxItem && !strings.ContainsRune(v, 0) {
			w.env[k] = v
		}
	}
	w.user, _, _ = strings.Cut(c.User, ":")
	if path.IsAbs(c.WorkingDir) && len(c.WorkingDir) <= 4095 && !strings.ContainsRune(c.WorkingDir, 0) {
		w.workdir = path.Clean(c.WorkingDir)
	}
	return nil
}

// unpackFile applies one layer that lies in a file.
func (w *work) unpackFile(ctx context.Context, file string) error {
	l, err := tarball.LayerFromFile(file)
	if err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "open layer", Msg: fmt.Sprintf("layers: %q is not a layer", file), Err: err}
	}
	return w.unpack(ctx, l)
}

// unpack applies layers, lowest first, within the bounds of one image.
func (w *work) unpack(ctx context.Context, layers ...v1.Layer) (err error) {
	tree, err := layer.Open(w.root, layer.Limits{Bytes: w.build.cfg.MaxImageMB << 20})
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	for i, l := range layers {
		if err := w.unpackOne(ctx, tree, l); err != nil {
			return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return nil
}

func (w *work) unpackOne(ctx context.Context, tree *layer.Tree, l v1.Layer) error {
	r, err := l.Uncompressed()
	if err != nil {
		return invalidImage(err)
	}
	// What is left is read too: at its end the content's digest is checked.
	counted := &countingReader{Reader: r, add: w.build.add}
	err = tree.Apply(ctx, counted)
	if err == nil {
		var n int64
		if n, err = io.Copy(io.Discard, io.LimitReader(counted, 1<<20)); n == 1<<20 {
			err = bulkhead.Errorf(bulkhead.CodeInvalid, "the layer goes on after its end")
		}
	}
	return errors.Join(err, r.Close())
}

type countingReader struct {
	io.Reader

	add func(int)
}

// Read implements [io.Reader].
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.add(n)
	return n, err
}
