package cli_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
)

// liar is the filesystem service of a box that its tenant took over.
type liar struct {
	filesystempbconnect.UnimplementedFilesystemHandler
	listed []*filesystempb.EntryInfo
}

func (*liar) Stat(context.Context, *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	return connect.NewResponse(&filesystempb.StatResponse{Entry: &filesystempb.EntryInfo{
		Name: "../../evil", Path: "/home/user/dir", Type: filesystempb.FileType_FILE_TYPE_DIRECTORY,
	}}), nil
}

func (l *liar) ListDir(context.Context, *connect.Request[filesystempb.ListDirRequest]) (*connect.Response[filesystempb.ListDirResponse], error) {
	return connect.NewResponse(&filesystempb.ListDirResponse{Entries: l.listed}), nil
}

// run runs a command with nothing around it and returns what it printed.
func run(t *testing.T, env cli.Env, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	env.Stdout, env.Stderr = &out, &errOut
	code = cli.Main(t.Context(), &env, &grammar{}, args)
	return code, out.String(), errOut.String()
}

// TestHostileNames: whatever a box says is in a directory, copying it writes
// nowhere but where the user said.
func TestHostileNames(t *testing.T) {
	for _, path := range []string{
		"/home/user/dir/../../../evil", "/evil", "/home/user/dir/a/../../evil", "/home/user/dirt/evil",
		"/home/user/dir/", "/home/user/dir//evil", "../evil", "", "/home/user/dir/..",
	} {
		for _, kind := range []filesystempb.FileType{filesystempb.FileType_FILE_TYPE_FILE, filesystempb.FileType_FILE_TYPE_DIRECTORY} {
			mux := http.NewServeMux()
			mux.Handle(filesystempbconnect.NewFilesystemHandler(&liar{listed: []*filesystempb.EntryInfo{{Path: path, Type: kind}}}))
			mux.HandleFunc("GET /files", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "evil") })
			srv := &fakeserver.Server{Key: testKey, Templates: []string{"base"}, Box: func(bulkhead.Sandbox, int) http.Handler { return mux }}
			srv.Dir = t.TempDir()
			hs := httptest.NewServer(srv)
			env := cli.Env{URL: hs.URL, Key: testKey}
			top := t.TempDir()
			to := filepath.Join(top, "a", "b", "copy")
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			_, _, _ = run(t, env, "run", "--keep", "--template", "base", "-e", "1") // only makes a sandbox: nothing runs code there
			sb := srv.Sandboxes()[0]
			code, _, stderr := run(t, env, "sandbox", "cp", sb.ID+":dir", to)
			if code != 1 || !strings.Contains(stderr, "under /home/user/dir, which it is not") {
				t.Errorf("%q as %v: exit code %d, %q", path, kind, code, stderr)
			}
			err := filepath.WalkDir(top, func(p string, _ os.DirEntry, err error) error {
				if strings.Contains(filepath.Base(p), "evil") {
					t.Errorf("%q as %v wrote %s", path, kind, p)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			hs.Close()
		}
	}
}

// TestHostileText: what a tenant chose does not reach a terminal as commands.
func TestHostileText(t *testing.T) {
	srv := &fakeserver.Server{Key: testKey, Templates: []string{"base\x1b[2J\x07\nINJECTED"}}
	srv.Dir = t.TempDir()
	hs := httptest.NewServer(srv)
	defer hs.Close()
	env := cli.Env{URL: hs.URL, Key: testKey}
	_, _, _ = run(t, env, "run", "--keep", "--template", srv.Templates[0], "-e", "1")
	code, stdout, _ := run(t, env, "sandbox", "ls")
	if code != 0 || strings.ContainsAny(stdout, "\x1b\x07") || strings.Count(stdout, "\n") != 2 {
		t.Errorf("exit code %d, the list is %q", code, stdout)
	}
}

// TestOwnAuthority: a server that signed its certificate itself is trusted by the
// file that its credentials name, and for its own address alone.
func TestOwnAuthority(t *testing.T) {
	hs := httptest.NewUnstartedServer(&fakeserver.Server{Key: testKey, Dir: t.TempDir()})
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	hs.StartTLS()
	defer hs.Close()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hs.Certificate().Raw})
	if err := os.WriteFile(ca, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	creds := filepath.Join(dir, "client.json")
	write := func(url, key, caFile string) {
		t.Helper()
		text := `{"url":"` + url + `","apiKey":"` + key + `","caFile":"` + caFile + `"}`
		if err := os.WriteFile(creds, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name        string
		url, caFile string
		args        []string
		code        int
		want        string
	}{
		{"trusted", hs.URL, ca, nil, 0, ""},
		{"named again", hs.URL, ca, []string{"--url", hs.URL + "/"}, 0, ""},
		{"not trusted", hs.URL, "", nil, 3, "certificate"},
		{"trusted elsewhere", "https://other.invalid", ca, []string{"--url", hs.URL, "--key", testKey}, 3, "certificate"},
		{"no such file", hs.URL, ca + ".none", nil, 1, "read CA file"},
		{"no certificate", hs.URL, creds, nil, 1, "holds no certificate"},
	} {
		write(tc.url, testKey, tc.caFile)
		code, _, stderr := run(t, cli.Env{Credentials: creds}, append([]string{"sandbox", "ls"}, tc.args...)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, %q; want %d, …%s…", tc.name, code, stderr, tc.code, tc.want)
		}
	}
}
