package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/trace"
)

// Create makes a sandbox and returns it once it serves requests and its row is
// durable. Codes: invalid (limits, ttl, or what this host could never carry), not_found
// (template), quota_exceeded (the tenant's own limits), unavailable (the host is full
// or draining), timeout.
func (n *Node) Create(ctx context.Context, req bulkhead.CreateRequest) (_ bulkhead.Sandbox, err error) {
	_, end := trace.Stage(ctx, "template")
	t, err := n.cfg.Templates.Get(req.Template)
	if end(err); err != nil {
		return bulkhead.Sandbox{}, err
	}
	if err := req.Limits.Validate(); err != nil {
		return bulkhead.Sandbox{}, err
	}
	if _, err := req.Network.Egress(req.AllowInternet); err != nil {
		return bulkhead.Sandbox{}, err
	}
	if req.TTL <= 0 {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeInvalid, "timeout is %s; it must be greater than 0", req.TTL)
	}
	stageCtx, end := trace.Stage(ctx, "book")
	booking, err := n.book(stageCtx, req, t)
	if end(err); err != nil {
		return bulkhead.Sandbox{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.CreateTimeout)
	defer cancel()
	began := time.Now()
	stageCtx, end = trace.Stage(ctx, "admit")
	admitted, err := n.admit(stageCtx, req, t, booking.Allocation().Limits)
	if end(err); err != nil {
		booking.Return(time.Now())
		return bulkhead.Sandbox{}, refusal(err)
	}
	stageCtx, end = trace.Stage(ctx, "acquire")
	box, stage, err := n.cfg.Pool.Acquire(stageCtx, t, booking.Allocation().Limits)
	trace.From(ctx, string(stage))
	if end(err); err != nil {
		booking.Return(time.Now())
		admitted.Ended(-1)
		return bulkhead.Sandbox{}, refusal(err)
	}
	if box.Told.SandboxID != "" {
		booking.Name(box.Told.SandboxID)
	}
	l := newLease(box, booking)
	l.admitted = admitted
	l.sb = sandbox(req, t, booking.Allocation(), box)
	if err := n.widen(ctx, l, req.Limits.Or(t.Defaults).MemoryMB); err != nil {
		n.abandon(ctx, l)
		return bulkhead.Sandbox{}, refusal(err)
	}
	if err := n.bind(ctx, l, req, t); err != nil {
		n.abandon(ctx, l)
		return bulkhead.Sandbox{}, refusal(err)
	}
	sb := l.sb
	n.open(l)
	admitted.Made()
	n.cfg.Log.InfoContext(ctx, "sandbox created", "sandbox", sb.ID, "tenant", sb.Tenant, "template", sb.Template,
		"box", sb.Box, "stage", string(stage), "took", time.Since(began))
	return sb, nil
}

// refusal makes an error of the making one that a tenant may read.
func refusal(err error) error {
	var known *bulkhead.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return &bulkhead.Error{Code: bulkhead.CodeTimeout, Op: "create sandbox", Msg: "the sandbox was not ready in time", Err: err}
	case errors.Is(err, context.Canceled):
		return &bulkhead.Error{Code: bulkhead.CodeTimeout, Op: "create sandbox", Msg: "the request was cancelled", Err: err}
	}
	return &bulkhead.Error{Code: bulkhead.CodeInternal, Op: "create sandbox", Msg: "the sandbox could not be made", Err: err}
}

// sandbox is what a request becomes in a box.
func sandbox(req bulkhead.CreateRequest, t bulkhead.Template, a bulkhead.Allocation, box *pool.Box) bulkhead.Sandbox {
	now := time.Now().UTC()
	sb := bulkhead.Sandbox{
		ID: a.Sandbox, Tenant: req.Tenant, TemplateID: t.ID, Template: t.Name, TemplateDigest: t.Digest,
		State: bulkhead.StateRunning, StartedAt: now, EndAt: now.Add(min(req.TTL, time.Duration(a.TTLSeconds)*time.Second)),
		Limits: a.Limits, Allocation: &a,
		Metadata: req.Metadata, Env: req.Env, AllowInternet: req.AllowInternet, Network: req.Network, MaskHost: req.MaskHost,
		EnvdVersion: boxrpc.EnvdVersion, Address: box.Part.Addr().String(), Box: box.ID,
	}
	if req.Secure {
		sb.EnvdToken = cmp.Or(box.Told.AccessToken, newToken())
	}
	if req.PrivateTraffic {
		sb.TrafficToken = newToken()
	}
	return sb
}

// newID returns an identifier of E2B's form, "i" and 20 of [a-z0-9], with 100
// random bits.
func newID() string { return "i" + strings.ToLower(rand.Text())[:20] }

// newToken returns a token of 260 random bits.
func newToken() string { return rand.Text() + rand.Text() }

// bind makes the box the sandbox's: first limits and egress on the host, since a
// change of them may lose packets, then at once the row in the store and, unless
// the box was told all of it while it waited, the identity in the box.
func (n *Node) bind(ctx context.Context, l *lease, req bulkhead.CreateRequest, t bulkhead.Template) error {
	sb := l.sb
	egress, err := sb.Network.Egress(sb.AllowInternet)
	if err != nil {
		return err
	}
	stageCtx, end := trace.Stage(ctx, "limits")
	err = l.box.Part.Bind(stageCtx, sb.Limits, egress)
	if end(err); err != nil {
		return fmt.Errorf("bind limits: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		ctx, end := trace.Stage(ctx, "record")
		err := n.cfg.Store.PutSandbox(ctx, sb)
		if end(err); err != nil {
			return fmt.Errorf("record sandbox: %w", err)
		}
		l.recorded = true
		_, end = trace.Stage(ctx, "meter") // after the row: who waits for the box needs the processors more
		m, err := l.box.Part.Meter()
		if end(err); err == nil { // else the first sample is where it begins
			l.meter.start(m, false)
		}
		return nil
	})
	// The last one is the first to run: it is the one that waits for somebody.
	if id := n.identity(sb, req, t); !holds(l.box.Told, id) {
		g.Go(func() error {
			ctx, end := trace.Stage(ctx, "identity")
			err := n.initBox(ctx, l.box, id)
			end(err)
			return err
		})
	}
	return g.Wait() //nolint:wrapcheck // wrapped above
}

// identity is what the box is told of the sandbox it became.
func (n *Node) identity(sb bulkhead.Sandbox, req bulkhead.CreateRequest, t bulkhead.Template) boxrpc.Init {
	var random [48]byte
	_, _ = rand.Read(random[:]) // never fails
	env := maps.Clone(t.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, req.Env)
	return boxrpc.Init{
		SandboxID: sb.ID, TemplateID: sb.TemplateID, Hostname: sb.ID,
		MachineID: hex.EncodeToString(random[:16]), Seed: random[16:], Env: env,
		AccessToken: sb.EnvdToken, DefaultUser: t.User, DefaultWorkdir: t.Workdir,
		Nameservers: n.cfg.Nameservers, Timestamp: time.Now(),
		MemoryBytes: sb.Limits.MemoryMB << 20, CPUs: int64(math.Ceil(sb.Limits.CPU)), Pids: sb.Limits.Pids, OutputBytes: sb.Limits.OutputMB << 20, CPUSeconds: sb.Limits.CPUSeconds,
		OutputBytesPerSecond: sb.Limits.OutputMBPerSecond << 20,
	}
}
