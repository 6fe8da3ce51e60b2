package cli

import (
	"context"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// How often a server is asked whether it serves a new version, and for how long:
// a little longer than it takes it at most.
const (
	rolloverEvery = 250 * time.Millisecond
	rolloverTime  = 150 * time.Second
	// rolloverAsk bounds one question: the server may not be running.
	rolloverAsk = 2 * time.Second
)

// awaitRollover waits until the server on this host serves the version of the
// template that was just built: while it has boxes of the last one, it makes those
// of the new one first. Without such a server there is nothing to wait for.
func (a *App) awaitRollover(ctx context.Context, t bulkhead.Template) {
	if a.flags.URL != "" || a.env.URL != "" {
		return // another host's, maybe
	}
	cl, err := a.Client()
	if err != nil {
		return // there is no server
	}
	ctx, cancel := context.WithTimeout(ctx, rolloverTime)
	defer cancel()
	tick := time.NewTicker(rolloverEvery)
	defer tick.Stop()
	for told := false; ; {
		asked, done := context.WithTimeout(ctx, rolloverAsk)
		r, err := cl.Pools(asked)
		done()
		if err != nil {
			return // it does not run, or does not tell us
		}
		waits := false
		for _, p := range r.Pools {
			waits = waits || p.Template == t.Name && p.Warm > 0 && p.Digest != t.Digest
		}
		if !waits {
			return
		}
		if !told {
			a.note("the server makes boxes of it before it serves; the last version does until then")
			told = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
