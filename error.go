package bulkhead

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code says what kind of failure an [Error] is. The set is closed.
type Code string

// The codes. Each stands for one HTTP status; see [Code.HTTPStatus].
const (
	// CodeInvalid: the request is wrong and will be wrong again.
	CodeInvalid Code = "invalid"
	// CodeUnauthenticated: no key, or a key that is not known.
	CodeUnauthenticated Code = "unauthenticated"
	// CodeForbidden: the key is known and may not do this.
	CodeForbidden Code = "forbidden"
	// CodeNotFound: there is no such thing, or it is not the caller's to see.
	CodeNotFound Code = "not_found"
	// CodeConflict: the thing is in a state that does not allow the request.
	CodeConflict Code = "conflict"
	// CodeQuotaExceeded: the caller's own limit; waiting for others does not help.
	CodeQuotaExceeded Code = "quota_exceeded"
	// CodeUnavailable: the host is full, draining or degraded; try again later.
	CodeUnavailable Code = "unavailable"
	// CodeTimeout: a deadline passed before the answer was there.
	CodeTimeout Code = "timeout"
	// CodeUnsupported: the request is understood and this build or host cannot do it.
	CodeUnsupported Code = "unsupported"
	// CodeTooLarge: the body is larger than the limit named in the message.
	CodeTooLarge Code = "too_large"
	// CodeInternal: a defect or a broken host; the log has the cause.
	CodeInternal Code = "internal"
)

// httpStatus is the one table between codes and HTTP statuses.
var httpStatus = map[Code]int{
	CodeInvalid:         http.StatusBadRequest,
	CodeUnauthenticated: http.StatusUnauthorized,
	CodeForbidden:       http.StatusForbidden,
	CodeNotFound:        http.StatusNotFound,
	CodeConflict:        http.StatusConflict,
	CodeTooLarge:        http.StatusRequestEntityTooLarge,
	CodeQuotaExceeded:   http.StatusTooManyRequests,
	CodeInternal:        http.StatusInternalServerError,
	CodeUnsupported:     http.StatusNotImplemented,
	CodeUnavailable:     http.StatusServiceUnavailable,
	CodeTimeout:         http.StatusGatewayTimeout,
}

// HTTPStatus returns the status that stands for c, 500 for a code it does not know.
func (c Code) HTTPStatus() int {
	if s, ok := httpStatus[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// CodeOfStatus returns the code that an HTTP status stands for, the inverse of
// [Code.HTTPStatus]. Statuses without a code of their own give [CodeInvalid]
// for 4xx and [CodeInternal] for the rest.
func CodeOfStatus(status int) Code {
	for c, s := range httpStatus {
		if s == status {
			return c
		}
	}
	if status >= 400 && status < 500 {
		return CodeInvalid
	}
	return CodeInternal
}

// Error is the error type at every edge. Msg is safe for a tenant to read; Err
// is for the log and is never shown.
type Error struct {
	// Code is the kind of failure.
	Code Code
	// Op is what was being done, such as "create sandbox". It may be empty.
	Op string
	// Msg names the field, the value and the limit, in words a tenant may read.
	Msg string
	// RetryAfter, when positive, is when trying again may help.
	RetryAfter time.Duration
	// Limit, when a limit is why, is which, with its figures. It may be nil.
	Limit *LimitEvidence
	// Err is the cause, for the log. It may be nil.
	Err error
}

// LimitEvidence is a limit that a request met, with its figures.
type LimitEvidence struct {
	// Name is whose limit of what: "tenant.memoryMB" is the sum over the tenant's
	// sandboxes, "tenant.sandbox.memoryMB" what each may have, "host.memoryMB" what
	// the host may promise.
	Name string `json:"name"`
	// Limit, Used and Asked are in Unit. Used is what others hold already.
	Limit float64 `json:"limit"`
	Used  float64 `json:"used"`
	Asked float64 `json:"asked"`
	Unit  string  `json:"unit"`
	// Never says that the request could not fit even if nothing were used.
	Never bool `json:"never,omitempty"`
	// WaitSeconds is how long a place is expected to take, 0 if that is not known.
	WaitSeconds float64 `json:"waitSeconds,omitempty"`
}

// Error joins Op, Msg and Err for a log line.
func (e *Error) Error() string {
	s := e.Msg
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error with the given code and a tenant-safe message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first *Error in err's chain, [CodeInternal]
// for any other error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// Message returns what a tenant may read of err: the Msg of the first *Error in
// its chain, else "internal error".
func Message(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Msg
	}
	return "internal error"
}
