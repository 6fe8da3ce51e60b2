package ident

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// maxAccountsBytes bounds what is read of a passwd or group file.
const maxAccountsBytes = 4 << 20

// User is one line of a passwd file with the groups that list it.
type User struct {
	// Name is the login name.
	Name string
	// UID and GID are the numbers processes of the user run with.
	UID, GID uint32
	// Groups are the supplementary groups, GID not among them.
	Groups []uint32
	// Home is the home directory, "/" when the file names none.
	Home string
}

// Accounts are the paths of two files in the format of passwd(5) and group(5).
type Accounts struct {
	// Passwd and Group are the paths; "" means /etc/passwd and /etc/group.
	Passwd, Group string
}

// accounts reads users and groups. Programs in the box change the files, so each
// question looks whether they did.
type accounts struct{ passwd, group table }

func newAccounts(a Accounts) *accounts {
	return &accounts{
		passwd: table{path: cmp.Or(a.Passwd, "/etc/passwd"), fields: 7},
		group:  table{path: cmp.Or(a.Group, "/etc/group"), fields: 4},
	}
}

// user returns the user with the given name.
func (a *accounts) user(name string) (User, error) {
	lines, err := a.passwd.lines()
	if err != nil {
		return User{}, fmt.Errorf("look up user: %w", err)
	}
	i := slices.IndexFunc(lines, func(l line) bool { return l.name == name && l.gidOK })
	if i < 0 {
		return User{}, fmt.Errorf("no user %.64q", name)
	}
	u := User{Name: name, UID: lines[i].id, GID: lines[i].gid, Home: filepath.Clean(cmp.Or(lines[i].home, "/"))}
	groups, err := a.group.lines()
	if err != nil {
		return u, nil //nolint:nilerr // a box without a group file has no supplementary groups
	}
	for _, g := range groups {
		if g.id != u.GID && slices.Contains(g.members, name) {
			u.Groups = append(u.Groups, g.id)
		}
	}
	return u, nil
}

// Names maps user and group numbers to names, as one reading of both files.
type Names struct{ users, groups map[uint32]string }

// names reads both files. What cannot be read is left out.
func (a *accounts) names() Names {
	read := func(t *table) map[uint32]string {
		names := make(map[uint32]string)
		lines, err := t.lines()
		if err != nil {
			return names // a number without a name is shown as a number
		}
		for _, l := range lines {
			if _, taken := names[l.id]; !taken {
				names[l.id] = l.name
			}
		}
		return names
	}
	return Names{users: read(&a.passwd), groups: read(&a.group)}
}

// User returns the name of a user number, or the number in digits.
func (n Names) User(uid uint32) string { return named(n.users, uid) }

// Group returns the name of a group number, or the number in digits.
func (n Names) Group(gid uint32) string { return named(n.groups, gid) }

func named(names map[uint32]string, id uint32) string {
	if name, ok := names[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// line is one line of either file; some fields are of one kind only.
type line struct {
	name    string
	id      uint32
	gid     uint32 // passwd
	gidOK   bool
	home    string   // passwd
	members []string // group
}

// table is one of the files, read again when it has changed.
type table struct {
	path   string
	fields int

	mu     sync.Mutex
	stamp  stamp
	parsed []line
}

// stamp tells one version of a file from the next.
type stamp struct {
	inode, device, size uint64
	modified, changed   unix.Timespec
}

// lines returns the lines that have as many fields as they should and a number.
// The caller must not change them.
func (t *table) lines() ([]line, error) {
	var st unix.Stat_t
	if err := unix.Stat(t.path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: t.path, Err: err}
	}
	now := stamp{st.Ino, st.Dev, uint64(st.Size), st.Mtim, st.Ctim} //nolint:gosec // not negative
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stamp == now {
		return t.parsed, nil
	}
	text, err := sysfile.Read(t.path, maxAccountsBytes)
	if err != nil {
		return nil, err
	}
	t.stamp, t.parsed = now, nil
	for raw := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(raw, "\n"), ":")
		if len(f) != t.fields || strings.HasPrefix(raw, "#") {
			continue
		}
		id, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		l := line{name: f[0], id: uint32(id)}
		if t.fields == 4 {
			l.members = strings.Split(f[3], ",")
		} else if gid, err := strconv.ParseUint(f[3], 10, 32); err == nil {
			l.gid, l.gidOK, l.home = uint32(gid), true, f[5]
		}
		t.parsed = append(t.parsed, l)
	}
	return t.parsed, nil
}
