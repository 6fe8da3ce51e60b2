package client

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// pageSize is how many sandboxes one request of a list asks for, E2B's largest.
const pageSize = 100

// defaultTTL is E2B's SDKs' default time to live.
const defaultTTL = 300 * time.Second

// Create makes a sandbox and waits until it runs. The request's Tenant must be
// empty: the key says who asks. A zero TTL means 300 s, as with E2B's SDKs.
// CodeQuotaExceeded means the tenant's own limit, CodeUnavailable a full host,
// CodeNotFound that there is no such template.
func (c *Client) Create(ctx context.Context, req bulkhead.CreateRequest) (*Sandbox, error) {
	const op = "create sandbox"
	switch {
	case req.Template == "":
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: "Template is empty; name a template, such as \"base\""}
	case req.Tenant != "":
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: "Tenant must be empty; the API key says who asks"}
	case req.TTL < 0:
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: fmt.Sprintf("TTL is %v; it must be positive, or 0 for the default", req.TTL)}
	}
	if err := req.Limits.Validate(); err != nil {
		return nil, err
	}
	body := wireCreate{
		Template: req.Template, TimeoutSeconds: seconds(cmp.Or(req.TTL, defaultTTL)), Limits: req.Limits,
		Metadata: req.Metadata, Env: req.Env, Secure: req.Secure, PrivateTraffic: req.PrivateTraffic,
		AllowInternet: req.AllowInternet, Network: req.Network, MaskHost: req.MaskHost,
		Priority: req.Priority, WaitSeconds: waitSeconds(req.Wait),
	}
	var w wireSandbox
	if _, err := c.call(ctx, request{op: op, method: http.MethodPost, path: "/v1/sandboxes", body: body}, &w); err != nil {
		return nil, err
	}
	return c.handle(op, w)
}

// Connect returns a handle on a sandbox and extends its life to ttl from now; it
// never shortens it. CodeNotFound when it has ended.
func (c *Client) Connect(ctx context.Context, id string, ttl time.Duration) (*Sandbox, error) {
	const op = "connect to sandbox"
	if err := checkID(op, id); err != nil {
		return nil, err
	}
	var w wireSandbox
	r := request{op: op, method: http.MethodPost, path: "/v2/sandboxes/" + id + "/connect", body: wireTTL{seconds(ttl)}}
	if _, err := c.call(ctx, r, &w); err != nil {
		return nil, err
	}
	return c.handle(op, w)
}

// Open returns a handle on a running sandbox and leaves its life as it is.
func (c *Client) Open(ctx context.Context, id string) (*Sandbox, error) {
	w, err := c.get(ctx, "open sandbox", id)
	if err != nil {
		return nil, err
	}
	if w.End != nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeNotFound, Op: "open sandbox", Msg: fmt.Sprintf("sandbox %s has ended: %s", id, w.End)}
	}
	return c.handle("open sandbox", w)
}

// Get returns what the server knows of a sandbox. CodeNotFound when there is no
// such sandbox, or it is another tenant's.
func (c *Client) Get(ctx context.Context, id string) (bulkhead.Sandbox, error) {
	w, err := c.get(ctx, "get sandbox", id)
	return w.sandbox(), err
}

func (c *Client) get(ctx context.Context, op, id string) (wireSandbox, error) {
	var w wireSandbox
	if err := checkID(op, id); err != nil {
		return w, err
	}
	_, err := c.call(ctx, request{op: op, method: http.MethodGet, path: "/v1/sandboxes/" + id}, &w)
	return w, err
}

// List yields the sandboxes that f selects, newest first, page by page as they
// are asked for. After an error it ends. The filter's Tenant must be empty.
func (c *Client) List(ctx context.Context, f bulkhead.Filter) iter.Seq2[bulkhead.Sandbox, error] {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, s := range f.States {
			states[i] = string(s)
		}
		query.Set("state", strings.Join(states, ","))
	}
	if f.Template != "" {
		query.Set("template", f.Template)
	}
	if len(f.Metadata) > 0 {
		query.Set("metadata", metadataQuery(f.Metadata))
	}
	if !f.StartedAfter.IsZero() {
		query.Set("startedAfter", f.StartedAfter.UTC().Format(time.RFC3339Nano))
	}
	return func(yield func(bulkhead.Sandbox, error) bool) {
		query := maps.Clone(query)
		for {
			var page []wireSandbox
			h, err := c.call(ctx, request{op: "list sandboxes", method: http.MethodGet, path: "/v1/sandboxes", query: query}, &page)
			if err != nil {
				yield(bulkhead.Sandbox{}, err)
				return
			}
			for _, w := range page {
				if !yield(w.sandbox(), nil) {
					return
				}
			}
			next := h.Get("X-Next-Token")
			if next == "" || next == query.Get("nextToken") || len(page) == 0 {
				return
			}
			query.Set("nextToken", next)
		}
	}
}

