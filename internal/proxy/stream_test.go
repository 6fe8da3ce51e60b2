package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/authority"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// deadline bounds what would otherwise hang when it fails.
const deadline = 20 * time.Second

// bothProtocols runs a test over HTTP/1.1 and over HTTP/2.
func bothProtocols(t *testing.T, test func(t *testing.T, http2 bool)) {
	t.Helper()
	for name, http2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		t.Run(name, func(t *testing.T) { test(t, http2) })
	}
}

// Every piece is there before the next one is sent.
func TestPiecesArriveAtOnce(t *testing.T) {
	for name, length := range map[string]string{"Chunked": "", "Length": "40"} {
		t.Run(name, func(t *testing.T) { testPieces(t, length) })
	}
}

func testPieces(t *testing.T, length string) {
	t.Helper()
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		b := newBench(t)
		next := make(chan struct{})
		b.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if w.Header().Set("Trailer", "X-End"); length != "" {
				w.Header().Set("Content-Length", length)
			}
			_ = http.NewResponseController(w).Flush() // the head alone
			for i := range 5 {
				<-next
				_, _ = fmt.Fprintf(w, "piece %d\n", i)
				_ = http.NewResponseController(w).Flush()
			}
			w.Header().Set("X-End", "done")
		}))
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		res, err := b.client(http2).Do(b.request("POST http://49983-"+id+".e2b.test/process.Process/Start", strings.NewReader("{}")).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		lines := bufio.NewReader(res.Body)
		for i := range 5 {
			next <- struct{}{}
			if line, err := lines.ReadString('\n'); line != fmt.Sprintf("piece %d\n", i) {
				t.Fatalf("%q, %v", line, err)
			}
		}
		if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) || (length == "" && res.Trailer.Get("X-End") != "done") {
			t.Errorf("at the end: %v, trailer %v", err, res.Trailer)
		}
	})
}

// A box may answer while it is still being asked, and the client may go on
// reading after it said all it had to say.
func TestBothWaysAtOnce(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		b := newBench(t)
		b.box(id, 3000, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			_ = rc.Flush()
			buf := make([]byte, 1024)
			for {
				n, err := r.Body.Read(buf)
				_, _ = w.Write(bytes.ToUpper(buf[:n]))
				_ = rc.Flush()
				if err != nil {
					break
				}
			}
			_, _ = io.WriteString(w, "after your end")
		}))
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		body, say := io.Pipe()
		res, err := b.client(http2).Do(b.request("POST http://3000-"+id+".e2b.test/", body).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		for range 100 {
			if _, err := io.WriteString(say, "hello"); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 5)
			if _, err := io.ReadFull(res.Body, answer); err != nil || string(answer) != "HELLO" {
				t.Fatalf("%q, %v", answer, err)
			}
		}
		_ = say.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "after your end" {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

// The box answers, refusing, before the upload is through.
func TestEarlyAnswerToAnUpload(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		b := newBench(t)
		b.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no space", http.StatusInsufficientStorage)
		}))
		res, err := b.client(http2).Do(b.request("POST http://49983-"+id+".e2b.test/files", io.LimitReader(rand.Reader, 64<<20)))
		if err != nil {
			t.Skipf("the client saw its own failure to write instead: %v", err)
		}
		defer func() { _ = res.Body.Close() }()
		if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusInsufficientStorage || string(body) != "no space\n" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	})
}

// The next request of that client does not meet the end of the connection whose
// upload was cut short.
func TestAfterAnEarlyAnswer(t *testing.T) {
	b := newBench(t)
	b.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/files" {
			http.Error(w, "no space", http.StatusInsufficientStorage)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	client, data := b.client(false), make([]byte, 5<<20)
	for range 50 {
		res, err := client.Do(b.request("POST http://49983-"+id+".e2b.test/files", bytes.NewReader(data)))
		if err == nil { // else it saw its own failure to write
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		res, err = client.Do(b.request("POST http://49983-"+id+".e2b.test/next", io.NopCloser(strings.NewReader("hello"))))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" {
			t.Errorf("%q, %v", body, err)
		}
		_ = res.Body.Close()
	}
}

