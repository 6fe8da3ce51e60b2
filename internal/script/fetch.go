package script

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// Bounds of one fetch.
const (
	fetchTime = 30 * time.Second
	fetchBody = 2 << 20
)

// maxRedirects is how many redirects one fetch follows.
const maxRedirects = 5

// What keeps a fetch from following a redirect.
var (
	errRedirects = errors.New("more redirects than are followed")
	errRedirect  = errors.New("a redirect, which the program wants to be an error")
)

// fetch does a request for a program, where the tenant's policy allows it. The
// policy is asked again for every redirect. When the run's time is over first,
// the error is [engine.ErrOver].
func (s *Service) fetch(ctx context.Context, tenant Tenant, payload []byte, until time.Time) ([]byte, error) {
	if s.cfg.AllowFetch == nil || s.cfg.FetchClient == nil {
		return nil, bulkhead.Errorf(bulkhead.CodeForbidden, "fetch is not allowed here")
	}
	var r engine.FetchRequest
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
	most := fetchTime
	if r.TimeMS > 0 && r.TimeMS < most.Milliseconds() {
		most = time.Duration(r.TimeMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ctx, cancelRun := context.WithDeadlineCause(ctx, until, engine.ErrOver)
	defer cancelRun()
	body := r.Bytes
	if body == nil {
		body = []byte(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the method %.40q is not one of HTTP", r.Method)
	}
	for k, v := range r.Headers {
		if !httpguts.ValidHeaderFieldName(k) || !httpguts.ValidHeaderFieldValue(v) {
			return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the header %.40q with the value %.40q is not one of HTTP", k, v)
		}
		req.Header.Set(k, v)
	}
	client := *s.cfg.FetchClient
	redirected := false
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		switch {
		case r.Redirect == "manual":
			return http.ErrUseLastResponse
		case r.Redirect == "error":
			return errRedirect
		case len(via) > maxRedirects:
			return errRedirects
		}
		redirected = true
		return s.cfg.AllowFetch(ctx, tenant, next.URL)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fetchError(ctx, err, u, most)
	}
	defer func() { _ = resp.Body.Close() }()
	a := engine.FetchAnswer{
		URL: resp.Request.URL.String(), Status: resp.StatusCode, StatusText: http.StatusText(resp.StatusCode),
		Redirected: redirected, Headers: map[string]string{}, Cookies: resp.Header.Values("Set-Cookie"),
	}
	if a.Body, err = io.ReadAll(io.LimitReader(resp.Body, fetchBody+1)); err != nil {
		return nil, fetchError(ctx, err, u, most)
	}
	if len(a.Body) > fetchBody {
		return nil, bulkhead.Errorf(bulkhead.CodeTooLarge, "the answer of %s is larger than %d bytes", u.Host, fetchBody)
	}
	for k, v := range resp.Header {
		a.Headers[strings.ToLower(k)] = strings.Join(v, ", ")
	}
	return json.Marshal(a)
}

// fetchError says what kept a request from being answered.
func fetchError(ctx context.Context, err error, u *url.URL, most time.Duration) error {
	if denied, ok := errors.AsType[*bulkhead.Error](err); ok {
		return denied
	}
	if context.Cause(ctx) == engine.ErrOver { //nolint:errorlint // it is the cause itself
		return engine.ErrOver
	}
	msg := u.Host + " does not answer"
	_, unknown := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, errRedirects):
		msg = fmt.Sprintf("%s redirects more than %d times", u.Host, maxRedirects)
	case errors.Is(err, errRedirect):
		msg = u.Host + " answers with a redirect, and redirect is error"
	case errors.Is(err, context.DeadlineExceeded):
		msg = fmt.Sprintf("%s did not answer within %v", u.Host, most)
	case errors.Is(err, syscall.ECONNREFUSED):
		msg = u.Host + " refuses connections"
	case unknown:
		msg = "there is no address for " + u.Hostname()
	}
	return &bulkhead.Error{Code: bulkhead.CodeUnavailable, Op: "fetch", Msg: msg, Err: err}
}
