package files_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/files"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// written is the answer to an upload.
type written struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata"`
}

func (a answer) written(t *testing.T) []written {
	t.Helper()
	var w []written
	if err := json.Unmarshal([]byte(a.body), &w); err != nil || a.status != http.StatusOK {
		t.Fatalf("upload answered %d %s", a.status, a.body)
	}
	return w
}

// form makes a multipart body of pairs of file name and content.
func form(t *testing.T, pairs ...string) (io.Reader, string) {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i < len(pairs); i += 2 {
		part, err := w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {fmt.Sprintf(`form-data; name="file"; filename="%s"`, pairs[i])},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(part, pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &body, w.FormDataContentType()
}

func zip(t *testing.T, s string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestDownload(t *testing.T) {
	b := newBox(t)
	b.put(t, "a.txt", "hello")
	b.put(t, "empty", "")
	plain := b.do(t, "GET /files", query("path", "a.txt", "username", "user"), nil)
	if plain.status != 200 || plain.body != "hello" || plain.header.Get("Content-Length") != "5" || plain.header.Get("Content-Encoding") != "" {
		t.Errorf("answer = %+v", plain)
	}
	etag := plain.header.Get("Etag")
	for _, test := range []struct {
		name    string
		path    string
		headers []string
		status  int
		body    string
		length  string
	}{
		{"absolute", b.path("a.txt"), nil, 200, "hello", "5"},
		{"home", "~/a.txt", nil, 200, "hello", "5"},
		{"empty", "empty", nil, 200, "", "0"},
		{"empty with gzip", "empty", []string{"Accept-Encoding", "gzip"}, 200, "", "0"},
		{"range", "a.txt", []string{"Range", "bytes=1-3"}, 206, "ell", "3"},
		{"range with gzip", "a.txt", []string{"Range", "bytes=1-3", "Accept-Encoding", "gzip"}, 206, "ell", "3"},
		{"bad range", "a.txt", []string{"Range", "bytes=9-"}, 416, "", ""},
		{"same", "a.txt", []string{"If-None-Match", etag}, 304, "", ""},
		{"other", "a.txt", []string{"If-None-Match", `"x"`}, 200, "hello", "5"},
		{"not as expected", "a.txt", []string{"If-Match", `"x"`}, 412, "", "0"},
		{"plain is better", "a.txt", []string{"Accept-Encoding", "gzip;q=0.5, identity"}, 200, "hello", "5"},
		{"others only", "a.txt", []string{"Accept-Encoding", "br, zstd"}, 200, "hello", "5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := b.do(t, "GET /files", query("path", test.path), nil, test.headers...)
			if got.status != test.status || test.status < 300 && got.body != test.body || test.length != "" && got.header.Get("Content-Length") != test.length {
				t.Errorf("answer = %d %q length %s; want %d %q length %s", got.status, got.body, got.header.Get("Content-Length"), test.status, test.body, test.length)
			}
		})
	}
	for _, accept := range []string{"gzip", "gzip, deflate, br", "identity;q=0, *", "GZIP;q=1.0"} {
		got := b.do(t, "GET /files", query("path", "a.txt"), nil, "Accept-Encoding", accept)
		z, err := gzip.NewReader(strings.NewReader(got.body))
		if err != nil || got.header.Get("Content-Encoding") != "gzip" || got.header.Get("Etag") != "" {
			t.Errorf("%s: %v, %v", accept, got.header, err)
			continue
		}
		if content, err := io.ReadAll(z); err != nil || string(content) != "hello" {
			t.Errorf("%s: %q, %v", accept, content, err)
		}
	}
	if got := b.do(t, "HEAD /files", query("path", "a.txt"), nil); got.status != 200 || got.header.Get("Content-Length") != "5" {
		t.Errorf("HEAD = %+v", got)
	}
	// A file of the kernel says it is empty and is not.
	if got := b.do(t, "GET /files", query("path", "/proc/self/status"), nil); !strings.Contains(got.body, "Pid:") {
		t.Errorf("/proc/self/status = %q", got.body)
	}
}

func TestDownloadErrors(t *testing.T) {
	b := newBox(t)
	b.put(t, "file", "x")
	for _, err := range []error{syscall.Mkfifo(b.path("pipe"), 0o600), os.Symlink("loop", b.path("loop"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		pairs   []string
		headers []string
		status  int
		text    string
	}{
		{"missing", []string{"path", "none"}, nil, 404, "path '" + b.path("none") + "' does not exist"},
		{"below a file", []string{"path", "file/x"}, nil, 404, "does not exist"},
		{"directory", []string{"path", "."}, nil, 400, "is a directory"},
		{"no path", nil, nil, 400, "is a directory"},
		{"pipe", []string{"path", "pipe"}, nil, 400, "not a regular file"},
		{"device", []string{"path", "/dev/zero"}, nil, 400, "not a regular file"},
		{"loop", []string{"path", "loop"}, nil, 400, "too many levels"},
		{"NUL", []string{"path", "a\x00b"}, nil, 400, "NUL"},
		{"long", []string{"path", strings.Repeat("a", 5000)}, nil, 400, "at most 4095"},
		{"long name", []string{"path", strings.Repeat("a", 300)}, nil, 400, "too long"},
		{"unknown user", []string{"path", "file", "username", "ghost"}, nil, 401, "invalid username: 'ghost'"},
		{"odd user", []string{"path", "file", "username", "a:b\n"}, nil, 401, "invalid username"},
		{"no encoding", []string{"path", "file"}, []string{"Accept-Encoding", "identity;q=0"}, 406, "no acceptable encoding"},
		{"nothing at all", []string{"path", "file"}, []string{"Accept-Encoding", "*;q=0"}, 406, "no acceptable encoding"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.do(t, "GET /files", query(test.pairs...), nil, test.headers...).fails(t, test.status, test.text)
		})
	}
}

func TestUpload(t *testing.T) {
	b := newBox(t)
	b.put(t, "old", "a longer content than the new one")
	if err := os.Chmod(b.path("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	octets := func(body io.Reader, pairs []string, headers ...string) []written {
		t.Helper()
		return b.do(t, "POST /files", query(pairs...), body, append(headers, "Content-Type", "application/octet-stream")...).written(t)
	}
	if diff := cmp.Diff([]written{{Path: b.path("new/dir/raw"), Name: "raw", Type: "file"}},
		octets(strings.NewReader("raw"), []string{"path", "new/dir/raw"})); diff != "" {
		t.Error(diff)
	}
	octets(io.MultiReader(strings.NewReader("stre"), strings.NewReader("amed")), []string{"path", "streamed"}) // chunked
	octets(zip(t, "zipped"), []string{"path", "zipped"}, "Content-Encoding", "gzip")
	octets(strings.NewReader("new"), []string{"path", "~/old", "username", "user"})
	octets(nil, []string{"path", "empty"})
	body, kind := form(t, "named", "1", "/"+b.home+"/sub/dir/absolute", "2", "sub/relativ\u00e9", "3")
	got := b.do(t, "POST /files", nil, body, "Content-Type", kind).written(t)
	if len(got) != 3 || got[1].Path != b.path("sub/dir/absolute") || got[2].Name != "relativ\u00e9" {
		t.Errorf("form: %v", got)
	}
	body, kind = form(t, "ignored", "query")
	b.do(t, "POST /files", query("path", "query"), body, "Content-Type", kind).written(t)
	for name, content := range map[string]string{
		"new/dir/raw": "raw", "streamed": "streamed", "zipped": "zipped", "old": "new", "empty": "",
		"named": "1", "sub/dir/absolute": "2", "sub/relativ\u00e9": "3", "query": "query",
	} {
		if got := b.get(t, name); got != content {
			t.Errorf("%s holds %q; want %q", name, got, content)
		}
	}
	if e := b.stat(t, "old"); e.GetMode() != 0o600 {
		t.Errorf("mode of an overwritten file = %o; want it kept", e.GetMode())
	}
	if e := b.stat(t, "streamed"); e.GetMode() != 0o644 {
		t.Errorf("mode of a new file = %o", e.GetMode())
	}
}

func TestUploadOwner(t *testing.T) {
	testenv.Need(t, "root")
	b := newBox(t)
	b.put(t, "roots", "x")
	for _, path := range []string{"a/b/file", "roots"} {
		b.do(t, "POST /files", query("path", path, "username", "nobody"), strings.NewReader("x"), "Content-Type", "application/octet-stream").written(t)
	}
	for _, path := range []string{"a", "a/b", "a/b/file", "roots"} {
		if e := b.stat(t, path); e.GetOwner() != "nobody" {
			t.Errorf("owner of %s = %s", path, e.GetOwner())
		}
	}
}

func TestUploadMetadata(t *testing.T) {
	b := newBox(t)
	upload := func(headers ...string) answer {
		return b.do(t, "POST /files", query("path", "file"), strings.NewReader("x"), append(headers, "Content-Type", "application/octet-stream")...)
	}
	first := upload("X-Metadata-Author", "me", "x-metadata-LANG", "go")
	testenv.Have(t, "xattr", first.status != http.StatusNotImplemented, "the file system of the test keeps no extended attributes")
	want := map[string]string{"author": "me", "lang": "go"}
	if diff := cmp.Diff([]written{{Path: b.path("file"), Name: "file", Type: "file", Metadata: want}}, first.written(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, b.stat(t, "file").GetMetadata()); diff != "" {
		t.Error(diff)
	}
	// An upload replaces all of it.
	upload("X-Metadata-Author", "you").written(t)
	if diff := cmp.Diff(map[string]string{"author": "you"}, b.stat(t, "file").GetMetadata()); diff != "" {
		t.Error(diff)
	}
	upload().written(t)
	if got := b.stat(t, "file").GetMetadata(); got != nil {
		t.Errorf("metadata = %v after an upload without", got)
	}
	upload("X-Metadata-A", "1", "X-Metadata-A", "2").fails(t, 400, "given 2 times")
	upload("X-Metadata-A", "\u00e9").fails(t, 400, "printable ASCII")
	upload("X-Metadata-A", strings.Repeat("v", 4096)).fails(t, 400, "at most 4096")
	upload("X-Metadata-"+strings.Repeat("k", 300), "v").fails(t, 400, "1 to 246 characters")
}

func TestUploadErrors(t *testing.T) {
	b := newBox(t)
	b.put(t, "file", "x")
	if err := syscall.Mkfifo(b.path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	const raw = "application/octet-stream"
	twice, twiceKind := form(t, "a", "1", "./a", "2")
	nameless, namelessKind := form(t, "", "1")
	none, noneKind := form(t)
	cut, cutKind := form(t, "cut", strings.Repeat("x", 100))
	cutBytes, err := io.ReadAll(cut)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		pairs   []string
		body    io.Reader
		kind    string
		headers []string
		status  int
		text    string
	}{
		{"no path", nil, strings.NewReader("x"), raw, nil, 400, "path is required"},
		{"directory", []string{"path", "."}, strings.NewReader("x"), raw, nil, 400, "is a directory"},
		{"pipe", []string{"path", "pipe"}, strings.NewReader("x"), raw, nil, 400, "pipe"},
		{"device", []string{"path", "/dev/null"}, strings.NewReader("x"), raw, nil, 400, "not a regular file"},
		{"below a file", []string{"path", "file/x"}, strings.NewReader("x"), raw, nil, 400, "a parent of"},
		{"NUL", []string{"path", "\x00"}, strings.NewReader("x"), raw, nil, 400, "NUL"},
		{"unknown user", []string{"path", "f", "username", "ghost"}, strings.NewReader("x"), raw, nil, 401, "invalid username"},
		{"no type", []string{"path", "f"}, strings.NewReader("x"), "", nil, 400, "Content-Type"},
		{"other type", []string{"path", "f"}, strings.NewReader("x"), "text/plain", nil, 400, `"text/plain"`},
		{"no boundary", []string{"path", "f"}, strings.NewReader("x"), "multipart/form-data", nil, 400, "boundary"},
		{"encoding", []string{"path", "f"}, strings.NewReader("x"), raw, []string{"Content-Encoding", "br"}, 400, "unsupported Content-Encoding: br"},
		{"not gzip", []string{"path", "f"}, strings.NewReader("plain text"), raw, []string{"Content-Encoding", "gzip"}, 400, "not gzip"},
		{"gzip cut short", []string{"path", "f"}, bytes.NewReader(zip(t, "content").Bytes()[:20]), raw, []string{"Content-Encoding", "gzip"}, 400, "body"},
		{"one path twice", nil, twice, twiceKind, nil, 400, "multiple files to the same path '" + b.path("a") + "'"},
		{"file without a name", nil, nameless, namelessKind, nil, 400, "has no name"},
		{"form without files", nil, none, noneKind, nil, 400, "no part named 'file'"},
		{"form cut short", nil, bytes.NewReader(cutBytes[:len(cutBytes)-60]), cutKind, nil, 400, "error reading form"},
		{"no form", nil, strings.NewReader("x"), cutKind, nil, 400, "no part named 'file'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers := test.headers
			if test.kind != "" {
				headers = append(headers, "Content-Type", test.kind)
			}
			b.do(t, "POST /files", query(test.pairs...), test.body, headers...).fails(t, test.status, test.text)
		})
	}
	for _, name := range []string{"f", "cut"} { // what failed left nothing
		if _, err := os.Stat(b.path(name)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

func TestDiskFull(t *testing.T) {
	testenv.Need(t, "root")
	b := newBox(t)
	full := b.path("full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("bulkhead-test", full, "tmpfs", 0, "size=64k")
	testenv.Have(t, "mount", err == nil, fmt.Sprintf("cannot mount a tmpfs: %v", err))
	t.Cleanup(func() {
		if err := unix.Unmount(full, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	a := b.do(t, "POST /files", query("path", "full/big"), bytes.NewReader(make([]byte, 200_000)), "Content-Type", "application/octet-stream")
	a.fails(t, 507, "attempted to write 200000 bytes: ")
	a.fails(t, 507, "not enough disk space available")
	if _, err := os.Stat(full + "/big"); !os.IsNotExist(err) {
		t.Errorf("half a file is there: %v", err)
	}
}

func TestCompose(t *testing.T) {
	b := newBox(t)
	b.put(t, "1", "one ")
	b.put(t, "2", "two")
	b.put(t, "to/old", "old")
	compose := func(body string) answer {
		return b.do(t, "POST /files/compose", nil, strings.NewReader(body))
	}
	got := compose(`{"source_paths":["1","` + b.path("2") + `","1"],"destination":"to/old","username":"user"}`)
	if want := fmt.Sprintf(`{"path":%q,"name":"old","type":"file"}`, b.path("to/old")); got.status != 200 || strings.TrimSpace(got.body) != want {
		t.Errorf("answer = %d %s; want %s", got.status, got.body, want)
	}
	if got := b.get(t, "to/old"); got != "one twoone " {
		t.Errorf("content = %q", got)
	}
	if left := b.list(t, "", 2); !cmp.Equal(left, []string{"to", "to/old"}) {
		t.Errorf("left: %v", left)
	}
	for body, want := range map[string]struct {
		status int
		text   string
	}{
		`{`:                           {400, "invalid request body"},
		`{"destination":"x"}`:         {400, "source_paths must not be empty"},
		`{"source_paths":["to/old"]}`: {400, "destination is required"},
		`{"source_paths":["x"],"destination":"./x"}`:                                     {400, "cannot be the same"},
		`{"source_paths":["none"],"destination":"x"}`:                                    {404, "source file not found: none"},
		`{"source_paths":["to"],"destination":"x"}`:                                      {400, "not a regular file"},
		`{"source_paths":["to/old"],"destination":"to/old/x"}`:                           {400, "a parent of"},
		`{"source_paths":["to/old"],"destination":"to"}`:                                 {400, "is a directory"},
		`{"source_paths":["to/old"],"destination":"x","username":"ghost"}`:               {401, "invalid username"},
		`{"source_paths":["to/old"],"destination":"` + "\\u0000" + `"}`:                  {400, "NUL"},
		`{"source_paths":["` + strings.Repeat("x", 1<<20) + `"]}`:                        {413, "more than 1048576 bytes"},
		`{"source_paths":[` + strings.Repeat(`"a",`, 10_000) + `"a"],"destination":"x"}`: {400, "at most 10000"},
	} {
		compose(body).fails(t, want.status, want.text)
	}
}

// TestSignVector is the test vector of E2B's clients.
func TestSignVector(t *testing.T) {
	got := files.Sign("hello.txt", "read", "user", "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0", "")
	if want := "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"; got != want {
		t.Errorf("Sign = %q; want %q", got, want)
	}
}

func TestAuthorization(t *testing.T) {
	b := newBox(t)
	b.put(t, "f", "content")
	const token = "secret"
	b.ident.Bind(boxrpc.Init{AccessToken: token})
	soon, past := strconv.FormatInt(now.Unix()+10, 10), strconv.FormatInt(now.Unix()-1, 10)
	sign := func(expiration string, pairs ...string) []string {
		q := query(pairs...)
		pairs = append(pairs, "signature", files.Sign(q.Get("path"), "read", q.Get("username"), token, expiration))
		if expiration != "" {
			pairs = append(pairs, "signature_expiration", expiration)
		}
		return pairs
	}
	for _, test := range []struct {
		name   string
		pairs  []string
		token  string
		status int
		text   string
	}{
		{"token", []string{"path", "f"}, token, 200, ""},
		{"wrong token", sign("", "path", "f"), "other", 401, "access token present in header but does not match"},
		{"nothing", []string{"path", "f"}, "", 401, "missing signature query parameter"},
		{"signature", sign("", "path", "f"), "", 200, ""},
		{"signature of a user", sign("", "path", "f", "username", "user"), "", 200, ""},
		{"signature with an end", sign(soon, "path", "f"), "", 200, ""},
		{"past its end", sign(past, "path", "f"), "", 401, "signature is already expired"},
		{"another end", append(sign(past, "path", "f")[:4], "signature_expiration", soon), "", 401, "invalid signature"},
		{"another path", append(sign("", "path", "g"), "path", "f"), "", 401, "invalid signature"},
		{"another user", append(sign("", "path", "f"), "username", "user"), "", 401, "invalid signature"},
		{"odd end", sign("tomorrow", "path", "f"), "", 400, "must be a Unix time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var headers []string
			if test.token != "" {
				headers = []string{boxrpc.TokenHeader, test.token}
			}
			got := b.do(t, "GET /files", query(test.pairs...), nil, headers...)
			if test.status == 200 {
				if got.status != 200 || got.body != "content" {
					t.Errorf("answer = %d %q", got.status, got.body)
				}
				return
			}
			got.fails(t, test.status, test.text)
		})
	}
	// A signature to read does not write, and one without a path writes anywhere
	// in a form.
	b.do(t, "POST /files", query(sign("", "path", "f")...), strings.NewReader("x"), "Content-Type", "application/octet-stream").
		fails(t, 401, "invalid signature")
	body, kind := form(t, "g", "new")
	b.do(t, "POST /files", query("signature", files.Sign("", "write", "", token, "")), body, "Content-Type", kind).written(t)
	if got := b.get(t, "g"); got != "new" {
		t.Errorf("content = %q", got)
	}
}
