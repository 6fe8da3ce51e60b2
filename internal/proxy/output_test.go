package proxy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// flood answers with pieces for ever, as what took envd's place in a box would.
func flood(typ string, piece []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", typ)
		for r.Context().Err() == nil {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
}

// envelope is a message of a stream.
func envelope(flags byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(body))), body...)
}

// mostCarried is what may be carried for a sandbox that may print a MiB.
const mostCarried = outputFactor<<20 + outputSpare

func limited(b *bench, port int, h http.Handler, l bulkhead.Limits) bulkhead.Sandbox {
	sb := b.box(id, port, h)
	sb.Limits = l
	b.put(sb)
	return sb
}

// Whoever answers on envd's port, an answer ends at the limit, between two messages
// and with an error that names it.
func TestOutputIsBounded(t *testing.T) {
	const start = "POST http://49983-" + id + ".e2b.test/process.Process/Start"
	event := envelope(0, `{"event":{"data":{"stdout":"`+strings.Repeat("QUJD", 5000)+`"}}}`)
	answer := func(t *testing.T, b *bench, request string, http2 bool) ([]byte, error) {
		t.Helper()
		res, err := b.client(http2).Do(b.request(request, strings.NewReader("{}")))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(res.Body, 2*mostCarried))
		if len(body) > mostCarried+mostCarried/50 || len(body) < mostCarried/2 { // frames are not counted
			t.Errorf("%s: %d bytes were carried, %d may be", request, len(body), mostCarried)
		}
		return body, err
	}
	t.Run("messages", func(t *testing.T) {
		bothProtocols(t, func(t *testing.T, http2 bool) {
			t.Helper()
			b := newBench(t)
			limited(b, boxrpc.EnvdPort, flood("application/connect+json", event), bulkhead.Limits{OutputMB: 1})
			body, err := answer(t, b, start, http2)
			if err != nil {
				t.Fatal(err)
			}
			for bytes.HasPrefix(body, event) {
				body = body[len(event):]
			}
			var end struct {
				Error struct {
					Code    string `json:"code"`
					Message string `json:"message"`
				} `json:"error"`
			}
			if len(body) < 5 || body[0] != 2 || json.Unmarshal(body[5:], &end) != nil || end.Error.Code != "resource_exhausted" ||
				!strings.Contains(end.Error.Message, "output_limit") || !strings.Contains(end.Error.Message, "outputMB, which is 1 MiB") {
				t.Errorf("the stream ends with %.200q", body)
			}
		})
	})
	t.Run("one message without end", func(t *testing.T) {
		b := newBench(t)
		limited(b, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/connect+json")
			_, _ = w.Write([]byte{0, 0xff, 0xff, 0xff, 0xff})
			flood("", bytes.Repeat([]byte("x"), 32<<10)).ServeHTTP(w, r)
		}), bulkhead.Limits{OutputMB: 1})
		res, err := b.client(false).Do(b.request(start, strings.NewReader("{}")))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		if body, err := io.ReadAll(res.Body); err != nil || len(body) > 1024 || !bytes.Contains(body, []byte("outputMB")) {
			t.Errorf("%.200q, %v", body, err)
		}
	})
	t.Run("lines", func(t *testing.T) {
		b := newBench(t)
		line := []byte(`{"type":"stdout","text":"` + strings.Repeat("x", 20000) + `"}` + "\n")
		limited(b, boxrpc.InterpreterPort, flood("application/x-ndjson", line), bulkhead.Limits{OutputMB: 1})
		body, err := answer(t, b, "POST http://49999-"+id+".e2b.test/execute", false)
		if err != nil || !bytes.HasSuffix(body, []byte("{\"type\":\"end_of_execution\"}\n")) ||
			!bytes.Contains(body, []byte(`"name":"OutputLimitExceeded"`)) || !bytes.Contains(body, []byte(`"cause":"output_limit"`)) {
			t.Errorf("the answer ends with %q, %v", body[max(0, len(body)-500):], err)
		}
	})
	t.Run("neither", func(t *testing.T) {
		b := newBench(t)
		limited(b, boxrpc.EnvdPort, flood("application/json", event), bulkhead.Limits{OutputMB: 1})
		if _, err := answer(t, b, "POST http://49983-"+id+".e2b.test/process.Process/List", false); err == nil {
			t.Error("an answer that was cut looks whole")
		}
	})
}

