package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/driver/fake"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// world is a host with a fake driver and a real store, on which nodes come and go.
type world struct {
	t      *testing.T
	driver *fake.Driver
	parts  *fake.Parts
	store  *store.Store
	envd   *envd
	limits int  // sandboxes a node may hold
	told   bool // boxes are given an identity as soon as they are made

	sampleEvery time.Duration
	through     func(node.Store) node.Store // what stands between node and store
	change      func(*node.Config)
	open        func(*testing.T) *store.Store // an empty one, with the tenant of the tests
}

// ledger is the store as the node sees it.
func (w *world) ledger() node.Store {
	if w.through != nil {
		return w.through(w.store)
	}
	return w.store
}

// envd stands for every box's envd: it answers /init and keeps what it was told.
type envd struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	inits  []boxrpc.Init
	limits []boxrpc.Limits
	bound  map[string]boxrpc.Init // the last, by the host that the box was called
}

func newEnvd(t *testing.T) *envd {
	e := &envd{status: http.StatusNoContent, bound: map[string]boxrpc.Init{}}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			_, _ = w.Write([]byte(`{"disk_used": 4096}`))
			return
		}
		if r.URL.Path == "/health" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if r.URL.Path == "/limits" {
			var l boxrpc.Limits
			if err := json.NewDecoder(r.Body).Decode(&l); err != nil {
				t.Error(err)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			e.limits = append(e.limits, l)
			w.WriteHeader(e.status)
			return
		}
		if r.URL.Path == "/envs" {
			e.mu.Lock()
			defer e.mu.Unlock()
			in := e.bound[r.Host]
			envs := maps.Clone(in.Env)
			if envs == nil {
				envs = map[string]string{}
			}
			envs[boxrpc.SandboxIDEnv] = in.SandboxID
			if r.Header.Get(boxrpc.TokenHeader) != in.AccessToken {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if err := json.NewEncoder(w).Encode(envs); err != nil {
				t.Error(err)
			}
			return
		}
		var in boxrpc.Init
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.inits = append(e.inits, in)
		if r.Header.Get(boxrpc.TokenHeader) != e.bound[r.Host].AccessToken {
			t.Errorf("/init of %s came with the token %q", r.Host, r.Header.Get(boxrpc.TokenHeader))
		}
		e.bound[r.Host] = in
		w.WriteHeader(e.status)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *envd) answer(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

// tell makes a sandbox's box one whose last /init, with its env, never came.
func (e *envd) tell(sandbox string, env map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for host, in := range e.bound {
		if in.SandboxID == sandbox {
			in.Env = env
			e.bound[host] = in
		}
	}
}

// forget makes a sandbox's box one whose /init never came.
func (e *envd) forget(sandbox string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.bound, func(_ string, in boxrpc.Init) bool { return in.SandboxID == sandbox })
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, func(t *testing.T) *store.Store {
		return openStore(t, "sqlite://"+filepath.Join(t.TempDir(), "test.db"))
	})
}

func newWorldOn(t *testing.T, open func(*testing.T) *store.Store) *world {
	t.Helper()
	return &world{
		t: t, driver: fake.New(fake.Config{}), parts: fake.NewParts(), store: open(t), envd: newEnvd(t), limits: 100, open: open,
	}
}

// openStore opens the store at a URL until the test ends, with the tenant of the
// tests.
func openStore(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), url, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	addTenant(t, s)
	return s
}

// addTenant makes the tenant of the tests.
func addTenant(t *testing.T, s *store.Store) {
	t.Helper()
	if _, err := s.CreateTenant(t.Context(), bulkhead.Tenant{ID: "t1", Tier: bulkhead.TierUnlimited}); err != nil {
		t.Fatal(err)
	}
}

type templates []bulkhead.Template

func (ts templates) List() ([]bulkhead.Template, error) { return ts, nil }

func (ts templates) Get(name string) (bulkhead.Template, error) {
	for _, t := range ts {
		if t.Name == name || t.ID == name {
			return t, nil
		}
	}
	return bulkhead.Template{}, bulkhead.Errorf(bulkhead.CodeNotFound, "template %q does not exist", name)
}

