// Package api is the control plane over HTTP: the E2B calls that the official
// SDKs make, in both of their generations, and Bulkhead's own calls under /v1.
//
// A request is admitted before its body is read: known route, known key, scope,
// a free place; then at most [MaxBody] bytes within [BodyTime]. An option that
// this server cannot honour is refused by name; none is ignored, except fields of
// E2B's calls that it does not know, since the SDKs gain some every week. Every
// error on E2B's routes has E2B's shape, {"code":404,"message":"…"}.
//
// The package holds no sandboxes and no rules about them: it translates, and asks
// the node. A [Server] may be used by any number of goroutines.
package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/rate"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/trace"
)

// Bounds on what a client may send.
const (
	// MaxBody is the largest request body in bytes.
	MaxBody = 1 << 20
	// BodyTime is how long a client may take to send it.
	BodyTime = 30 * time.Second
	// maxPairs and maxPairBytes bound metadata, maxEnv and maxEnvBytes the
	// environment: the number of pairs, and the bytes of all names and values.
	maxPairs     = 64
	maxPairBytes = 16 << 10
	maxEnv       = 512
	maxEnvBytes  = 256 << 10
)

// The defaults of a [Config].
const (
	// DefaultMaxTTL is the longest time to live, as on E2B's own Pro tier.
	DefaultMaxTTL = 24 * time.Hour
	// DefaultMaxInFlight bounds requests under way.
	DefaultMaxInFlight = 2048
)

// Lifecycle makes, ends and extends sandboxes. An empty tenant means any.
type Lifecycle interface {
	// Create returns the sandbox once it runs and its record is durable.
	Create(ctx context.Context, req bulkhead.CreateRequest) (bulkhead.Sandbox, error)
	// Kill ends the sandbox. Code: not_found.
	Kill(ctx context.Context, tenant, id string) error
	// SetDeadline moves the end of the sandbox's life; with extendOnly only to
	// later. Codes: not_found, conflict while the sandbox is ending.
	SetDeadline(ctx context.Context, tenant, id string, at time.Time, extendOnly bool) (bulkhead.Sandbox, error)
}

// Networks changes what sandboxes may reach outside.
type Networks interface {
	// SetNetwork replaces it. It returns when the change is in force and durable.
	// Codes: invalid, not_found.
	SetNetwork(ctx context.Context, tenant, id string, internet bool, n bulkhead.Network) (bulkhead.Sandbox, error)
}

// Lookup finds sandboxes that have not ended. An empty tenant means any.
type Lookup interface {
	// Get returns one sandbox. Code: not_found, also for ended ones.
	Get(ctx context.Context, tenant, id string) (bulkhead.Sandbox, error)
	// List returns what the filter selects.
	List(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error)
}

// Telemetry says what a sandbox uses and what happened in it.
type Telemetry interface {
	// Metrics returns the samples from start to end, oldest first. A zero start
	// means from the beginning. Code: not_found.
	Metrics(ctx context.Context, tenant, id string, start, end time.Time) ([]bulkhead.Sample, error)
	// Logs returns at most limit lines from since on, oldest first. Code: not_found.
	Logs(ctx context.Context, tenant, id string, since time.Time, limit int) ([]bulkhead.LogLine, error)
}

// Templates are the recipes on this node.
type Templates interface {
	// List returns all of them.
	List(ctx context.Context) ([]bulkhead.Template, error)
	// Get returns one by its name or ID. Code: not_found.
	Get(ctx context.Context, nameOrID string) (bulkhead.Template, error)
}

// History finds sandboxes that ended. An empty tenant means any.
type History interface {
	// Sandbox returns one sandbox with its end. Code: not_found.
	Sandbox(ctx context.Context, tenant, id string) (bulkhead.Sandbox, error)
	// Ended returns at most limit of those that the filter selects, its states
	// aside, and that started no later than latest, newest first. A zero latest
	// means now.
	Ended(ctx context.Context, f bulkhead.Filter, latest time.Time, limit int) ([]bulkhead.Sandbox, error)
}

// Authenticator knows the keys.
type Authenticator interface {
	// LookupKey returns the key with this hash. Code: not_found.
	LookupKey(ctx context.Context, hash [sha256.Size]byte) (store.Key, error)
}

