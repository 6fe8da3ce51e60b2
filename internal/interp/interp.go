package interp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// Server is the code interpreter. It is an [http.Handler] for port 49999; all of
// its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	account account
	mux     *http.ServeMux
	lease   atomic.Pointer[lease] // never nil
	// launch starts the kernel of a session and returns the lease that it was
	// started under: startKernel, except in tests.
	launch func(context.Context, *session) (Kernel, *lease, error)

	mu       sync.Mutex
	ctx      context.Context //nolint:containedctx // of Run: it bounds the kernels' lives; nil before and after
	wg       sync.WaitGroup  // what was begun while ctx was set
	sessions []*session      // in the order in which they were made
	defaults map[string]*session

	settled chan struct{} // closed when ready says what became of the default Python kernel
	ready   error
}

var _ http.Handler = (*Server)(nil)

// lease is what the box was given when it was leased.
type lease struct {
	env    map[string]string
	token  string
	seed   []byte
	output int64 // bytes, 0 for no limit
}

// bind gives a kernel the lease. Each kernel gets a seed of its own.
func (l *lease) bind(id string, k Kernel) {
	var seed []byte
	if len(l.seed) > 0 {
		sum := sha256.Sum256(append(slices.Clone(l.seed), id...))
		seed = sum[:]
	}
	k.Rebind(l.env, seed)
}

// New returns a server that has the default contexts and no kernel yet.
func New(cfg Config) (*Server, error) {
	cfg = cfg.or()
	if len(cfg.Dir) > maxDir {
		return nil, fmt.Errorf("interpreter: dir %q has %d bytes; sockets in it allow %d", cfg.Dir, len(cfg.Dir), maxDir)
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("interpreter: dir %q is not absolute", cfg.Dir)
	}
	a, err := lookupAccount(cfg.User)
	if err != nil {
		return nil, fmt.Errorf("interpreter: %w", err)
	}
	a.launch = cfg.Start
	if cfg.Workdir == "" {
		cfg.Workdir = a.home
	}
	s := &Server{cfg: cfg, account: a, settled: make(chan struct{}), defaults: map[string]*session{}}
	s.launch = s.startKernel
	s.lease.Store(&lease{output: cfg.OutputBytes})
	for _, lang := range []string{python, javascript} {
		s.defaults[lang] = s.addLocked(lang, cfg.Workdir)
	}
	s.defaults[python].preload, s.defaults[python].warmup = cfg.Preload, cfg.Warmup
	s.mux = s.routes()
	return s, nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Run starts the default Python kernel and blocks until ctx is done. Then it kills
// every kernel, waits for them and returns nil. A Python kernel that cannot be
// started is no reason to return: [Server.Wait] and /health tell of it, and other
// languages work. Run must be called once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.install(); err != nil {
		return fmt.Errorf("interpreter: %w", err)
	}
	s.mu.Lock()
	s.ctx = ctx
	first := s.defaults[python]
	s.mu.Unlock()
	s.wake(first, func(err error) {
		s.ready = err
		close(s.settled)
	})
	<-ctx.Done()
	s.mu.Lock()
	s.ctx = nil
	sessions := slices.Clone(s.sessions)
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.shut(endRemove)
	}
	s.wg.Wait()
	for _, sess := range sessions { // one may have started meanwhile
		sess.shut(endRemove)
	}
	return nil
}

// Wait blocks until the default Python kernel is warm, and returns nil, or until
// it is known that it cannot be started, and returns why.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-s.settled:
		return s.ready
	case <-ctx.Done():
		return fmt.Errorf("wait for interpreter: %w", context.Cause(ctx))
	}
}

// Rebind makes the box that of another sandbox: variables, access token and output
// limit hold from now on, and every live kernel is told its variables and seeded
// anew. So two copies of one snapshot share neither Python's nor numpy's global
// random numbers, nor names of temporary files, nor OpenSSL's; uuid4, secrets and
// os.urandom draw from the system and differ anyway. What cannot change is the
// hash seed of Python's str and V8's crypto. Rebind writes one small message to
// each kernel and waits for none. The kernels' user stays the same.
func (s *Server) Rebind(_ context.Context, init boxrpc.Init) error {
	l := &lease{token: init.AccessToken, seed: slices.Clone(init.Seed), output: init.OutputBytes}
	l.env = maps.Clone(init.Env)
	if l.env == nil {
		l.env = map[string]string{}
	}
	for name, value := range l.env {
		if err := checkVariable(name, value); err != nil {
			return fmt.Errorf("rebind interpreter: %w", err)
		}
	}
	l.env["E2B_SANDBOX"] = "true"
	l.env[boxrpc.SandboxIDEnv] = init.SandboxID
	l.env["E2B_TEMPLATE_ID"] = init.TemplateID
	s.lease.Store(l)
	s.mu.Lock()
	sessions := slices.Clone(s.sessions)
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.rebind(l)
	}
	return nil
}

