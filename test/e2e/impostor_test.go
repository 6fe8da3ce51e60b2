package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// impostor is a program of root's that stops envd, takes its sockets and answers in
// its place, without end.
const impostor = `
import ctypes, os, signal, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
envd, ears = libc.syscall(434, 1, 0), []   # pidfd_open
os.kill(1, signal.SIGSTOP)
for n in range(64):
    fd = libc.syscall(438, envd, n, 0)     # pidfd_getfd
    if fd < 0: continue
    try:
        s = socket.socket(fileno=fd)
        port = s.getsockname()[1]
    except (OSError, IndexError):
        continue
    if port != 49983: continue
    try:
        s.getpeername()
        s.shutdown(socket.SHUT_RDWR)       # of the server: it is to come again
    except OSError:
        ears.append(s)
if not ears:
    print("NOTHING TAKEN", ctypes.get_errno(), flush=True)
    os._exit(3)
def serve(c):
    try:
        head = b""
        while b"\r\n\r\n" not in head: head += c.recv(65536)
        if b"/health" in head.split(b"\r\n")[0]:
            c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\nimpostor")
            return c.close()
        kind = b"connect+json" if b"/Start" in head.split(b"\r\n")[0] else b"json"
        c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/" + kind + b"\r\n\r\n")
        body = b'{"event":{"data":{"stdout":"' + b"QUJD" * 5000 + b'"}}}'
        while True: c.sendall(b"\0" + len(body).to_bytes(4, "big") + body)
    except OSError:
        c.close()
ears[0].setblocking(True)
while True: threading.Thread(target=serve, args=(ears[0].accept()[0],)).start()
`

// Root in a box may do away with envd and print for ever on its port: its answers
// end at the limit, with the limit's name, and a neighbour's are whole. Under runc it
// cannot even do that.
func TestOutputOfAnImpostor(t *testing.T) {
	s := serve(t)
	neighbour := s.sandbox(t, bulkhead.CreateRequest{})
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{OutputMB: 1}})
	if _, err := sb.Files().Write(t.Context(), "/home/user/impostor.py", strings.NewReader(impostor)); err != nil {
		t.Fatal(err)
	}
	if *driverName == "runc" {
		out, err := sb.Exec(t.Context(), shell("sudo python3 impostor.py"), nil)
		if err != nil || !strings.Contains(string(out.Stdout), "NOTHING TAKEN") {
			t.Errorf("root in a box of runc took envd's place: %+v, %v", out, err)
		}
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _ = sb.Exec(ctx, shell("sudo python3 impostor.py"), nil) }() // nobody is left to say how it goes
	ask := func(ctx context.Context, method, path, typ string) (body []byte, err error) {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+s.http+path, strings.NewReader("{}"))
		if err != nil {
			return nil, err
		}
		req.Header.Set("E2b-Sandbox-Id", sb.ID())
		req.Header.Set("E2b-Sandbox-Port", "49983")
		req.Header.Set("Content-Type", typ)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	}
	taken := false
	for range 100 {
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		body, _ := ask(short, http.MethodGet, "/health", "")
		cancel()
		if taken = string(body) == "impostor"; taken {
			break
		}
		<-time.After(50 * time.Millisecond) // it has no way to say that it is there
	}
	if !taken {
		t.Fatal("envd's place was not taken")
	}
	const most = 2<<20 + 4<<20 // of what is carried, for a MiB that may be printed
	body, err := ask(t.Context(), http.MethodPost, "/process.Process/Start", "application/connect+json")
	end := body[max(0, bytes.LastIndexByte(body, 2)):]
	if err != nil || len(body) > most+most/50 || len(body) < most/2 || !bytes.Contains(end, []byte("resource_exhausted")) ||
		!bytes.Contains(end, []byte("output_limit")) || !bytes.Contains(end, []byte("outputMB, which is 1 MiB")) {
		t.Errorf("%d bytes were carried of %d, %v; they end with %.300q", len(body), most, err, end)
	}
	if body, err := ask(t.Context(), http.MethodPost, "/process.Process/List", "application/json"); err == nil || len(body) > most {
		t.Errorf("an answer that has no end: %d bytes were carried of %d, %v", len(body), most, err)
	}
	const size = 8 << 20
	if out, err := neighbour.Exec(t.Context(), shell("head -c 8M /dev/zero"), nil); err != nil || len(out.Stdout) != size || out.End.Cause != bulkhead.CauseExited {
		t.Errorf("a neighbour's output: %d of %d bytes, %+v, %v", len(out.Stdout), size, out.End, err)
	}
	if err := sb.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if info, err := s.client.Get(t.Context(), sb.ID()); err != nil || info.End == nil || info.End.Cause != bulkhead.CauseKilled {
		t.Errorf("its end is %+v, %v", info.End, err)
	}
}