// A client that leaves is gone for the box.
func TestDisconnectReachesTheBox(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		b := newBench(t)
		gone := make(chan struct{})
		for _, when := range []string{"before the answer", "amid the answer"} {
			t.Run(when, func(t *testing.T) {
				running := make(chan struct{})
				b.box(id, boxrpc.InterpreterPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if when == "amid the answer" {
						_, _ = io.WriteString(w, "begin")
						_ = http.NewResponseController(w).Flush()
					}
					close(running)
					<-r.Context().Done()
					gone <- struct{}{}
				}))
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					<-running
					cancel()
				}()
				res, err := b.client(http2).Do(b.request("POST http://49999-"+id+".e2b.test/execute", strings.NewReader("{}")).WithContext(ctx))
				if err == nil {
					_, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the client got %v", err)
				}
				select {
				case <-gone:
				case <-time.After(deadline):
					t.Error("the box did not notice")
				}
			})
		}
	})
}

// A box that dies in the middle of its answer is not taken for one that finished.
func TestBoxThatDiesAmidItsAnswer(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		b := newBench(t)
		b.raw(id, 3000, func(c net.Conn) {
			_, _ = fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
		})
		res, err := b.client(http2).Do(b.request("GET http://3000-"+id+".e2b.test/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		if body, err := io.ReadAll(res.Body); err == nil || string(body) != "begin" {
			t.Errorf("%q, %v; want an error after what was sent", body, err)
		}
	})
}

// What a client does not read is not kept: the box has to wait.
func TestSlowClientHoldsTheBoxBack(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		b := newBench(t)
		const chunk, total = 64 << 10, 256 << 20
		written := make(chan int, total/chunk)
		stopped := make(chan struct{})
		b.box(id, 3000, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			defer close(stopped)
			buf := make([]byte, chunk)
			for range total / chunk {
				if _, err := w.Write(buf); err != nil {
					return
				}
				written <- chunk
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		res, err := b.client(http2).Do(b.request("GET http://3000-"+id+".e2b.test/", nil).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		sum := 0
		for stalled := false; !stalled; {
			select {
			case n := <-written:
				sum += n
			case <-time.After(300 * time.Millisecond):
				stalled = true
			}
		}
		if sum >= total/2 {
			t.Errorf("the box wrote %d MiB to a client that read nothing", sum>>20)
		}
		t.Logf("%d KiB were under way", sum>>10)
		cancel()
		select {
		case <-stopped:
		case <-time.After(deadline):
			t.Error("the box did not notice that the client left")
		}
	})
}

func TestManyStreamsAtOnce(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Helper()
		const streams = 500
		b := newBench(t)
		var open sync.WaitGroup
		open.Add(streams)
		b.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintln(w, r.URL.RawQuery)
			_ = http.NewResponseController(w).Flush()
			open.Done()
			open.Wait() // all of them are open before any ends
			_, _ = w.Write(body)
		}))
		client := b.client(http2)
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		var wg sync.WaitGroup
		for i := range streams {
			wg.Go(func() {
				want := fmt.Sprintf("%d\nbody %d", i, i)
				res, err := client.Do(b.request(fmt.Sprintf("POST http://49983-%s.e2b.test/?%d", id, i), strings.NewReader(want[strings.Index(want, "\n")+1:])).WithContext(ctx))
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = res.Body.Close() }()
				if body, err := io.ReadAll(res.Body); err != nil || string(body) != want {
					t.Errorf("stream %d: %q, %v", i, body, err)
				}
			})
		}
		wg.Wait()
		b.settled()
	})
}

func TestWebSocket(t *testing.T) {
	b := newBench(t)
	ended := make(chan error, 1)
	b.box(id, 3000, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			ended <- err
			return
		}
		c.SetReadLimit(1 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				ended <- err
				return
			}
			if err := c.Write(r.Context(), kind, message); err != nil {
				ended <- err
				return
			}
		}
	}))
	dial := func(ctx context.Context) *websocket.Conn {
		t.Helper()
		c, res, err := websocket.Dial(ctx, "ws://3000-"+id+".e2b.test/chat", &websocket.DialOptions{HTTPClient: b.client(false)})
		if err != nil {
			t.Fatalf("%v, %v", res, err)
		}
		c.SetReadLimit(1 << 20)
		return c
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c := dial(ctx)
	for _, size := range []int{0, 1, 125, 126, 1 << 16, 900_000} {
		message := make([]byte, size)
		_, _ = rand.Read(message)
		if err := c.Write(ctx, websocket.MessageBinary, message); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || !bytes.Equal(got, message) {
			t.Fatalf("%d bytes came back as %d, %v", size, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-ended; websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the box saw %v", err)
	}
	c = dial(ctx)
	_ = c.CloseNow() // without a word
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the box saw an orderly end")
		}
	case <-ctx.Done():
		t.Error("the box did not notice that the client left")
	}
}

