package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func TestMain(m *testing.M) {
	if Is(os.Args) {
		os.Exit(Main(os.Stdin, os.Stderr))
	}
	os.Exit(m.Run())
}

// hostTree returns a root with the host's programs bound read-only, and its spec.
func hostTree(t *testing.T, script string) Spec {
	t.Helper()
	testenv.Need(t, "root")
	root := t.TempDir()
	s := Spec{Root: root, Argv: []string{"/bin/sh", "-ec", script}, Env: []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin"}}
	for _, dir := range []string{"dev", "proc", "run", "etc", "usr"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Binds = append(s.Binds, Bind{Source: "/usr", Target: "usr"})
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		target, err := os.Readlink("/" + dir)
		testenv.Have(t, "merged-usr", err == nil, fmt.Sprintf("/usr is not merged: %v", err))
		if err := os.Symlink(target, filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRunIsConfined(t *testing.T) {
	s := hostTree(t, `
		echo pid $$
		echo root $(ls / | tr '\n' ' ')
		grep CapBnd /proc/self/status
		echo devices $(ls /dev | tr '\n' ' ')
		echo hello > /written; cat /dev/null; test -t 0 && echo terminal
		mount -t tmpfs x /etc 2>/dev/null && echo mounted
		mknod /dev/sda b 8 0 2>/dev/null && echo device made
		( echo x > /usr/x ) 2>/dev/null && echo wrote to a read-only bind
		echo $(cat /run/bulkhead/in) > /run/bulkhead/out/o
		umask; hostname; env | grep -v ^_= | sort | tr '\n' ' '`)
	in, out := filepath.Join(t.TempDir(), "in"), t.TempDir()
	if err := os.WriteFile(in, []byte("given"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Binds = append(s.Binds, Bind{Source: in, Target: "run/bulkhead/in"},
		Bind{Source: out, Target: "run/bulkhead/out", Writable: true})
	before := mounts(t)
	var b bytes.Buffer
	if err := Run(t.Context(), s, &b); err != nil {
		t.Fatalf("Run: %v\n%s", err, b.String())
	}
	want := `pid 1
root bin dev etc lib lib64 proc run sbin usr
CapBnd:	00000000a00405fb
devices fd full null ptmx pts random shm stderr stdin stdout tty urandom zero
0022
localhost
PATH=/usr/bin:/bin:/usr/sbin:/sbin PWD=/ `
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("output (-want +got):\n%s", d)
	}
	if d := cmp.Diff(before, mounts(t)); d != "" {
		t.Errorf("mounts of the host changed:\n%s", d)
	}
	for path, want := range map[string]string{filepath.Join(s.Root, "written"): "hello\n", filepath.Join(out, "o"): "given\n"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v, want %q", path, got, err, want)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.Root, "dev")); err != nil || len(left) != 0 {
		t.Errorf("dev has %v after the run, %v", left, err)
	}
}

func TestRunRefusesLinksAsMountPoints(t *testing.T) {
	for _, name := range []string{"proc", "dev", "run", "etc/resolv.conf"} {
		t.Run(name, func(t *testing.T) {
			s := hostTree(t, "echo ran")
			link := filepath.Join(s.Root, name)
			if err := os.RemoveAll(link); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/tmp", link); err != nil {
				t.Fatal(err)
			}
			s.Binds = append(s.Binds, Bind{Source: "/etc/passwd", Target: "etc/resolv.conf"})
			var b bytes.Buffer
			err := Run(t.Context(), s, &b)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != failed || strings.Contains(b.String(), "ran") {
				t.Errorf("Run = %v, output %q", err, b.String())
			}
		})
	}
}

func TestRunReportsFailure(t *testing.T) {
	var b bytes.Buffer
	err := Run(t.Context(), hostTree(t, "echo oops >&2; exit 3"), &b)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || b.String() != "oops\n" {
		t.Errorf("Run = %v, output %q", err, b.String())
	}
}

func TestRunEndsEverythingWithItsContext(t *testing.T) {
	s := hostTree(t, "sleep 1000 & (setsid sleep 1001 &) ; echo ready; wait")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	out := writerFunc(func(p []byte) (int, error) { cancel(stop); return len(p), nil })
	begin := time.Now()
	if err := Run(ctx, s, out); !errors.Is(err, stop) {
		t.Errorf("Run = %v, want %v", err, stop)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("took %v to end", d)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRunOnTheHostsRoot(t *testing.T) {
	testenv.Need(t, "root")
	dir := t.TempDir()
	var b bytes.Buffer
	s := Spec{
		Argv: []string{"/bin/sh", "-ec", `mount -t tmpfs x "$1"; echo $$; ls /proc | grep -c '^[0-9]'; : > "$1/f"`, "sh", dir},
		Env:  []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if err := Run(t.Context(), s, &b); err != nil {
		t.Fatalf("Run: %v\n%s", err, b.String())
	}
	if got := strings.Fields(b.String()); got[0] != "1" || len(got[1]) > 1 {
		t.Errorf("pid and processes = %q", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the mount was seen outside: %v, %v", left, err)
	}
}

func TestRunNeedsAnAbsolutePath(t *testing.T) {
	testenv.Need(t, "root")
	var b bytes.Buffer
	if err := Run(t.Context(), Spec{Argv: []string{"sh"}}, &b); err == nil || !strings.Contains(b.String(), "must be absolute") {
		t.Errorf("Run = %v, output %q", err, b.String())
	}
}
