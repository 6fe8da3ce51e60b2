package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"connectrpc.com/connect"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// maxWatched is how many directories one watcher may watch.
const maxWatched = 8192

// watchRequest is what the three ways to ask for a watcher have in common.
type watchRequest interface {
	GetPath() string
	GetRecursive() bool
	GetIncludeEntry() bool
	GetAllowNetworkMounts() bool
}

// watcher reports changes below one directory. It is used by one goroutine.
type watcher struct {
	notify    *fsnotify.Watcher
	root      string
	recursive bool
	entries   bool
	box       *ident.Box
	// watched counts directories; announced are entries of new directories that
	// were reported before the kernel did.
	watched   int
	announced map[string]bool
}

// newWatcher watches the directory at path. The error is an answer.
func newWatcher(path string, req watchRequest, box *ident.Box) (*watcher, error) {
	if _, err := directory(path); err != nil {
		return nil, err
	}
	if remote, err := onNetwork(path); err != nil {
		return nil, failure("directory", path, err)
	} else if remote && !req.GetAllowNetworkMounts() {
		return nil, errorf(connect.CodeInvalidArgument, "cannot watch path on network filesystem: %s", path)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, errorf(connect.CodeResourceExhausted, "watch '%s': %v", path, err)
	}
	w := &watcher{
		notify: notify, root: path, recursive: req.GetRecursive(), entries: req.GetIncludeEntry(),
		box: box, announced: make(map[string]bool),
	}
	if err := w.add(path, nil); err != nil {
		w.close()
		return nil, watchFailure(path, err)
	}
	return w, nil
}

func (w *watcher) close() {
	_ = w.notify.Close() // it has nothing to lose
}

// watchFailure is the answer when a directory cannot be watched.
func watchFailure(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return errorf(connect.CodeResourceExhausted, "watch '%s': the kernel watches as many directories as it may", path)
	}
	return failure("directory", path, err)
}

// onNetwork reports whether path is on a file system that others change too,
// which inotify does not see.
func onNetwork(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, err
	}
	switch uint32(st.Type) { //nolint:gosec // the magic numbers have 32 bits
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		return true, nil
	}
	return false, nil
}

// add watches dir and, for a recursive watcher, what is below it. found, when
// not nil, is told every entry below dir.
func (w *watcher) add(dir string, found func(path string)) error {
	if w.watched >= maxWatched {
		return errorf(connect.CodeResourceExhausted, "'%s' has more than %d directories; watch a smaller part", w.root, maxWatched)
	}
	if err := w.notify.Add(dir); err != nil {
		return err
	}
	w.watched++
	if !w.recursive {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if found != nil {
			found(path)
		}
		if !e.IsDir() {
			continue
		}
		if err := w.add(path, found); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// kinds are the events that one report of the kernel may stand for, in the order
// they are told.
var kinds = []struct {
	op   fsnotify.Op
	kind filesystempb.EventType
}{
	{fsnotify.Create, filesystempb.EventType_EVENT_TYPE_CREATE},
	{fsnotify.Rename, filesystempb.EventType_EVENT_TYPE_RENAME},
	{fsnotify.Chmod, filesystempb.EventType_EVENT_TYPE_CHMOD},
	{fsnotify.Write, filesystempb.EventType_EVENT_TYPE_WRITE},
	{fsnotify.Remove, filesystempb.EventType_EVENT_TYPE_REMOVE},
}

// translate turns a report of the kernel into events. A directory that is made
// in a watched tree is watched too, and what is in it by then is told as made.
func (w *watcher) translate(e fsnotify.Event) ([]*filesystempb.FilesystemEvent, error) {
	var events []*filesystempb.FilesystemEvent
	for _, k := range kinds {
		if !e.Op.Has(k.op) {
			continue
		}
		if k.op == fsnotify.Create && w.announced[e.Name] {
			delete(w.announced, e.Name)
			continue
		}
		events = append(events, w.event(e.Name, k.kind))
	}
	if !w.recursive || !e.Op.Has(fsnotify.Create) {
		return events, nil
	}
	if st, err := os.Lstat(e.Name); err != nil || !st.IsDir() {
		return events, nil //nolint:nilerr // it was removed meanwhile
	}
	err := w.add(e.Name, func(path string) {
		// Each of these was made before or after the watch began; when after, the
		// kernel reports it again.
		if len(w.announced) >= maxWatched {
			clear(w.announced)
		}
		w.announced[path] = true
		events = append(events, w.event(path, filesystempb.EventType_EVENT_TYPE_CREATE))
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, watchFailure(e.Name, err)
	}
	return events, nil
}

// event is one event about path.
func (w *watcher) event(path string, kind filesystempb.EventType) *filesystempb.FilesystemEvent {
	rel, err := filepath.Rel(w.root, path)
	if err != nil {
		rel = path
	}
	e := &filesystempb.FilesystemEvent{Name: text(rel), Type: kind}
	if w.entries {
		if entry, err := describe(path, path, w.box.Names()); err == nil {
			e.Entry = entry
		}
	}
	return e
}

// errLost says that the kernel dropped events.
func errLost(root string) error {
	return errorf(connect.CodeDataLoss, "'%s' changed faster than its changes were read, and some are lost; list it again", root)
}
