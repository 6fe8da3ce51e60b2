package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// readyTry is how long the first attempt to reach a restored box may take. Its
// link came up when it was restored: a packet that meets it earlier is lost, and
// sending it again is TCP's business only after a second.
const readyTry = 25 * time.Millisecond

// Ready blocks until the box answers over its network, is told who it will be,
// and has rehearsed what its lease will ask of it first, so that the memory which
// that needs is in. The connection stays. A lease that asks for nothing else than
// the template's own takes the identity as it is.
func (n *Node) Ready(ctx context.Context, b *pool.Box) error {
	for try := readyTry; ; try = min(2*try, time.Second) {
		err := n.ping(ctx, b, try)
		if ctx.Err() != nil {
			return err
		}
		if err == nil {
			break
		}
	}
	nobody := bulkhead.Sandbox{ID: newID(), TemplateID: b.Template.ID, Limits: b.Made, EnvdToken: newToken()}
	id := n.identity(nobody, bulkhead.CreateRequest{}, b.Template)
	if err := n.initBox(ctx, b, id); err != nil {
		return err
	}
	id.Seed = nil // the box's alone
	b.Told = id
	if !b.Template.Interpreter {
		return nil
	}
	// Asked for its health, the interpreter has its kernel run nothing once.
	resp, err := n.ask(ctx, b, boxrpc.InterpreterPort, http.MethodGet, "/health", nil, "")
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	drained(resp)
	return nil
}

// holds reports whether what the box was told while it waited is all of id, but
// for what is random and for the time.
func holds(told, id boxrpc.Init) bool {
	id.MachineID, id.Seed, id.Timestamp = told.MachineID, told.Seed, told.Timestamp
	return reflect.DeepEqual(told, id)
}

func (n *Node) ping(ctx context.Context, b *pool.Box, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := n.ask(ctx, b, boxrpc.EnvdPort, http.MethodGet, "/health", nil, "")
	if err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	defer drained(resp)
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("envd answered %d when asked for its health", resp.StatusCode)
	}
	return nil
}

// initBox binds the box's envd to an identity, in place of the one it was told.
func (n *Node) initBox(ctx context.Context, b *pool.Box, id boxrpc.Init) error {
	body, err := json.Marshal(id) //nolint:gosec // the token is what envd must know
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	resp, err := n.ask(ctx, b, boxrpc.EnvdPort, http.MethodPost, "/init", body, b.Told.AccessToken)
	if err != nil {
		return fmt.Errorf("bind identity: %w", err)
	}
	defer drained(resp)
	if resp.StatusCode != http.StatusNoContent {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // for the log; nothing depends on it
		return fmt.Errorf("bind identity: envd answered %d: %q", resp.StatusCode, said)
	}
	return nil
}

// diskUse asks envd how much the box has written. It is the box's own word, and
// is bounded as such.
func (n *Node) diskUse(ctx context.Context, l *lease) int64 {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	sb := l.sandbox()
	resp, err := n.ask(ctx, l.box, boxrpc.EnvdPort, http.MethodGet, "/metrics", nil, sb.EnvdToken)
	if err != nil {
		return 0
	}
	defer drained(resp)
	var m struct {
		DiskUsed int64 `json:"disk_used"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&m) != nil {
		return 0
	}
	return min(max(m.DiskUsed, 0), sb.Limits.DiskMB<<20)
}

// boxKey is the context key of the box that a request goes to.
type boxKey struct{}

// ask sends one request to a port of a box. token, when not empty, opens it.
func (n *Node) ask(ctx context.Context, b *pool.Box, port int, method, path string, body []byte, token string) (*http.Response, error) { //nolint:revive // the parts of a request
	// The host is the box's name, which no other box ever has, and not its address:
	// no connection made for one box is ever used for the next one there.
	url := "http://" + net.JoinHostPort(b.ID, strconv.Itoa(port)) + path
	req, err := http.NewRequestWithContext(context.WithValue(ctx, boxKey{}, b), method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set(boxrpc.TokenHeader, token)
	}
	return n.client.Do(req) //nolint:wrapcheck // names method and URL
}

// drained ends an answer so that its connection can be used again. A box that
// goes on talking loses it.
func drained(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4096)
	_ = resp.Body.Close()
}

// boxClient reaches boxes and nothing else: no proxy, small headers, a
// connection or two for each that ends with the box. dial connects to an
// address.
func boxClient(dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a box must not lead us elsewhere
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				b, ok := ctx.Value(boxKey{}).(*pool.Box)
				if !ok {
					return nil, net.UnknownNetworkError("no box")
				}
				_, text, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				port, err := strconv.ParseUint(text, 10, 16)
				if err != nil {
					return nil, err
				}
				conn, err := dial(ctx, netip.AddrPortFrom(b.Part.Addr(), uint16(port)))
				if err != nil {
					return nil, err
				}
				return boxrpc.UntilDone(conn, b.Gone()), nil
			},
			MaxIdleConns:           0, // as many as there are boxes
			MaxIdleConnsPerHost:    1,
			ResponseHeaderTimeout:  20 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
	}
}

// dialBox connects over TCP, without keep-alives: the end of a box is noticed
// through its process.
func dialBox(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: -1}).DialContext(ctx, "tcp", addr.String())
}
