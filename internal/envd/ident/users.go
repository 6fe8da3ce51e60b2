package ident

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// Accounts reads users and groups from two files in the format of passwd(5) and
// group(5). Each call reads the files anew, since programs in the box change
// them. The zero value reads /etc/passwd and /etc/group.
type Accounts struct {
	// Passwd and Group are the paths of the files.
	Passwd, Group string
}

// User returns the user with the given name. The error is an
// *[os.PathError] when the file cannot be read, else says there is no such user.
func (a Accounts) User(name string) (User, error) {
	var found *User
	err := eachLine(cmp.Or(a.Passwd, "/etc/passwd"), 7, func(f []string) bool {
		uid, uidErr := strconv.ParseUint(f[2], 10, 32)
		gid, gidErr := strconv.ParseUint(f[3], 10, 32)
		if f[0] != name || uidErr != nil || gidErr != nil {
			return true
		}
		found = &User{Name: name, UID: uint32(uid), GID: uint32(gid), Home: filepath.Clean(cmp.Or(f[5], "/"))}
		return false
	})
	if err != nil {
		return User{}, fmt.Errorf("look up user: %w", err)
	}
	if found == nil {
		return User{}, fmt.Errorf("no user %.64q", name)
	}
	// A box without a group file has no supplementary groups.
	_ = eachLine(cmp.Or(a.Group, "/etc/group"), 4, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && uint32(gid) != found.GID && slices.Contains(strings.Split(f[3], ","), name) {
			found.Groups = append(found.Groups, uint32(gid))
		}
		return true
	})
	return *found, nil
}

// Names maps user and group numbers to names, as one reading of both files.
type Names struct{ users, groups map[uint32]string }

// Names reads both files. What cannot be read is left out.
func (a Accounts) Names() Names {
	read := func(path string, fields int) map[uint32]string {
		names := make(map[uint32]string)
		// A number without a name is shown as a number.
		_ = eachLine(path, fields, func(f []string) bool {
			if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				if _, taken := names[uint32(id)]; !taken {
					names[uint32(id)] = f[0]
				}
			}
			return true
		})
		return names
	}
	return Names{users: read(cmp.Or(a.Passwd, "/etc/passwd"), 7), groups: read(cmp.Or(a.Group, "/etc/group"), 4)}
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

// eachLine calls f with the colon-separated fields of every line that has as
// many as it should, until f returns false.
func eachLine(path string, fields int, f func([]string) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxAccountsBytes))
	for lines.Scan() {
		line := lines.Text()
		if parts := strings.Split(line, ":"); len(parts) == fields && !strings.HasPrefix(line, "#") {
			if !f(parts) {
				return nil
			}
		}
	}
	return lines.Err()
}
