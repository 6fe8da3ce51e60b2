package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

const (
	// copiesAtOnce is how many files of a directory are under way together.
	copiesAtOnce = 8
	// maxDepth is how deep a directory of a sandbox is read.
	maxDepth = 1024
	// chmodBatch is how many paths one chmod in the sandbox gets.
	chmodBatch = 200
)

// CpCmd copies files.
type CpCmd struct {
	From string `arg:"" help:"File or directory, ID:PATH in a sandbox, or - for standard input."`
	To   string `arg:"" help:"Where to, ID:PATH in a sandbox, or - for standard output."`
	User string `short:"u" help:"User of the sandbox to act as." placeholder:"NAME"`
	Max  Bytes  `help:"Most that is taken out of a sandbox." default:"10GiB" placeholder:"SIZE"`
}

// Help is the long help.
func (*CpCmd) Help() string {
	return `A directory is copied with all in it. If the destination is a directory, the copy
goes into it. Relative paths in a sandbox begin at the user's home. Links are left
out, and said so.

  bulkhead sandbox cp data.csv ID:
  bulkhead sandbox cp ID:figures ./figures
  bulkhead sandbox cp ID:/etc/os-release -`
}

// operand splits "ID:path"; id is "" for a path on this host.
func operand(s string) (id, p string) {
	id, p, ok := strings.Cut(s, ":")
	if !ok || id == "" || strings.ContainsAny(id, `/\.`) {
		return "", s
	}
	return id, p
}

// Validate checks that one side is a sandbox.
func (c *CpCmd) Validate() error {
	from, _ := operand(c.From)
	to, _ := operand(c.To)
	if (from == "") == (to == "") {
		return errors.New("one of the two must be in a sandbox, written ID:PATH, and the other one here")
	}
	return nil
}

// Run copies.
func (c *CpCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	fromID, from := operand(c.From)
	toID, to := operand(c.To)
	sb, err := cl.Open(ctx, fromID+toID) // one of them is empty
	if err != nil {
		return err
	}
	t := &transfer{app: a, sandbox: sb, user: c.User, files: sb.Files(), room: int64(min(uint64(c.Max), 1<<62))}
	if c.User != "" {
		t.files = t.files.As(c.User)
	}
	if toID != "" {
		err = t.upload(ctx, from, to)
	} else {
		err = t.download(ctx, from, to)
	}
	if err != nil {
		return err
	}
	if a.flags.JSON && c.To != "-" {
		return a.printJSON(t.done)
	}
	for _, p := range t.done.Skipped {
		a.note("left out %s: neither a file nor a directory", p)
	}
	return nil
}

// copied is what cp prints with --json.
type copied struct {
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	Skipped []string `json:"skipped,omitempty"`
}

// transfer is one copy on its way.
type transfer struct {
	app     *App
	sandbox *client.Sandbox
	user    string
	files   client.Files

	mu sync.Mutex // guards what follows
	// room is how many bytes may still be taken out of the sandbox.
	room int64
	done copied
}

// count books a copied file.
func (t *transfer) count(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done.Files++
	t.done.Bytes += n
}

// upload copies from, on this host, to the sandbox.
func (t *transfer) upload(ctx context.Context, from, to string) error {
	if from == "-" {
		if to == "" || strings.HasSuffix(to, "/") {
			return usagef("name the file in the sandbox that standard input goes to")
		}
		counted := &counter{r: t.app.env.Stdin}
		_, err := t.files.Write(ctx, to, counted)
		t.count(counted.n)
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return usageError{err: err}
	}
	to, err = t.remoteTarget(ctx, from, to)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return t.uploadFiles(ctx, []pair{{local: from, remote: to, mode: info.Mode()}})
	}
	pairs, err := t.plan(ctx, from, to)
	if err != nil {
		return err
	}
	return t.uploadFiles(ctx, pairs)
}

// remoteTarget is the path that from gets in the sandbox: in to when that is a
// directory, else to itself.
func (t *transfer) remoteTarget(ctx context.Context, from, to string) (string, error) {
	abs, err := filepath.Abs(from)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", from, err)
	}
	name := filepath.Base(abs)
	if to == "" || strings.HasSuffix(to, "/") {
		return to + name, nil
	}
	switch e, err := t.files.Stat(ctx, to); {
	case err == nil && e.Dir:
		return path.Join(to, name), nil
	case err == nil || bulkhead.CodeOf(err) == bulkhead.CodeNotFound:
		return to, nil
	default:
		return "", err
	}
}

// pair is one file to copy.
type pair struct {
	local, remote string
	mode          fs.FileMode
}

