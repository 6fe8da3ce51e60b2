package files_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// now is the clock of the tests.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// box is a filesystem service behind HTTP.
type box struct {
	filesystempbconnect.FilesystemClient
	ident *ident.Box
	home  string
	url   string
	http  *http.Client
}

func newBox(t *testing.T) *box {
	t.Helper()
	home, accounts := t.TempDir(), t.TempDir()
	passwd, group := filepath.Join(accounts, "passwd"), filepath.Join(accounts, "group")
	lines := fmt.Sprintf("user:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534::%s:/bin/sh\n", os.Geteuid(), os.Getegid(), home, home)
	for path, text := range map[string]string{passwd: lines, group: fmt.Sprintf("staff:x:%d:\n", os.Getegid())} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &box{home: home, ident: ident.New(ident.Accounts{Passwd: passwd, Group: group}, "/bin")}
	service, err := files.New(files.Config{Box: b.ident, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(filesystempbconnect.NewFilesystemHandler(service))
	service.Register(mux)
	server := httptest.NewServer(mux)
	b.url, b.http = server.URL, server.Client()
	b.FilesystemClient = filesystempbconnect.NewFilesystemClient(b.http, server.URL, connect.WithProtoJSON())
	t.Cleanup(func() {
		service.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return b
}

// path is the absolute path of a name in the home.
func (b *box) path(name string) string { return filepath.Join(b.home, name) }

// put writes a file in the home, past the service.
func (b *box) put(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return b.path(name)
}

// get reads a file in the home, past the service.
func (b *box) get(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(b.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// answer is what an HTTP call gave.
type answer struct {
	status int
	header http.Header
	body   string
}

// message is the text of an error in E2B's form.
func (a answer) message(t *testing.T) string {
	t.Helper()
	var e struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Code != a.status {
		t.Errorf("body = %q; want an error with code %d", a.body, a.status)
	}
	return e.Message
}

// do makes an HTTP call such as "GET /files"; headers come in pairs.
func (b *box) do(t *testing.T, call string, query url.Values, body io.Reader, headers ...string) answer {
	t.Helper()
	method, route, _ := strings.Cut(call, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+route+"?"+query.Encode(), body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "identity") // net/http would ask for gzip
	}
	resp, err := b.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(content)}
}

// query makes a query of pairs.
func query(pairs ...string) url.Values {
	q := make(url.Values)
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return q
}

// fails checks that a answers status with text in its message.
func (a answer) fails(t *testing.T, status int, text string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status = %d %s; want %d", a.status, a.body, status)
	}
	if m := a.message(t); !strings.Contains(m, text) {
		t.Errorf("message = %q; want %q in it", m, text)
	}
}

// want checks the code of err and that its text holds text.
func want(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != code || !strings.Contains(e.Message(), text) {
		t.Errorf("error = %v; want code %v and %q", err, code, text)
	}
}
