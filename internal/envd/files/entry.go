package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// describe returns what there is at path, which is shown as shown. A symbolic
// link has the type and the mode of its target, if that exists.
func describe(path, shown string, names ident.Names) (*filesystempb.EntryInfo, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	e := &filesystempb.EntryInfo{
		Name: text(filepath.Base(shown)), Path: text(shown), Size: st.Size(),
		Type: fileType(st.Mode()), Mode: uint32(st.Mode().Perm()), Permissions: st.Mode().String(),
		ModifiedTime: timestamppb.New(st.ModTime()),
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		e.Owner, e.Group = text(names.User(sys.Uid)), text(names.Group(sys.Gid))
	}
	if st.Mode()&fs.ModeSymlink == 0 {
		e.Metadata = readMetadata(path)
		return e, nil
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		// It leads nowhere: say what it holds.
		if target, err = os.Readlink(path); err != nil {
			return nil, err
		}
		e.SymlinkTarget = new(text(target))
		return e, nil
	}
	e.SymlinkTarget = new(text(target))
	if st, err := os.Stat(target); err == nil {
		e.Type, e.Mode = fileType(st.Mode()), uint32(st.Mode().Perm())
	}
	return e, nil
}

// text is s as a protocol message may hold it. Names of files may be any bytes.
func text(s string) string { return strings.ToValidUTF8(s, "�") }

func fileType(mode fs.FileMode) filesystempb.FileType {
	switch {
	case mode.IsRegular():
		return filesystempb.FileType_FILE_TYPE_FILE
	case mode.IsDir():
		return filesystempb.FileType_FILE_TYPE_DIRECTORY
	case mode&fs.ModeSymlink != 0:
		return filesystempb.FileType_FILE_TYPE_SYMLINK
	}
	return filesystempb.FileType_FILE_TYPE_UNSPECIFIED
}

// makeDirs makes dir and its missing parents and gives those to u.
func makeDirs(dir string, u ident.User) error {
	st, err := os.Stat(dir) //nolint:gosec // all of it is in the client's box
	switch {
	case err == nil && st.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeDirs(parent, u); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // as mkdir does
		if st, statErr := os.Stat(dir); statErr == nil && st.IsDir() { //nolint:gosec // as above
			return nil // somebody else was faster
		}
		return err
	}
	return own(dir, u)
}

// own gives what is at path to u. Without being root it is u's already.
func own(path string, u ident.User) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(u.UID), int(u.GID))
}

// codes says which code stands for an error of the operating system.
var codes = []struct {
	err  error
	code connect.Code
}{
	{fs.ErrNotExist, connect.CodeNotFound},
	{syscall.ENOTDIR, connect.CodeNotFound}, // a parent is a file
	{fs.ErrPermission, connect.CodePermissionDenied},
	{syscall.ENAMETOOLONG, connect.CodeInvalidArgument},
	{syscall.EINVAL, connect.CodeInvalidArgument},
	{fs.ErrExist, connect.CodeAlreadyExists},
	{syscall.ELOOP, connect.CodeFailedPrecondition},
	{syscall.ENOTEMPTY, connect.CodeFailedPrecondition},
	{syscall.EISDIR, connect.CodeFailedPrecondition},
	{syscall.EBUSY, connect.CodeFailedPrecondition},
	{syscall.EROFS, connect.CodeFailedPrecondition},
	{syscall.ENOSPC, connect.CodeFailedPrecondition},
	{syscall.EDQUOT, connect.CodeFailedPrecondition},
}

// codeOf returns the code for an error of the operating system.
func codeOf(err error) connect.Code {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	// filepath.EvalSymlinks has an error of its own for a loop.
	if strings.Contains(err.Error(), "too many links") {
		return connect.CodeFailedPrecondition
	}
	return connect.CodeInternal
}
