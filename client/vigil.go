package client

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/bulkheadhq/bulkhead"
)

// errSandboxEnded cancels a stream whose sandbox ended without cutting it.
var errSandboxEnded = errors.New("the sandbox ended")

// vigil watches over a stream of the sandbox: when it was silent for a while and
// the server says that the sandbox has ended, or knows none, cut is called with
// [errSandboxEnded]. heard is to be called whenever the stream brings something,
// stop at its end; both may be called from any goroutine.
func (s *Sandbox) vigil(ctx context.Context, cut context.CancelCauseFunc) (heard, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	silence := s.client.cfg.Silence
	timer := time.NewTimer(silence)
	go func() {
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				if s.over(ctx) {
					cut(errSandboxEnded)
					return
				}
				timer.Reset(silence)
			}
		}
	}()
	return func() { timer.Reset(silence) }, cancel
}

// over reports whether the server says that the sandbox does not run any more. A
// server that does not answer says nothing.
func (s *Sandbox) over(ctx context.Context) bool {
	now, err := s.client.Get(ctx, s.info.ID)
	return err == nil && now.End != nil || bulkhead.CodeOf(err) == bulkhead.CodeNotFound
}

// lag is how long after the cut of a stream the server may still not know that
// the sandbox has ended.
const lag = 2 * time.Second

// errRuns is that the server knows of no end.
var errRuns = errors.New("the sandbox runs")

// endOf tells whether err, which cut a stream, came of the end of the whole
// sandbox, and returns that end.
func (s *Sandbox) endOf(ctx context.Context, err error) (bulkhead.End, bool) {
	switch bulkhead.CodeOf(err) {
	case bulkhead.CodeNotFound, bulkhead.CodeUnavailable:
	default:
		return bulkhead.End{}, false
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 20 * time.Millisecond
	end, err := backoff.Retry(ctx, func() (bulkhead.End, error) {
		now, err := s.client.Get(ctx, s.info.ID)
		switch {
		case err != nil:
			return bulkhead.End{}, backoff.Permanent(err)
		case now.End == nil:
			return bulkhead.End{}, errRuns
		default:
			return *now.End, nil
		}
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(lag))
	return end, err == nil
}

// goneError is the error of a stream that [errSandboxEnded] canceled.
func goneError(op string) error {
	return &bulkhead.Error{Code: bulkhead.CodeNotFound, Op: op, Msg: "the sandbox ended"}
}