// However little is printed at a time and in whatever script: what envd lets out, the
// host does.
func TestAllThatMayBePrintedIsCarried(t *testing.T) {
	const start = "POST http://49983-" + id + ".e2b.test/process.Process/Start"
	const run = "POST http://49999-" + id + ".e2b.test/execute"
	const mib = 1 << 20
	text := func(text string, printed int) (piece []byte, times int) {
		piece, err := json.Marshal(map[string]string{"type": "stdout", "text": text, "timestamp": "2026-11-26T16:48:53.980460Z"})
		if err != nil {
			t.Fatal(err)
		}
		plain := bytes.Buffer{} // as envd writes it, in ASCII
		for _, r := range string(piece) {
			if r < 0x80 {
				plain.WriteRune(r)
				continue
			}
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&plain, "\\u%04x", u)
			}
		}
		return append(plain.Bytes(), '\n'), mib / printed
	}
	for name, tt := range map[string]struct {
		route, typ string
		make       func() (piece []byte, times int)
	}{
		"bytes":               {start, "application/connect+json", func() ([]byte, int) { return envelope(0, `{"event":{"data":{"stdout":"QQ=="}}}`), mib }},
		"lines of a terminal": {start, "application/connect+json", func() ([]byte, int) { return envelope(0, `{"event":{"data":{"pty":"QUFBQUFBQUFBQQ=="}}}`), mib / 10 }},
		"binary":              {start, "application/connect+proto", func() ([]byte, int) { return envelope(0, strings.Repeat("x", 20)), mib }},
		"characters":          {run, "application/x-ndjson", func() ([]byte, int) { return text("x", 1) }},
		"Cyrillic":            {run, "application/x-ndjson", func() ([]byte, int) { return text(strings.Repeat("ж", 500), 1000) }},
		"beyond 16 bits":      {run, "application/x-ndjson", func() ([]byte, int) { return text(strings.Repeat("😀", 250), 1000) }},
		"control characters":  {run, "application/x-ndjson", func() ([]byte, int) { return text(strings.Repeat("\x01", 1000), 1000) }},
		"quotes":              {run, "application/x-ndjson", func() ([]byte, int) { return text(strings.Repeat(`"`, 1000), 1000) }},
	} {
		t.Run(name, func(t *testing.T) {
			piece, times := tt.make()
			b := newBench(t)
			port := boxrpc.EnvdPort
			if tt.route == run {
				port = boxrpc.InterpreterPort
			}
			limited(b, port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.typ)
				many := bytes.Repeat(piece, 1000)
				for left := times; left > 0; left -= 1000 {
					_, _ = w.Write(many[:min(left, 1000)*len(piece)])
				}
			}), bulkhead.Limits{OutputMB: 1, OutputMBPerSecond: 1024})
			res, err := b.client(false).Do(b.request(tt.route, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(times*len(piece)) {
				t.Errorf("%d of %d bytes came, %v", n, times*len(piece), err)
			}
		})
	}
}

// Files and the user's ports are no output, and what keeps to the limit arrives as
// it was sent, however it is cut into pieces.
func TestWhatIsNoOutput(t *testing.T) {
	const size = mostCarried + 1<<20
	plenty := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(endless{}, size))
	})
	for _, url := range []string{"http://49983-" + id + ".e2b.test/files?path=/x", "http://3000-" + id + ".e2b.test/"} {
		b := newBench(t)
		sb := limited(b, boxrpc.EnvdPort, plenty, bulkhead.Limits{OutputMB: 1, OutputMBPerSecond: 1})
		b.serve(sb.Address, 3000, plenty)
		began := time.Now()
		if got := b.get("GET " + url); len(got.body) != size {
			t.Errorf("%s: %d bytes of %d, %s", url, len(got.body), size, time.Since(began))
		}
	}

	b := newBench(t)
	var sent []byte
	for i := range 50 {
		sent = append(sent, envelope(0, strings.Repeat("y", i))...)
	}
	sent = append(append(sent, envelope(2, "{}")...), 0, 0, 0) // and the begin of a head
	limited(b, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/connect+proto")
		for i := range sent {
			_, _ = w.Write(sent[i : i+1])
			_ = http.NewResponseController(w).Flush()
		}
	}), bulkhead.Limits{OutputMB: 1})
	if got := b.get("POST http://49983-" + id + ".e2b.test/process.Process/Connect"); got.body != string(sent) {
		t.Errorf("got %q, want %q", got.body, sent)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// All answers of a sandbox together keep to its rate, which may change under way.
func TestOutputRate(t *testing.T) {
	b := newBench(t)
	sb := limited(b, boxrpc.EnvdPort, flood("application/connect+json", envelope(0, strings.Repeat("z", 32<<10))), bulkhead.Limits{OutputMBPerSecond: 1})
	read := func(mib int) time.Duration {
		began := time.Now()
		var streams sync.WaitGroup
		for range 2 {
			streams.Go(func() {
				res, err := b.client(false).Do(b.request("POST http://49983-"+id+".e2b.test/process.Process/Start", nil))
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = res.Body.Close() }()
				if _, err := io.CopyN(io.Discard, res.Body, int64(mib)<<19); err != nil {
					t.Error(err)
				}
			})
		}
		streams.Wait()
		return time.Since(began)
	}
	// 2 MiB a second may be carried, and half a one at once.
	if took := read(3); took < time.Second {
		t.Errorf("3 MiB took %s", took)
	}
	sb.Limits.OutputMBPerSecond = 1024
	b.put(sb)
	if took := read(24); took > 10*time.Second {
		t.Errorf("24 MiB at 2 GiB a second took %s", took)
	}
}

// No coding hides how much there is.
func TestOutputIsNotCoded(t *testing.T) {
	for _, header := range []string{"Content-Encoding", "Connect-Content-Encoding"} {
		b := newBench(t)
		var asked http.Header
		limited(b, boxrpc.EnvdPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = r.Header
			w.Header().Set("Content-Type", "application/connect+json")
			w.Header().Set(header, "gzip")
			_, _ = w.Write(envelope(1, "x"))
		}), bulkhead.Limits{OutputMB: 1})
		req := b.request("POST http://49983-"+id+".e2b.test/process.Process/Start", nil)
		req.Header.Set("Accept-Encoding", "gzip")
		req.Header.Set("Connect-Accept-Encoding", "gzip")
		if got := b.send(req); got.status != http.StatusBadGateway {
			t.Errorf("%s: %d %q", header, got.status, got.body)
		}
		if asked.Get("Accept-Encoding") != "" || asked.Get("Connect-Accept-Encoding") != "" {
			t.Errorf("the box was asked for a coding: %v", asked)
		}
	}
}
