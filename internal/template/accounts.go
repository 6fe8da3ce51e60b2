package template

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// boxUser is the user that every box has.
	boxUser = "user"
	// boxUID is its number where that is free.
	boxUID = 1000
	// maxAccounts bounds the account files of a stranger's image, in bytes.
	maxAccounts = 1 << 20
	// maxUID is the largest number of a user; the one after it means "none".
	maxUID = 1<<32 - 2
)

// accountSyntax is what a user of a stranger's image may be called.
var accountSyntax = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)

// account is a line of /etc/passwd.
type account struct {
	name, home string
	uid, gid   int
}

// readAccounts reads /etc/passwd; lines that make no sense are left out.
func readAccounts(root *os.Root) ([]account, error) {
	lines, err := readFields(root, "etc/passwd")
	if err != nil {
		return nil, err
	}
	var out []account
	for _, f := range lines {
		if len(f) < 7 {
			continue
		}
		uid, uidErr := strconv.ParseUint(f[2], 10, 32)
		gid, gidErr := strconv.ParseUint(f[3], 10, 32)
		if uidErr == nil && gidErr == nil {
			out = append(out, account{name: f[0], uid: int(uid), gid: int(gid), home: f[5]})
		}
	}
	return out, nil
}

// readFields reads a file of lines with fields between colons; none when it is
// not there.
func readFields(root *os.Root, name string) ([][]string, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read /%s: %w", name, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read /%s: %w", name, err)
	}
	if len(b) > maxAccounts {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "/%s of the image is larger than %d KiB", name, maxAccounts>>10)
	}
	var out [][]string
	for line := range strings.Lines(string(b)) {
		out = append(out, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return out, nil
}

// appendLine adds a line to an account file, making it when it is not there.
func appendLine(root *os.Root, name, line string, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, mode)
	if err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	var last [1]byte
	if fi, err := f.Stat(); err == nil && fi.Size() > 0 {
		if _, err := f.ReadAt(last[:], fi.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	_, err = io.WriteString(f, line+"\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	return nil
}

// addUser makes sure that the tree has root and the user that every box has,
// with a home of its own.
func addUser(root *os.Root) error {
	accounts, err := readAccounts(root)
	if err != nil {
		return err
	}
	if len(accounts) == 0 {
		if err := errors.Join(appendLine(root, "etc/passwd", "root:*:0:0:root:/root:"+shell(root), 0o644),
			appendLine(root, "etc/group", "root:x:0:", 0o644)); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(accounts, func(a account) bool { return a.name == boxUser }); i >= 0 {
		return makeHome(root, accounts[i])
	}
	a := account{name: boxUser, home: "/home/" + boxUser, uid: boxUID}
	for slices.ContainsFunc(accounts, func(b account) bool { return b.uid == a.uid }) {
		a.uid++
	}
	if a.gid, err = addGroup(root, a.uid); err != nil {
		return err
	}
	return errors.Join(addAccount(root, a), makeHome(root, a))
}

// addGroup makes sure that the group of the box's user is there and returns its
// number, want where that is free.
func addGroup(root *os.Root, want int) (int, error) {
	groups, err := readFields(root, "etc/group")
	if err != nil {
		return 0, err
	}
	taken := map[string]bool{}
	for _, g := range groups {
		if len(g) < 3 {
			continue
		}
		if gid, err := strconv.Atoi(g[2]); err == nil && g[0] == boxUser {
			return gid, nil
		}
		taken[g[2]] = true
	}
	for taken[strconv.Itoa(want)] {
		want++
	}
	return want, appendLine(root, "etc/group", fmt.Sprintf("%s:x:%d:", boxUser, want), 0o644)
}

// addAccount adds a user without a password.
func addAccount(root *os.Root, a account) error {
	_, err := root.Stat("etc/shadow")
	field := "x" // look there
	if err != nil {
		field = "*"
	}
	line := fmt.Sprintf("%s:%s:%d:%d::%s:%s", a.name, field, a.uid, a.gid, a.home, shell(root))
	if err := appendLine(root, "etc/passwd", line, 0o644); err != nil || field == "*" {
		return err
	}
	return appendLine(root, "etc/shadow", a.name+":*:19000:0:99999:7:::", 0o600)
}

// shell is what people get in a terminal.
func shell(root *os.Root) string {
	if _, err := root.Stat("bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// makeHome makes the user's home with the usual files, unless it is there.
func makeHome(root *os.Root, a account) error {
	home := strings.TrimPrefix(path.Clean("/"+a.home), "/")
	if home == "" {
		return nil
	}
	if fi, err := root.Stat(home); err == nil && fi.IsDir() {
		return nil
	}
	if err := errors.Join(root.MkdirAll(home, 0o755), root.Lchown(home, a.uid, a.gid)); err != nil {
		return fmt.Errorf("make home: %w", err)
	}
	skel, err := fs.Glob(root.FS(), "etc/skel/.*")
	if err != nil {
		return fmt.Errorf("make home: %w", err)
	}
	for _, file := range skel {
		if fi, err := root.Lstat(file); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxAccounts {
			continue
		}
		b, err := root.ReadFile(file)
		if err != nil {
			return fmt.Errorf("make home: %w", err)
		}
		to := path.Join(home, path.Base(file))
		if err := errors.Join(root.WriteFile(to, b, 0o644), root.Lchown(to, a.uid, a.gid)); err != nil {
			return fmt.Errorf("make home: %w", err)
		}
	}
	return nil
}

// finishAccounts lets the box's user become root where the image has sudo, and
// returns the name of the default user, which want names or numbers.
func finishAccounts(root *os.Root, want string) (string, error) {
	if fi, err := root.Stat("etc/sudoers.d"); err == nil && fi.IsDir() {
		const file = "etc/sudoers.d/90-bulkhead"
		if err := errors.Join(root.WriteFile(file, []byte(boxUser+" ALL=(ALL:ALL) NOPASSWD: ALL\n"), 0o600),
			root.Chmod(file, 0o440)); err != nil {
			return "", fmt.Errorf("allow sudo: %w", err)
		}
	}
	if want == "" {
		return boxUser, nil
	}
	accounts, err := readAccounts(root)
	if err != nil {
		return "", err
	}
	uid, err := strconv.ParseUint(want, 10, 32)
	numeric := err == nil
	for _, a := range accounts {
		if (a.name == want || numeric && uint64(a.uid) == uid) && accountSyntax.MatchString(a.name) { //nolint:gosec // no account is negative
			return a.name, nil
		}
	}
	if !numeric || uid > maxUID {
		return "", bulkhead.Errorf(bulkhead.CodeInvalid, "user %.64q is not in /etc/passwd of the image", want)
	}
	a := account{name: fmt.Sprintf("uid%d", uid), uid: int(uid), gid: int(uid), home: "/"}
	return a.name, addAccount(root, a)
}
