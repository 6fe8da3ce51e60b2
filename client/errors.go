package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/cenkalti/backoff/v5"

	"github.com/bulkheadhq/bulkhead"
)

// ErrUnreachable is in the chain of an error when no server answered: its name
// did not resolve, nothing listened, or TLS failed. The request was not carried out.
var ErrUnreachable = errors.New("server unreachable")

// maxErrorBody bounds what is read of an error answer: 64 KiB.
const maxErrorBody = 64 << 10

// wireError is the body of an error, of the control plane (code is a number),
// of the data plane (sandboxId, port) and of Connect (code is a word).
type wireError struct {
	Code      json.RawMessage `json:"code"`
	Message   string          `json:"message"`
	SandboxID string          `json:"sandboxId"`
	Port      int             `json:"port"`

	Limit *bulkhead.LimitEvidence `json:"limit"`
}

// answerError makes an error of an answer that is not a success. It reads, and
// does not close, the body.
func answerError(op string, resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var w wireError
	if err != nil || json.Unmarshal(raw, &w) != nil || w.Message == "" {
		w.Message = plainMessage(resp, raw)
	}
	e := &bulkhead.Error{
		Code: codeOfAnswer(resp.StatusCode, w), Op: op, Msg: w.Message, Limit: w.Limit,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
	return e
}

// codeOfAnswer is [bulkhead.CodeOfStatus] and what a gateway's 502 means: no such
// sandbox, a port nobody listens on, or a server that is not there.
func codeOfAnswer(status int, w wireError) bulkhead.Code {
	if status != http.StatusBadGateway {
		return bulkhead.CodeOfStatus(status)
	}
	if w.SandboxID != "" && w.Port == 0 {
		return bulkhead.CodeNotFound
	}
	return bulkhead.CodeUnavailable
}

// plainMessage is the message of an answer without a JSON one: its text when it
// is one short line, else its status.
func plainMessage(resp *http.Response, raw []byte) string {
	text := strings.TrimSpace(string(raw))
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if kind == "text/plain" && text != "" && len(text) < 512 && !strings.Contains(text, "\n") {
		return text
	}
	return fmt.Sprintf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}

// retryAfter reads a Retry-After header, seconds or a date; 0 when there is none.
func retryAfter(header string, now time.Time) time.Duration {
	if header == "" {
		return 0
	}
	if n, err := strconv.ParseInt(header, 10, 32); err == nil && n >= 0 {
		return max(time.Duration(n)*time.Second, time.Millisecond)
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), time.Millisecond)
	}
	return 0
}

// transportError makes an error of a request that got no answer.
func transportError(ctx context.Context, op string, err error) error {
	var own *bulkhead.Error
	switch {
	case errors.As(err, &own): // from a transport of ours
		if own.Op == "" {
			return &bulkhead.Error{Code: own.Code, Op: op, Msg: own.Msg, RetryAfter: own.RetryAfter, Err: own.Err}
		}
		return own
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", op, context.Canceled)
	case ctx.Err() != nil:
		return &bulkhead.Error{Code: bulkhead.CodeTimeout, Op: op, Msg: "no answer before the deadline", Err: context.DeadlineExceeded}
	}
	where := "the server"
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if u, perr := url.Parse(ue.URL); perr == nil {
			where = u.Scheme + "://" + u.Host
		}
		err = ue.Err
	}
	if neverSent(err) {
		return &bulkhead.Error{
			Code: bulkhead.CodeUnavailable, Op: op, Msg: "cannot reach " + where,
			Err: fmt.Errorf("%w: %w", ErrUnreachable, err),
		}
	}
	return &bulkhead.Error{Code: bulkhead.CodeUnavailable, Op: op, Msg: "the connection to " + where + " broke", Err: err}
}

// neverSent reports whether err arose before a byte of the request was written.
func neverSent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	// crypto/tls and crypto/x509 have an error type for each way to fail; they
	// share their prefixes, and net/http's own "speaks HTTP" error has neither.
	text := err.Error()
	return strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "x509: ") ||
		strings.Contains(text, "server gave HTTP response to HTTPS client")
}

// connectCode is the table from Connect's codes to ours.
var connectCode = map[connect.Code]bulkhead.Code{
	connect.CodeInvalidArgument:    bulkhead.CodeInvalid,
	connect.CodeOutOfRange:         bulkhead.CodeInvalid,
	connect.CodeUnauthenticated:    bulkhead.CodeUnauthenticated,
	connect.CodePermissionDenied:   bulkhead.CodeForbidden,
	connect.CodeNotFound:           bulkhead.CodeNotFound,
	connect.CodeAlreadyExists:      bulkhead.CodeConflict,
	connect.CodeFailedPrecondition: bulkhead.CodeConflict,
	connect.CodeAborted:            bulkhead.CodeConflict,
	connect.CodeResourceExhausted:  bulkhead.CodeQuotaExceeded,
	connect.CodeUnimplemented:      bulkhead.CodeUnsupported,
	connect.CodeUnavailable:        bulkhead.CodeUnavailable,
	connect.CodeCanceled:           bulkhead.CodeUnavailable, // by the box's side: ours is seen before
	connect.CodeDeadlineExceeded:   bulkhead.CodeTimeout,
}

// rpcError makes an error of a failed call to a box's services.
func rpcError(ctx context.Context, op string, err error) error {
	var own *bulkhead.Error
	if errors.As(err, &own) || ctx.Err() != nil {
		return transportError(ctx, op, err)
	}
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(err) {
		return &bulkhead.Error{Code: cmp.Or(connectCode[ce.Code()], bulkhead.CodeInternal), Op: op, Msg: ce.Message()}
	}
	if errors.As(err, &ce) {
		err = ce.Unwrap()
	}
	return transportError(ctx, op, err)
}

// pace is an exponential back-off that waits at least as long as the server asked.
type pace struct {
	*backoff.ExponentialBackOff
	hint time.Duration
}

// NextBackOff returns the next wait.
func (p *pace) NextBackOff() time.Duration {
	return max(p.ExponentialBackOff.NextBackOff(), p.hint)
}

// retry makes tries until one succeeds or another would be unsafe or useless.
func (c *Client) retry(ctx context.Context, r request, try func() (http.Header, error)) (http.Header, error) {
	exponential := backoff.NewExponentialBackOff()
	exponential.InitialInterval, exponential.MaxInterval = 100*time.Millisecond, 4*time.Second
	p := &pace{ExponentialBackOff: exponential}
	var last error
	h, err := backoff.Retry(ctx, func() (http.Header, error) {
		h, err := try()
		if last = err; err == nil {
			return h, nil
		}
		if p.hint = 0; !repeatable(r, err, &p.hint) {
			return nil, backoff.Permanent(err)
		}
		return nil, err
	}, backoff.WithBackOff(p), backoff.WithMaxTries(c.cfg.Tries), backoff.WithMaxElapsedTime(c.cfg.RetryWait))
	if err != nil && last != nil && !errors.Is(ctx.Err(), context.Canceled) {
		return nil, last // it says more than that the time for retries is over
	}
	return h, err
}

// repeatable reports whether r may be sent again after err, and stores in hint
// how long the server asked to wait.
func repeatable(r request, err error, hint *time.Duration) bool {
	var e *bulkhead.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case bulkhead.CodeQuotaExceeded:
		*hint = e.RetryAfter
		return e.RetryAfter > 0
	case bulkhead.CodeUnavailable:
		*hint = e.RetryAfter
		return e.RetryAfter > 0 || r.safe() || errors.Is(err, ErrUnreachable)
	default:
		return false
	}
}
