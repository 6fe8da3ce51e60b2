// Package proxy is the data plane: it takes a request for a port of a sandbox to
// that sandbox's box, and streams the answer back.
//
// A request names its sandbox by host, PORT-ID.domain, or by the headers
// E2b-Sandbox-Id and E2b-Sandbox-Port; a signed file URL names it by its
// signature. Where the box is comes from the node alone, never from the client.
// Nothing is buffered or cached, no timer cuts a stream, and a client that leaves
// is gone for the box too. What a box answers is hostile: its headers are bounded,
// and it cannot set cookies for its neighbours. A [Proxy] may be used by any
// number of goroutines.
package proxy

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// The defaults of a [Config].
const (
	// DefaultMaxStreams bounds requests under way to all sandboxes.
	DefaultMaxStreams = 20_000
	// DefaultMaxStreamsPerSandbox bounds those to one. A running command holds one.
	DefaultMaxStreamsPerSandbox = 2_000
)

const (
	// trafficHeader carries the token of a sandbox whose ports are private.
	trafficHeader = "E2b-Traffic-Access-Token"
	// maxResponseHeader bounds the head of a box's answer, in bytes.
	maxResponseHeader = 64 << 10
	// maxInterim bounds the 1xx answers before the real one.
	maxInterim = 16
	// dialTimeout is how long a box on this host may take to accept.
	dialTimeout = 3 * time.Second
	// ownIdle is how long an idle connection to envd or the interpreter is kept:
	// they never close one first.
	ownIdle = time.Minute
	// userIdle is the same for the user's servers. Many close after 2 to 5 s, and
	// a POST that meets such a close is lost.
	userIdle = time.Second
)

// Routes finds the sandbox behind an id.
type Routes interface {
	// Route returns the sandbox from memory, and a channel that is closed when the
	// sandbox ends; it must not block.
	Route(id string) (sb bulkhead.Sandbox, ended <-chan struct{}, ok bool)
}

// Lister lists sandboxes, to find the one that signed a URL.
type Lister interface {
	List(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error)
}

// Config is what a [Proxy] needs. Fields without a default must be set.
type Config struct {
	// Routes and Lister find sandboxes.
	Routes Routes
	Lister Lister
	// Domain is the one below which PORT-ID names resolve. Domain itself and
	// api.Domain are the control plane. It may have a port, and may be empty.
	Domain string
	// MaxStreams and MaxStreamsPerSandbox bound requests under way; beyond them
	// the answer is 503 or 429. [DefaultMaxStreams] and
	// [DefaultMaxStreamsPerSandbox] if zero.
	MaxStreams           int
	MaxStreamsPerSandbox int
	// Registry gets the proxy's metrics.
	Registry prometheus.Registerer
	// Log gets what went wrong between the proxy and the boxes, at level debug: a
	// tenant decides how often that happens.
	Log *slog.Logger
}

// Proxy forwards requests to boxes.
type Proxy struct {
	cfg      Config
	domain   string // without port, lower case
	streams  *streams
	signed   chan struct{} // places for looking a signature up
	reverse  *httputil.ReverseProxy
	own      *http.Transport // to envd and the interpreter
	user     *http.Transport // to everything else
	requests *prometheus.CounterVec
}

// New returns a Proxy for cfg. It starts nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = DefaultMaxStreams
	}
	if cfg.MaxStreamsPerSandbox == 0 {
		cfg.MaxStreamsPerSandbox = DefaultMaxStreamsPerSandbox
	}
	p := &Proxy{
		cfg:     cfg,
		domain:  normalHost(cfg.Domain),
		streams: newStreams(cfg.MaxStreams, cfg.MaxStreamsPerSandbox),
		signed:  make(chan struct{}, maxSignatureLookups),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_proxy_requests_total", Help: "Data plane requests by kind of port and status.",
		}, []string{"port", "code"}),
	}
	p.own, p.user = p.transport(ownIdle), p.transport(userIdle)
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      roundTrip(p.pick),
		FlushInterval:  -1,
		BufferPool:     newBuffers(),
		ModifyResponse: p.sanitise,
		ErrorHandler:   p.explain,
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bulkhead_proxy_streams", Help: "Data plane requests under way.",
	}, func() float64 { return float64(p.streams.count()) })
	for _, c := range []prometheus.Collector{p.requests, open} {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("register proxy metrics: %w", err)
		}
	}
	return p, nil
}

