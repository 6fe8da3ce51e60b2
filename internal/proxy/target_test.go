package proxy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

const id = "iabcdefghij0123456789"

func TestLocate(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		host, id, port string
		want           string // "PORT-ID", "api", or a status
	}{
		// the host decides
		{"3000-" + id + ".e2b.test", "", "", "3000-" + id},
		{"3000-" + id + ".e2b.test:38443", "", "", "3000-" + id},
		{"3000-" + id + ".E2B.Test.", "", "", "3000-" + id},
		{"3000-IABCDEFGHIJ0123456789.e2b.test", "", "", "3000-" + id},
		{"3000-" + id + "-6532622b.e2b.test", "", "", "3000-" + id}, // an id of the first SDKs
		{"3000-" + id + ".other.example", "", "", "3000-" + id},
		{"3000-" + id + ".localhost:8080", "", "", "3000-" + id},
		{"3000-" + id + ".e2b.test", "iother", "1", "3000-" + id}, // and the headers do not
		{"0-" + id + ".e2b.test", "", "", "400"},
		{"65536-" + id + ".e2b.test", "", "", "400"},
		{"99999999999999999999-" + id + ".e2b.test", "", "", "400"},
		{"3000-i_d.e2b.test", "", "", "400"},
		{"3000-" + strings.Repeat("a", 64) + ".e2b.test", "", "", "400"},
		// the control plane
		{"api.e2b.test", "", "", "api"},
		{"API.e2b.test.:38443", "", "", "api"},
		{"api.e2b.test", id, "3000", "api"},
		{"e2b.test", "", "", "api"},
		{"localhost:8080", "", "", "api"},
		{"127.0.0.1:8080", "", "", "api"},
		{"[::1]:8080", "", "", "api"},
		{"bulkhead:8080", "", "", "api"},
		{"my-host.e2b.test", "", "", "api"},
		{"-x.e2b.test", "", "", "api"},
		{"3000-.e2b.test", "", "", "api"},
		// the headers decide
		{"localhost:8080", id, "49983", "49983-" + id},
		{"127.0.0.1", id, "49999", "49999-" + id},
		{"[::1]:8080", id, "3000", "3000-" + id},
		{"sandbox.e2b.test", id, "3000", "3000-" + id},
		{"e2b.test", id, "3000", "3000-" + id},
		{"bulkhead:8080", id, "3000", "3000-" + id},
		{"localhost", id + "-6532622b", "3000", "3000-" + id},
		{"localhost", id, "", "400"},
		{"localhost", "", "3000", "400"},
		{"localhost", id, "x", "400"},
		{"localhost", id, "+80", "400"},
		{"localhost", id, "-1", "400"},
		{"localhost", "../../etc", "80", "400"},
		{"localhost", "169.254.169.254", "80", "400"},
		{"localhost", "UPPER", "80", "400"},
		{"sandbox.e2b.test", "", "", "400"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Host = c.host
		r.Header.Set(idHeader, c.id)
		r.Header.Set(portHeader, c.port)
		if got := outcome(b.proxy.locate(r)); got != c.want {
			t.Errorf("host %q, headers %q %q: %s, want %s", c.host, c.id, c.port, got, c.want)
		}
	}
}

func outcome(t target, toBox bool, err error) string {
	var a *answer
	switch {
	case errors.As(err, &a):
		return strconv.Itoa(a.Code)
	case toBox:
		return strconv.Itoa(t.port) + "-" + t.id
	default:
		return "api"
	}
}

