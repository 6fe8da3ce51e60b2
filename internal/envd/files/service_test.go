package files_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/pkg/xattr"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func (b *box) stat(t *testing.T, path string) *pb.EntryInfo {
	t.Helper()
	resp, err := b.Stat(t.Context(), connect.NewRequest(&pb.StatRequest{Path: path}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg.GetEntry()
}

func (b *box) list(t *testing.T, path string, depth uint32) []string {
	t.Helper()
	resp, err := b.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: path, Depth: depth}))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range resp.Msg.GetEntries() {
		list = append(list, strings.TrimPrefix(e.GetPath(), b.home+"/"))
	}
	return list
}

func TestStat(t *testing.T) {
	b := newBox(t)
	modified := time.Date(2024, 2, 3, 4, 5, 6, 789, time.UTC)
	path := b.put(t, "file", "12345")
	for _, err := range []error{
		os.Chmod(path, 0o640), os.Chtimes(path, modified, modified),
		os.Symlink("file", b.path("link")), os.Symlink(".", b.path("dirlink")),
		os.Symlink("nowhere", b.path("broken")), os.Symlink("loop", b.path("loop")),
		syscall.Mkfifo(b.path("pipe"), 0o600), os.WriteFile(b.path("latin-\xe9"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := xattr.Set(path, "user.e2b.key", []byte("value \xff"))
	testenv.Have(t, "xattr", err == nil, fmt.Sprintf("the file system of the test keeps no extended attributes: %v", err))
	if err := xattr.Set(path, "user.other", []byte("x")); err != nil {
		t.Fatal(err)
	}
	owner := b.stat(t, "file").GetOwner()
	if owner != "user" {
		t.Errorf("owner = %q; want user", owner)
	}
	mod := timestamppb.New(modified)
	for _, want := range []*pb.EntryInfo{
		{
			Name: "file", Path: path, Type: pb.FileType_FILE_TYPE_FILE, Size: 5, Mode: 0o640, Permissions: "-rw-r-----",
			Owner: "user", Group: "staff", ModifiedTime: mod, Metadata: map[string]string{"key": "value �"},
		},
		{
			Name: "link", Path: b.path("link"), Type: pb.FileType_FILE_TYPE_FILE, Size: 4, Mode: 0o640, Permissions: "Lrwxrwxrwx",
			Owner: "user", Group: "staff", SymlinkTarget: &path,
		},
		{
			Name: "dirlink", Path: b.path("dirlink"), Type: pb.FileType_FILE_TYPE_DIRECTORY, Size: 1, Mode: 0o755, Permissions: "Lrwxrwxrwx",
			Owner: "user", Group: "staff", SymlinkTarget: &b.home,
		},
		{
			Name: "broken", Path: b.path("broken"), Type: pb.FileType_FILE_TYPE_SYMLINK, Size: 7, Mode: 0o777, Permissions: "Lrwxrwxrwx",
			Owner: "user", Group: "staff", SymlinkTarget: new("nowhere"),
		},
		{
			Name: "loop", Path: b.path("loop"), Type: pb.FileType_FILE_TYPE_SYMLINK, Size: 4, Mode: 0o777, Permissions: "Lrwxrwxrwx",
			Owner: "user", Group: "staff", SymlinkTarget: new("loop"),
		},
		{Name: "pipe", Path: b.path("pipe"), Mode: 0o600, Permissions: "prw-------", Owner: "user", Group: "staff"},
	} {
		got := b.stat(t, want.GetName())
		if want.ModifiedTime == nil {
			got.ModifiedTime = nil
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", want.GetName(), diff)
		}
	}
	if list := b.list(t, "", 1); !strings.Contains(strings.Join(list, " "), "latin-�") {
		t.Errorf("a name that is not UTF-8 is missing in %q", list)
	}
}

func TestListDir(t *testing.T) {
	b := newBox(t)
	for _, name := range []string{"a/b/c/d", "a/z", "B", "x"} {
		b.put(t, name, "")
	}
	if err := os.Symlink("a", b.path("link")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path  string
		depth uint32
		want  []string
	}{
		{"", 0, []string{"B", "a", "link", "x"}},
		{"~", 1, []string{"B", "a", "link", "x"}},
		{".", 2, []string{"B", "a", "a/b", "a/z", "link", "x"}},
		{"a", 9, []string{"a/b", "a/b/c", "a/b/c/d", "a/z"}},
		{"link", 2, []string{"link/b", "link/b/c", "link/z"}},
		{"a/b/c", 1, []string{"a/b/c/d"}},
	} {
		if diff := cmp.Diff(test.want, b.list(t, test.path, test.depth)); diff != "" {
			t.Errorf("ListDir(%q, %d): %s", test.path, test.depth, diff)
		}
	}
	if err := os.Mkdir(b.path("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := b.list(t, "empty", 1); got != nil {
		t.Errorf("the empty directory holds %v", got)
	}
}

func TestMakeDir(t *testing.T) {
	testenv.Need(t, "root")
	b := newBox(t)
	req := connect.NewRequest(&pb.MakeDirRequest{Path: "new/deep"})
	req.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("nobody:")))
	resp, err := b.MakeDir(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if e := resp.Msg.GetEntry(); e.GetPath() != b.path("new/deep") || e.GetName() != "deep" || e.GetType() != pb.FileType_FILE_TYPE_DIRECTORY {
		t.Errorf("entry = %v", e)
	}
	for _, path := range []string{"new", "new/deep"} {
		if e := b.stat(t, path); e.GetOwner() != "nobody" || e.GetMode() != 0o755 {
			t.Errorf("%s = %v; want it to be nobody's", path, e)
		}
	}
}

func TestMove(t *testing.T) {
	b := newBox(t)
	b.put(t, "dir/file", "x")
	resp, err := b.Move(t.Context(), connect.NewRequest(&pb.MoveRequest{Source: "dir", Destination: "to/there"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Msg.GetEntry().GetPath(); got != b.path("to/there") {
		t.Errorf("path = %q", got)
	}
	if got := b.get(t, "to/there/file"); got != "x" {
		t.Errorf("content = %q", got)
	}
	b.put(t, "over", "old")
	if _, err := b.Move(t.Context(), connect.NewRequest(&pb.MoveRequest{Source: "to/there/file", Destination: "over"})); err != nil {
		t.Fatal(err)
	}
	if got := b.get(t, "over"); got != "x" {
		t.Errorf("content = %q after moving over it", got)
	}
}

// TestMoveAcross moves between file systems, which rename cannot.
func TestMoveAcross(t *testing.T) {
	b := newBox(t)
	other, err := os.MkdirTemp("/dev/shm", "bulkhead-test-*") //nolint:usetesting // it must be on another file system
	testenv.Have(t, "shm", err == nil, fmt.Sprintf("no second file system at /dev/shm: %v", err))
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	err = os.Link(b.put(t, "probe", ""), other+"/probe")
	testenv.Have(t, "shm", err != nil, "/dev/shm is on the file system of the test")
	modified := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	b.put(t, "tree/sub/file", "content")
	for _, err := range []error{
		os.Symlink("sub/file", b.path("tree/link")), os.Chmod(b.path("tree/sub/file"), 0o751),
		os.Chtimes(b.path("tree/sub/file"), modified, modified), os.Chmod(b.path("tree/sub"), 0o711),
		os.Chtimes(b.path("tree/sub"), modified, modified),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Move(t.Context(), connect.NewRequest(&pb.MoveRequest{Source: "tree", Destination: other + "/new/tree"})); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(b.path("tree")); !os.IsNotExist(err) {
		t.Errorf("the source is still there: %v", err)
	}
	for path, mode := range map[string]uint32{"/new/tree/sub/file": 0o751, "/new/tree/sub": 0o711} {
		if e := b.stat(t, other+path); e.GetMode() != mode || !e.GetModifiedTime().AsTime().Equal(modified) {
			t.Errorf("%s = %v; want mode %o and time %v", path, e, mode, modified)
		}
	}
	if e := b.stat(t, other+"/new/tree/link"); e.GetSymlinkTarget() != other+"/new/tree/sub/file" {
		t.Errorf("link = %v", e)
	}
	if left, err := os.ReadDir(other + "/new"); err != nil || len(left) != 1 {
		t.Errorf("beside the copy: %v, %v", left, err)
	}
	// What cannot be copied stays, and no half copy either.
	if err := syscall.Mkfifo(b.path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Move(t.Context(), connect.NewRequest(&pb.MoveRequest{Source: "pipe", Destination: other + "/new/pipe"})); err == nil {
		t.Error("a pipe was moved to another file system")
	}
	if left, err := os.ReadDir(other + "/new"); err != nil || len(left) != 1 {
		t.Errorf("beside the copy: %v, %v", left, err)
	}
}

func TestRemove(t *testing.T) {
	b := newBox(t)
	b.put(t, "dir/file", "x")
	b.put(t, "file", "x")
	if err := os.Symlink("file", b.path("link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"dir", "link", "none", "file/none"} {
		if _, err := b.Remove(t.Context(), connect.NewRequest(&pb.RemoveRequest{Path: path})); err != nil {
			t.Errorf("Remove(%q): %v", path, err)
		}
	}
	if got := b.list(t, "", 1); !cmp.Equal(got, []string{"file"}) {
		t.Errorf("left: %v", got)
	}
}

func TestErrors(t *testing.T) {
	b := newBox(t)
	b.put(t, "file", "x")
	b.put(t, "full/file", "x")
	if err := os.Mkdir(b.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", b.path("loop")); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	stat := func(path string) error {
		_, err := b.Stat(ctx, connect.NewRequest(&pb.StatRequest{Path: path}))
		return err
	}
	list := func(path string) error {
		_, err := b.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: path}))
		return err
	}
	mkdir := func(path string) error {
		_, err := b.MakeDir(ctx, connect.NewRequest(&pb.MakeDirRequest{Path: path}))
		return err
	}
	move := func(source, destination string) error {
		_, err := b.Move(ctx, connect.NewRequest(&pb.MoveRequest{Source: source, Destination: destination}))
		return err
	}
	remove := func(path string) error {
		_, err := b.Remove(ctx, connect.NewRequest(&pb.RemoveRequest{Path: path}))
		return err
	}
	ghost := connect.NewRequest(&pb.StatRequest{})
	ghost.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("ghost:")))
	_, ghostErr := b.Stat(ctx, ghost)
	for i, test := range []struct {
		err  error
		code connect.Code
		text string
	}{
		{ghostErr, connect.CodeUnauthenticated, "invalid username: 'ghost'"},
		{stat("none"), connect.CodeNotFound, "none"},
		{stat("file/none"), connect.CodeNotFound, "none"},
		{stat("loop/none"), connect.CodeFailedPrecondition, "too many levels"},
		{stat("a\x00"), connect.CodeInvalidArgument, "NUL"},
		{stat(strings.Repeat("n", 300)), connect.CodeInvalidArgument, "too long"},
		{stat(strings.Repeat("n/", 3000)), connect.CodeInvalidArgument, "at most 4095"},
		{stat("~root/x"), connect.CodeInvalidArgument, "another user's home"},
		{list("none"), connect.CodeNotFound, "directory not found"},
		{list("file"), connect.CodeInvalidArgument, "path is not a directory"},
		{list("loop"), connect.CodeFailedPrecondition, "too many levels"},
		{mkdir("dir"), connect.CodeAlreadyExists, "directory already exists"},
		{mkdir("file"), connect.CodeInvalidArgument, "it is not a directory"},
		{mkdir("file/x"), connect.CodeInvalidArgument, "a parent of"},
		{mkdir(""), connect.CodeAlreadyExists, "directory already exists"},
		{move("none", "x"), connect.CodeNotFound, "source file not found"},
		{move("file", "dir"), connect.CodeAlreadyExists, "file exists"},
		{move("dir", "full"), connect.CodeAlreadyExists, "move"},
		{move("dir", "dir/inside"), connect.CodeInvalidArgument, "invalid argument"},
		{move("dir", "file/x"), connect.CodeInvalidArgument, "a parent of"},
		{remove("/"), connect.CodeInvalidArgument, "cannot be removed"},
		{remove("/proc/self/status"), connect.CodePermissionDenied, "not permitted"},
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) { want(t, test.err, test.code, test.text) })
	}
}