// metadataQuery writes pairs as E2B's SDKs do: each key and value escaped, then
// the whole as a query string.
func metadataQuery(pairs map[string]string) string {
	q := url.Values{}
	for k, v := range pairs {
		q.Set(percent(k), percent(v))
	}
	return q.Encode()
}

// percent escapes s as JavaScript's encodeURIComponent does, spaces as %20.
func percent(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// Kill ends a sandbox. CodeNotFound when there is none, or it has ended: a
// caller that only wants it gone may ignore that.
func (c *Client) Kill(ctx context.Context, id string) error {
	if err := checkID("kill sandbox", id); err != nil {
		return err
	}
	_, err := c.call(ctx, request{op: "kill sandbox", method: http.MethodDelete, path: "/sandboxes/" + id}, nil)
	return err
}

// SetTimeout sets the end of a sandbox's life to ttl from now, sooner or later
// than it was.
func (c *Client) SetTimeout(ctx context.Context, id string, ttl time.Duration) error {
	const op = "set timeout"
	if err := checkID(op, id); err != nil {
		return err
	}
	if ttl <= 0 {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: fmt.Sprintf("the time to live is %v; it must be positive", ttl)}
	}
	r := request{op: op, method: http.MethodPost, path: "/sandboxes/" + id + "/timeout", body: wireTTL{seconds(ttl)}}
	_, err := c.call(ctx, r, nil)
	return err
}

// SetNetwork replaces what a running sandbox may reach outside: internet opens
// every public address, n says what else, and what not. When it returns the change
// is in force, for open connections too.
func (c *Client) SetNetwork(ctx context.Context, id string, internet bool, n bulkhead.Network) error {
	const op = "set network"
	if err := checkID(op, id); err != nil {
		return err
	}
	r := request{op: op, method: http.MethodPut, path: "/sandboxes/" + id + "/network", body: wireNetwork{n, internet}}
	_, err := c.call(ctx, r, nil)
	return err
}

// Metrics returns the measurements of a sandbox from start to end, oldest first.
// Zero times mean its whole life.
func (c *Client) Metrics(ctx context.Context, id string, start, end time.Time) ([]bulkhead.Sample, error) {
	const op = "get metrics"
	if err := checkID(op, id); err != nil {
		return nil, err
	}
	query := url.Values{}
	if !start.IsZero() {
		query.Set("start", strconv.FormatInt(start.Unix(), 10))
	}
	if !end.IsZero() {
		query.Set("end", strconv.FormatInt(end.Unix(), 10))
	}
	var samples []bulkhead.Sample
	_, err := c.call(ctx, request{op: op, method: http.MethodGet, path: "/sandboxes/" + id + "/metrics", query: query}, &samples)
	return samples, err
}

// Logs returns up to limit lines of a sandbox's log from after on, oldest first.
// A zero after means its whole life; limit is 1 to 1000.
func (c *Client) Logs(ctx context.Context, id string, after time.Time, limit int) ([]bulkhead.LogLine, error) {
	const op = "get logs"
	if err := checkID(op, id); err != nil {
		return nil, err
	}
	if limit < 1 || limit > 1000 {
		return nil, &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: fmt.Sprintf("the limit is %d; it must be between 1 and 1000", limit)}
	}
	query := url.Values{"limit": {strconv.Itoa(limit)}, "direction": {"forward"}}
	if !after.IsZero() {
		query.Set("cursor", strconv.FormatInt(after.UnixMilli(), 10))
	}
	var answer struct {
		Logs []bulkhead.LogLine `json:"logs"`
	}
	_, err := c.call(ctx, request{op: op, method: http.MethodGet, path: "/v2/sandboxes/" + id + "/logs", query: query}, &answer)
	return answer.Logs, err
}

// checkID refuses what cannot be an identifier, so that it cannot change the path.
func checkID(op, id string) error {
	ok := id != "" && len(id) <= 64
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r == '-' || r == '_')
	}
	if !ok {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: op, Msg: fmt.Sprintf("%q is not an identifier", id)}
	}
	return nil
}
