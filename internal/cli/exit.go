package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/script/scriptcli"
)

// The exit codes; the package comment says what each means.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRefused     = 4
	exitKey         = 5
	exitInterrupted = 130
)

// exitOfCause is the one table from causes to exit codes. A program that exited
// by itself hands on its own.
var exitOfCause = map[bulkhead.Cause]int{
	bulkhead.CauseExpired:     120,
	bulkhead.CausePidsLimit:   121,
	bulkhead.CauseDiskLimit:   122,
	bulkhead.CauseOutputLimit: 123,
	bulkhead.CauseTimeLimit:   124,
	bulkhead.CauseCrashed:     134,
	bulkhead.CauseMemoryLimit: 137,
	bulkhead.CauseKilled:      143,
}

// exitOfEnd is the exit code of a program that ended so.
func exitOfEnd(end bulkhead.End) int {
	if code, ok := exitOfCause[end.Cause]; ok && !signaled(end) {
		return code
	}
	return end.ExitCode & 0xff
}

// signaled reports whether a client's signal ended the program, or made it end:
// nothing more has to be said than its exit code. Without an exit code it was
// the whole sandbox that was killed.
func signaled(end bulkhead.End) bool {
	return end.Cause == bulkhead.CauseKilled && end.ExitCode != 0
}

// usageError is a mistake of whoever typed the command.
type usageError struct {
	err  error
	hint string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usagef is a usage error without a hint.
func usagef(format string, args ...any) error {
	return usageError{err: fmt.Errorf(format, args...)}
}

// ended is the error of a command whose program did not end well. Everything
// there is to say has been printed, unless say is set.
type ended struct {
	code int
	say  string
}

func (e ended) Error() string { return cmp.Or(e.say, fmt.Sprintf("exit code %d", e.code)) }

// exitOfError is the exit code of a failed command.
func exitOfError(err error) int {
	var end ended
	var usage usageError
	var program *scriptcli.ExitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &program):
		return exitOfEnd(program.End)
	case errors.As(err, &end):
		return end.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	}
	switch bulkhead.CodeOf(err) {
	case bulkhead.CodeQuotaExceeded, bulkhead.CodeUnavailable:
		return exitRefused
	case bulkhead.CodeUnauthenticated, bulkhead.CodeForbidden:
		return exitKey
	default:
		return exitFailed
	}
}

// hintOf says what to do next, "" where there is nothing to say.
func hintOf(err error) string {
	if usage, ok := errors.AsType[usageError](err); ok {
		return usage.hint
	}
	if errors.Is(err, client.ErrUnreachable) {
		return "start the server with 'bulkhead serve', or give its address with --url"
	}
	var e *bulkhead.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Code {
	case bulkhead.CodeUnauthenticated:
		return "give a key with --key or BULKHEAD_API_KEY"
	case bulkhead.CodeForbidden:
		return "use a key that may do this"
	case bulkhead.CodeQuotaExceeded:
		return hintOfLimit(e)
	case bulkhead.CodeUnavailable:
		if e.RetryAfter > 0 {
			return fmt.Sprintf("try again in %v", e.RetryAfter.Round(time.Second))
		}
		return "try again later; 'bulkhead doctor' on the server's host tells more"
	case bulkhead.CodeNotFound:
		if strings.Contains(e.Msg, "template") {
			return "'bulkhead template ls' shows what there is"
		}
		if strings.Contains(e.Msg, "sandbox") {
			return "'bulkhead sandbox ls --all' shows what there is and was"
		}
	default:
	}
	return ""
}

// hintOfLimit is hintOf for a limit of one's own. To end sandboxes helps where they
// hold what is asked for.
func hintOfLimit(e *bulkhead.Error) string {
	l := e.Limit
	switch {
	case l != nil && (l.Never || l.Asked == 0):
		return "'bulkhead quota' shows what you may use"
	case l == nil && e.RetryAfter > 0, l != nil && l.Name == "tenant.createsPerSecond":
		return fmt.Sprintf("try again in %v", max(e.RetryAfter, time.Second).Round(time.Second))
	}
	return "'bulkhead sandbox ls' shows what is running, 'bulkhead sandbox kill' ends it"
}

// text is what a person reads of err: without the cause that belongs in a log,
// except where that cause says why no server was reached.
func text(err error) string {
	var e *bulkhead.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case !errors.As(err, &e), errors.Is(err, client.ErrUnreachable):
		return err.Error()
	}
	s := e.Msg
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if around, ok := strings.CutSuffix(err.Error(), e.Error()); ok {
		s = around + s
	}
	return s
}

// report prints err and returns the exit code.
func (a *App) report(err error) int {
	code := exitOfError(err)
	var end ended
	var program *scriptcli.ExitError
	if err == nil || errors.As(err, &end) && end.say == "" || errors.As(err, &program) {
		return code
	}
	msg, hint := strings.ReplaceAll(text(err), "\n", " "), hintOf(err)
	if a.flags.JSON {
		a.reportJSON(msg, hint, code, err)
		return code
	}
	if hint != "" {
		msg += "; " + hint
	}
	a.aside(a.red(a.env.Stderr, "bulkhead:") + " " + clean(msg))
	return code
}

// reportJSON prints an error for programs, one line on standard error.
func (a *App) reportJSON(msg, hint string, exit int, err error) {
	body := struct {
		Code     bulkhead.Code `json:"code,omitempty"`
		Message  string        `json:"message"`
		Hint     string        `json:"hint,omitempty"`
		ExitCode int           `json:"exitCode"`
	}{Message: msg, Hint: hint, ExitCode: exit}
	if e, ok := errors.AsType[*bulkhead.Error](err); ok {
		body.Code = e.Code
	}
	raw, merr := json.Marshal(map[string]any{"error": body})
	if merr != nil {
		raw = []byte(msg)
	}
	a.aside(string(raw))
}