// authorized reports whether token opens the server.
func (s *Server) authorized(token string) bool {
	if s.cfg.Authorize != nil {
		return s.cfg.Authorize(token)
	}
	want := s.lease.Load().token
	return want == "" || subtle.ConstantTimeCompare([]byte(token), []byte(want)) == 1
}

// install writes what kernels need into the server's directory.
func (s *Server) install() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil { //nolint:gosec // the kernels' user reads it
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.WriteFile(s.program(), pythonProgram, 0o644); err != nil { //nolint:gosec // the kernels' user reads it
		return fmt.Errorf("write kernel program: %w", err)
	}
	return nil
}

func (s *Server) program() string { return filepath.Join(s.cfg.Dir, "kernel.py") }

// begin returns the context of Run with the wait group entered, or false when the
// server does not run.
func (s *Server) begin() (context.Context, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil, false
	}
	s.wg.Add(1)
	return s.ctx, true
}

// wake starts a session's kernel in the background and then calls told, if not
// nil, with how that went. When there is a line, those in it start the kernel.
func (s *Server) wake(sess *session, told func(error)) {
	ctx, ok := s.begin()
	if !ok {
		return
	}
	t, err := sess.enter()
	if err != nil {
		s.wg.Done()
		return
	}
	go func() {
		defer s.wg.Done()
		defer sess.queue.leave(t)
		if err := sess.await(ctx, t, func() {}); err != nil {
			return
		}
		_, err := sess.alive(ctx, s.lease.Load)
		if err != nil && !errors.Is(err, errRemoved) && ctx.Err() == nil {
			s.cfg.Log.Error("start kernel", "language", sess.language, "error", err)
		}
		if told != nil {
			told(err)
		}
	}()
}

// addLocked makes a context. Its kernel is not started.
func (s *Server) addLocked(lang, cwd string) *session {
	sess := &session{
		id: uuid.NewString(), language: lang, cwd: cwd, maxQueue: s.cfg.MaxQueue,
		removed: make(chan struct{}),
	}
	sess.start = func(ctx context.Context) (Kernel, *lease, error) { return s.launch(ctx, sess) }
	s.sessions = append(s.sessions, sess)
	return sess
}

// add makes a context for a language in a directory.
func (s *Server) add(lang, cwd string) (*session, error) {
	lang = normalize(lang)
	dir, err := s.directory(cwd)
	if err != nil {
		return nil, err
	}
	if err := s.known(lang); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addBoundedLocked(lang, dir)
}

func (s *Server) addBoundedLocked(lang, dir string) (*session, error) {
	if len(s.sessions) >= s.cfg.MaxContexts {
		return nil, bulkhead.Errorf(bulkhead.CodeQuotaExceeded,
			"There are %d contexts; the limit is %d. Delete one first", len(s.sessions), s.cfg.MaxContexts)
	}
	return s.addLocked(lang, dir), nil
}

// byID returns the context with an id.
func (s *Server) byID(id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		if sess.id == id {
			return sess, nil
		}
	}
	return nil, bulkhead.Errorf(bulkhead.CodeNotFound, "Context %s not found", id)
}

// byLanguage returns the default context of a language, made if need be.
func (s *Server) byLanguage(lang string) (*session, error) {
	lang = normalize(lang)
	if err := s.known(lang); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess, ok := s.defaults[lang]; ok {
		return sess, nil
	}
	sess, err := s.addBoundedLocked(lang, s.cfg.Workdir)
	if err == nil {
		s.defaults[lang] = sess
	}
	return sess, err
}

// drop deletes a context.
func (s *Server) drop(id string) error {
	sess, err := s.byID(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	i := slices.Index(s.sessions, sess)
	if i >= 0 {
		s.sessions = slices.Delete(s.sessions, i, i+1)
	}
	if s.defaults[sess.language] == sess {
		delete(s.defaults, sess.language)
	}
	s.mu.Unlock()
	if i >= 0 { // else another call was first
		sess.remove()
	}
	return nil
}

// known returns an error unless there is a kernel for a language.
func (s *Server) known(lang string) error {
	if lang == python || lang == shell {
		return nil
	}
	_, found, have := findSpec(s.specDirs(s.env()), lang)
	if found {
		return nil
	}
	return bulkhead.Errorf(bulkhead.CodeInvalid, "language %q is not known here; there are kernels for %s",
		lang, strings.Join(append([]string{python, shell}, have...), ", "))
}

// directory returns the working directory that a client asks for.
func (s *Server) directory(cwd string) (string, error) {
	dir := cwd
	switch {
	case dir == "":
		return s.cfg.Workdir, nil
	case dir == "~" || strings.HasPrefix(dir, "~/"):
		dir = filepath.Join(s.account.home, dir[1:])
	case !filepath.IsAbs(dir):
		dir = filepath.Join(s.account.home, dir)
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.IsDir()) {
		return "", bulkhead.Errorf(bulkhead.CodeInvalid, "cwd '%s' does not exist", cwd)
	}
	if err != nil {
		return "", bulkhead.Errorf(bulkhead.CodeInvalid, "cwd '%s' cannot be used", cwd)
	}
	return dir, nil
}
