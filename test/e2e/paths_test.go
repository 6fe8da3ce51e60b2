package e2e

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
)

// Links and paths of a box lead nowhere but into the box, for its programs and
// through the file API, which follows them on nobody's side but the box's.
func TestPathTricks(t *testing.T) {
	s := serve(t)
	const secret = "a file of the host"
	marker := filepath.Join(s.run, "marker")
	if err := os.WriteFile(marker, []byte(secret), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(marker) })
	sb := s.sandbox(t, bulkhead.CreateRequest{})
	setUp := "ln -s " + marker + " file; ln -s / root; ln -s /proc/1/root proc; ln -s ../../../../../../.. up; ln -s /proc/self/fd fds; ln -s " + filepath.Dir(marker) + " dir"
	if out, err := sb.Exec(t.Context(), shell("cd; "+setUp), nil); err != nil || out.End.ExitCode != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	for _, path := range []string{
		marker, "file", "root" + marker, "proc" + marker, "up" + marker, "dir/marker",
		"../../../../../../../../.." + marker, "/home/user/../.." + marker, "/proc/1/root" + marker, "/proc/self/cwd/.." + marker,
		"//" + marker, "/opt/bulkhead/.." + marker, "/opt/bulkhead/../../.." + marker, "/dev/fd/../../.." + marker,
	} {
		body, err := sb.Files().Read(t.Context(), path)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(io.LimitReader(body, 4096))
		_ = body.Close()
		if strings.Contains(string(text), secret) {
			t.Errorf("%s is the host's file", path)
		}
	}
	for _, path := range []string{"file", "dir/marker", "up" + marker, "proc" + marker, "dir/new"} {
		_, _ = sb.Files().Write(t.Context(), path, strings.NewReader("written from a box"))
	}
	for _, f := range []string{marker, filepath.Join(s.run, "new")} {
		if text, err := os.ReadFile(f); err == nil && string(text) != secret {
			t.Errorf("%s of the host is now %q", f, text)
		}
	}
}
