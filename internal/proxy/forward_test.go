package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// seen is what a box saw of a request.
type seen struct {
	Method string      `json:"method"`
	URI    string      `json:"uri"`
	Host   string      `json:"host"`
	Body   string      `json:"body"`
	Header http.Header `json:"header"`
}

// mirror answers with what it saw.
var mirror = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, string(body), r.Header})
})

func (r reply) seen(t *testing.T) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(r.body), &s); err != nil {
		t.Fatalf("%d %q: %v", r.status, r.body, err)
	}
	return s
}

func TestRequestReachesTheBoxAsItIs(t *testing.T) {
	b := newBench(t)
	b.box(id, 3000, mirror)
	for _, uri := range []string{
		"/", "/a%2Fb/../c", "//double", "/init", "/x?a=1;b=2&c=%zz&d", "/%E4%BD%A0?q=ü", "/a;b=c/", "/*",
	} {
		r := b.write("PURGE " + uri + " HTTP/1.1\r\nHost: 3000-" + id + ".e2b.test\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc")
		if got := r.seen(t); got.Method != "PURGE" || got.URI != strings.ReplaceAll(uri, "ü", "ü") || got.Body != "abc" {
			t.Errorf("%s: the box saw %+v", uri, got)
		}
	}
	req := b.request("POST http://3000-"+id+".e2b.test/up", io.MultiReader(strings.NewReader("chunk"), strings.NewReader("ed")))
	req.Header.Add("Cookie", "a=1")
	req.Header.Add("X-Many", "1")
	req.Header.Add("X-Many", "2")
	req.Header.Set("X-Api-Key", "the application's own")
	got := b.send(req).seen(t)
	if got.Body != "chunked" || !slices.Equal(got.Header["X-Many"], []string{"1", "2"}) || got.Header.Get("Cookie") != "a=1" || got.Header.Get("X-Api-Key") == "" {
		t.Errorf("the box saw %+v", got)
	}
}

func TestHeadersOnTheWayIn(t *testing.T) {
	b := newBench(t)
	sb := b.box(id, 3000, mirror)
	b.serve(sb.Address, boxrpc.EnvdPort, mirror)
	for _, c := range []struct {
		name, mask string
		port       string
		header     map[string]string
		host       string
		want       map[string]string // "" means absent
	}{
		{
			"forwarding headers are ours", "", "3000",
			map[string]string{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https", "Forwarded": "for=6.6.6.6"},
			"3000-" + id + ".e2b.test",
			map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "3000-" + id + ".e2b.test", "X-Forwarded-Proto": "http", "Forwarded": ""},
		},
		{
			"hop-by-hop headers end here", "", "3000",
			map[string]string{"Connection": "x-secret, X-Forwarded-For, keep-alive", "X-Secret": "1", "Keep-Alive": "1", "Proxy-Authorization": "Basic x", "Te": "gzip"},
			"3000-" + id + ".e2b.test",
			map[string]string{"X-Secret": "", "Keep-Alive": "", "Proxy-Authorization": "", "Te": "", "X-Forwarded-For": "127.0.0.1"},
		},
		{"masked host", "localhost:${PORT}", "3000", nil, "localhost:3000", map[string]string{"X-Forwarded-Host": "3000-" + id + ".e2b.test"}},
		{"envd's host is never masked", "localhost:${PORT}", "49983", nil, "49983-" + id + ".e2b.test", nil},
		{
			"keys of the control plane do not enter", "", "49983",
			map[string]string{"X-Api-Key": "e2b_0", "X-Access-Token": "t", "Authorization": "Basic dXNlcjo="},
			"49983-" + id + ".e2b.test",
			map[string]string{"X-Api-Key": "", "X-Access-Token": "t", "Authorization": "Basic dXNlcjo="},
		},
		{"nor the traffic token", "", "3000", map[string]string{"e2b-traffic-access-token": "x"}, "3000-" + id + ".e2b.test", map[string]string{trafficHeader: ""}},
		{"no agent is made up", "", "3000", map[string]string{"User-Agent": ""}, "3000-" + id + ".e2b.test", map[string]string{"User-Agent": ""}},
	} {
		sb.MaskHost = c.mask
		b.put(sb)
		req := b.request("GET http://"+c.port+"-"+id+".e2b.test/", nil)
		for k, v := range c.header {
			req.Header.Set(k, v)
		}
		got := b.send(req).seen(t)
		if got.Host != c.host {
			t.Errorf("%s: host %q, want %q", c.name, got.Host, c.host)
		}
		for k, v := range c.want {
			if got.Header.Get(k) != v {
				t.Errorf("%s: %s is %q, want %q", c.name, k, got.Header.Get(k), v)
			}
		}
	}
	got := b.get("GET http://localhost/x", idHeader, id, portHeader, "3000").seen(t)
	if got.Host != "localhost" || got.URI != "/x" {
		t.Errorf("by headers the box saw %+v", got)
	}
}

