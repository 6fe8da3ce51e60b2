package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/authority"
	"github.com/bulkheadhq/bulkhead/internal/bundled"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/driver/gvisor"
	"github.com/bulkheadhq/bulkhead/internal/driver/oci"
	"github.com/bulkheadhq/bulkhead/internal/driver/runc"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/host"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/proxy"
	"github.com/bulkheadhq/bulkhead/internal/quota"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply"
	"github.com/bulkheadhq/bulkhead/internal/template"
	"github.com/bulkheadhq/bulkhead/internal/trace"
)

// credentialsFile, in the data folder, tells the command line of this host where
// the server is and gives it the first key.
const credentialsFile = "client.json"

// shutdownTimeout bounds a clean stop.
const shutdownTimeout = time.Minute

// serveCmd runs the server.
type serveCmd struct {
	File kong.ConfigFlag `name:"config" env:"BULKHEAD_CONFIG" help:"YAML file with any of the options below."`

	config.Config `embed:""`
}

// Run serves until the process is told to end.
func (c *serveCmd) Run(ctx context.Context, env *cli.Env) error {
	if err := c.Validate(); err != nil {
		return err //nolint:wrapcheck // names the option
	}
	log := newLog(env.Stderr, c.LogLevel, c.LogFormat)
	if os.Geteuid() != 0 {
		return bulkhead.Errorf(bulkhead.CodeForbidden, "serve must run as root: it makes network namespaces and cgroups")
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := open(ctx, &c.Config, log)
	if err != nil {
		return err
	}
	return errors.Join(s.run(ctx, env.Stdout), s.close())
}

func newLog(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // the flag's enum allows no other
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// server is everything that serve puts together, bottom-up.
type server struct {
	cfg       *config.Config
	log       *slog.Logger
	lock      *os.File
	store     *store.Store
	templates *template.Store
	slots     *netslot.Allocator
	groups    *cgroup.Tree
	unprotect func() error
	driver    driver
	pool      *pool.Pool
	supply    *supply.Planner
	load      hostLoad
	book      *quota.Book
	capacity  *host.Capacity
	probe     *guard.Probe
	guard     *guard.Guard
	needs     *guard.Learner // of sandboxes, by template
	node      *node.Node
	authority *authority.Authority
	proxy     *proxy.Proxy
	scripts   *script.Service
	handler   http.Handler
	firstKey  string
}

// driver is what each driver offers beside boxes.
type driver interface {
	pool.Driver
	io.Closer
}

// open makes a server that is ready to run and has taken over what the last one
// left.
func open(ctx context.Context, cfg *config.Config, log *slog.Logger) (s *server, err error) {
	s = &server{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, dir := range []string{cfg.Data, cfg.Run} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // what is secret in it is not readable
			return s, fmt.Errorf("make folder: %w", err)
		}
	}
	if s.lock, err = lockFolder(ctx, cfg.Data); err != nil {
		return s, err
	}
	seal, err := store.LoadSealKey(filepath.Join(cfg.Data, "seal.key"))
	if err != nil {
		return s, err //nolint:wrapcheck // says what it does
	}
	if s.store, err = store.Open(ctx, cfg.Database, log, store.WithSeal(seal)); err != nil {
		return s, fmt.Errorf("open store: %w", err)
	}
	if s.templates, err = openTemplates(cfg.Data, log); err != nil {
		return s, err
	}
	if err := s.openHost(ctx); err != nil {
		return s, err
	}
	if err := s.openEdges(ctx); err != nil {
		return s, err
	}
	return s, s.credentials(ctx)
}

// lockPatience is how long a server waits for the lock of one that was killed: a
// runtime that it was starting holds a copy until it is executed.
const lockPatience = 3 * time.Second

// lockFolder keeps a second server away from the folder.
func lockFolder(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "server.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(lockPatience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) || ctx.Err() != nil {
			return nil, errors.Join(bulkhead.Errorf(bulkhead.CodeConflict, "another server uses the data folder %s", dir), f.Close())
		}
		<-again.C
	}
}

