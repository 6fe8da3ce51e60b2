package script

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Bounds of one fetch.
const (
	fetchTime = 30 * time.Second
	fetchBody = 2 << 20
)

// fetchRequest and fetchAnswer are what the engine's fetch sends and expects.
type fetchRequest struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

type fetchAnswer struct {
	URL     string            `json:"url"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
}

// fetch does a request for a program, where the tenant's policy allows it. The
// policy is asked again for every redirect.
func (s *Service) fetch(ctx context.Context, tenant Tenant, payload []byte) ([]byte, error) {
	if s.cfg.AllowFetch == nil || s.cfg.FetchClient == nil {
		return nil, bulkhead.Errorf(bulkhead.CodeForbidden, "fetch is not allowed here")
	}
	var r fetchRequest
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the request is not JSON")
	}
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the address is %.200q; it must be an http or https URL", r.URL)
	}
	if err := s.cfg.AllowFetch(ctx, tenant, u); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), strings.NewReader(r.Body))
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the method %.40q is not one of HTTP", r.Method)
	}
	for k, v := range r.Headers {
		req.Header.Set(k, v)
	}
	client := *s.cfg.FetchClient
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) >= 5 {
			return errors.New("more than 5 redirects")
		}
		return s.cfg.AllowFetch(ctx, tenant, next.URL)
	}
	resp, err := client.Do(req)
	if err != nil {
		if denied, ok := errors.AsType[*bulkhead.Error](err); ok {
			return nil, denied
		}
		return nil, &bulkhead.Error{
			Code: bulkhead.CodeUnavailable, Op: "fetch", Msg: u.Host + " does not answer", Err: err,
		}
	}
	defer func() { _ = resp.Body.Close() }()
	a := fetchAnswer{URL: resp.Request.URL.String(), Status: resp.StatusCode, Headers: map[string]string{}}
	if a.Body, err = io.ReadAll(io.LimitReader(resp.Body, fetchBody+1)); err != nil {
		return nil, &bulkhead.Error{
			Code: bulkhead.CodeUnavailable, Op: "fetch", Msg: u.Host + " did not answer in full", Err: err,
		}
	}
	if len(a.Body) > fetchBody {
		return nil, bulkhead.Errorf(bulkhead.CodeTooLarge, "the answer of %s is larger than %d bytes", u.Host, fetchBody)
	}
	for k, v := range resp.Header {
		a.Headers[strings.ToLower(k)] = strings.Join(v, ", ")
	}
	return json.Marshal(a)
}
