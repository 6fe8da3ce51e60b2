package template

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/bulkheadhq/bulkhead"
)

// The names of files; see the package comment.
const (
	imageFile  = "rootfs.erofs"
	recordFile = "template.json"
	// buildLock is held while a template is built or reaped, minutes maybe;
	// namesLock while a name or an image comes or goes, an instant.
	buildLock = "build.lock"
	namesLock = "names.lock"
)

// Config is what a [Store] needs. Only Dir is required.
type Config struct {
	// Dir is the server's data directory, on a disk file system with room for
	// trees and images. Templates and the cache of downloads lie below it.
	Dir string
	// Log gets one line a build and one for each program. Default: none.
	Log *slog.Logger
	// Env is added to the environment of the programs of a build, and of them
	// only: proxies and the settings of pip and npm. See [BuildEnv].
	Env []string
	// CABundle is the host's file of certificate authorities, which builds use.
	// Default: the first of the usual places that exists.
	CABundle string
	// Recipes can be named by From.Template before they are built. Default:
	// [Builtin].
	Recipes map[string]Recipe
	// Mirror and SecurityMirror serve Debian's packages. Default: Debian's own.
	Mirror, SecurityMirror string
	// Keyring is the file of the keys that sign Debian's archive. Default: that
	// of the package debian-archive-keyring.
	Keyring string
	// Registry reaches OCI registries. Default: [http.DefaultTransport].
	Registry http.RoundTripper
	// Keychain has the credentials for them. Default: none.
	Keychain authn.Keychain
	// MaxImageMB bounds the unpacked size of an OCI image, in MiB. Default 20480.
	MaxImageMB int64
	// CacheMB bounds the cache of downloads, in MiB. Default 4096.
	CacheMB int64
	// Timeout bounds one build. Default 1 h.
	Timeout time.Duration
}

func (c *Config) setDefaults() error {
	if c.Dir == "" {
		return errors.New("template store: Dir is empty")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("template store: %w", err)
	}
	c.Dir = dir
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Recipes == nil {
		c.Recipes = Builtin()
	}
	for _, d := range []struct {
		field *string
		value string
	}{
		{&c.Mirror, "http://deb.debian.org/debian"},
		{&c.SecurityMirror, "http://deb.debian.org/debian-security"},
		{&c.Keyring, "/usr/share/keyrings/debian-archive-keyring.gpg"},
		{&c.CABundle, findCABundle()},
	} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if c.Registry == nil {
		c.Registry = http.DefaultTransport
	}
	if c.Keychain == nil {
		c.Keychain = authn.NewMultiKeychain()
	}
	if c.MaxImageMB == 0 {
		c.MaxImageMB = 20 << 10
	}
	if c.CacheMB == 0 {
		c.CacheMB = 4 << 10
	}
	if c.Timeout == 0 {
		c.Timeout = time.Hour
	}
	return nil
}

// Store keeps the templates of one data directory.
type Store struct {
	cfg   Config
	known sync.Map // of string, a digest, to knownRecord
}

// knownRecord is a record that was read, and when its file was written.
type knownRecord struct {
	record

	modified time.Time
}

// New opens the store, making its directories where they are missing.
func New(cfg Config) (*Store, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg}
	for _, dir := range []string{s.dir("names"), s.dir("build"), filepath.Join(cfg.Dir, "cache")} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // packages are public; boxes' drivers read images
			return nil, fmt.Errorf("template store: %w", err)
		}
	}
	return s, nil
}

// dir returns a path below the directory of templates.
func (s *Store) dir(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir, "templates"}, parts...)...)
}

// record is what template.json holds.
type record struct {
	bulkhead.Template

	// Key is the digest that the recipe resolves to; Digest differs from it
	// after a forced build.
	Key string `json:"key"`
	// Recipe is what was built.
	Recipe Recipe `json:"recipe"`
}

// Get returns the template with the given name, ID or digest. A digest finds an
// image that no name points to any more, too; its Name is the one it was built
// under. The error has [bulkhead.CodeNotFound] when there is none.
func (s *Store) Get(nameOrID string) (bulkhead.Template, error) {
	if digestSyntax.MatchString(nameOrID) {
		r, err := s.read(nameOrID)
		return r.Template, err
	}
	if nameSyntax.MatchString(nameOrID) {
		r, err := s.named(nameOrID)
		if bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			return r.Template, err
		}
	}
	names, err := s.names()
	if err != nil {
		return bulkhead.Template{}, err
	}
	for _, name := range names {
		if ID(name) == nameOrID {
			r, err := s.named(name)
			return r.Template, err
		}
	}
	return bulkhead.Template{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q is not found", nameOrID)
}

// List returns the templates that have a name, sorted by it.
func (s *Store) List() ([]bulkhead.Template, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var out []bulkhead.Template
	for _, name := range names {
		r, err := s.named(name)
		if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r.Template)
	}
	return out, nil
}

// Alias makes name stand for what target, a name, ID or digest, stands for now.
func (s *Store) Alias(ctx context.Context, name, target string) (bulkhead.Template, error) {
	if !nameSyntax.MatchString(name) {
		return bulkhead.Template{}, bulkhead.Errorf(bulkhead.CodeInvalid, "%q is not a template name", name)
	}
	unlock, err := s.lock(ctx, namesLock, nil)
	if err != nil {
		return bulkhead.Template{}, err
	}
	defer unlock()
	t, err := s.Get(target)
	if err != nil {
		return bulkhead.Template{}, err
	}
	if err := s.point(name, t.Digest); err != nil {
		return bulkhead.Template{}, err
	}
	t.Name, t.ID = name, ID(name)
	return t, nil
}