// Keys makes and revokes keys. An empty tenant means any.
type Keys interface {
	// Key returns one key, revoked ones too. Code: not_found.
	Key(ctx context.Context, tenant, id string) (store.Key, error)
	// RotateKey gives a key a new secret; the old one is good for grace more. Codes:
	// invalid, not_found, conflict.
	RotateKey(ctx context.Context, tenant, id string, grace time.Duration) (string, store.Key, error)
	// ChangeKey changes a key's name or rates. Codes: invalid, not_found, conflict.
	ChangeKey(ctx context.Context, tenant, id string, c store.KeyChange) (store.Key, error)
	// CreateKey returns a new key's secret and what is kept of it. Code: invalid.
	CreateKey(ctx context.Context, req store.KeyRequest) (string, store.Key, error)
	// ListKeys returns a tenant's keys, revoked ones too.
	ListKeys(ctx context.Context, tenant string) ([]store.Key, error)
	// RevokeKey ends a key. Code: not_found.
	RevokeKey(ctx context.Context, tenant, id string) error
}

// Tenants keeps tenants.
type Tenants interface {
	// Tenant returns one. Code: not_found.
	Tenant(ctx context.Context, id string) (bulkhead.Tenant, error)
	// Tenants returns all.
	Tenants(ctx context.Context) ([]bulkhead.Tenant, error)
	// CreateTenant makes one. Codes: invalid, conflict.
	CreateTenant(ctx context.Context, t bulkhead.Tenant) (bulkhead.Tenant, error)
	// UpdateTenant lets change alter one; change may be called again. Codes:
	// not_found, invalid.
	UpdateTenant(ctx context.Context, id string, change func(*bulkhead.Tenant) error) (bulkhead.Tenant, error)
	// DeleteTenant removes one and revokes its keys. Codes: not_found, conflict.
	DeleteTenant(ctx context.Context, id string, force bool) error
}

// Tiers keeps tiers.
type Tiers interface {
	// Tier returns one. Code: not_found.
	Tier(ctx context.Context, name string) (bulkhead.Tier, error)
	// Tiers returns all.
	Tiers(ctx context.Context) ([]bulkhead.Tier, error)
	// PutTier makes or changes one. Code: invalid.
	PutTier(ctx context.Context, t bulkhead.Tier) error
	// DeleteTier removes one. Codes: not_found, conflict.
	DeleteTier(ctx context.Context, name string) error
}

// Usage says what was used.
type Usage interface {
	// Usage returns sums, without their cost. Code: invalid.
	Usage(ctx context.Context, q store.UsageQuery) ([]store.UsageRow, error)
}

// Audit keeps who did what.
type Audit interface {
	// Record keeps an act.
	Record(ctx context.Context, a bulkhead.Act) error
	// Acts returns what the query selects, the newest first. Code: invalid.
	Acts(ctx context.Context, q store.ActQuery) ([]bulkhead.Act, error)
}

// Config is what a [Server] needs. Fields without a default must be set.
type Config struct {
	// Lifecycle, Networks, Lookup and Telemetry are the node, or the fleet.
	Lifecycle Lifecycle
	Networks  Networks
	Lookup    Lookup
	Telemetry Telemetry
	// Templates are those that sandboxes can be made from.
	Templates Templates
	// The store is the rest of it.
	History       History
	Authenticator Authenticator
	Keys          Keys
	Tenants       Tenants
	Tiers         Tiers
	Usage         Usage
	Audit         Audit

	// Quotas is the node. Host, which may be nil, is what it promises, for operators.
	Quotas Quotas
	Host   func() bulkhead.HostState

	// Domain is told to the SDKs as the one below which PORT-ID names resolve. It
	// may have a port. Empty tells them to use what they were configured with.
	Domain string
	// MaxTTL bounds a sandbox's time to live from now; [DefaultMaxTTL] if zero.
	MaxTTL time.Duration
	// MaxInFlight bounds requests under way, answered with 503 beyond it;
	// [DefaultMaxInFlight] if zero.
	MaxInFlight int
	// Mounts are parts of the API that other packages serve.
	Mounts []Mount
	// Prices make the costs of usage.
	Prices bulkhead.Prices
	// Pools, if any, are shown under /v1/pools.
	Pools Pools
	// OpenMetrics serves /metrics to anyone; else a key with the scope "admin" is
	// asked for, which Prometheus can send as a bearer token.
	OpenMetrics bool
	// Healthy says why the server should get no requests; nil means always healthy.
	Healthy func(context.Context) error
	// Tracer, if any, times the stages of requests; they are told in Server-Timing.
	Tracer *trace.Tracer
	// Registry gets the server's metrics and is what /metrics shows.
	Registry *prometheus.Registry
	// Log gets a line for each request: debug when it went well, info when it was
	// refused, error with the cause when the server failed.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Server answers the control plane's requests.
type Server struct {
	cfg      Config
	mux      *http.ServeMux
	patterns []string // all that need a key
	places   chan struct{}
	rates    *rate.Buckets // of keys
	refused  *rate.Buckets // of keys, for acts that were refused
	metrics  http.Handler
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// New returns a Server for cfg. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = DefaultMaxTTL
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = DefaultMaxInFlight
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg:     cfg,
		mux:     http.NewServeMux(),
		places:  make(chan struct{}, cfg.MaxInFlight),
		rates:   rate.New(),
		refused: rate.New(),
		metrics: promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_api_requests_total", Help: "Control plane requests by route and status.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_api_request_seconds", Help: "Time to answer control plane requests.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route"}),
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bulkhead_api_requests_in_flight", Help: "Control plane requests under way.",
	}, func() float64 { return float64(len(s.places)) })
	for _, c := range []prometheus.Collector{s.requests, s.seconds, inFlight} {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, errors.Join(errors.New("register API metrics"), err)
		}
	}
	s.routes()
	if err := s.serveOwn(); err != nil {
		return nil, err
	}
	return s, nil
}