func TestTrafficToken(t *testing.T) {
	b := newBench(t)
	sb := b.box(id, 3000, mirror)
	sb.TrafficToken = "the token"
	b.put(sb)
	b.serve(sb.Address, boxrpc.EnvdPort, mirror)
	b.serve(sb.Address, boxrpc.InterpreterPort, mirror)
	for _, c := range []struct {
		port, token string
		want        int
		message     string
	}{
		{"3000", "", 403, "private"},
		{"3000", "the toke", 403, "not the sandbox's"},
		{"3000", "the token2", 403, "not the sandbox's"},
		{"3000", "the token", 200, ""},
		{"49999", "", 403, "private"},
		{"49999", "the token", 200, ""},
		{"49983", "", 200, ""},
	} {
		r := b.get("GET http://"+c.port+"-"+id+".e2b.test/health", "E2B-Traffic-Access-Token", c.token)
		if r.status != c.want || !strings.Contains(r.body, c.message) {
			t.Errorf("port %s, token %q: %d %s", c.port, c.token, r.status, r.body)
		}
	}
}

func TestAnswersWithoutABox(t *testing.T) {
	b := newBench(t)
	sb := b.box(id, 3000, mirror)
	ending := sb
	ending.ID, ending.State = "iending", bulkhead.StateEnding
	b.put(ending)
	far := sb
	far.ID, far.Address = "ifar", "256.0.0.1" // a node's mistake
	b.put(far)
	b.raw("inonsense", 3000, func(c net.Conn) { _, _ = fmt.Fprint(c, "SSH-2.0-OpenSSH_9.2\r\n") })
	b.raw("isilent", 3000, func(net.Conn) {})
	b.raw("ihuge", 3000, func(c net.Conn) {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Huge: %s\r\n\r\n", strings.Repeat("x", maxResponseHeader+4096))
	})
	b.raw("iflood", 3000, func(c net.Conn) {
		for {
			if _, err := fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"); err != nil {
				return
			}
		}
	})
	b.raw("iswitch", 3000, func(c net.Conn) {
		_, _ = fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n")
	})
	unknown := func(id string) map[string]any {
		return map[string]any{"sandboxId": id, "message": "The sandbox was not found", "code": 502.0}
	}
	failed := func(id, message string, port float64) map[string]any {
		return map[string]any{"sandboxId": id, "message": message, "code": 502.0, "port": port}
	}
	const invalid = "The sandbox is running but gave no valid HTTP answer on this port"
	for host, want := range map[string]map[string]any{
		"3000-inone":     unknown("inone"),
		"49983-inone":    unknown("inone"),
		"3000-iending":   unknown("iending"),
		"3001-" + id:     failed(id, "The sandbox is running but port is not open", 3001),
		"3000-ifar":      failed("ifar", "The sandbox is running but port is not open", 3000),
		"3000-inonsense": failed("inonsense", invalid, 3000),
		"3000-isilent":   failed("isilent", invalid, 3000),
		"3000-ihuge":     failed("ihuge", invalid, 3000),
		"3000-iflood":    failed("iflood", invalid, 3000),
		"3000-iswitch":   failed("iswitch", invalid, 3000),
	} {
		r := b.get("GET http://" + host + ".e2b.test/health")
		var got map[string]any
		if err := json.Unmarshal([]byte(r.body), &got); err != nil {
			t.Errorf("%s: %d %q", host, r.status, r.body)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" || r.status != 502 {
			t.Errorf("%s: %d (-want +got):\n%s", host, r.status, diff)
		}
		if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Content-Type") != "application/json" || r.header.Get("Link") != "" {
			t.Errorf("%s: header %v", host, r.header)
		}
	}
	for agent, html := range map[string]bool{"Mozilla/5.0 (X11) <script>": true, "e2b-js-sdk/2.51.0": false, "": false} {
		r := b.get("GET http://3001-"+id+".e2b.test/", "User-Agent", agent)
		if isHTML := strings.HasPrefix(r.body, "<!doctype html>"); isHTML != html || r.status != 502 || !strings.Contains(r.body, "3001") {
			t.Errorf("%q: %d %.60s", agent, r.status, r.body)
		}
	}
	b.settled()
}

