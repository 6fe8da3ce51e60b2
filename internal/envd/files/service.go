// Package files is E2B's filesystem service and its HTTP routes for contents.
//
// Paths are the client's own and so is the box, so no path is forbidden; what a
// call makes belongs to the user it names.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// maxEntries bounds the answer to one ListDir.
const maxEntries = 100_000

// Config is what the service works with. All but Now must be set.
type Config struct {
	// Box says who calls and what paths mean.
	Box *ident.Box
	// Now is the clock that signatures expire by; nil means [time.Now].
	Now func() time.Time
	// Log takes what goes wrong after an answer has begun.
	Log *slog.Logger
}

// Service is E2B's filesystem service. All methods may be called from many
// goroutines.
type Service struct {
	cfg Config

	mu       sync.Mutex
	watchers map[string]*polled
}

var _ filesystempbconnect.FilesystemHandler = (*Service)(nil)

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Box == nil || cfg.Log == nil {
		return nil, errors.New("filesystem service: box and log must be set")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, watchers: make(map[string]*polled)}, nil
}

// path returns the user who calls and the absolute form of path.
func (s *Service) path(req connect.AnyRequest, path string) (ident.User, string, error) {
	u, err := s.cfg.Box.Caller(req.Header())
	if err != nil {
		return u, "", err
	}
	path, err = s.cfg.Box.Resolve(u, path)
	if err != nil {
		return u, "", connect.NewError(connect.CodeInvalidArgument, err)
	}
	return u, path, nil
}

// Stat implements the service's Stat.
func (s *Service) Stat(_ context.Context, req *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	_, path, err := s.path(req, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	entry, err := s.entry(path)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystempb.StatResponse{Entry: entry}), nil
}

// entry is describe with an answer for its error.
func (s *Service) entry(path string) (*filesystempb.EntryInfo, error) {
	entry, err := describe(path, path, s.cfg.Box.Names())
	if err != nil {
		return nil, failure("file", path, err)
	}
	return entry, nil
}

// ListDir implements the service's ListDir. Entries come in the order of a walk
// by name; links are not followed below the directory itself.
func (s *Service) ListDir(ctx context.Context, req *connect.Request[filesystempb.ListDirRequest]) (*connect.Response[filesystempb.ListDirResponse], error) {
	_, path, err := s.path(req, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	dir, err := directory(path)
	if err != nil {
		return nil, err
	}
	depth := int(max(1, req.Msg.GetDepth()))
	names := s.cfg.Box.Names()
	var entries []*filesystempb.EntryInfo
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case p == dir:
			return err
		case err != nil:
			return nil //nolint:nilerr // it was removed meanwhile, or may not be read
		case len(entries) >= maxEntries:
			return errorf(connect.CodeResourceExhausted, "'%s' holds more than %d entries down to depth %d; ask for less", path, maxEntries, depth)
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		entry, err := describe(p, filepath.Join(path, rel), names)
		if err != nil {
			return nil //nolint:nilerr // it was removed meanwhile
		}
		entries = append(entries, entry)
		if d.IsDir() && strings.Count(rel, "/")+1 >= depth {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, failure("directory", path, err)
	}
	return connect.NewResponse(&filesystempb.ListDirResponse{Entries: entries}), nil
}

// directory returns where path leads, which must be a directory.
func directory(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", failure("directory", path, err)
	}
	st, err := os.Stat(target)
	if err != nil {
		return "", failure("directory", path, err)
	}
	if !st.IsDir() {
		return "", errorf(connect.CodeInvalidArgument, "path is not a directory: %s", path)
	}
	return target, nil
}

// MakeDir implements the service's MakeDir.
func (s *Service) MakeDir(_ context.Context, req *connect.Request[filesystempb.MakeDirRequest]) (*connect.Response[filesystempb.MakeDirResponse], error) {
	u, path, err := s.path(req, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	switch st, err := os.Stat(path); {
	case err == nil && st.IsDir():
		return nil, errorf(connect.CodeAlreadyExists, "directory already exists: %s", path)
	case err == nil:
		return nil, errorf(connect.CodeInvalidArgument, "path already exists but it is not a directory: %s", path)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return nil, failure("directory", path, err)
	}
	if err := makeDirs(path, u); err != nil {
		return nil, parentFailure(path, err)
	}
	entry, err := s.entry(path)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystempb.MakeDirResponse{Entry: entry}), nil
}

// Move implements the service's Move. Between file systems it copies.
func (s *Service) Move(ctx context.Context, req *connect.Request[filesystempb.MoveRequest]) (*connect.Response[filesystempb.MoveResponse], error) {
	u, source, err := s.path(req, req.Msg.GetSource())
	if err != nil {
		return nil, err
	}
	_, destination, err := s.path(req, req.Msg.GetDestination())
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(source); err != nil {
		return nil, failure("source file", source, err)
	}
	if err := makeDirs(filepath.Dir(destination), u); err != nil {
		return nil, parentFailure(destination, err)
	}
	err = os.Rename(source, destination)
	if errors.Is(err, syscall.EXDEV) {
		err = moveAcross(ctx, source, destination)
	}
	if err != nil {
		if link, ok := errors.AsType[*os.LinkError](err); ok {
			err = link.Err
		}
		return nil, connect.NewError(codeOf(err), fmt.Errorf("move '%s' to '%s': %w", source, destination, err))
	}
	entry, err := s.entry(destination)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystempb.MoveResponse{Entry: entry}), nil
}

// Remove implements the service's Remove. What is not there is no error.
func (s *Service) Remove(_ context.Context, req *connect.Request[filesystempb.RemoveRequest]) (*connect.Response[filesystempb.RemoveResponse], error) {
	_, path, err := s.path(req, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	if path == "/" {
		return nil, errorf(connect.CodeInvalidArgument, "'/' cannot be removed; kill the sandbox instead")
	}
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return nil, failure("file", path, err)
	}
	return connect.NewResponse(&filesystempb.RemoveResponse{}), nil
}

// failure is the answer to an error of the operating system about path.
func failure(what, path string, err error) error {
	if answer, ok := errors.AsType[*connect.Error](err); ok {
		return answer
	}
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	switch code := codeOf(err); code {
	case connect.CodeNotFound:
		return errorf(code, "%s not found: '%s'", what, path)
	case connect.CodeFailedPrecondition:
		if strings.Contains(err.Error(), "too many links") {
			err = syscall.ELOOP
		}
		return errorf(code, "'%s': %v", path, err)
	default:
		return errorf(code, "'%s': %v", path, err)
	}
}

// parentFailure is failure for a path that was to be made: a parent that is a
// file is the caller's mistake.
func parentFailure(path string, err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return errorf(connect.CodeInvalidArgument, "a parent of '%s' is not a directory", path)
	}
	return failure("directory", path, err)
}

// errorf is an answer of the service. Its text may be shown.
func errorf(code connect.Code, format string, args ...any) error {
	return connect.NewError(code, errors.New(text(fmt.Sprintf(format, args...))))
}
