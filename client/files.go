package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
)

// Files are the files of a sandbox. A relative path begins at the user's home.
type Files struct {
	sandbox *Sandbox
	user    string
}

// Files returns the sandbox's files as the template's default user sees them.
func (s *Sandbox) Files() Files { return Files{sandbox: s} }

// As returns the same files as another user of the sandbox sees them.
func (f Files) As(user string) Files { return Files{sandbox: f.sandbox, user: user} }

// Entry is a file, a directory or a link.
type Entry struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Dir, Link and Special (a pipe, a socket, a device) say what it is; a regular
	// file is none of them. What a link points to says whether it is a Dir, too.
	Dir     bool `json:"dir"`
	Link    bool `json:"link,omitempty"`
	Special bool `json:"special,omitempty"`
	// Target is where a link points.
	Target string `json:"target,omitempty"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// Mode are its permission bits.
	Mode       fs.FileMode `json:"mode"`
	Owner      string      `json:"owner,omitempty"`
	Group      string      `json:"group,omitempty"`
	ModifiedAt time.Time   `json:"modifiedAt,omitzero"`
}

// Change is something that happened to a file under a watched directory.
type Change struct {
	// Path is relative to the watched directory.
	Path string `json:"path"`
	// Op is create, write, remove, rename or chmod.
	Op string `json:"op"`
}

// Read returns the content of a file, which the caller closes. ctx governs the
// reading too.
func (f Files) Read(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := f.sandbox.doBox(ctx, f.http("read file", http.MethodGet, path))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Write stores content in a file, anew or over what was there, and makes the
// directories above it. It returns the file's absolute path.
func (f Files) Write(ctx context.Context, path string, content io.Reader) (string, error) {
	const op = "write file"
	r := f.http(op, http.MethodPost, path)
	r.header.Set("Content-Type", "application/octet-stream")
	r.body = content
	resp, err := f.sandbox.doBox(ctx, r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var written []struct {
		Path string `json:"path"`
	}
	if err := decodeAnswer(ctx, op, resp.Body, &written); err != nil {
		return "", err
	}
	if len(written) != 1 {
		return "", &bulkhead.Error{Code: bulkhead.CodeInternal, Op: op, Msg: fmt.Sprintf("the sandbox reports %d files written, not 1", len(written))}
	}
	return written[0].Path, nil
}

// http is a request for the content of path.
func (f Files) http(op, method, path string) boxRequest {
	query := url.Values{"path": {path}}
	if f.user != "" {
		query.Set("username", f.user)
	}
	h := http.Header{}
	basicUser(h, f.user)
	return boxRequest{op: op, method: method, path: "/files?" + query.Encode(), client: f.sandbox.envd, header: h}
}

// Stat returns what is at path.
func (f Files) Stat(ctx context.Context, path string) (Entry, error) {
	resp, err := unaryFile(ctx, f, "stat", f.sandbox.files.Stat, &filesystempb.StatRequest{Path: path})
	if err != nil {
		return Entry{}, err
	}
	return entryOf(resp.GetEntry()), nil
}

// List returns what is in a directory, and in those below it down to depth, 1
// being the directory alone.
func (f Files) List(ctx context.Context, path string, depth int) ([]Entry, error) {
	if depth < 1 || depth > 1024 {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "depth is %d; it must be between 1 and 1024", depth)
	}
	resp, err := unaryFile(ctx, f, "list directory", f.sandbox.files.ListDir,
		&filesystempb.ListDirRequest{Path: path, Depth: uint32(depth)})
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(resp.GetEntries()))
	for i, e := range resp.GetEntries() {
		entries[i] = entryOf(e)
	}
	return entries, nil
}

// MakeDir makes a directory and those above it. CodeConflict when it is there.
func (f Files) MakeDir(ctx context.Context, path string) error {
	_, err := unaryFile(ctx, f, "make directory", f.sandbox.files.MakeDir, &filesystempb.MakeDirRequest{Path: path})
	return err
}

// Move renames a file or directory, over a file that is there, and makes the
// directories above the new place.
func (f Files) Move(ctx context.Context, from, to string) error {
	_, err := unaryFile(ctx, f, "move", f.sandbox.files.Move, &filesystempb.MoveRequest{Source: from, Destination: to})
	return err
}

// Remove deletes what is at path, a directory with everything in it. That
// nothing is there is no error.
func (f Files) Remove(ctx context.Context, path string) error {
	_, err := unaryFile(ctx, f, "remove", f.sandbox.files.Remove, &filesystempb.RemoveRequest{Path: path})
	return err
}

// Watch yields the changes under a directory as they happen, and under those
// below it when recursive. It ends after an error, one of them the end of ctx.
// The first pull returns once watching has begun and something has changed.
func (f Files) Watch(ctx context.Context, path string, recursive bool) iter.Seq2[Change, error] {
	const op = "watch directory"
	return func(yield func(Change, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		heard, done := f.sandbox.vigil(ctx, cancel)
		defer done()
		req := connect.NewRequest(&filesystempb.WatchDirRequest{Path: path, Recursive: recursive})
		req.Header().Set("Keepalive-Ping-Interval", keepalive)
		basicUser(req.Header(), f.user)
		stream, err := f.sandbox.files.WatchDir(ctx, req)
		if err != nil {
			yield(Change{}, rpcError(ctx, op, err))
			return
		}
		for stream.Receive() {
			heard()
			ev := stream.Msg().GetFilesystem()
			if ev == nil {
				continue
			}
			kind := strings.ToLower(strings.TrimPrefix(ev.GetType().String(), "EVENT_TYPE_"))
			if !yield(Change{Path: ev.GetName(), Op: kind}, nil) {
				return
			}
		}
		err = stream.Err()
		switch {
		case errors.Is(context.Cause(ctx), errSandboxEnded):
			yield(Change{}, goneError(op))
			return
		case err == nil:
			err = &bulkhead.Error{Code: bulkhead.CodeUnavailable, Op: op, Msg: "the sandbox ended the watch"}
		}
		yield(Change{}, rpcError(ctx, op, err))
	}
}

// unaryFile makes one call of the filesystem service.
func unaryFile[In, Out any](ctx context.Context, f Files, op string,
	call func(context.Context, *connect.Request[In]) (*connect.Response[Out], error), in *In,
) (*Out, error) {
	ctx, cancel := context.WithTimeout(ctx, f.sandbox.client.cfg.RequestTimeout)
	defer cancel()
	req := connect.NewRequest(in)
	basicUser(req.Header(), f.user)
	resp, err := call(ctx, req)
	if err != nil {
		return nil, rpcError(ctx, op, err)
	}
	return resp.Msg, nil
}

func entryOf(e *filesystempb.EntryInfo) Entry {
	return Entry{
		Name: e.GetName(), Path: e.GetPath(), Dir: e.GetType() == filesystempb.FileType_FILE_TYPE_DIRECTORY,
		Link: e.SymlinkTarget != nil, Target: e.GetSymlinkTarget(), Size: e.GetSize(),
		Special: e.SymlinkTarget == nil && e.GetType() == filesystempb.FileType_FILE_TYPE_UNSPECIFIED,
		Mode:    fs.FileMode(e.GetMode()).Perm(), Owner: e.GetOwner(), Group: e.GetGroup(),
		ModifiedAt: e.GetModifiedTime().AsTime(),
	}
}
