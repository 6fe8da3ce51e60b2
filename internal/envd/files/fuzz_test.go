package files

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// fuzzService is a service whose only user's home is a new directory.
func fuzzService(f *testing.F) (*Service, string) {
	f.Helper()
	home := f.TempDir()
	passwd := filepath.Join(f.TempDir(), "passwd")
	if err := os.WriteFile(passwd, []byte("user:x:0:0::"+home+":/bin/sh\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	box := ident.New(ident.Accounts{Passwd: passwd, Group: passwd}, "/bin")
	return &Service{cfg: Config{Box: box, Now: func() time.Time { return time.Unix(1_700_000_000, 0) }}}, home
}

// FuzzSignature: nothing but the right signature opens a guarded box, and what
// was signed always does.
func FuzzSignature(f *testing.F) {
	s, _ := fuzzService(f)
	const token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"
	s.cfg.Box.Bind(boxrpc.Init{AccessToken: token})
	f.Add("path=hello.txt&username=user&signature=v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E")
	f.Add("path=a%3Ab&signature_expiration=9999999999999999999")
	f.Add("signature=v1_&signature_expiration=-1")
	f.Fuzz(func(t *testing.T, raw string) {
		q, _ := url.ParseQuery(raw)
		err := s.authorize(&http.Request{Header: http.Header{}}, q, "read")
		right := Sign(q.Get("path"), "read", q.Get("username"), token, q.Get("signature_expiration"))
		if err == nil && q.Get("signature") != right {
			t.Errorf("%q opened the box", raw)
		}
		q.Del("signature_expiration")
		q.Set("signature", Sign(q.Get("path"), "read", q.Get("username"), token, ""))
		if err := s.authorize(&http.Request{Header: http.Header{}}, q, "read"); err != nil {
			t.Errorf("what was signed: %v", err)
		}
	})
}

// FuzzHeaders: the headers of a call are understood or refused, and what they
// make of the answer is within bounds.
func FuzzHeaders(f *testing.F) {
	f.Add("gzip;q=0.5, identity;q=0", "X-Metadata-Key", "value")
	f.Add("*;q=0", "X-Metadata-", "\x00")
	f.Add("gzip;q=NaN,,;;=", "x-metadata-"+strings.Repeat("k", 300), strings.Repeat("v", 5000))
	f.Fuzz(func(t *testing.T, accept, name, value string) {
		h := http.Header{"Accept-Encoding": {accept}}
		h.Add(name, value)
		if _, err := wantsGzip(h); err != nil && statusOf(err) != http.StatusNotAcceptable {
			t.Errorf("Accept-Encoding %q: %v", accept, err)
		}
		m, err := parseMetadata(h)
		if err != nil && statusOf(err) != http.StatusBadRequest {
			t.Errorf("metadata: %v", err)
		}
		for key, value := range m {
			if key == "" || len(key)+len(value) > maxMetadata || key != strings.ToLower(key) {
				t.Errorf("metadata %q = %q was taken", key, value)
			}
		}
		if every := boxrpc.Keepalive(http.Header{boxrpc.KeepaliveHeader: {value}}); every < time.Second || every > time.Hour {
			t.Errorf("keepalive %q = %v", value, every)
		}
		if limit := boxrpc.Timeout(http.Header{boxrpc.TimeoutHeader: {value}}); limit < 0 {
			t.Errorf("timeout %q = %v", value, limit)
		}
	})
}

// FuzzUpload: whatever the form, the answer is one of E2B's, and nothing is
// written outside the home that the names do not lead out of.
func FuzzUpload(f *testing.F) {
	s, home := fuzzService(f)
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	if err := w.SetBoundary("b"); err != nil {
		f.Fatal(err)
	}
	part, err := w.CreateFormFile("file", "name")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := io.WriteString(part, "content"); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(body.Bytes(), "multipart/form-data; boundary=b", "")
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a/../b\"\r\n\r\nx\r\n--b--"), "multipart/form-data; boundary=b", "gzip")
	f.Add([]byte("\x1f\x8b"), "application/octet-stream", "gzip")
	f.Fuzz(func(t *testing.T, body []byte, kind, encoding string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/files", bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Content-Encoding", encoding)
		// The names are the fuzzer's, so only one file within the home is open to it.
		r.URL.RawQuery = "path=" + url.QueryEscape(filepath.Join(home, "file"))
		answer := httptest.NewRecorder()
		s.answer(s.upload).ServeHTTP(answer, r)
		if answer.Code != http.StatusOK && answer.Code != http.StatusBadRequest {
			t.Errorf("status = %d %s", answer.Code, answer.Body)
		}
		if left, err := os.ReadDir(home); err != nil || len(left) > 1 {
			t.Errorf("the home holds %v, %v", left, err)
		}
	})
}

// FuzzResolve: a path is refused or becomes absolute, clean and within bounds.
func FuzzResolve(f *testing.F) {
	s, home := fuzzService(f)
	for _, seed := range []string{"", "~", "~/a/../..", "../../..", "a//b/", "~root", "\x00", "\xff", strings.Repeat("a/", 3000)} {
		f.Add(seed, "user")
	}
	f.Add("a", "../user")
	f.Fuzz(func(t *testing.T, path, user string) {
		u, got, err := s.target(user, path)
		if err != nil {
			if status := statusOf(err); status != http.StatusBadRequest && status != http.StatusUnauthorized {
				t.Errorf("status = %d: %v", status, err)
			}
			if !utf8.ValidString(err.Error()) {
				t.Errorf("the message is not UTF-8: %q", err)
			}
			return
		}
		if !filepath.IsAbs(got) || filepath.Clean(got) != got || len(got) > boxrpc.MaxPathBytes || strings.ContainsRune(got, 0) {
			t.Errorf("%q became %q", path, got)
		}
		if u.Home != home {
			t.Errorf("user %q has the home %q", user, u.Home)
		}
	})
}
