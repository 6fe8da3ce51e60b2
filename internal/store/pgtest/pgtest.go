// Package pgtest starts a real PostgreSQL for tests, from the programs that the
// Debian package "postgresql" installs. The server is the test's own: it lives in
// a temporary folder, listens on a Unix socket there and nowhere else, and ends
// with the test.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// Server is a PostgreSQL that was started for a test.
type Server struct {
	bin, dir string
	settings string
	cred     *syscall.Credential // nil for our own
	made     atomic.Int64
}

// Start starts a server that ends with t. Where there are no programs for it, t is
// skipped, or fails when "postgres" is required. It does not wait for the disk,
// since a test can crash the database but not the machine; settings such as
// "fsync=on" change that.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := &Server{bin: bin()}
	for _, set := range settings {
		s.settings += " -c " + set
	}
	testenv.Have(t, "postgres", s.bin != "", "no initdb on PATH nor in /usr/lib/postgresql/*/bin")
	var err error
	// Not t.TempDir: a socket's path has at most 107 bytes.
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil { //nolint:usetesting // see above
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	if os.Geteuid() == 0 { // it refuses to run as root
		s.cred = unprivileged(t)
		if err := os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	s.Up(t)
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(s.data(), "postmaster.pid")); err == nil {
			s.Down(t, "immediate")
		}
	})
	return s
}

// Up starts the server after [Server.Down].
func (s *Server) Up(t testing.TB) {
	t.Helper()
	s.run(t, "pg_ctl", "-D", s.data(), "-w", "-s", "-l", filepath.Join(s.dir, "log"),
		"-o", "-k "+s.dir+" -c listen_addresses= -c fsync=off -c max_connections=100 -c shared_buffers=16MB"+s.settings, "start")
}

// Down stops the server: mode is "fast", or "immediate", which is a crash.
func (s *Server) Down(t testing.TB, mode string) {
	t.Helper()
	s.run(t, "pg_ctl", "-D", s.data(), "-w", "-s", "-m", mode, "stop")
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	ctx := context.Background() //nolint:usetesting // also for databases that are made in a cleanup
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	name := "test" + strconv.FormatInt(s.made.Add(1), 10)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return s.url(name)
}

func (s *Server) url(database string) string {
	return "postgres:///" + database + "?user=postgres&host=" + url.QueryEscape(s.dir)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// run runs one of PostgreSQL's programs as its user.
func (s *Server) run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	// Files, not pipes: the server keeps what it is started with.
	out, err := os.CreateTemp(s.dir, "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		logged, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		t.Fatalf("%s: %v\n%s\n%s", name, err, bytes.TrimSpace(said), bytes.TrimSpace(logged))
	}
}

// bin is the folder of PostgreSQL's programs, "" if there is none.
func bin() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	newest := found[0]
	for _, f := range found[1:] {
		if version(f) > version(newest) {
			newest = f
		}
	}
	return filepath.Dir(newest)
}

func version(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

// unprivileged is the user that the server runs as when we are root.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal(errors.New("there is neither a user postgres nor a user nobody"))
	return nil
}
