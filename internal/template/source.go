package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	imagename "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/bulkheadhq/bulkhead"
)

// source is what a recipe's From and Layers resolve to.
type source struct {
	id  resolved
	key string
	// parent is set when From is a template, image when it is an OCI image.
	parent *record
	image  v1.Image
}

// resolve finds out what the recipe's names stand for now. It builds a parent
// that is missing and asks the registry for an image.
func (b *build) resolve(ctx context.Context, r Recipe, depth int) (source, error) {
	src := source{id: resolved{Recipe: r}}
	var err error
	switch {
	case r.From.Template != "":
		src.parent, err = b.parent(ctx, r.From.Template, depth)
		if err == nil {
			src.id.Base = src.parent.Digest
		}
	case r.From.Image != "":
		b.begin(Event{Template: r.Name, Action: "look up image " + r.From.Image})
		src.image, err = b.remoteImage(ctx, r.From.Image)
	case r.From.Archive != "":
		src.image, err = archivedImage(r.From.Archive)
	}
	if err != nil {
		return source{}, err
	}
	if src.image != nil {
		hash, err := src.image.Digest()
		if err != nil {
			return source{}, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "digest of image", Msg: "the image's manifest is not valid", Err: err}
		}
		src.id.Base = hash.String()
	}
	for _, path := range r.Layers {
		digest, err := fileDigest(path)
		if err != nil {
			return source{}, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "read layer", Msg: fmt.Sprintf("layers: %q cannot be read", path), Err: err}
		}
		src.id.Layers = append(src.id.Layers, digest)
	}
	src.key = src.id.digest()
	return src, nil
}

// parent returns the template with the name: as its recipe says, where one is
// known, else as it is.
func (b *build) parent(ctx context.Context, name string, depth int) (*record, error) {
	var rec record
	var err error
	if r, known := b.cfg.Recipes[name]; known {
		rec, err = b.ensure(ctx, r, depth+1)
	} else {
		rec, err = b.named(name)
	}
	if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "from.template is %q: there is no such template", name)
	}
	if err != nil {
		return nil, fmt.Errorf("parent %q: %w", name, err)
	}
	return &rec, nil
}

func (b *build) remoteImage(ctx context.Context, ref string) (v1.Image, error) {
	parsed, err := imagename.ParseReference(ref)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "from.image is %q: %v", ref, err)
	}
	img, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithTransport(b.cfg.Registry),
		remote.WithAuthFromKeychain(b.cfg.Keychain), remote.WithPlatform(platform()))
	if err != nil {
		return nil, &bulkhead.Error{
			Code: bulkhead.CodeInvalid, Op: "look up image",
			Msg: fmt.Sprintf("image %q cannot be had from its registry", ref), Err: err,
		}
	}
	return img, nil
}

// archivedImage opens the one image of a "docker save" tarball.
func archivedImage(path string) (v1.Image, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "from.archive is %q: there is no such file", path)
	}
	img, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		return nil, &bulkhead.Error{
			Code: bulkhead.CodeInvalid, Op: "open image archive",
			Msg: fmt.Sprintf("from.archive is %q, which is not a tarball with one image, as \"docker save\" writes it", path), Err: err,
		}
	}
	return img, nil
}

// space estimates the disk space of a build, in bytes: the tree, the image and
// the downloads. It errs on the large side.
func (s source) space(r Recipe) int64 {
	need := int64(2 * leastSpace)
	switch {
	case s.parent != nil:
		need += 2 * s.parent.SizeBytes
	case s.image != nil:
		if m, err := s.image.Manifest(); err == nil {
			for _, l := range m.Layers {
				need += 8 * max(l.Size, 0) // unpacked about four times as large, twice
			}
		}
	default:
		need += 1 << 30
	}
	if len(r.Apt)+len(r.Pip)+len(r.NPM) > 0 {
		need += 2 << 30
	}
	return need
}