// openHost opens what makes boxes, and takes over those of the last server.
func (s *server) openHost(ctx context.Context) error {
	nameservers, err := nameservers(s.cfg)
	if err != nil {
		return err
	}
	guestDir, guestDigest, err := bundled.Install(filepath.Join(s.cfg.Data, "guest"), bundled.Envd)
	if err != nil {
		return fmt.Errorf("install envd: %w", err)
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	if s.groups, err = cgroup.New(cgroup.Config{Layout: layout, Root: "/bulkhead", Log: s.log}); err != nil {
		return fmt.Errorf("open cgroups: %w", err)
	}
	if s.cfg.Protect {
		if s.unprotect, err = s.groups.Protect(s.cfg.ReserveMemory); err != nil {
			s.log.WarnContext(ctx, "the server has no floor of its own on this host", "err", err)
		}
	}
	resolvers := make([]netip.AddrPort, len(nameservers))
	for i, a := range nameservers {
		resolvers[i] = netip.AddrPortFrom(a, 53)
	}
	s.slots, err = netslot.New(netslot.Config{
		Dir: filepath.Join(s.cfg.Run, "netns"), Prefix: s.cfg.Subnet.Masked(), Ready: readySlots(s.cfg), Resolvers: resolvers,
		Open: s.cfg.OpenPrivate, Deny: s.cfg.DenyEgress, MaxConns: s.cfg.MaxConns, Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("open network slots: %w", err)
	}
	parts := &host.Parts{Slots: s.slots, Groups: s.groups, Overhead: overhead(s.cfg.Driver)}
	var runtime string
	if s.driver, runtime, err = newDriver(s.cfg, parts); err != nil {
		return fmt.Errorf("open driver %s: %w", s.cfg.Driver, err)
	}
	snapshots, err := pool.OpenSnapshots(filepath.Join(s.cfg.Data, "snapshots"), guestDigest+runtime+processor()+s.cfg.Run) // a box is restored where it was
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	s.pool, err = pool.New(pool.Config{
		Maker: &pool.Maker{
			Driver: s.driver, Parts: parts, Guest: guestDir, Snapshots: snapshots, Log: s.log,
			Ready: func(ctx context.Context, b *pool.Box) error { return s.node.Ready(ctx, b) },
		},
		Parallel: s.cfg.RefillParallel, MaxAge: s.cfg.PoolMaxAge, CheckEvery: s.cfg.PoolCheck, Log: s.log,
		Check:   func(ctx context.Context, b *pool.Box) error { return s.node.Serves(ctx, b) },
		Busy:    s.load.busy,
		Observe: func(t bulkhead.Template, stage pool.Stage) { s.supply.Observe(t, stage) },
	})
	if err != nil {
		return fmt.Errorf("open pool: %w", err)
	}
	if err := errors.Join(s.openBook(), s.openGuard()); err != nil {
		return err
	}
	names := make([]string, len(nameservers))
	for i, a := range nameservers {
		names[i] = a.String()
	}
	s.node, err = node.New(node.Config{
		Pool: s.pool, Store: s.store, Templates: s.versions(), Log: s.log, Nameservers: names,
		Book: s.book, Tenants: entitlements{s.store}, Wait: s.cfg.CreateWait, Admit: s.admit, Processors: processors,
	})
	if err != nil {
		return fmt.Errorf("open node: %w", err)
	}
	found, err := s.node.Recover(ctx)
	if err != nil {
		return fmt.Errorf("take over sandboxes: %w", err)
	}
	s.log.InfoContext(ctx, "host ready", "driver", s.cfg.Driver, "cgroups", string(layout.Mode),
		"adopted", found.Adopted, "ended", found.Ended, "reaped", found.Reaped)
	return s.openSupply(ctx, snapshots)
}

// reapTemplates removes images that have no name any more and no sandbox.
func (s *server) reapTemplates(ctx context.Context) error {
	live, err := s.node.List(ctx, bulkhead.Filter{})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	used := map[string]bool{}
	for _, sb := range live {
		used[sb.TemplateDigest] = true
	}
	if err := s.templates.Reap(ctx, func(digest string) bool { return used[digest] }); err != nil {
		return fmt.Errorf("reap templates: %w", err)
	}
	return nil
}

// newDriver opens the driver, and names the runtime that it uses by its content.
func newDriver(cfg *config.Config, parts *host.Parts) (d driver, runtime string, err error) {
	dir := filepath.Join(cfg.Run, cfg.Driver)
	group := func(box string) (oci.Cgroup, error) { return parts.Group(box) }
	if cfg.Driver == "runc" {
		path, err := exec.LookPath(cfg.Runc)
		if err != nil {
			return nil, "", fmt.Errorf("find --runc: %w", err)
		}
		d, err = runc.New(runc.Config{Dir: dir, Runc: path, Cgroup: group})
		return d, "runc", err //nolint:wrapcheck // the caller does
	}
	bin, digest, err := bundled.Install(runtimeFolder(cfg.Data), bundled.Runsc)
	if err != nil {
		return nil, "", err //nolint:wrapcheck // names the program
	}
	if err := bundled.Prune(runtimeFolder(cfg.Data), bin); err != nil {
		return nil, "", fmt.Errorf("remove earlier runtimes: %w", err)
	}
	d, err = gvisor.New(gvisor.Config{Dir: dir, Runsc: filepath.Join(bin, bundled.Runsc), Cgroup: group})
	return d, digest, err //nolint:wrapcheck // the caller does
}

// runtimeFolder is where runsc is laid out.
func runtimeFolder(data string) string { return filepath.Join(data, "runtime") }

// nameservers are those of the configuration, else those of the host that a box
// can reach.
func nameservers(cfg *config.Config) ([]netip.Addr, error) {
	if len(cfg.Nameservers) > 0 {
		return cfg.Nameservers, nil
	}
	return config.HostNameservers() //nolint:wrapcheck // says what it does
}

// processor stands for what a snapshot depends on of the machine.
func processor() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	var model, flags string
	for line := range strings.Lines(string(data)) {
		switch {
		case strings.HasPrefix(line, "model name"):
			model = line
		case strings.HasPrefix(line, "flags"):
			flags = line
		}
	}
	sum := sha256.Sum256([]byte(model + flags))
	return hex.EncodeToString(sum[:8])
}

// openEdges opens the API, the data plane and what they need.
func (s *server) openEdges(ctx context.Context) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(bookMetrics{s.book, s.node})
	tracer, err := trace.New(registry)
	if err != nil {
		return fmt.Errorf("open tracer: %w", err)
	}
	if err := registry.Register(s.supply.Collector()); err != nil {
		return fmt.Errorf("register pool metrics: %w", err)
	}
	if s.proxy, err = proxy.New(proxy.Config{
		Routes: s.node, Lister: s.node, Domain: s.cfg.Domain, MaxStreamsPerSandbox: s.cfg.MaxStreams,
		Registry: registry, Log: s.log,
	}); err != nil {
		return fmt.Errorf("open proxy: %w", err)
	}
	if s.scripts, err = s.openScripts(ctx, registry); err != nil {
		return fmt.Errorf("open scripts: %w", err)
	}
	prices, err := s.cfg.PriceTable()
	if err != nil {
		return err //nolint:wrapcheck // names the option
	}
	control, err := api.New(api.Config{
		Lifecycle: s.node, Networks: s.node, Lookup: s.node, Telemetry: s.node, Templates: apiTemplates{s.templates},
		History: s.store, Authenticator: s.store, Keys: s.store,
		Quotas: s.node, Host: s.node.Host, Pools: s.supply,
		Domain: s.sdkDomain(), MaxTTL: s.cfg.MaxTTL, Registry: registry, Tracer: tracer, Log: s.log,
		Mounts:  []api.Mount{{Calls: script.Calls(store.ScopeRun), Handler: s.scripts.Handler()}},
		Tenants: s.store, Tiers: s.store, Usage: s.store, Audit: s.store, Prices: prices,
	})
	if err != nil {
		return fmt.Errorf("open API: %w", err)
	}
	s.handler = s.proxy.Router(control)
	s.authority, err = authority.Open(authority.Config{
		Dir: filepath.Join(s.cfg.Data, "tls"), Domain: s.cfg.Domain, CertFile: s.cfg.Cert, KeyFile: s.cfg.KeyFile, Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("open certificates: %w", err)
	}
	return nil
}

// sdkDomain is the domain as the SDKs must write it, with the port of HTTPS.
func (s *server) sdkDomain() string {
	_, port, err := net.SplitHostPort(s.cfg.ListenTLS)
	if err != nil || port == "443" {
		return s.cfg.Domain
	}
	return net.JoinHostPort(s.cfg.Domain, port)
}

// credentials makes the first key and tells the command line of this host.
func (s *server) credentials(ctx context.Context) error {
	path := filepath.Join(s.cfg.Data, credentialsFile)
	creds := cli.Credentials{URL: s.url()}
	if data, err := os.ReadFile(path); err == nil {
		var old cli.Credentials
		if json.Unmarshal(data, &old) == nil {
			creds.APIKey = old.APIKey
		}
	}
	// A database that is new has none, also where an older one left a key to its
	// command line: that one is made known to it.
	known, err := s.store.ListKeys(ctx, "")
	if err != nil {
		return fmt.Errorf("look for the first key: %w", err)
	}
	if creds.APIKey == "" || len(known) == 0 {
		secret, _, err := s.store.CreateKey(ctx, store.KeyRequest{
			Tenant: bulkhead.DefaultTenant, Name: "first key", Scopes: store.Scopes(), Secret: creds.APIKey,
		})
		if err != nil {
			return fmt.Errorf("make the first key: %w", err)
		}
		creds.APIKey = secret
	}
	if strings.HasPrefix(creds.URL, "https:") {
		creds.CAFile = s.authority.CAFile()
	}
	s.firstKey = creds.APIKey
	data, err := json.MarshalIndent(creds, "", "  ") //nolint:gosec // the key is what the file is for
	if err != nil {
		return fmt.Errorf("encode credentials: %w", err)
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	return nil
}

// url is where a client on this host reaches the server.
func (s *server) url() string {
	scheme, addr := "http", s.cfg.Listen
	if addr == "" {
		scheme, addr = "https", s.cfg.ListenTLS
	}
	hostname, port, err := net.SplitHostPort(addr)
	if err != nil {
		return scheme + "://" + addr
	}
	if ip, err := netip.ParseAddr(hostname); hostname == "" || err == nil && ip.IsUnspecified() {
		hostname = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(hostname, port)
}

// run serves until ctx is done, then stops cleanly.
func (s *server) run(ctx context.Context, out io.Writer) error {
	g, gctx := errgroup.WithContext(ctx)
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx by the shutdown
	defer stopWork()
	for _, f := range []func(context.Context) error{
		s.slots.Run, s.pool.Run, s.supply.Run, s.capacity.Run, s.node.Run, s.authority.Run, s.guard.Run, s.scripts.Run,
		func(ctx context.Context) error { return s.store.Run(ctx, s.cfg.Retention) },
	} {
		g.Go(func() error {
			if err := f(work); err != nil && work.Err() == nil {
				return err
			}
			return nil
		})
	}
	var servers []*http.Server
	for _, l := range []struct {
		addr   string
		secure bool
	}{{s.cfg.Listen, false}, {s.cfg.ListenTLS, true}} {
		if l.addr == "" {
			continue
		}
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err != nil {
			stopWork()
			return errors.Join(fmt.Errorf("listen: %w", err), g.Wait())
		}
		srv := proxy.NewServer(s.handler, s.log)
		srv.TLSConfig = s.authority.TLSConfig()
		servers = append(servers, srv)
		g.Go(func() error {
			var err error
			if l.secure {
				err = srv.ServeTLS(ln, "", "")
			} else {
				err = srv.Serve(ln)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("serve %s: %w", l.addr, err)
		})
	}
	s.greet(out)
	g.Go(func() error {
		<-gctx.Done()
		s.log.InfoContext(ctx, "stopping")
		defer stopWork()
		return s.stop(servers)
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// stop ends the listeners and, unless they are to be kept, the sandboxes.
func (s *server) stop(servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var errs []error
	s.node.Drain()
	if !s.cfg.KeepBoxes {
		errs = append(errs, s.node.Shutdown(ctx))
	}
	quick, cancelQuick := context.WithTimeout(ctx, 5*time.Second)
	defer cancelQuick()
	for _, srv := range servers {
		if err := srv.Shutdown(quick); err != nil {
			errs = append(errs, srv.Close()) // streams that nobody ends
		}
	}
	errs = append(errs, s.node.Wait(ctx))
	return errors.Join(errs...)
}

// close returns what the server holds of the host once nothing runs any more.
func (s *server) close() error {
	var errs []error
	if s.proxy != nil {
		s.proxy.Close()
	}
	if s.probe != nil {
		errs = append(errs, s.probe.Close())
	}
	if s.driver != nil {
		errs = append(errs, s.driver.Close())
	}
	if s.slots != nil {
		if s.cfg.KeepBoxes {
			errs = append(errs, s.slots.Detach())
		} else {
			errs = append(errs, s.slots.Close())
		}
	}
	if s.unprotect != nil {
		errs = append(errs, s.unprotect())
	}
	if s.groups != nil && !s.cfg.KeepBoxes {
		errs = append(errs, s.groups.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// greet says how to use the server.
func (s *server) greet(out io.Writer) {
	fmt.Fprintf(out, `Bulkhead is ready at %[1]s

  CLI      bulkhead run -e 'print(6 * 7)'
  curl     curl -H "X-API-KEY: %[2]s" %[1]s/v2/sandboxes
  SDK      export E2B_API_URL=%[1]s E2B_SANDBOX_URL=%[1]s E2B_API_KEY=%[2]s
`, s.url(), s.firstKey)
	if s.cfg.ListenTLS != "" {
		fmt.Fprintf(out, "  TLS      export E2B_DOMAIN=%s NODE_EXTRA_CA_CERTS=%s   (*.%s must resolve to this host)\n",
			s.sdkDomain(), s.authority.CAFile(), s.cfg.Domain)
	}
	fmt.Fprintln(out)
}

// overhead is what a driver's own processes need of each box's cgroup. A sentry
// takes 20 to 40 MiB and some twenty threads when idle, and one more thread for
// each of the box's that waits in a system call.
func overhead(driver string) cgroup.Extra {
	if driver == "runc" {
		return cgroup.Extra{PidsOverhead: 16, MemoryOverheadMB: 16}
	}
	return cgroup.Extra{PidsOverhead: 512, MemoryOverheadMB: 64}
}
