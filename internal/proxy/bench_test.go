package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
)

// node is where the boxes are.
type node struct {
	mu   sync.Mutex
	all  map[string]bulkhead.Sandbox
	ends map[string]chan struct{} // closed by remove
	fail error                    // of the next List
}

func (n *node) Route(id string) (sb bulkhead.Sandbox, ended <-chan struct{}, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sb, ok = n.all[id]
	if n.ends == nil {
		n.ends = map[string]chan struct{}{}
	}
	if n.ends[id] == nil {
		n.ends[id] = make(chan struct{})
	}
	return sb, n.ends[id], ok
}

func (n *node) List(_ context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.fail
	n.fail = nil
	var out []bulkhead.Sandbox
	for _, sb := range n.all {
		if slices.Contains(f.States, sb.State) {
			out = append(out, sb)
		}
	}
	return out, err
}

func (n *node) put(sb bulkhead.Sandbox) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all[sb.ID] = sb
}

// remove ends a sandbox as the real node does, with its streams.
func (n *node) remove(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.all, id)
	if ch := n.ends[id]; ch != nil {
		close(ch)
		delete(n.ends, id)
	}
}

// bench is a proxy in front of boxes on the loopback interface.
type bench struct {
	*node
	t     testing.TB
	proxy *Proxy
	srv   *http.Server
	addr  string // HTTP/1.1 and HTTP/2 in clear text
}

func newBench(tb testing.TB, change ...func(*Config)) *bench {
	tb.Helper()
	b := &bench{t: tb, node: &node{all: map[string]bulkhead.Sandbox{}}}
	cfg := Config{
		Routes: b.node, Lister: b.node, Domain: "e2b.test:38443", Registry: prometheus.NewRegistry(),
		Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if b.proxy, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	control := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "control plane") })
	b.srv = NewServer(b.proxy.Router(control), slog.New(slog.DiscardHandler))
	ln := listen(tb, "127.0.0.1:0")
	b.addr = ln.Addr().String()
	go func() { _ = b.srv.Serve(ln) }()
	tb.Cleanup(func() {
		_ = b.srv.Close()
		b.proxy.Close()
	})
	return b
}

func listen(tb testing.TB, addr string) net.Listener {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// boxes counts the addresses given out, so that every box has its own.
var boxes atomic.Int32

func newAddress() string {
	n := boxes.Add(1)
	return fmt.Sprintf("127.91.%d.%d", n/250, n%250+1)
}

// box makes a running sandbox with a server on the port.
func (b *bench) box(id string, port int, h http.Handler) bulkhead.Sandbox {
	b.t.Helper()
	sb := bulkhead.Sandbox{ID: id, State: bulkhead.StateRunning, Address: newAddress()}
	b.serve(sb.Address, port, h)
	b.put(sb)
	return sb
}

// serve starts a server in a box, which tells watch about its connections.
func (b *bench) serve(address string, port int, h http.Handler, watch ...func(http.ConnState)) {
	b.t.Helper()
	srv := httptest.NewUnstartedServer(h)
	_ = srv.Listener.Close()
	srv.Listener = listen(b.t, net.JoinHostPort(address, strconv.Itoa(port)))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		for _, f := range watch {
			f(s)
		}
	}
	srv.Start()
	b.t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
}

// raw serves bytes that need not be HTTP.
func (b *bench) raw(id string, port int, answer func(net.Conn)) {
	b.t.Helper()
	sb := bulkhead.Sandbox{ID: id, State: bulkhead.StateRunning, Address: newAddress()}
	b.put(sb)
	ln := listen(b.t, net.JoinHostPort(sb.Address, strconv.Itoa(port)))
	b.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					answer(c)
				}
			}()
		}
	}()
}

// request makes one for "METHOD http://host/path": the host is what the proxy is
// told, the connection goes to the proxy.
func (b *bench) request(line string, body io.Reader) *http.Request {
	b.t.Helper()
	method, url, _ := strings.Cut(line, " ")
	req, err := http.NewRequestWithContext(b.t.Context(), method, url, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return req
}

// client speaks HTTP/1.1 to the proxy, or HTTP/2 in clear text.
func (b *bench) client(http2 bool) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{
		Protocols:          &protocols,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", b.addr)
		},
	}
	b.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   string
}

func (b *bench) get(line string, header ...string) reply {
	b.t.Helper()
	req := b.request(line, nil)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return b.send(req)
}

func (b *bench) send(req *http.Request) reply {
	b.t.Helper()
	res, err := b.client(false).Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

// settled waits until no stream is in the books. A client has its answer a moment
// before the place is given back.
func (b *bench) settled() {
	b.t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); runtime.Gosched() {
		b.proxy.streams.mu.Lock()
		total, each := b.proxy.streams.total, len(b.proxy.streams.each)
		b.proxy.streams.mu.Unlock()
		if total == 0 && each == 0 {
			return
		}
	}
	b.t.Errorf("%d streams are left in the books", b.proxy.streams.count())
}

// write sends bytes as they are and returns the answer.
func (b *bench) write(text string) reply {
	b.t.Helper()
	c, err := new(net.Dialer).DialContext(b.t.Context(), "tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, text); err != nil {
		b.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		b.t.Fatalf("%q: %v", text, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body)}
}
