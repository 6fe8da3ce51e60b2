// Package ident knows who a box is: which sandbox it was leased to, the token
// that guards it, its environment, and the users and paths that requests name.
//
// A [Box] may be used from many goroutines. It does no I/O but reading the
// account files.
package ident

import (
	"cmp"
	"crypto/subtle"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// DefaultUser is who a request acts as when neither it nor the lease names a
// user.
const DefaultUser = "user"

// Box is the identity of a box. The zero value is not ready; see [New].
type Box struct {
	accounts *accounts
	path     string

	mu    sync.RWMutex
	init  boxrpc.Init
	bound bool
}

// New returns a box that is not leased yet. path is the PATH of its processes.
func New(accounts Accounts, path string) *Box {
	return &Box{accounts: newAccounts(accounts), path: path}
}

// Bind gives the box the identity in in, which must be valid, in place of the
// one before.
func (b *Box) Bind(in boxrpc.Init) {
	in.Env = maps.Clone(in.Env)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.init, b.bound = in, true
}

// Init returns the identity in force and whether there is one. The caller must
// not change its map.
func (b *Box) Init() (boxrpc.Init, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.init, b.bound
}

// Guarded reports whether calls need a token.
func (b *Box) Guarded() bool {
	in, _ := b.Init()
	return in.AccessToken != ""
}

// Holds reports, in constant time, whether token is the box's. No token is held
// by a box that has none.
func (b *Box) Holds(token string) bool {
	in, _ := b.Init()
	return in.AccessToken != "" && subtle.ConstantTimeCompare([]byte(in.AccessToken), []byte(token)) == 1
}

// Names are the users and groups of the box as they are now.
func (b *Box) Names() Names { return b.accounts.names() }

// UserError says that there is no user of that name.
type UserError struct{ Name string }

// Error is in E2B's words, which its clients look for.
func (e *UserError) Error() string {
	return fmt.Sprintf("invalid username: '%.64s'", strings.ToValidUTF8(e.Name, "�"))
}

// User returns the user called name, the default user for "". The error is a
// *[UserError].
func (b *Box) User(name string) (User, error) {
	if name == "" {
		in, _ := b.Init()
		name = cmp.Or(in.DefaultUser, DefaultUser)
	}
	if !boxrpc.ValidUser(name) {
		return User{}, &UserError{Name: name}
	}
	u, err := b.accounts.user(name)
	if err != nil {
		return User{}, &UserError{Name: name}
	}
	return u, nil
}

// Caller returns the user that the Authorization header of a call names, with
// any password, or the default user when there is no such header. The error is
// a *[connect.Error].
func (b *Box) Caller(h http.Header) (User, error) {
	name, _, _ := (&http.Request{Header: h}).BasicAuth()
	u, err := b.User(name)
	if err != nil {
		return User{}, connect.NewError(connect.CodeUnauthenticated, err)
	}
	return u, nil
}

// Resolve turns a path as a client wrote it into an absolute and clean one:
// "~" is u's home, a relative path begins in the default working directory, or
// in u's home when the box has none, and "" is that directory itself. Symbolic
// links are not followed. The error may be shown.
func (b *Box) Resolve(u User, path string) (string, error) {
	in, _ := b.Init()
	base, err := expand(u, in.DefaultWorkdir)
	if err != nil {
		return "", err
	}
	if base == "" {
		base = u.Home
	}
	switch {
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("path %.80q holds a NUL", path)
	case len(path) > boxrpc.MaxPathBytes:
		return "", fmt.Errorf("path has %d bytes; at most %d are allowed", len(path), boxrpc.MaxPathBytes)
	}
	path, err = expand(u, path)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(base, path)
	}
	path = filepath.Clean(path)
	if len(path) > boxrpc.MaxPathBytes {
		return "", fmt.Errorf("path has %d bytes when made absolute; at most %d are allowed", len(path), boxrpc.MaxPathBytes)
	}
	return path, nil
}

// expand replaces a leading "~" by u's home.
func expand(u User, path string) (string, error) {
	rest, tilde := strings.CutPrefix(path, "~")
	switch {
	case !tilde:
		return path, nil
	case rest == "" || rest[0] == '/':
		return u.Home + rest, nil
	}
	return "", fmt.Errorf("path %.80q names another user's home; write it in full", path)
}

// Environ is the environment of a process of u that asked for extra, sorted.
// PATH, HOME, USER and LOGNAME come first, then the sandbox's own variables,
// then extra; what names the sandbox cannot be changed.
func (b *Box) Environ(u User, extra map[string]string) []string {
	in, _ := b.Init()
	env := map[string]string{"PATH": b.path, "HOME": u.Home, "USER": u.Name, "LOGNAME": u.Name}
	maps.Copy(env, in.Env)
	maps.Copy(env, extra)
	maps.Copy(env, names(in))
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// Env is what the box's processes share: the sandbox's variables and its names.
func (b *Box) Env() map[string]string {
	in, _ := b.Init()
	env := make(map[string]string, len(in.Env)+3)
	maps.Copy(env, in.Env)
	maps.Copy(env, names(in))
	return env
}

// names are the variables that say which sandbox a process is in.
func names(in boxrpc.Init) map[string]string {
	n := map[string]string{"E2B_SANDBOX": "true"}
	if in.SandboxID != "" {
		n[boxrpc.SandboxIDEnv] = in.SandboxID
	}
	if in.TemplateID != "" {
		n["E2B_TEMPLATE_ID"] = in.TemplateID
	}
	return n
}