func TestSignedURLs(t *testing.T) {
	b := newBench(t)
	// The vector of E2B's own documents.
	const token, signature = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0", "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"
	b.put(bulkhead.Sandbox{ID: id, State: bulkhead.StateRunning, EnvdToken: token})
	b.put(bulkhead.Sandbox{ID: "iother", State: bulkhead.StateRunning, EnvdToken: "other"})
	b.put(bulkhead.Sandbox{ID: "iopen", State: bulkhead.StateRunning})
	b.put(bulkhead.Sandbox{ID: "iending", State: bulkhead.StateEnding, EnvdToken: "ending"})
	signed := func(operation, token string, q url.Values) string {
		q.Set("signature", sign(q, operation, token))
		return q.Encode()
	}
	path := url.Values{"path": {"hello.txt"}, "username": {"user"}, "signature": {signature}}.Encode()
	expiring := signed("read", token, url.Values{"path": {"a"}, "signature_expiration": {"1700000000"}})
	for _, c := range []struct{ method, url, want string }{
		{"GET", "http://localhost/files?" + path, "49983-" + id},
		{"HEAD", "http://10.0.0.1:80/files?" + path, "49983-" + id},
		{"POST", "http://localhost/files?" + path, "401"}, // signed for reading
		{"POST", "http://localhost/files?" + signed("write", "other", url.Values{}), "49983-iother"},
		{"GET", "http://sandbox.e2b.test/files?" + signed("read", "other", url.Values{"path": {"ü &+"}}), "49983-iother"},
		{"GET", "http://localhost/files?" + expiring, "49983-" + id}, // whether it expired is envd's to say
		{"GET", "http://localhost/files?" + strings.Replace(expiring, "1700000000", "1900000000", 1), "401"},
		{"GET", "http://localhost/files?" + signed("read", "", url.Values{"path": {"a"}}), "401"}, // of a sandbox without a token
		{"GET", "http://localhost/files?" + signed("read", "ending", url.Values{"path": {"a"}}), "401"},
		{"GET", "http://localhost/files?signature=v1_", "401"},
		{"GET", "http://localhost/files?signature=other", "api"},
		{"GET", "http://localhost/other?" + path, "api"},
		{"GET", "http://api.e2b.test/files?" + path, "api"},
		{"GET", "http://3000-" + id + ".e2b.test/files?signature=v1_x", "3000-" + id},
	} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, c.url, nil)
		if got := outcome(b.proxy.locate(r)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.url, got, c.want)
		}
	}
	for range maxSignatureLookups {
		b.proxy.signed <- struct{}{}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/files?"+path, nil)
	if got := outcome(b.proxy.locate(r)); got != "503" {
		t.Errorf("while others are looked up: %s", got)
	}
	<-b.proxy.signed
	b.fail = errors.New("broken")
	if got := outcome(b.proxy.locate(r)); got != "500" {
		t.Errorf("when the list fails: %s", got)
	}
}

// Whatever a host says, it names a well-formed sandbox or none.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"3000-" + id + ".e2b.test", "localhost", "[::1]:80", "1-a", "-", "0x10-a.b", "3000-a.b:x:y", "３-a"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, ok, err := parseHost(normalHost(host))
		if ok == (err != nil) && ok {
			t.Errorf("%q: both a target and %v", host, err)
		}
		if ok && (got.port < 1 || got.port > 65535 || got.id == "" || len(got.id) > maxID || !plain(got.id)) {
			t.Errorf("%q gave %+v", host, got)
		}
	})
}

