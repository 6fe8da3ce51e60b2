package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestSmuggling sends requests whose end two readers may see in different places.
// Nearly all are refused and never reach the box. One that RFC 9112 gives a
// meaning is passed on in the one form that has no other: its body is what the
// proxy saw, and what follows it is judged as a request of its own.
func TestSmuggling(t *testing.T) {
	b := newBench(t)
	var mu sync.Mutex
	var got []seen
	b.box(id, 3000, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, seen{URI: r.RequestURI, Body: string(body), Header: r.Header})
	}))
	// The hidden request is for a route of the box that the proxy serves to nobody.
	host := "Host: 3000-" + id + ".e2b.test\r\n"
	hidden := "POST /init HTTP/1.1\r\nHost: 49983-" + id + ".e2b.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	for name, tt := range map[string]struct {
		head   string
		passes bool
	}{
		"both lengths":        {"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
		"lengths that differ": {"Content-Length: 0\r\nContent-Length: 60\r\n\r\n", false},
		"a list of lengths":   {"Content-Length: 0, 60\r\n\r\n", false},
		"a signed length":     {"Content-Length: +0\r\n\r\n", false},
		"an unknown coding":   {"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n", false},
		"a coding twice":      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", false},
		"a space in a name":   {"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n", false},
		"a NUL":               {"X: a\x00\r\nContent-Length: 0\r\n\r\n", false},
	} {
		mu.Lock()
		got = nil
		mu.Unlock()
		r := b.write("POST /shown HTTP/1.1\r\n" + host + tt.head + hidden)
		mu.Lock()
		if !tt.passes && (r.status < 400 || len(got) != 0) {
			t.Errorf("%s: answered %d, and the box saw %+v", name, r.status, got)
		}
		if tt.passes && (len(got) != 1 || got[0].URI != "/shown" || got[0].Body != "" || got[0].Header.Get("Transfer-Encoding") != "") {
			t.Errorf("%s: answered %d, and the box saw %+v", name, r.status, got)
		}
		mu.Unlock()
	}
}

// TestNoHeaderIsMadeOfAnother has values that would end a line, if they were
// written as they are.
func TestNoHeaderIsMadeOfAnother(t *testing.T) {
	b := newBench(t)
	b.box(id, 3000, mirror)
	for _, path := range []string{"/a%0d%0aX-Smuggled:%201", "/?q=%0d%0a%0d%0aGET%20/hidden%20HTTP/1.1"} {
		r := b.write("GET " + path + " HTTP/1.1\r\nHost: 3000-" + id + ".e2b.test\r\nConnection: close\r\n\r\n")
		if s := r.seen(t); s.URI != path || s.Header.Get("X-Smuggled") != "" {
			t.Errorf("%s: the box saw %+v", path, s)
		}
	}
	for _, head := range []string{"GET /a b HTTP/1.1\r\n", "GET / HTTP/1.1\r\nX-Y\r\n", "GET /\x00 HTTP/1.1\r\n", strings.Repeat("G", 10) + "\r\n"} {
		r := b.write(head + "Host: 3000-" + id + ".e2b.test\r\nConnection: close\r\n\r\n")
		if r.status != http.StatusBadRequest || bytes.Contains([]byte(r.body), []byte("uri")) {
			t.Errorf("%q: %d %s", head, r.status, r.body)
		}
	}
}
