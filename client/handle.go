package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb/filesystempbconnect"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
)

// Sandbox is a handle on one sandbox. It stays valid after the sandbox has
// ended; its methods then fail with CodeNotFound.
type Sandbox struct {
	client *Client
	info   bulkhead.Sandbox
	domain string

	envd      *http.Client
	processes processpbconnect.ProcessClient
	files     filesystempbconnect.FilesystemClient
}

// handle makes the handle of the sandbox that the server answered with.
func (c *Client) handle(op string, w wireSandbox) (*Sandbox, error) {
	if err := checkID(op, w.ID); err != nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeInternal, Op: op, Msg: "the server's answer holds no sandbox", Err: err}
	}
	s := &Sandbox{client: c, info: w.sandbox(), domain: w.Domain}
	s.envd = s.httpClient(boxrpc.EnvdPort)
	s.processes = processpbconnect.NewProcessClient(s.envd, c.cfg.SandboxURL, jsonCodec()...)
	s.files = filesystempbconnect.NewFilesystemClient(s.envd, c.cfg.SandboxURL, jsonCodec()...)
	return s, nil
}

// ID names the sandbox.
func (s *Sandbox) ID() string { return s.info.ID }

// Info returns what the server said when the handle was made. [Client.Get] asks again.
func (s *Sandbox) Info() bulkhead.Sandbox { return s.info }

// Kill ends the sandbox, like [Client.Kill].
func (s *Sandbox) Kill(ctx context.Context) error { return s.client.Kill(ctx, s.info.ID) }

// SetTimeout sets the end of its life, like [Client.SetTimeout].
func (s *Sandbox) SetTimeout(ctx context.Context, ttl time.Duration) error {
	return s.client.SetTimeout(ctx, s.info.ID, ttl)
}

// PortURL returns the address at which a browser reaches a port of the sandbox.
// CodeUnsupported when the server has no domain for such addresses;
// [Sandbox.PortTransport] works all the same.
func (s *Sandbox) PortURL(port int) (string, error) {
	if err := checkPort(port); err != nil {
		return "", err
	}
	if s.domain == "" {
		return "", &bulkhead.Error{
			Code: bulkhead.CodeUnsupported, Op: "port URL",
			Msg: "the server has no domain for port addresses; send requests to it with the headers E2b-Sandbox-Id and E2b-Sandbox-Port instead",
		}
	}
	return fmt.Sprintf("%s://%d-%s.%s", s.client.scheme, port, s.info.ID, s.domain), nil
}

// PortTransport sends requests for [Config.SandboxURL] to a port of the sandbox,
// by headers: it needs no domain. The requests carry the traffic token, if any.
func (s *Sandbox) PortTransport(port int) (http.RoundTripper, error) {
	if err := checkPort(port); err != nil {
		return nil, err
	}
	return s.transport(port), nil
}

func checkPort(port int) error {
	if port < 1 || port > 65535 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "port is %d; it must be between 1 and 65535", port)
	}
	return nil
}

// httpClient is the configured client with a transport that leads to a port of
// the box and makes errors of the proxy's own answers.
func (s *Sandbox) httpClient(port int) *http.Client {
	hc := *s.client.cfg.HTTPClient
	t := s.transport(port)
	t.explain = true
	hc.Transport = t
	return &hc
}

func (s *Sandbox) transport(port int) *boxTransport {
	next := s.client.cfg.HTTPClient.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	h := http.Header{}
	h.Set("E2b-Sandbox-Id", s.info.ID)
	h.Set("E2b-Sandbox-Port", strconv.Itoa(port))
	h.Set("User-Agent", s.client.cfg.UserAgent)
	if s.info.EnvdToken != "" && (port == boxrpc.EnvdPort || port == boxrpc.InterpreterPort) {
		h.Set("X-Access-Token", s.info.EnvdToken)
	}
	if s.info.TrafficToken != "" {
		h.Set("E2b-Traffic-Access-Token", s.info.TrafficToken)
	}
	return &boxTransport{next: next, header: h}
}

// boxTransport routes requests to one port of one box.
type boxTransport struct {
	next   http.RoundTripper
	header http.Header
	// explain turns a 502, which is the proxy's word and not the box's, into a
	// *bulkhead.Error.
	explain bool
}

// RoundTrip sends req with the box's headers.
func (t *boxTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	maps.Copy(req.Header, t.header)
	resp, err := t.next.RoundTrip(req)
	if err != nil || !t.explain || resp.StatusCode != http.StatusBadGateway {
		return resp, err
	}
	defer resp.Body.Close()
	return nil, answerError("", resp)
}

// basicUser is the Authorization header that names the user to act as.
func basicUser(h http.Header, user string) {
	if user != "" {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	}
}

// boxRequest is one HTTP request to a port of the box.
type boxRequest struct {
	op, method, path string
	client           *http.Client
	body             io.Reader
	header           http.Header
}

// doBox sends r and returns an answer below 300, whose body the caller closes.
func (s *Sandbox) doBox(ctx context.Context, r boxRequest) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, s.client.cfg.SandboxURL+r.path, r.body)
	if err != nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: r.op, Msg: "the request has no URL", Err: err}
	}
	maps.Copy(req.Header, r.header)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, transportError(ctx, r.op, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, answerError(r.op, resp)
	}
	return resp, nil
}

// callBox sends in as JSON, unless nil, and decodes the answer into out, unless nil.
func (s *Sandbox) callBox(ctx context.Context, r boxRequest, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, s.client.cfg.RequestTimeout)
	defer cancel()
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: r.op, Msg: "the request has no JSON form", Err: err}
		}
		r.body, r.header = bytes.NewReader(raw), http.Header{"Content-Type": {"application/json"}}
	}
	resp, err := s.doBox(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decodeAnswer(ctx, r.op, resp.Body, out)
}
