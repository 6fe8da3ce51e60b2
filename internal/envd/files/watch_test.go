package files_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	pb "github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// watch begins to watch and returns a function that reads events until one is
// "TYPE name", and returns it.
func (b *box) watch(t *testing.T, req *pb.WatchDirRequest) func(string) *pb.FilesystemEvent {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	stream, err := b.WatchDir(ctx, connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = stream.Close()
	})
	if !stream.Receive() || stream.Msg().GetStart() == nil {
		t.Fatalf("no start: %v", stream.Err())
	}
	var seen []string
	return func(want string) *pb.FilesystemEvent {
		t.Helper()
		for stream.Receive() {
			e := stream.Msg().GetFilesystem()
			got := strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_") + " " + e.GetName()
			if got == want {
				return e
			}
			seen = append(seen, got)
		}
		t.Fatalf("no %q among %q: %v", want, seen, stream.Err())
		return nil
	}
}

func TestWatchDir(t *testing.T) {
	b := newBox(t)
	b.put(t, "dir/sub/old", "")
	until := b.watch(t, &pb.WatchDirRequest{Path: "dir"})
	b.put(t, "dir/file", "x")
	until("CREATE file")
	until("WRITE file")
	if err := os.Chmod(b.path("dir/file"), 0o600); err != nil {
		t.Fatal(err)
	}
	until("CHMOD file")
	b.put(t, "dir/sub/new", "") // not recursive
	if err := os.Rename(b.path("dir/file"), b.path("dir/moved")); err != nil {
		t.Fatal(err)
	}
	until("RENAME file")
	if e := until("CREATE moved"); e.GetEntry() != nil {
		t.Errorf("entry = %v without being asked for", e.GetEntry())
	}
	if err := os.Remove(b.path("dir/moved")); err != nil {
		t.Fatal(err)
	}
	until("REMOVE moved")
}

func TestWatchDirRecursive(t *testing.T) {
	b := newBox(t)
	b.put(t, "dir/a/b/old", "")
	until := b.watch(t, &pb.WatchDirRequest{Path: "dir", Recursive: true, IncludeEntry: true})
	b.put(t, "dir/a/b/old", "x")
	if e := until("WRITE a/b/old"); e.GetEntry().GetPath() != b.path("dir/a/b/old") {
		t.Errorf("entry = %v", e.GetEntry())
	}
	// A whole tree that comes at once, and what happens in it later.
	b.put(t, "outside/deep/deeper/file", "")
	if err := os.Rename(b.path("outside"), b.path("dir/inside")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"inside", "inside/deep", "inside/deep/deeper", "inside/deep/deeper/file"} {
		until("CREATE " + name)
	}
	b.put(t, "dir/inside/deep/deeper/later", "")
	until("CREATE inside/deep/deeper/later")
	if err := os.RemoveAll(b.path("dir/inside")); err != nil {
		t.Fatal(err)
	}
	if e := until("REMOVE inside/deep/deeper/later"); e.GetEntry() != nil {
		t.Errorf("entry of a removed file = %v", e.GetEntry())
	}
}