func plain(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// A path that passes is none of the internal routes, however a server in the box
// may read it: through Go's mux, decoded again, cleaned, in another case.
func FuzzInternal(f *testing.F) {
	for _, p := range []string{
		"/init", "//init", "/./init", "/%69nit", "/init/", "/INIT", "/x/../init", "/x%2f..%2finit", "/init%00", "/init;a=b",
		`/\init`, "/%252finit", "/files", "/process.Process/Start", "/files/../../init", "/init%20", "init", "*", "",
	} {
		f.Add(p)
	}
	mux := http.NewServeMux()
	reached := false
	for route := range internalRoutes {
		mux.HandleFunc("/"+route, func(http.ResponseWriter, *http.Request) { reached = true })
		mux.HandleFunc("/"+route+"/", func(http.ResponseWriter, *http.Request) { reached = true })
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.ParseRequestURI(text)
		if err != nil || internal(u) {
			return
		}
		// what goes over the wire is u.RequestURI(); the box parses that
		again, err := url.ParseRequestURI(u.RequestURI())
		if err != nil {
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.URL = again
		reached = false
		mux.ServeHTTP(httptest.NewRecorder(), r)
		if reached {
			t.Errorf("%q reaches an internal route", text)
		}
		p := again.EscapedPath()
		for range 4 {
			decoded, err := url.PathUnescape(p)
			if err != nil {
				break
			}
			p = decoded
		}
		first, _, _ := strings.Cut(strings.TrimLeft(path.Clean("/"+strings.ReplaceAll(p, `\`, "/")), "/"), "/")
		if internalRoutes[strings.ToLower(strings.TrimRight(first, " .\x00"))] {
			t.Errorf("%q could be read as %q", text, first)
		}
	})
}

func TestInternalLetsEnvdsRoutesPass(t *testing.T) {
	for _, p := range []string{
		"/health", "/metrics", "/envs", "/files", "/files/compose", "/process.Process/Start", "/filesystem.Filesystem/WatchDir",
		"/", "/initial", "/files/init",
	} {
		u, err := url.ParseRequestURI(p + "?path=%2Finit&x=..%2f")
		if err != nil {
			t.Fatal(err)
		}
		if internal(u) {
			t.Errorf("%s is refused", p)
		}
	}
}

// Over the wire, to the envd port, by every way to name it.
func TestInternalRoutesAre404(t *testing.T) {
	b := newBench(t)
	var hits []string
	b.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hits = append(hits, r.RequestURI) }))
	host := "Host: 49983-" + id + ".e2b.test\r\n"
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"} {
		for _, uri := range []string{
			"/init", "/limits", "/init?x=1", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade", "/init/", "//init", "/./init", "/x/../init",
			"/%69nit", "/%2finit", "//%69nit", "/INIT", "/init%2f", "/init%00", "/init;x", "/init/x", `/\init`, "/x/..%2finit", "/%252finit",
			"http://49983-" + id + ".e2b.test/init", "http://49983-" + id + ".e2b.test//init", "http://e2b.test/init",
		} {
			head := host
			if strings.HasPrefix(uri, "http://e2b.test") {
				head = "Host: localhost\r\n" + idHeader + ": " + id + "\r\n" + portHeader + ": 49983\r\n"
			}
			if r := b.write(method + " " + uri + " HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n"); r.status != 404 {
				t.Errorf("%s %s: %d %s", method, uri, r.status, r.body)
			}
		}
	}
	for _, h := range []string{
		"Host: 49983-" + strings.ToUpper(id) + ".E2B.TEST.\r\n", "Host: 049983-" + id + ".e2b.test\r\n", "Host: 49983-" + id + "-x.e2b.test:99\r\n",
		"Host: localhost\r\ne2b-sandbox-id: " + id + "\r\nE2B-SANDBOX-PORT: 49983\r\n", "Host: localhost\r\n" + idHeader + ": " + id + "-x\r\n" + portHeader + ": 00049983\r\n",
	} {
		if r := b.write("POST /init HTTP/1.1\r\n" + h + "Content-Length: 0\r\nConnection: close\r\n\r\n"); r.status != 404 {
			t.Errorf("%q: %d %s", h, r.status, r.body)
		}
	}
	res, err := b.client(true).Do(b.request("POST http://49983-"+id+".e2b.test/init", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _ = res.Body.Close(); res.StatusCode != http.StatusNotFound {
		t.Errorf("over HTTP/2: %d", res.StatusCode)
	}
	if len(hits) != 0 {
		t.Errorf("the box saw %q", hits)
	}
	if r := b.get("GET http://49983-" + id + ".e2b.test/health"); r.status != 200 || len(hits) != 1 {
		t.Errorf("/health: %d, the box saw %q", r.status, hits)
	}
}

// A tunnel to envd would hide what goes through it.
func TestNoTunnelToEnvd(t *testing.T) {
	b := newBench(t)
	var upgrade []string
	b.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		upgrade = append(upgrade, r.Header.Get("Upgrade")+r.Header.Get("Connection")+r.Header.Get("Http2-Settings"))
	}))
	head := "Host: 49983-" + id + ".e2b.test\r\n"
	b.write("GET /health HTTP/1.1\r\n" + head + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	b.write("GET /health HTTP/1.1\r\n" + head + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	if len(upgrade) != 2 || strings.Join(upgrade, "") != "" {
		t.Errorf("envd saw %q", upgrade)
	}
	if r := b.write("CONNECT 49983-" + id + ".e2b.test:443 HTTP/1.1\r\n" + head + "\r\n"); r.status != 405 {
		t.Errorf("CONNECT: %d %s", r.status, r.body)
	}
}