// An upgraded connection may end one way and go on the other.
func TestHalfClosedTunnel(t *testing.T) {
	b := newBench(t)
	b.raw(id, 3000, func(c net.Conn) {
		_, _ = fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		said, _ := io.ReadAll(c) // to the client's end
		_, _ = fmt.Fprintf(c, "you said %q", said)
	})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: 3000-%s.e2b.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", id)
	head := bufio.NewReader(conn)
	res, err := http.ReadResponse(head, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	_ = res.Body.Close()
	_, _ = fmt.Fprint(conn, "all I have")
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		t.Fatal("no TCP connection")
	}
	_ = tcp.CloseWrite()
	if answer, err := io.ReadAll(head); err != nil || string(answer) != `you said "all I have"` {
		t.Errorf("%q, %v", answer, err)
	}
}

// Over TLS, as the SDKs come: HTTP/2 by ALPN, and HTTP/1.1 for those who want it.
func TestOverTLS(t *testing.T) {
	b := newBench(t)
	sb := b.box(id, 3000, mirror)
	a, err := authority.Open(authority.Config{Dir: t.TempDir(), Domain: "e2b.test", Log: b.proxy.cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(b.srv.Handler, b.proxy.cfg.Log)
	srv.TLSConfig = a.TLSConfig()
	ln := listen(t, "127.0.0.1:0")
	go func() { _ = srv.ServeTLS(ln, "", "") }()
	defer func() { _ = srv.Close() }()
	for proto, http2 := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		tr := &http.Transport{
			ForceAttemptHTTP2: http2,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
			},
		}
		res, err := (&http.Client{Transport: tr}).Do(b.request("GET https://3000-"+sb.ID+".e2b.test/", nil))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		tr.CloseIdleConnections()
		got := reply{res.StatusCode, res.Header, string(body)}.seen(t)
		if res.Proto != proto || got.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%s: %s, the box saw %+v", proto, res.Proto, got)
		}
	}
}

// Idle connections to a user's server are given up before that server would: a
// POST that met its close would be lost.
func TestIdleConnectionsAreGivenUpFirst(t *testing.T) {
	if userIdle > 2*time.Second {
		t.Errorf("idle connections are kept for %v; gunicorn closes after 2s", userIdle)
	}
	b := newBench(t)
	b.proxy.user.IdleConnTimeout = time.Millisecond
	sb := bulkhead.Sandbox{ID: id, State: bulkhead.StateRunning, Address: newAddress()}
	closed := make(chan struct{}, 3)
	b.serve(sb.Address, 3000, mirror, func(s http.ConnState) {
		if s == http.StateClosed {
			closed <- struct{}{}
		}
	})
	b.put(sb)
	for range 3 {
		if r := b.get("POST http://3000-" + id + ".e2b.test/"); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		select {
		case <-closed:
		case <-time.After(deadline):
			t.Fatal("the connection is kept")
		}
	}
}

func BenchmarkForward(b *testing.B) {
	for name, http2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		b.Run(name, func(b *testing.B) {
			bench := newBench(b)
			bench.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
			client := bench.client(http2)
			for b.Loop() {
				res, err := client.Do(bench.request("GET http://49983-"+id+".e2b.test/health", nil))
				if err != nil {
					b.Fatal(err)
				}
				_ = res.Body.Close()
			}
		})
	}
	b.Run("Direct", func(b *testing.B) {
		bench := newBench(b)
		sb := bench.box(id, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
		client := &http.Client{Transport: &http.Transport{}}
		for b.Loop() {
			res, err := client.Do(bench.request("GET http://"+sb.Address+":49983/health", nil))
			if err != nil {
				b.Fatal(err)
			}
			_ = res.Body.Close()
		}
	})
}

// A box that is destroyed says no farewell: its streams end with its sandbox all
// the same, and a request that waits for an answer is told that it is gone.
func TestStreamsEndWithTheirSandbox(t *testing.T) {
	b := newBench(t)
	quiet := make(chan struct{})
	entered := make(chan struct{}, 2)
	b.box("iends", 3000, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/streams" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		entered <- struct{}{}
		<-quiet
	}))
	t.Cleanup(func() { close(quiet) }) // before the server waits for its requests
	status := make(chan int, 1)
	go func() { // waits for headers
		resp, err := b.client(false).Do(b.request("GET http://3000-iends.e2b.test/waits", nil))
		if err != nil {
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	resp, err := b.client(false).Do(b.request("GET http://3000-iends.e2b.test/streams", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	<-entered
	<-entered
	b.remove("iends")
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream ended as if it were complete")
	}
	if got := <-status; got != http.StatusBadGateway {
		t.Errorf("the request that waited got status %d", got)
	}
}