// Remove takes the name away, and the image too when no other name has it.
// InUse says of a digest whether boxes or snapshots need its image; then nothing
// is removed and the error has [bulkhead.CodeConflict]. It must keep its answer
// until Remove returns. Nil means that nothing is in use.
func (s *Store) Remove(ctx context.Context, name string, inUse func(digest string) bool) error {
	unlock, err := s.lock(ctx, namesLock, nil)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.named(name)
	if err != nil {
		return err
	}
	refs, err := s.pointed()
	if err != nil {
		return err
	}
	last := refs[r.Digest] == 1
	if last && inUse != nil && inUse(r.Digest) {
		return bulkhead.Errorf(bulkhead.CodeConflict, "template %q is in use by sandboxes or snapshots", name)
	}
	if err := os.Remove(s.dir("names", url.PathEscape(name))); err != nil {
		return fmt.Errorf("remove template name: %w", err)
	}
	if !last {
		return nil
	}
	return s.discard(r.Digest)
}

// Reap removes what builds that died have left and the images that neither a
// name nor, as inUse says, a box or snapshot needs any more. It waits for a build
// that is going on. Call it at start and from time to time.
func (s *Store) Reap(ctx context.Context, inUse func(digest string) bool) error {
	unlock, err := s.lock(ctx, buildLock, nil)
	if err != nil {
		return err
	}
	defer unlock()
	unlockNames, err := s.lock(ctx, namesLock, nil)
	if err != nil {
		return err
	}
	defer unlockNames()
	entries, err := os.ReadDir(s.dir("build"))
	if err != nil {
		return fmt.Errorf("reap builds: %w", err)
	}
	for _, e := range entries {
		s.cfg.Log.InfoContext(ctx, "removing an unfinished build", slog.String("dir", e.Name()))
		err = errors.Join(err, os.RemoveAll(s.dir("build", e.Name())))
	}
	refs, refErr := s.pointed()
	if refErr != nil {
		return errors.Join(err, refErr)
	}
	entries, readErr := os.ReadDir(s.dir())
	err = errors.Join(err, readErr)
	for _, e := range entries {
		digest := "sha256:" + e.Name()
		if !digestSyntax.MatchString(digest) || refs[digest] > 0 || inUse != nil && inUse(digest) {
			continue
		}
		s.cfg.Log.InfoContext(ctx, "removing an unused image", slog.String("digest", digest))
		err = errors.Join(err, s.discard(digest))
	}
	return errors.Join(err, s.trimCache())
}

// discard removes an image so that no reader sees half of it. The names are locked.
func (s *Store) discard(digest string) error {
	gone, err := os.MkdirTemp(s.dir("build"), "gone-")
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	err = os.Rename(s.dir(hexOf(digest)), filepath.Join(gone, "image"))
	if err := errors.Join(err, os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	return nil
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// lock takes one of the locks, which all processes share, and keeps it until the
// function that it returns is called. Waiting, if any, is called when it must wait.
func (s *Store) lock(ctx context.Context, file string, waiting func()) (unlock func(), err error) {
	l := flock.New(s.dir(file))
	for {
		ok, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock templates: %w", err)
		}
		if ok {
			return func() {
				if err := l.Unlock(); err != nil {
					s.cfg.Log.ErrorContext(ctx, "unlock templates", slog.Any("error", err))
				}
			}, nil
		}
		if waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another build: %w", context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// names returns the names of all templates, sorted.
func (s *Store) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir("names"))
	if err != nil {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	var out []string
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err == nil && nameSyntax.MatchString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// pointed counts the names of each digest.
func (s *Store) pointed() (map[string]int, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, name := range names {
		digest, err := s.pointer(name)
		if err != nil {
			return nil, err
		}
		out[digest]++
	}
	return out, nil
}

func (s *Store) pointer(name string) (string, error) {
	b, err := os.ReadFile(s.dir("names", url.PathEscape(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", bulkhead.Errorf(bulkhead.CodeNotFound, "template %q is not found", name)
	}
	if err != nil {
		return "", fmt.Errorf("read template name: %w", err)
	}
	digest := strings.TrimSpace(string(b))
	if !digestSyntax.MatchString(digest) {
		return "", fmt.Errorf("template name %q points to %.80q, which is not a digest", name, digest)
	}
	return digest, nil
}

// point makes name stand for digest, atomically and durably. The names are locked.
func (s *Store) point(name, digest string) error {
	return writeFile(s.dir("names", url.PathEscape(name)), []byte(digest+"\n"), s.dir("build"))
}

// named reads the template that name stands for.
func (s *Store) named(name string) (record, error) {
	digest, err := s.pointer(name)
	if err != nil {
		return record{}, err
	}
	r, err := s.read(digest)
	r.Name, r.ID = name, ID(name)
	return r, err
}

// read reads the template with the digest.
func (s *Store) read(digest string) (record, error) {
	dir := s.dir(hexOf(digest))
	file := filepath.Join(dir, recordFile)
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		s.known.Delete(digest)
		return record{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %s is not found", digest)
	}
	if err != nil {
		return record{}, fmt.Errorf("read template: %w", err)
	}
	k, _ := s.known.Load(digest)
	if k, ok := k.(knownRecord); ok && k.modified.Equal(info.ModTime()) {
		return k.record, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return record{}, fmt.Errorf("read template: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("read template %s: %w", digest, err)
	}
	if r.Digest != digest {
		return record{}, fmt.Errorf("read template: %s describes %q", dir, r.Digest)
	}
	r.Image = filepath.Join(dir, imageFile)
	r.Defaults = r.Defaults.Or(bulkhead.DefaultLimits()) // it may be older than a limit
	s.known.Store(digest, knownRecord{r, info.ModTime()})
	return r, nil
}
