// Package layer applies the layers of an OCI image to a directory.
//
// Layers come from registries and from users, so every byte of them is hostile:
// a name never leads out of the directory (each is resolved by the kernel with
// the directory as its root), symbolic links are written but never followed out,
// sizes and counts are bounded, and devices and extended attributes are left
// out. Whiteouts are honoured as the OCI image specification says.
//
// A [Tree] is for one goroutine.
package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// whiteout is the prefix of an entry that removes its namesake.
	whiteout = ".wh."
	// opaque is the name of an entry that empties its directory of what lower
	// layers put there.
	opaque = ".wh..wh..opq"
	// maxPath bounds the real path of a directory, in bytes: what is deeper can
	// be neither packed nor removed by ordinary programs (PATH_MAX is 4096).
	maxPath = 3072
	// maxTimes bounds the memory that remembers the times of directories.
	maxTimes = 32 << 20
	// headerBytes is what one entry may add to the stream beside its content.
	headerBytes = 4096
)

// Limits bounds all layers of one [Tree] together.
type Limits struct {
	// Bytes is the sum of the sizes of all files. Default 20 GiB.
	Bytes int64
	// Entries is the number of files, directories and links. Default 1,000,000.
	Entries int64
}

// Tree is a directory that layers are applied to, lowest first.
type Tree struct {
	root    int
	limits  Limits
	bytes   int64
	entries int64
	read    int64
	seed    maphash.Seed
}

// Open returns the tree at dir, which must exist. The caller closes it.
func Open(dir string, limits Limits) (*Tree, error) {
	if limits.Bytes == 0 {
		limits.Bytes = 20 << 30
	}
	if limits.Entries == 0 {
		limits.Entries = 1_000_000
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", dir, err)
	}
	return &Tree{root: fd, limits: limits, seed: maphash.MakeSeed()}, nil
}

// Close releases the directory.
func (t *Tree) Close() error {
	if err := unix.Close(t.root); err != nil {
		return fmt.Errorf("close tree: %w", err)
	}
	return nil
}

// Apply unpacks one layer, an uncompressed tar stream, over what is there. An
// error leaves the tree half written: the caller throws it away. A stream that
// is not a layer or is over a limit gives a [bulkhead.CodeInvalid] or
// [bulkhead.CodeTooLarge] error.
func (t *Tree) Apply(ctx context.Context, r io.Reader) error {
	p := &pass{Tree: t, ctx: ctx, seen: map[uint64]struct{}{}}
	tr := tar.NewReader(&stream{pass: p, r: r})
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return p.setTimes()
		}
		if err != nil {
			return invalid(err, "read layer")
		}
		if t.entries++; t.entries > t.limits.Entries {
			return bulkhead.Errorf(bulkhead.CodeTooLarge, "the image has more than %d entries", t.limits.Entries)
		}
		if err := p.entry(h, tr); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

// invalid keeps errors that already have a code and calls the rest invalid.
func invalid(err error, what string) error {
	var coded *bulkhead.Error
	if errors.As(err, &coded) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: what, Msg: "not a valid layer", Err: err}
}

// stream counts what is read of all layers and ends it when ctx does.
type stream struct {
	pass *pass
	r    io.Reader
}

// Read implements [io.Reader].
func (s *stream) Read(b []byte) (int, error) {
	if err := s.pass.ctx.Err(); err != nil {
		return 0, err
	}
	t := s.pass.Tree
	if t.read > t.limits.Bytes+t.limits.Entries*headerBytes {
		return 0, t.tooLarge()
	}
	n, err := s.r.Read(b)
	t.read += int64(n)
	return n, err
}

func (t *Tree) tooLarge() error {
	return bulkhead.Errorf(bulkhead.CodeTooLarge, "the image is larger than %d MiB", t.limits.Bytes>>20)
}

// pass is the state of one layer.
type pass struct {
	*Tree

	ctx context.Context //nolint:containedctx // a pass lives inside one call of Apply
	// seen holds hashes of the names of this layer and of all their parents, so
	// that an opaque whiteout spares them.
	seen map[uint64]struct{}
	// times are set last, since writing into a directory changes its own.
	times     []dirTime
	timeBytes int
}