// Router returns the handler of a listener that both planes share: requests that
// name a sandbox go to its box, all others to api.
func (p *Proxy) Router(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, toBox, err := p.locate(r)
		switch {
		case err != nil:
			p.refuse(w, r, err)
		case toBox:
			p.forward(w, r, t)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// ServeHTTP serves a listener of the data plane's own: what names no sandbox is
// refused.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.Router(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.refuse(w, r, &answer{Code: http.StatusBadRequest, Message: "The request names no sandbox: " +
			"use the host PORT-ID.domain, or the headers " + idHeader + " and " + portHeader})
	})).ServeHTTP(w, r)
}

// Close closes the idle connections to boxes. Requests under way go on.
func (p *Proxy) Close() {
	p.own.CloseIdleConnections()
	p.user.CloseIdleConnections()
}

// hop is what the parts of one forwarded request share.
type hop struct {
	target
	sandbox bulkhead.Sandbox
	lane    *lane
}

// hopKey is the context key of the [hop].
type hopKey struct{}

// forward takes the request to the box and its answer back.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, t target) {
	sb, _, ok := p.cfg.Routes.Route(t.id)
	if !ok || sb.State != bulkhead.StateRunning {
		p.refuse(w, r, unknown(t.id))
		return
	}
	if err := allowed(r, t, sb); err != nil {
		p.refuse(w, r, err)
		return
	}
	lane, err := p.streams.acquire(t.id)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	defer p.streams.release(t.id)

	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), hopKey{}, hop{t, sb, lane}))
	defer cancel()
	r = r.WithContext(ctx)
	rec := &recorder{ResponseWriter: w, flooded: cancel, body: track(r)}
	defer func() { p.count(t.kind(), rec.status) }()
	// Without it HTTP/1.1 stops reading the request when the answer begins. HTTP/2
	// has it anyhow, and says that it is not supported.
	_ = http.NewResponseController(w).EnableFullDuplex()
	p.reverse.ServeHTTP(rec, r)
}

// allowed says whether the request may pass to this port of this sandbox.
func allowed(r *http.Request, t target, sb bulkhead.Sandbox) error {
	switch {
	case r.Method == http.MethodConnect:
		return &answer{Code: http.StatusMethodNotAllowed, SandboxID: t.id, Message: "CONNECT is not served"}
	case t.port == boxrpc.EnvdPort:
		if internal(r.URL) {
			return &answer{Code: http.StatusNotFound, SandboxID: t.id, Message: "There is no such route"}
		}
		return nil
	case sb.TrafficToken == "":
		return nil
	}
	token := r.Header.Get(trafficHeader)
	if token == "" {
		return &answer{Code: http.StatusForbidden, SandboxID: t.id, Message: "The sandbox's ports are private; send its traffic access token in the header " + strings.ToLower(trafficHeader)}
	}
	if subtle.ConstantTimeCompare([]byte(token), []byte(sb.TrafficToken)) != 1 {
		return &answer{Code: http.StatusForbidden, SandboxID: t.id, Message: "The traffic access token is not the sandbox's"}
	}
	return nil
}