// node opens a node on the world, as a started server would.
func (w *world) node() *node.Node {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var n *node.Node
	maker := &pool.Maker{Driver: w.driver, Parts: w.parts, Guest: "/guest", Log: log}
	if w.told {
		maker.Ready = func(ctx context.Context, b *pool.Box) error { return n.Ready(ctx, b) }
	}
	p, err := pool.New(pool.Config{Maker: maker, Log: log})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := node.Config{
		Pool: p, Store: w.ledger(), Log: log, MaxSandboxes: w.limits, SampleEvery: w.sampleEvery,
		Templates: templates{{ID: "basebasebasebasebase", Name: "base", Digest: "sha256:b", Defaults: bulkhead.DefaultLimits(), User: "user"}},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", w.envd.Listener.Addr().String())
		},
	}
	if w.change != nil {
		w.change(&cfg)
	}
	if n, err = node.New(cfg); err != nil {
		w.t.Fatal(err)
	}
	if _, err := n.Recover(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func request() bulkhead.CreateRequest {
	return bulkhead.CreateRequest{
		Tenant: "t1", Template: "base", TTL: time.Hour, Secure: true,
		Env: map[string]string{"A": "1"}, Metadata: map[string]string{"k": "v"},
	}
}

func (w *world) create(n *node.Node, req bulkhead.CreateRequest) bulkhead.Sandbox {
	w.t.Helper()
	sb, err := n.Create(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return sb
}

// ended waits for the sandbox's row to say how it ended.
func (w *world) ended(id string) bulkhead.End {
	w.t.Helper()
	for range 2000 {
		sb, err := w.store.Sandbox(w.t.Context(), "", id)
		if err != nil {
			w.t.Fatal(err)
		}
		if sb.State == bulkhead.StateEnded {
			return *sb.End
		}
		<-time.After(2 * time.Millisecond) // the store has no event for it
	}
	w.t.Fatalf("sandbox %s did not end", id)
	return bulkhead.End{}
}

// nothingLeft fails unless every box and part is gone.
func (w *world) nothingLeft(n *node.Node) {
	w.t.Helper()
	if err := n.Wait(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	boxes, err := w.driver.List(w.t.Context())
	if err != nil || len(boxes) > 0 || w.parts.Taken() > 0 {
		w.t.Errorf("left: boxes %v, %d parts, %v", boxes, w.parts.Taken(), err)
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	req := request()
	req.Limits.MemoryMB = 321
	sb := w.create(n, req)
	if got, err := n.Get(t.Context(), "t1", sb.ID); err != nil || got.State != bulkhead.StateRunning {
		t.Fatalf("Get: %+v, %v", got, err)
	}
	if row, err := w.store.Sandbox(t.Context(), "t1", sb.ID); err != nil || row.State != bulkhead.StateRunning || row.Box == "" {
		t.Errorf("row: %+v, %v", row, err)
	}
	if bound := w.parts.Part(sb.Box).Bound(); bound.MemoryMB != 321 || bound.CPU != 2 {
		t.Errorf("bound %+v", bound)
	}
	in := w.envd.inits[0]
	if in.SandboxID != sb.ID || in.AccessToken != sb.EnvdToken || sb.EnvdToken == "" || in.Env["A"] != "1" ||
		len(in.Seed) != 32 || len(in.MachineID) != 32 || in.MemoryBytes != 321<<20 {
		t.Errorf("init: %+v", in)
	}
	if _, err := n.Get(t.Context(), "t2", sb.ID); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("another tenant's Get: %v", err)
	}
	if err := n.Kill(t.Context(), "t2", sb.ID); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("another tenant's Kill: %v", err)
	}
	_, ended, _ := n.Route(sb.ID)
	if err := n.Kill(t.Context(), "t1", sb.ID); err != nil {
		t.Fatal(err)
	}
	<-ended
	if _, _, ok := n.Route(sb.ID); ok {
		t.Error("a killed sandbox is routed to")
	}
	if end := w.ended(sb.ID); end.Cause != bulkhead.CauseKilled {
		t.Errorf("end: %v", end)
	}
	if err := n.Kill(t.Context(), "t1", sb.ID); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("second Kill: %v", err)
	}
	w.nothingLeft(n)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for name, tt := range map[string]struct {
		change func(*bulkhead.CreateRequest)
		code   bulkhead.Code
	}{
		"template": {func(r *bulkhead.CreateRequest) { r.Template = "nope" }, bulkhead.CodeNotFound},
		"ttl":      {func(r *bulkhead.CreateRequest) { r.TTL = 0 }, bulkhead.CodeInvalid},
		"limits":   {func(r *bulkhead.CreateRequest) { r.Limits.MemoryMB = -1 }, bulkhead.CodeInvalid},
	} {
		req := request()
		tt.change(&req)
		if _, err := n.Create(t.Context(), req); bulkhead.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.Drain()
	if _, err := n.Create(t.Context(), request()); bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("draining: %v", err)
	}
	w.nothingLeft(n)
}

func TestFull(t *testing.T) {
	w := newWorld(t)
	w.limits = 2
	n := w.node()
	a := w.create(n, request())
	w.create(n, request())
	_, err := n.Create(t.Context(), request())
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != bulkhead.CodeUnavailable || e.RetryAfter <= 0 {
		t.Fatalf("third: %v", err)
	}
	if err := n.Kill(t.Context(), "t1", a.ID); err != nil {
		t.Fatal(err)
	}
	if err := n.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.create(n, request())
}

// Whatever fails while a sandbox is made, nothing of it is left, and no row says
// that it runs.
func TestFailedCreateLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for name, fail := range map[string]func(w *world){
		"parts":  func(w *world) { w.parts.Fail("Acquire", boom) },
		"create": func(w *world) { w.driver.Fail("Create", boom) },
		"start":  func(w *world) { w.driver.Fail("Start", boom) },
		"bind":   func(w *world) { w.parts.Fail("Bind", boom) },
		"envd":   func(w *world) { w.envd.answer(http.StatusTeapot) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			fail(w)
			_, err := n.Create(t.Context(), request())
			if bulkhead.CodeOf(err) != bulkhead.CodeInternal || bulkhead.Message(err) == "" {
				t.Errorf("error: %v", err)
			}
			w.nothingLeft(n)
			live, err := w.store.Sandboxes(t.Context(), bulkhead.Filter{States: []bulkhead.State{bulkhead.StateRunning, bulkhead.StateStarting}})
			if err != nil || len(live) > 0 {
				t.Errorf("rows: %v, %v", live, err)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	req := request()
	req.TTL = 30 * time.Millisecond
	sb := w.create(n, req)
	if end := w.ended(sb.ID); end.Cause != bulkhead.CauseExpired || end.Limit != 30 {
		t.Errorf("end: %+v", end)
	}
	w.nothingLeft(n)
}

func TestDeadline(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	sb := w.create(n, request())
	sooner := time.Now().Add(time.Minute).UTC()
	got, err := n.SetDeadline(t.Context(), "t1", sb.ID, sooner, true)
	if err != nil || !got.EndAt.Equal(sb.EndAt) {
		t.Errorf("extend to sooner: %v, %v", got.EndAt, err)
	}
	got, err = n.SetDeadline(t.Context(), "t1", sb.ID, sooner, false)
	if err != nil || !got.EndAt.Equal(sooner) {
		t.Errorf("set to sooner: %v, %v", got.EndAt, err)
	}
	if row, err := w.store.Sandbox(t.Context(), "", sb.ID); err != nil || !row.EndAt.Equal(sooner) {
		t.Errorf("row: %v, %v", row.EndAt, err)
	}
	if _, err := n.SetDeadline(t.Context(), "t1", sb.ID, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	if end := w.ended(sb.ID); end.Cause != bulkhead.CauseExpired {
		t.Errorf("end: %+v", end)
	}
}

func TestDeathHasItsCause(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for want, usage := range map[bulkhead.Cause]pool.Usage{
		bulkhead.CauseCrashed:     {},
		bulkhead.CauseMemoryLimit: {Limit: bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 7, Peak: 7}},
	} {
		sb := w.create(n, request())
		w.parts.Part(sb.Box).Use(usage)
		w.driver.Crash(sb.Box)
		if end := w.ended(sb.ID); end.Cause != want || end.Limit != usage.Limit.Limit {
			t.Errorf("end: %+v, want %s", end, want)
		}
	}
	w.nothingLeft(n)
}

// A box that was given its identity while it waited is told again only what the
// request wants otherwise, with the token that it has.
func TestIdentityAheadOfTheLease(t *testing.T) {
	w := newWorld(t)
	w.told = true
	n := w.node()
	plain, open, env := request(), request(), request()
	plain.Env, open.Env, open.Secure = nil, nil, false
	for _, c := range []struct {
		name  string
		req   bulkhead.CreateRequest
		inits int
	}{{"nothing of its own", plain, 1}, {"without a token", open, 2}, {"env", env, 2}} {
		w.envd.inits = nil
		sb := w.create(n, c.req)
		if len(w.envd.inits) != c.inits {
			t.Errorf("%s: the box was told %d times who it is, want %d", c.name, len(w.envd.inits), c.inits)
		}
		first, last := w.envd.inits[0], w.envd.inits[len(w.envd.inits)-1]
		if first.AccessToken == "" || last.AccessToken != sb.EnvdToken || c.req.Secure != (sb.EnvdToken != "") {
			t.Errorf("%s: tokens %q, %q and %q", c.name, first.AccessToken, last.AccessToken, sb.EnvdToken)
		}
		if last.SandboxID != sb.ID || first.SandboxID != sb.ID || sb.Allocation.Sandbox != sb.ID || last.Env["A"] != c.req.Env["A"] {
			t.Errorf("%s: sandbox %s is %q in its box and %q in its allocation", c.name, sb.ID, last.SandboxID, sb.Allocation.Sandbox)
		}
		if err := n.Kill(t.Context(), "t1", sb.ID); err != nil {
			t.Error(err)
		}
	}
	w.nothingLeft(n)
}

// A server that dies takes no sandbox with it: the next one finds the living,
// ends the dead and reaps the unowned.
func TestRecover(t *testing.T) {
	w := newWorld(t)
	first := w.node()
	alive, dead, late := w.create(first, request()), w.create(first, request()), w.create(first, request())
	unbound := w.create(first, request())
	w.envd.forget(unbound.ID)
	half := w.create(first, request())
	w.envd.tell(half.ID, nil)
	if err := w.driver.Create(t.Context(), pool.BoxSpec{ID: "bulkhead-orphan"}); err != nil {
		t.Fatal(err)
	}
	// The first node is left as kill -9 leaves it; dead's box dies meanwhile.
	second := fork(t, w)
	late.EndAt = time.Now().Add(-time.Second) // its time was over while no server ran
	if err := second.store.PutSandbox(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	second.driver.Crash(dead.Box)
	n := second.node()
	if got, err := n.Get(t.Context(), "t1", alive.ID); err != nil || got.EnvdToken != alive.EnvdToken || !got.EndAt.Equal(alive.EndAt) {
		t.Errorf("alive: %+v, %v", got, err)
	}
	if end := second.ended(dead.ID); end.Cause != bulkhead.CauseCrashed {
		t.Errorf("dead: %v", end)
	}
	if end := second.ended(unbound.ID); end.Cause != bulkhead.CauseCrashed {
		t.Errorf("a box that has no identity: %v", end)
	}
	if end := second.ended(half.ID); end.Cause != bulkhead.CauseCrashed {
		t.Errorf("a box without its variables: %v", end)
	}
	if end := second.ended(late.ID); end.Cause != bulkhead.CauseExpired {
		t.Errorf("late: %v", end)
	}
	if err := n.Kill(t.Context(), "t1", alive.ID); err != nil {
		t.Error(err)
	}
	second.nothingLeft(n)
}

// fork copies the world at a moment, so that the node that was killed can do
// nothing any more to the one that a new node finds.
func fork(t *testing.T, w *world) *world {
	t.Helper()
	s := w.open(t)
	rows, err := w.store.Sandboxes(t.Context(), bulkhead.Filter{States: []bulkhead.State{bulkhead.StateRunning}})
	if err != nil {
		t.Fatal(err)
	}
	for _, sb := range rows {
		if err := s.PutSandbox(t.Context(), sb); err != nil {
			t.Fatal(err)
		}
	}
	c := *w
	c.t, c.store = t, s
	c.driver, c.parts = w.driver.Clone(), w.parts.Clone()
	return &c
}

// Whatever clients do at once, the bookings come back to nothing and no box
// serves two leases.
func TestManyClients(t *testing.T) {
	w := newWorld(t)
	w.limits = 20
	n := w.node()
	var g sync.WaitGroup
	var mu sync.Mutex
	boxes := map[string]string{}
	for c := range 64 {
		g.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(c)))
			for range 5 {
				sb, err := n.Create(t.Context(), request())
				if bulkhead.CodeOf(err) == bulkhead.CodeUnavailable {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other := boxes[sb.Box]; other != "" {
					t.Errorf("box %s serves %s and %s", sb.Box, other, sb.ID)
				}
				boxes[sb.Box] = sb.ID
				mu.Unlock()
				if r.IntN(3) == 0 {
					w.driver.Crash(sb.Box)
				}
				if err := n.Kill(t.Context(), fmt.Sprintf("t%d", 1+r.IntN(2)), sb.ID); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if peak := w.driver.Peak(); peak > 20 {
		t.Errorf("%d boxes at once, the limit is 20", peak)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.nothingLeft(n)
}

func TestMetricsAndLogs(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	sb := w.create(n, request())
	w.parts.Part(sb.Box).Use(pool.Usage{CPU: time.Second, Memory: 100, Cache: 40})
	samples, err := n.Metrics(t.Context(), "t1", sb.ID, time.Time{}, time.Time{})
	if err != nil || len(samples) != 1 {
		t.Fatalf("samples: %v, %v", samples, err)
	}
	if s := samples[0]; s.MemUsed != 60 || s.MemTotal != 1<<30 || s.DiskUsed != 4096 || s.CPUCount != 2 || s.CPUPercent <= 0 {
		t.Errorf("sample: %+v", s)
	}
	lines, err := n.Logs(t.Context(), "t1", sb.ID, time.Time{}, 10)
	if err != nil || len(lines) == 0 || lines[0].Message != "sandbox started" {
		t.Errorf("logs: %v, %v", lines, err)
	}
	if _, err := n.Metrics(t.Context(), "t2", sb.ID, time.Time{}, time.Time{}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("another tenant's metrics: %v", err)
	}
}