// routes is the list of what is served beside [Server.ownCalls].
func (s *Server) routes() {
	const use, admin = store.ScopeRun, store.ScopeAdmin

	// E2B, as SDKs from 2.51.0 call it.
	s.handle("POST /v2/sandboxes", use, s.createV2)
	s.handle("POST /v2/sandboxes/{id}/connect", use, s.connectV2)
	s.handle("GET /v2/sandboxes", use, s.listV2)
	s.handle("GET /v2/sandboxes/{id}/logs", use, s.logsV2)
	s.handle("GET /v2/templates", use, s.listTemplatesV2)

	// E2B, as SDKs up to 2.50.0 call it, and what both share.
	s.handle("POST /sandboxes", use, s.createV1)
	s.handle("POST /sandboxes/{id}/connect", use, s.connectV1)
	s.handle("POST /sandboxes/{id}/resume", use, s.resume)
	s.handle("GET /sandboxes", use, s.listV1)
	s.handle("GET /sandboxes/metrics", use, s.metricsOfMany)
	s.handle("GET /sandboxes/{id}", use, s.get)
	s.handle("DELETE /sandboxes/{id}", use, s.kill)
	s.handle("POST /sandboxes/{id}/timeout", use, s.setTimeout)
	s.handle("PUT /sandboxes/{id}/network", use, s.setNetwork)
	s.handle("POST /sandboxes/{id}/refreshes", use, s.refresh)
	s.handle("GET /sandboxes/{id}/metrics", use, s.metricsOfOne)
	s.handle("GET /sandboxes/{id}/logs", use, s.logsV1)
	s.handle("GET /templates", use, s.listTemplatesV1)
	s.handle("GET /default-templates", use, s.listTemplatesV1)
	s.handle("GET /templates/{id}", use, s.getTemplate)
	s.handle("GET /templates/aliases/{alias}", use, s.getAlias)
	s.handle("GET /teams", use, s.teams)
	for pattern, what := range unsupported {
		s.handle(pattern, use, refuse(what))
	}

	s.mux.HandleFunc("GET /health", s.health)
	if s.cfg.OpenMetrics {
		s.mux.Handle("GET /metrics", s.metrics)
	} else {
		s.handle("GET /metrics", admin, func(w http.ResponseWriter, r *http.Request, _ caller) error {
			s.metrics.ServeHTTP(w, r)
			return nil
		})
	}
}

// tenantKey is the context key of the caller's tenant.
type tenantKey struct{}

// TenantOf returns the tenant whose request a [Mount] is answering.
func TenantOf(ctx context.Context) (tenant string, ok bool) {
	tenant, ok = ctx.Value(tenantKey{}).(string)
	return tenant, ok
}

// health answers 200, or 503 with the reason.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Healthy != nil {
		if err := s.cfg.Healthy(r.Context()); err != nil {
			s.writeError(w, r, &bulkhead.Error{
				Code: bulkhead.CodeUnavailable, Msg: "the server is not healthy: " + bulkhead.Message(err), Err: err,
			})
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}