// rewrite makes the request to the box out of the client's.
func rewrite(pr *httputil.ProxyRequest) {
	h, _ := pr.In.Context().Value(hopKey{}).(hop)
	pr.SetXForwarded()
	pr.Out.URL.Scheme = "http"
	// The name is the sandbox's, not its address: no connection made for one
	// sandbox is ever used for another that got its address later.
	pr.Out.URL.Host = net.JoinHostPort(h.id, strconv.Itoa(h.port))
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // it is the box's to parse
	pr.Out.Host = pr.In.Host
	pr.Out.Header.Del(trafficHeader)
	if h.kind() == kindUser {
		if h.sandbox.MaskHost != "" {
			pr.Out.Host = strings.ReplaceAll(h.sandbox.MaskHost, "${PORT}", strconv.Itoa(h.port))
		}
		return
	}
	// Neither speaks another protocol, and a tunnel would hide /init from us.
	pr.Out.Header.Del("Upgrade")
	pr.Out.Header.Del("Connection")
	pr.Out.Header.Del("X-Api-Key")
	if h.isOutput(pr.In) {
		for _, name := range codings {
			pr.Out.Header.Del(name)
		}
	}
}

// sanitise takes from a box's answer what would reach beyond that box, and holds it
// to the box's limits.
func (p *Proxy) sanitise(res *http.Response) error {
	res.Header.Del("Alt-Svc")
	for i, cookie := range res.Header["Set-Cookie"] {
		res.Header["Set-Cookie"][i] = withoutDomain(cookie)
	}
	if h, _ := res.Request.Context().Value(hopKey{}).(hop); h.isOutput(res.Request) {
		return p.bound(res, h)
	}
	return nil
}

// withoutDomain removes the Domain attribute: without one the cookie is for the
// host that set it, with one for all sandboxes.
func withoutDomain(cookie string) string {
	parts := strings.Split(cookie, ";")
	kept := parts[:1]
	for _, attr := range parts[1:] {
		name, _, _ := strings.Cut(attr, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "domain") {
			kept = append(kept, attr)
		}
	}
	return strings.Join(kept, ";")
}

// roundTrip is an [http.RoundTripper] that is a function.
type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pick sends the request over the transport for its kind of port.
func (p *Proxy) pick(r *http.Request) (*http.Response, error) {
	if h, _ := r.Context().Value(hopKey{}).(hop); h.kind() != kindUser {
		return p.own.RoundTrip(r)
	}
	return p.user.RoundTrip(r)
}

// transport returns one whose hosts are sandbox ids.
func (p *Proxy) transport(idle time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			id, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			sb, ended, ok := p.cfg.Routes.Route(id)
			if !ok {
				return nil, errGone
			}
			conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(sb.Address, port))
			if err != nil {
				return nil, err
			}
			return boxrpc.UntilDone(conn, ended), nil
		},
		Proxy:                  nil, // the environment's proxy is not for boxes
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		MaxIdleConns:           4096,
		IdleConnTimeout:        idle,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

// errGone is the failure to reach a sandbox that ended since it was looked up.
var errGone = errors.New("sandbox is gone")

// explain answers a request that the box did not.
func (p *Proxy) explain(w http.ResponseWriter, r *http.Request, err error) {
	h, _ := r.Context().Value(hopKey{}).(hop)
	rec, _ := w.(*recorder)
	dial, _ := errors.AsType[*net.OpError](err)
	switch {
	case r.Context().Err() != nil && !rec.flood():
		rec.status = clientGone
		return
	case errors.Is(err, errGone), p.ended(h.id):
		p.write(w, r, unknown(h.id))
	case dial != nil && dial.Op == "dial":
		p.write(w, r, &answer{
			Code: http.StatusBadGateway, SandboxID: h.id, Port: h.port,
			Message: "The sandbox is running but port is not open",
		})
	default:
		p.write(w, r, &answer{
			Code: http.StatusBadGateway, SandboxID: h.id, Port: h.port,
			Message: "The sandbox is running but gave no valid HTTP answer on this port",
		})
	}
	p.cfg.Log.DebugContext(r.Context(), "forward to box", "sandbox", h.id, "port", h.port, "error", err)
}

func (p *Proxy) ended(id string) bool {
	sb, _, ok := p.cfg.Routes.Route(id)
	return !ok || sb.State != bulkhead.StateRunning
}

// count notes a request's outcome.
func (p *Proxy) count(kind string, status int) {
	p.requests.WithLabelValues(kind, strconv.Itoa(status)).Inc()
}