type dirTime struct {
	name string
	at   time.Time
}

func (p *pass) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean("/" + h.Name)[1:]
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return nil
		}
		return p.dir(p.root, ".", h)
	}
	if strings.ContainsRune(name, 0) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "a name contains a zero byte")
	}
	dirName, base := path.Split(name)
	dir, err := p.parent(strings.TrimSuffix(dirName, "/"))
	if err != nil {
		return err
	}
	defer unix.Close(dir) //nolint:errcheck // an O_PATH descriptor has nothing to lose

	switch {
	case base == opaque:
		return p.empty(dir, strings.TrimSuffix(dirName, "/"))
	case strings.HasPrefix(base, whiteout):
		gone := strings.TrimPrefix(base, whiteout)
		if gone == "" || gone == "." || gone == ".." {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "whiteout of %q", gone)
		}
		return removeAll(dir, gone)
	}
	for n := name; n != "."; n = path.Dir(n) {
		p.seen[p.hash(n)] = struct{}{}
	}
	if err := clearWay(dir, base, h.Typeflag); err != nil {
		return err
	}
	return p.write(dir, base, h, content)
}

// write makes the entry; nothing but, for a directory, a directory is in its way.
func (p *pass) write(dir int, base string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return p.dir(dir, base, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return p.file(dir, base, h, content)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
		return chown(dir, base, h)
	case tar.TypeLink:
		return p.link(dir, base, h)
	case tar.TypeFifo:
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
			return fmt.Errorf("make fifo: %w", err)
		}
		if err := chown(dir, base, h); err != nil {
			return err
		}
		return chmod(dir, base, h)
	default:
		return nil // devices are the runtime's to make; the rest has no place in a layer
	}
}

func (p *pass) dir(dir int, base string, h *tar.Header) error {
	if err := unix.Mkdirat(dir, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := chown(dir, base, h); err != nil {
		return err
	}
	if p.timeBytes += len(h.Name); p.timeBytes <= maxTimes {
		p.times = append(p.times, dirTime{path.Clean("/" + h.Name)[1:], h.ModTime})
	}
	return chmod(dir, base, h)
}

func (p *pass) file(dir int, base string, h *tar.Header, content io.Reader) (err error) {
	if h.Size > p.limits.Bytes-p.bytes {
		return p.tooLarge()
	}
	p.bytes += h.Size
	fd, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, content); err != nil {
		return invalid(err, "write file")
	}
	if err := chown(dir, base, h); err != nil {
		return err
	}
	if err := chmod(dir, base, h); err != nil { // after chown, which clears set-user-ID
		return err
	}
	return setTime(dir, base, h.ModTime)
}

// link makes a hard link; its target, too, is looked up inside the tree.
func (p *pass) link(dir int, base string, h *tar.Header) error {
	target := path.Clean("/" + h.Linkname)[1:]
	if target == "" {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "hard link to the root directory")
	}
	targetDir, targetBase := path.Split(target)
	from, err := p.lookup(strings.TrimSuffix(targetDir, "/"))
	if err != nil {
		return invalid(err, "look up link target")
	}
	defer unix.Close(from) //nolint:errcheck // an O_PATH descriptor has nothing to lose
	if err := unix.Linkat(from, targetBase, dir, base, 0); err != nil {
		return invalid(err, "hard link")
	}
	return nil
}

// empty removes from the directory what this layer did not put there.
func (p *pass) empty(dir int, name string) error {
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, base := range names {
		child := path.Join(name, base)
		if _, ours := p.seen[p.hash(child)]; !ours {
			if err := removeAll(dir, base); err != nil {
				return err
			}
			continue
		}
		fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", child, err)
		}
		err = p.empty(fd, child)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) setTimes() error {
	for _, d := range p.times {
		fd, err := p.lookup(d.name)
		if err != nil {
			continue // a later entry took its place
		}
		err = setTime(fd, "", d.at)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) hash(name string) uint64 { return maphash.String(p.seed, name) }