// A sandbox that ends while it answers is told from a closed port.
func TestSandboxThatEndsMeanwhile(t *testing.T) {
	b := newBench(t)
	b.raw(id, 3000, func(net.Conn) { b.remove(id) })
	r := b.get("GET http://3000-" + id + ".e2b.test/")
	if r.status != 502 || !strings.Contains(r.body, "The sandbox was not found") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestHeadersOnTheWayOut(t *testing.T) {
	b := newBench(t)
	b.box(id, 3000, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Add("Set-Cookie", "a=1; Path=/; Domain=e2b.test; HttpOnly")
		h.Add("Set-Cookie", "b=domain; DOMAIN = .e2b.test")
		h.Add("Set-Cookie", "c=3; Secure")
		h.Set("Alt-Svc", `h3="evil.example:443"`)
		h.Set("Connection", "X-Private")
		h.Set("X-Private", "1")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("X-Public", "1")
		h.Set("Cache-Control", "max-age=60")
	}))
	r := b.get("GET http://3000-" + id + ".e2b.test/")
	want := []string{"a=1; Path=/; HttpOnly", "b=domain", "c=3; Secure"}
	if diff := cmp.Diff(want, r.header["Set-Cookie"]); diff != "" {
		t.Errorf("cookies (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{
		"Alt-Svc": "", "X-Private": "", "Proxy-Authenticate": "", "X-Public": "1", "Cache-Control": "max-age=60",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestRouter(t *testing.T) {
	b := newBench(t)
	b.box(id, 3000, mirror)
	for url, want := range map[string]string{
		"http://localhost/v2/sandboxes": "control plane", "http://api.e2b.test/": "control plane",
		"http://3000-" + id + ".e2b.test/v2/sandboxes": `"method":"GET"`,
	} {
		if r := b.get("GET " + url); !strings.Contains(r.body, want) {
			t.Errorf("%s: %d %s", url, r.status, r.body)
		}
	}
	alone := NewServer(b.proxy, b.proxy.cfg.Log)
	ln := listen(t, "127.0.0.1:0")
	go func() { _ = alone.Serve(ln) }()
	defer func() { _ = alone.Close() }()
	b.addr = ln.Addr().String()
	if r := b.get("GET http://localhost/v2/sandboxes"); r.status != 400 || !strings.Contains(r.body, "names no sandbox") {
		t.Errorf("a listener of its own: %d %s", r.status, r.body)
	}
	if r := b.get("GET http://localhost/", idHeader, id, portHeader, "3000"); r.status != 200 {
		t.Errorf("a listener of its own, by headers: %d %s", r.status, r.body)
	}
}

// A connection to one sandbox is never used for the next one at its address.
func TestConnectionsStayWithTheirSandbox(t *testing.T) {
	b := newBench(t)
	var conns atomic.Int32
	first := bulkhead.Sandbox{ID: "ifirst", State: bulkhead.StateRunning, Address: newAddress()}
	b.serve(first.Address, boxrpc.EnvdPort, mirror, func(s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	})
	b.put(first)
	for range 3 {
		b.get("GET http://49983-ifirst.e2b.test/health")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 3 requests, want 1", n)
	}
	second := first
	second.ID = "isecond"
	b.remove("ifirst")
	b.put(second)
	b.get("GET http://49983-isecond.e2b.test/health")
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections after the address changed hands, want 2", n)
	}
}

func TestStreamLimits(t *testing.T) {
	b := newBench(t, func(cfg *Config) { cfg.MaxStreams, cfg.MaxStreamsPerSandbox = 3, 2 })
	hold, held := make(chan struct{}), make(chan struct{}, 8)
	wait := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		held <- struct{}{}
		<-hold
	})
	b.box("ia", 3000, wait)
	b.box("ib", 3000, wait)
	b.box("ic", 3000, wait)
	done := make(chan reply, 8)
	start := func(id string) {
		go func() { done <- b.get("GET http://3000-" + id + ".e2b.test/") }()
		<-held
	}
	start("ia")
	start("ia")
	if r := b.get("GET http://3000-ia.e2b.test/"); r.status != 429 || r.header.Get("Retry-After") != "1" || !strings.Contains(r.body, `"sandboxId":"ia"`) {
		t.Errorf("over the sandbox's limit: %d %s", r.status, r.body)
	}
	start("ib")
	if r := b.get("GET http://3000-ic.e2b.test/"); r.status != 503 || r.header.Get("Retry-After") != "1" {
		t.Errorf("over the server's limit: %d %s", r.status, r.body)
	}
	close(hold)
	for range 3 {
		if r := <-done; r.status != 200 {
			t.Errorf("one within the limits: %d %s", r.status, r.body)
		}
	}
	b.settled()
	if r := b.get("GET http://3000-ic.e2b.test/"); r.status != 200 {
		t.Errorf("after that: %d %s", r.status, r.body)
	}
	b.settled()
}