// TestWatchDirRace: files made in a directory at once after the directory are
// told exactly once.
func TestWatchDirRace(t *testing.T) {
	b := newBox(t)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	stream, err := b.WatchDir(ctx, connect.NewRequest(&pb.WatchDirRequest{Path: ".", Recursive: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	stream.Receive()
	const n = 50
	for i := range n {
		b.put(t, fmt.Sprintf("d%d/file", i), "")
	}
	b.put(t, "last", "")
	created := make(map[string]int)
	for created["last"] == 0 && stream.Receive() {
		if e := stream.Msg().GetFilesystem(); e.GetType() == pb.EventType_EVENT_TYPE_CREATE {
			created[e.GetName()]++
		}
	}
	for i := range n {
		for _, name := range []string{fmt.Sprintf("d%d", i), fmt.Sprintf("d%d/file", i)} {
			if created[name] != 1 {
				t.Errorf("%s was told %d times", name, created[name])
			}
		}
	}
}

func TestWatchDirKeepalive(t *testing.T) {
	b := newBox(t)
	req := connect.NewRequest(&pb.WatchDirRequest{})
	req.Header().Set(boxrpc.KeepaliveHeader, "1")
	stream, err := b.WatchDir(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for _, name := range []string{"start", "keepalive"} {
		if !stream.Receive() {
			t.Fatalf("no %s: %v", name, stream.Err())
		}
	}
	if stream.Msg().GetKeepalive() == nil {
		t.Errorf("second event = %v; want a keepalive", stream.Msg())
	}
}

func TestWatchDirErrors(t *testing.T) {
	b := newBox(t)
	b.put(t, "file", "")
	for path, test := range map[string]struct {
		code connect.Code
		text string
	}{
		"none":  {connect.CodeNotFound, "not found"},
		"file":  {connect.CodeInvalidArgument, "not a directory"},
		"a\x00": {connect.CodeInvalidArgument, "NUL"},
	} {
		stream, err := b.WatchDir(t.Context(), connect.NewRequest(&pb.WatchDirRequest{Path: path}))
		if err == nil {
			if stream.Receive() {
				t.Errorf("%q: %v", path, stream.Msg())
			}
			err = stream.Err()
		}
		want(t, err, test.code, test.text)
		_, err = b.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: path}))
		want(t, err, test.code, test.text)
	}
}

// poll asks the watcher until it has told want, and returns everything told.
func (b *box) poll(t *testing.T, id, want string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var told []string
	for {
		resp, err := b.GetWatcherEvents(ctx, connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: id}))
		if err != nil {
			t.Fatalf("%v after %q", err, told)
		}
		for _, e := range resp.Msg.GetEvents() {
			told = append(told, strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_")+" "+e.GetName())
			if told[len(told)-1] == want {
				return told
			}
		}
		<-tick.C
	}
}

func TestPolledWatcher(t *testing.T) {
	b := newBox(t)
	resp, err := b.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: ".", Recursive: true}))
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Msg.GetWatcherId()
	f, err := os.Create(b.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	for range 500 { // one long write is one event
		if _, err := f.WriteString("x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b.put(t, "dir/last", "")
	told := b.poll(t, id, "CREATE dir/last")
	if told[0] != "CREATE file" || len(told) > 300 {
		t.Errorf("%d events, the first %q", len(told), told[0])
	}
	for range 2 { // it may be repeated
		if _, err := b.RemoveWatcher(t.Context(), connect.NewRequest(&pb.RemoveWatcherRequest{WatcherId: id})); err != nil {
			t.Fatal(err)
		}
	}
	_, err = b.GetWatcherEvents(t.Context(), connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: id}))
	want(t, err, connect.CodeNotFound, "not found")
}

// TestPolledWatcherLosesNothingSilently: a client that does not ask is told that
// events are missing, and goes on from there.
func TestPolledWatcherLosesNothingSilently(t *testing.T) {
	b := newBox(t)
	resp, err := b.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: "."}))
	if err != nil {
		t.Fatal(err)
	}
	id := connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: resp.Msg.GetWatcherId()})
	a, c := b.put(t, "a", ""), b.put(t, "c", "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil && err == nil {
		for range 20_000 { // two names in turn, so that none is the same as the one before
			a, c = c, a
			if err := os.Chmod(a, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, err = b.GetWatcherEvents(ctx, id)
	}
	want(t, err, connect.CodeDataLoss, "list it again")
	b.put(t, "after", "")
	for _, err = b.GetWatcherEvents(ctx, id); connect.CodeOf(err) == connect.CodeDataLoss; {
		_, err = b.GetWatcherEvents(ctx, id)
	}
	if err != nil {
		t.Errorf("the next question: %v", err)
	}
}

func TestPolledWatchersAreBounded(t *testing.T) {
	b := newBox(t)
	create := func() error {
		_, err := b.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: "."}))
		return err
	}
	for range 64 {
		err := create()
		testenv.Have(t, "watchers", err == nil, fmt.Sprintf("the kernel lets this user have fewer watchers than the service: %v", err))
	}
	want(t, create(), connect.CodeResourceExhausted, "64 watchers")
	clock := now
	t.Cleanup(func() { now = clock })
	now = now.Add(2 * time.Hour)
	if err := create(); err != nil {
		t.Errorf("after two hours without a question: %v", err)
	}
}

func TestWatchOfALink(t *testing.T) {
	b := newBox(t)
	b.put(t, "real/old", "")
	if err := os.Symlink("real", b.path("link")); err != nil {
		t.Fatal(err)
	}
	until := b.watch(t, &pb.WatchDirRequest{Path: "link", IncludeEntry: true})
	b.put(t, "real/new", "")
	if e := until("CREATE new"); e.GetEntry().GetPath() != filepath.Join(b.home, "link/new") {
		t.Errorf("entry = %v", e.GetEntry())
	}
}
