package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// Recovered says what [Node.Recover] found.
type Recovered struct {
	// Adopted are sandboxes that run on, Ended those whose box had died or whose
	// time was over, Reaped boxes that belonged to nobody.
	Adopted, Ended, Reaped int
}

// Recover takes over what an earlier server left on this host. It must be called
// once, before anything makes boxes.
func (n *Node) Recover(ctx context.Context) (Recovered, error) {
	var r Recovered
	rows, err := n.cfg.Store.Sandboxes(ctx, bulkhead.Filter{
		States: []bulkhead.State{bulkhead.StateStarting, bulkhead.StateRunning, bulkhead.StateEnding},
	})
	if err != nil {
		return r, fmt.Errorf("read sandboxes: %w", err)
	}
	kept := map[string]bool{}
	var checks sync.WaitGroup
	for _, sb := range rows {
		box, end, err := n.revive(ctx, sb)
		if err != nil {
			return r, fmt.Errorf("recover sandbox %s: %w", sb.ID, err)
		}
		if end.Cause != "" {
			end.At = time.Now().UTC()
			if err := n.cfg.Store.EndSandbox(ctx, sb.ID, end); err != nil {
				return r, fmt.Errorf("end sandbox %s: %w", sb.ID, err)
			}
			n.cfg.Log.InfoContext(ctx, "sandbox ended", "sandbox", sb.ID, "tenant", sb.Tenant, "cause", string(end.Cause), "detail", end.Detail)
			r.Ended++
			continue
		}
		l := newLease(box, n.adopt(&sb))
		l.sb, l.recorded = sb, true
		l.allocate(l.booking.Allocation())
		n.resume(ctx, l)
		_ = box.Part.Background(false) // the server before may have left it there
		kept[sb.Box] = true
		n.open(l)
		l.log(slog.LevelInfo, "the server was restarted and took the sandbox over", nil)
		r.Adopted++
		checks.Go(func() { n.endUnbound(ctx, l) })
	}
	checks.Wait()
	reaped, err := n.cfg.Pool.Reap(ctx, func(box string) bool { return kept[box] })
	r.Reaped = len(reaped)
	if err != nil {
		return r, fmt.Errorf("reap boxes: %w", err)
	}
	return r, nil
}

// boundWithin is how long a box may take to say whose it is.
const boundWithin = 2 * time.Second

// endUnbound ends a sandbox whose box never became it: the earlier server died
// between its row and its identity, and never acknowledged it. Its token or its
// environment are not those of the row. A box that does not answer in time, or
// otherwise than envd does, is kept.
func (n *Node) endUnbound(ctx context.Context, l *lease) {
	sb := l.sandbox()
	asked, cancel := context.WithTimeout(ctx, boundWithin)
	defer cancel()
	resp, err := n.ask(asked, l.box, boxrpc.EnvdPort, http.MethodGet, "/envs", nil, sb.EnvdToken)
	if err != nil {
		n.cfg.Log.WarnContext(ctx, "a box did not say whose it is", "sandbox", sb.ID, "box", sb.Box, "err", err)
		return
	}
	defer drained(resp)
	var envs map[string]string
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
	case resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, boxrpc.MaxInitBytes)).Decode(&envs) != nil:
		return
	case bound(envs, sb):
		return
	}
	n.end(ctx, l, bulkhead.End{Cause: bulkhead.CauseCrashed, Detail: "the server died before it could be started"})
}

// bound reports whether envs are those of sb's box.
func bound(envs map[string]string, sb bulkhead.Sandbox) bool {
	for name, value := range sb.Env {
		if got, ok := envs[name]; !strings.HasPrefix(name, "E2B_") && (!ok || got != value) { // those are the box's own
			return false
		}
	}
	return envs[boxrpc.SandboxIDEnv] == sb.ID
}

// revive returns the box of a row, or how the sandbox ended.
func (n *Node) revive(ctx context.Context, sb bulkhead.Sandbox) (*pool.Box, bulkhead.End, error) {
	if sb.State == bulkhead.StateEnding && sb.End != nil {
		return nil, *sb.End, nil
	}
	gone := bulkhead.End{Cause: bulkhead.CauseCrashed, Detail: "its box was gone when the server was started again"}
	t, err := n.cfg.Templates.Get(sb.TemplateID)
	if err != nil { // it runs on without: only its name is needed
		t = bulkhead.Template{ID: sb.TemplateID, Name: sb.Template, Digest: sb.TemplateDigest, Defaults: sb.Limits}
	}
	box, err := n.cfg.Pool.Adopt(ctx, sb.Box, t, sb.Limits)
	var known *bulkhead.Error
	if errors.As(err, &known) && known.Code == bulkhead.CodeNotFound {
		return nil, gone, nil
	}
	if err != nil {
		return nil, bulkhead.End{}, err
	}
	alive, err := n.cfg.Pool.Alive(ctx, sb.Box)
	if err != nil {
		return nil, bulkhead.End{}, err
	}
	if alive { // its limits and its egress are those of its row from now on
		egress, err := sb.Network.Egress(sb.AllowInternet)
		if err == nil {
			err = box.Part.Bind(ctx, sb.Limits, egress)
		}
		return box, bulkhead.End{}, err
	}
	end := n.autopsy(box)
	n.settle(ctx, sb, box)
	if end.Cause == bulkhead.CauseCrashed {
		end = gone
	}
	return nil, end, box.Release(ctx)
}
