package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// maxAnswer bounds the body of one answer that is held in memory: 16 MiB, a
// thousand times the largest page of a list.
const maxAnswer = 16 << 20

// Config says where the server is and who is calling.
type Config struct {
	// BaseURL is the server's address, such as "http://127.0.0.1:3000".
	BaseURL string
	// SandboxURL is where requests to sandboxes go; BaseURL when empty.
	SandboxURL string
	// APIKey is sent as X-API-KEY. It may be empty for a server without keys.
	APIKey string
	// HTTPClient makes the requests. It should have no Timeout, since streams
	// last. The default keeps 100 idle connections.
	HTTPClient *http.Client
	// RequestTimeout bounds one call that is not a stream, its retries included.
	// 60 s when zero.
	RequestTimeout time.Duration
	// Tries is how often one request is sent at most. 4 when zero.
	Tries uint
	// RetryWait bounds the time spent waiting between tries. 15 s when zero.
	RetryWait time.Duration
	// Silence is how long a stream may bring nothing, not even one of the signs of
	// life that a box sends every 5 s, before the server is asked whether the
	// sandbox still runs. 8 s when zero.
	Silence time.Duration
	// UserAgent names the caller. "bulkhead-go" when empty.
	UserAgent string
}

// withDefaults returns cfg with every empty field filled.
func (cfg Config) withDefaults() Config {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	cfg.SandboxURL = cmp.Or(strings.TrimRight(cfg.SandboxURL, "/"), cfg.BaseURL)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, 60*time.Second)
	cfg.Tries = cmp.Or(cfg.Tries, 4)
	cfg.RetryWait = cmp.Or(cfg.RetryWait, 15*time.Second)
	cfg.Silence = cmp.Or(cfg.Silence, 8*time.Second)
	cfg.UserAgent = cmp.Or(cfg.UserAgent, "bulkhead-go")
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Transport: newTransport()}
	}
	return cfg
}

// Client talks to one server as one tenant.
type Client struct {
	cfg Config
	// scheme is that of SandboxURL; port URLs share it.
	scheme string
}

// New returns a client for the server that cfg names. It sends nothing. The
// error is a *bulkhead.Error with CodeInvalid that names the field.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := checkURL("BaseURL", cfg.BaseURL); err != nil {
		return nil, err
	}
	if err := checkURL("SandboxURL", cfg.SandboxURL); err != nil {
		return nil, err
	}
	if strings.ContainsAny(cfg.APIKey, "\r\n\x00") {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "APIKey holds a line break or a zero byte")
	}
	scheme, _, _ := strings.Cut(cfg.SandboxURL, "://")
	return &Client{cfg: cfg, scheme: scheme}, nil
}

// checkURL accepts an absolute http or https URL without query.
func checkURL(field, raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: fmt.Sprintf("%s %q is not a URL", field, raw), Err: err}
	case u.Scheme != "http" && u.Scheme != "https":
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s %q must begin with http:// or https://", field, raw)
	case u.Host == "":
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s %q names no host", field, raw)
	case u.RawQuery != "" || u.Fragment != "":
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s %q must not have a query or a fragment", field, raw)
	}
	return nil
}

// newTransport is the default transport with room for many sandboxes at once.
func newTransport() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // a program replaced it; its choice stands
		return http.DefaultTransport
	}
	t = t.Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 100, 100
	return t
}

// request is one call of the control plane.
type request struct {
	op, method, path string
	query            url.Values
	// body is marshalled to JSON unless nil.
	body any
}

// safe reports whether sending r twice does the same as sending it once.
func (r request) safe() bool {
	return r.method == http.MethodGet || r.method == http.MethodDelete
}

// call sends r, with retries, and decodes the answer into out unless out is nil.
// It returns the answer's header.
func (c *Client) call(ctx context.Context, r request, out any) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: r.op, Msg: "the request has no JSON form", Err: err}
		}
	}
	return c.retry(ctx, r, func() (http.Header, error) { return c.send(ctx, r, body, out) })
}

// send makes one try.
func (c *Client) send(ctx context.Context, r request, body []byte, out any) (http.Header, error) {
	target := c.cfg.BaseURL + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var payload io.Reader
	if body != nil {
		payload = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, payload)
	if err != nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: r.op, Msg: "the request has no URL", Err: err}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if c.cfg.APIKey != "" {
		req.Header.Set("X-API-KEY", c.cfg.APIKey)
	}
	resp, err := c.cfg.HTTPClient.Do(req)
	if err != nil {
		return nil, transportError(ctx, r.op, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return nil, answerError(r.op, resp)
	}
	return resp.Header, decodeAnswer(ctx, r.op, resp.Body, out)
}

// decodeAnswer reads the JSON of a good answer into out, unless out is nil.
func decodeAnswer(ctx context.Context, op string, body io.Reader, out any) error {
	raw, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	switch {
	case err != nil:
		return transportError(ctx, op, err)
	case len(raw) > maxAnswer:
		return &bulkhead.Error{Code: bulkhead.CodeTooLarge, Op: op, Msg: "the server's answer is larger than 16 MiB"}
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInternal, Op: op, Msg: "the server's answer is not the JSON expected; is this address a Bulkhead server?", Err: err}
	}
	return nil
}