// plan makes the directories of a tree in the sandbox and returns its files.
func (t *transfer) plan(ctx context.Context, from, to string) ([]pair, error) {
	var pairs []pair
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		remote := path.Join(to, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			err := t.files.MakeDir(ctx, remote)
			if bulkhead.CodeOf(err) == bulkhead.CodeConflict { // it is there
				return nil
			}
			return err
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			pairs = append(pairs, pair{local: p, remote: remote, mode: info.Mode()})
		default:
			t.done.Skipped = append(t.done.Skipped, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", from, err)
	}
	return pairs, nil
}

// uploadFiles copies files and makes those executable that are so here.
func (t *transfer) uploadFiles(ctx context.Context, pairs []pair) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copiesAtOnce)
	var executable []string
	for _, p := range pairs {
		if p.mode&0o111 != 0 {
			executable = append(executable, p.remote)
		}
		g.Go(func() error { return t.uploadFile(gctx, p) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for len(executable) > 0 {
		n := min(len(executable), chmodBatch)
		cmd := client.Command{Path: "chmod", Args: append([]string{"+x", "--"}, executable[:n]...), User: t.user}
		out, err := t.sandbox.Exec(ctx, cmd, nil)
		if err != nil {
			return err
		}
		if exitOfEnd(out.End) != 0 {
			return fmt.Errorf("make files executable: %s", strings.TrimSpace(clean(string(out.Stderr))))
		}
		executable = executable[n:]
	}
	return nil
}

func (t *transfer) uploadFile(ctx context.Context, p pair) error {
	f, err := os.Open(p.local)
	if err != nil {
		return usageError{err: err}
	}
	defer f.Close() //nolint:errcheck // only read
	counted := &counter{r: f}
	if _, err := t.files.Write(ctx, p.remote, counted); err != nil {
		return fmt.Errorf("%s: %w", p.remote, err)
	}
	t.count(counted.n)
	return nil
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

// Read reads and counts.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// download copies from, in the sandbox, to this host.
func (t *transfer) download(ctx context.Context, from, to string) error {
	if to == "-" {
		n, err := t.fetch(ctx, from, t.app.env.Stdout)
		t.count(n)
		return err
	}
	at, err := t.files.Stat(ctx, from)
	if err != nil {
		return err
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		name := path.Base(path.Clean("/" + from))
		if from == "" || name == "/" || name == ".." {
			return usagef("%s is a directory; name the copy in it, as in %s", to, filepath.Join(to, "copy"))
		}
		to = filepath.Join(to, name)
	}
	if !at.Dir {
		root, err := os.OpenRoot(filepath.Dir(to))
		if err != nil {
			return usageError{err: err}
		}
		defer root.Close()
		return t.downloadFile(ctx, root, filepath.Base(to), client.Entry{Path: from, Mode: at.Mode})
	}
	return t.downloadDir(ctx, at, from, to)
}

// downloadDir copies a directory. What the sandbox says is in it is not
// trusted: a path that leads out of it is refused, and so is, by os.Root, a link
// on this host that leads out of to.
func (t *transfer) downloadDir(ctx context.Context, at client.Entry, from, to string) error {
	entries, err := t.files.List(ctx, from, maxDepth)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // a directory of the user's own
		return usageError{err: err}
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return usageError{err: err}
	}
	defer root.Close()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copiesAtOnce)
	for _, e := range entries {
		rel, inside := strings.CutPrefix(e.Path, strings.TrimSuffix(at.Path, "/")+"/")
		if !inside || !filepath.IsLocal(rel) {
			err = errors.Join(err, fmt.Errorf("the sandbox lists %q under %s, which it is not", clean(e.Path), clean(at.Path)))
			break
		}
		switch {
		case e.Link, e.Special:
			t.done.Skipped = append(t.done.Skipped, e.Path)
		case e.Dir:
			if err = root.MkdirAll(rel, 0o755); err != nil {
				err = fmt.Errorf("make directory: %w", err)
			}
		default:
			g.Go(func() error { return t.downloadFile(gctx, root, rel, e) })
		}
		if err != nil {
			break
		}
	}
	return errors.Join(err, g.Wait())
}

// downloadFile copies one file to rel under root.
func (t *transfer) downloadFile(ctx context.Context, root *os.Root, rel string, e client.Entry) error {
	if dir := filepath.Dir(rel); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	mode := 0o644 | e.Mode&0o111
	f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("write copy: %w", err)
	}
	n, err := t.fetch(ctx, e.Path, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	t.count(n)
	return nil
}

// fetch copies the content of a file of the sandbox to w.
func (t *transfer) fetch(ctx context.Context, p string, w io.Writer) (int64, error) {
	body, err := t.files.Read(ctx, p)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.Copy(&meter{t: t, w: w}, body)
	if err != nil {
		return n, fmt.Errorf("copy %s: %w", clean(p), err)
	}
	return n, nil
}

// meter stops a transfer that takes more out of the sandbox than there is room.
type meter struct {
	t *transfer
	w io.Writer
}

// Write writes p as far as there is room.
func (m *meter) Write(p []byte) (int, error) {
	m.t.mu.Lock()
	m.t.room -= int64(len(p))
	over := m.t.room < 0
	m.t.mu.Unlock()
	if over {
		return 0, errors.New("more than --max would be taken out of the sandbox")
	}
	return m.w.Write(p)
}
