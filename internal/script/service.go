package script

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// Config is what a service is made of. Engine, Pool, Guard, Store, KeyValue and
// Tenant must be set.
type Config struct {
	Engine   *engine.Engine
	Pool     *worker.Pool
	Guard    *guard.Guard
	Store    Store
	KeyValue KeyValue
	// Tenant says who a request is for. Its error is the answer then.
	Tenant func(context.Context) (Tenant, error)
	// MaxResult is the default limit of a result in bytes, 0 for 5 MiB; it is
	// what MAX_RESULT_SIZE sets.
	MaxResult int64 `env:"MAX_RESULT_SIZE"`
	// AllowFetch decides whether a tenant's program may ask for an address; nil
	// means never, and then programs have no fetch. Its error should be a
	// *bulkhead.Error. It sees names: FetchClient's dialer must check addresses.
	AllowFetch func(context.Context, Tenant, *url.URL) error
	// FetchClient does the requests.
	FetchClient *http.Client
	// WorkersOnly runs nothing in process.
	WorkersOnly bool
	// CacheSize is how many compiled programs are kept. Default 1024.
	CacheSize int
	// Log may be nil.
	Log *slog.Logger
}

// Service runs scripts.
type Service struct {
	cfg      Config
	learner  *guard.Learner
	programs *lru.Cache[string, compiled]
	builds   *lru.Cache[string, *build]
	habits   *lru.Cache[string, *habit]
	metrics  *metrics
	log      *slog.Logger
}

// compiled is a program, or what is wrong with its source.
type compiled struct {
	program *engine.Program
	failure *engine.Failure
	local   string // what the learner calls its runs in process
}

// New returns a service. Start it with [Service.Run].
func New(cfg Config) (*Service, error) {
	if cfg.Engine == nil || cfg.Pool == nil || cfg.Guard == nil || cfg.Store == nil || cfg.KeyValue == nil || cfg.Tenant == nil {
		return nil, errors.New("configure scripts: engine, pool, guard, store, key-value store and tenant must be set")
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = 1024
	}
	if cfg.MaxResult == 0 {
		cfg.MaxResult = engine.DefaultLimits().ResultBytes
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, metrics: newMetrics(), log: cfg.Log}
	var err error
	if s.programs, err = lru.New[string, compiled](cfg.CacheSize); err != nil {
		return nil, fmt.Errorf("configure scripts: %w", err)
	}
	if s.builds, err = lru.New[string, *build](cfg.CacheSize); err != nil {
		return nil, fmt.Errorf("configure scripts: %w", err)
	}
	if s.habits, err = lru.New[string, *habit](4 * cfg.CacheSize); err != nil {
		return nil, fmt.Errorf("configure scripts: %w", err)
	}
	if s.learner, err = guard.NewLearner(4 * cfg.CacheSize); err != nil {
		return nil, fmt.Errorf("configure scripts: %w", err)
	}
	limits := engine.Limits{ResultBytes: cfg.MaxResult}
	if err := limits.Validate(); err != nil {
		return nil, fmt.Errorf("configure scripts: MAX_RESULT_SIZE: %w", err)
	}
	return s, nil
}

// Run watches the runs in process and keeps the workers ready. It blocks until
// ctx ends, or returns the error with which no worker can be started.
func (s *Service) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.cfg.Engine.Sample(ctx) })
	err := s.cfg.Pool.Run(ctx)
	cancel()
	wg.Wait()
	return err
}

// Request asks for a run. Exactly one of Code and Script must be set.
type Request struct {
	// Code is the program.
	Code string `json:"code,omitempty"`
	// Script names a stored program, Version its version, 0 for the newest.
	Script  string `json:"script,omitempty"`
	Version int    `json:"version,omitempty"`
	// Language of Code: "javascript", the default, or "typescript".
	Language string `json:"language,omitempty"`
	// Input is the value of the global "input".
	Input json.RawMessage `json:"input,omitempty"`
	// Limits may be zero in any field: the tier's default then.
	Limits engine.Limits `json:"limits"`
	// Priority is "low", "normal", the default, or "high".
	Priority string `json:"priority,omitempty"`
}

// Result is a run that has ended.
type Result struct {
	engine.Outcome
	// Logs are the console's lines. A streamed run has none here.
	Logs []engine.LogLine `json:"logs,omitempty"`
	// Lane is where it ended: "in-process" or "worker".
	Lane string `json:"lane"`
	// Reason says why it ran in a worker, or was moved to one.
	Reason string `json:"reason,omitempty"`
	// Fingerprint is the SHA-256 of the JavaScript that ran.
	Fingerprint string `json:"fingerprint"`
	// Script and Version name the stored program, if it was one.
	Script  string `json:"script,omitempty"`
	Version int    `json:"version,omitempty"`
}

// Execute runs a program for a tenant and blocks until it has ended. Console
// lines go to log as they come; nil collects them in the result. What the
// program does is a result; the error is a *bulkhead.Error, for a request that
// is wrong or cannot be admitted.
func (s *Service) Execute(ctx context.Context, tenant Tenant, req Request, log func(engine.LogLine)) (Result, error) {
	limits, priority, err := s.bounds(tenant, &req)
	if err != nil {
		return Result{}, err
	}
	var res Result
	source, original, err := s.source(ctx, tenant, &req, &res)
	if err != nil {
		if wrong, ok := errors.AsType[*engine.SyntaxError](err); ok {
			return syntaxResult(res, &wrong.Failure), nil
		}
		return Result{}, err
	}
	res.Fingerprint = engine.Fingerprint(source)
	if log == nil {
		log = func(l engine.LogLine) { res.Logs = append(res.Logs, l) }
	}
	if plain := log; original != nil {
		log = func(l engine.LogLine) {
			l.Message = original.positions(l.Message)
			plain(l)
		}
	}
	h := &session{ctx: ctx, s: s, tenant: tenant, log: log}
	in := engine.Input{
		JSON: req.Input, Limits: limits, Host: h, Journal: engine.NewJournal(),
		HasFetch: s.cfg.AllowFetch != nil && s.cfg.FetchClient != nil,
	}
	claim := tenant.claim(priority)
	habit := s.habit(res.Fingerprint)
	switch {
	case s.cfg.WorkersOnly:
		res.Reason = "everything runs in workers here"
	case !habit.quick.Load():
		res.Reason = "this is its first run, or its last was not quick"
	default:
		c, err := s.compile(ctx, source, res.Fingerprint)
		if err != nil {
			return Result{}, err
		}
		if c.failure != nil {
			return syntaxResult(res, c.failure), nil
		}
		done, err := s.inProcess(ctx, &res, c, habit, in, claim)
		if done || err != nil {
			return original.told(res), err
		}
	}
	err = s.inWorker(ctx, &res, source, habit, in, claim)
	return original.told(res), err
}

// bounds checks a request and fills its limits in.
func (s *Service) bounds(tenant Tenant, req *Request) (engine.Limits, guard.Priority, error) {
	if (req.Code == "") == (req.Script == "") {
		return engine.Limits{}, 0, bulkhead.Errorf(bulkhead.CodeInvalid, "exactly one of code and script must be given")
	}
	if len(req.Code) > MaxSource {
		return engine.Limits{}, 0, bulkhead.Errorf(bulkhead.CodeTooLarge, "the code has %d bytes; the limit is %d", len(req.Code), MaxSource)
	}
	if err := validateLanguage(req.Language); err != nil {
		return engine.Limits{}, 0, err
	}
	if len(req.Input) > 0 && !json.Valid(req.Input) {
		return engine.Limits{}, 0, bulkhead.Errorf(bulkhead.CodeInvalid, "input is not JSON")
	}
	if err := req.Limits.Validate(); err != nil {
		return engine.Limits{}, 0, err
	}
	priority, err := guard.ParsePriority(req.Priority)
	if err != nil {
		return engine.Limits{}, 0, err
	}
	usual, most := tenant.limits(s.cfg.MaxResult)
	limits := req.Limits.Or(usual)
	for _, l := range []struct {
		name        string
		value, most int64
	}{
		{"memoryMB", limits.MemoryMB, most.MemoryMB},
		{"timeMS", limits.TimeMS, most.TimeMS},
		{"resultBytes", limits.ResultBytes, most.ResultBytes},
		{"logBytes", limits.LogBytes, most.LogBytes},
		{"depth", limits.Depth, most.Depth},
	} {
		if l.value > l.most {
			return engine.Limits{}, 0, bulkhead.Errorf(bulkhead.CodeInvalid,
				"limits.%s is %d; your tier allows at most %d", l.name, l.value, l.most)
		}
	}
	return limits, priority, nil
}

// validateLanguage checks the name of a language; empty is the default.
func validateLanguage(l string) error {
	if l != "" && l != "javascript" && l != "typescript" {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "language is %.40q; it must be javascript or typescript", l)
	}
	return nil
}

// source returns the JavaScript of a request, and what it was built of, nil where it
// is the request's own. The error may be a *engine.SyntaxError.
func (s *Service) source(ctx context.Context, tenant Tenant, req *Request, res *Result) (string, *build, error) {
	code, language := req.Code, req.Language
	if req.Script != "" {
		sc, err := s.cfg.Store.Script(ctx, tenant.ID, req.Script, req.Version)
		if err != nil {
			return "", nil, err
		}
		code, language = sc.Source, sc.Language
		res.Script, res.Version = sc.Name, sc.Version
	}
	if language != "typescript" {
		return code, nil, nil
	}
	key := engine.Fingerprint(code)
	b, ok := s.builds.Get(key)
	if !ok {
		made, err := s.cfg.Pool.Build(ctx, code)
		if err != nil {
			return "", nil, err
		}
		b = newBuild(made)
		s.builds.Add(key, b)
	}
	return b.code, b, nil
}

// compile returns the program for the in-process lane from the cache, or has it
// vetted by a worker and, if it is small, compiles it.
func (s *Service) compile(ctx context.Context, source, fingerprint string) (compiled, error) {
	if c, ok := s.programs.Get(fingerprint); ok {
		s.metrics.cache.WithLabelValues("hit").Inc()
		return c, nil
	}
	s.metrics.cache.WithLabelValues("miss").Inc()
	c := compiled{local: "in-process " + fingerprint}
	if len(source) > engine.SmallSource {
		c.program = &engine.Program{Fingerprint: fingerprint, Size: len(source), Why: "its source is long"}
		s.programs.Add(fingerprint, c)
		return c, nil
	}
	verdict, err := s.cfg.Pool.Vet(ctx, source)
	if err != nil {
		return c, err
	}
	switch {
	case verdict.Failure != nil:
		c.failure = verdict.Failure
	case verdict.Why != "":
		c.program = &engine.Program{Fingerprint: fingerprint, Size: len(source), Why: verdict.Why}
	default:
		c.program, err = s.cfg.Engine.Compile(source, engine.LaneInProcess)
		if wrong, ok := errors.AsType[*engine.SyntaxError](err); ok {
			c.failure = &wrong.Failure
		}
	}
	s.programs.Add(fingerprint, c)
	return c, nil
}

// syntaxResult is the result of a source that is no program.
func syntaxResult(res Result, f *engine.Failure) Result {
	res.Lane = engine.LaneWorker.String() // where it was read
	res.Failure = f
	res.End = bulkhead.End{Cause: bulkhead.CauseExited, At: time.Now(), ExitCode: 1, Detail: f.Name + ": " + f.Message}
	return res
}

// least is what is booked for any run at least, in bytes.
const least = 256 << 10

// workerOverhead is what a worker needs beside its program, in bytes.
const workerOverhead = 32 << 20

// inProcess runs a small program here. It returns false when the run has to be
// done in a worker, with the reason in res.
func (s *Service) inProcess(ctx context.Context, res *Result, c compiled, habit *habit, in engine.Input, claim guard.Claim) (bool, error) {
	p := c.program
	if p.Why != "" {
		res.Reason = p.Why
		return false, nil
	}
	known := s.learner.Kind(c.local, int64(len(in.JSON)))
	claim.Cost, _ = known.Estimate(engine.InProcessMemory)
	claim.Cost = max(least, claim.Cost)
	grant, err := s.cfg.Guard.AcquireClaim(ctx, claim)
	if err != nil {
		return false, err
	}
	defer grant.Release()
	s.cfg.Pool.NoteQuick()
	h, _ := in.Host.(*session)
	h.recording = true
	h.begin(in.Limits.Time())
	in.Stuck = func(engine.Outcome) { s.stuck(p) }
	out := s.cfg.Engine.Run(ctx, p, engine.LaneInProcess, in)
	habit.ended(&out)
	if out.Moved != "" {
		s.metrics.moved.Inc()
		res.Reason = out.Moved
		h.repeat()
		return false, nil
	}
	known.Observe(max(least, out.Usage.PeakBytes))
	res.Outcome, res.Lane = out, engine.LaneInProcess.String()
	s.metrics.ended(res)
	return true, nil
}

// stuck notes that a built-in does not come back in process: a defect of the
// checks, since nothing else can be done about it. The program is never run here
// again.
func (s *Service) stuck(p *engine.Program) {
	s.metrics.stuck.Inc()
	s.log.Error("a built-in does not come back in process", "fingerprint", p.Fingerprint)
	s.programs.Add(p.Fingerprint, compiled{program: &engine.Program{
		Fingerprint: p.Fingerprint, Size: p.Size, Why: "it did not stop before",
	}})
}

// inWorker runs a program in a worker.
func (s *Service) inWorker(ctx context.Context, res *Result, source string, habit *habit, in engine.Input, claim guard.Claim) error {
	known := s.learner.Kind("worker "+res.Fingerprint, int64(len(in.JSON)))
	most := in.Limits.MemoryMB << 20
	cost, _ := known.Estimate(most)
	claim.Cost = min(cost, most)
	class := habit.class(claim.Priority)
	if claim.Yields = class != worker.ClassQuick; claim.Yields {
		claim.Cost += workerOverhead // the others find one that is there
	}
	grant, err := s.cfg.Guard.AcquireClaim(ctx, claim)
	if err != nil {
		return err
	}
	defer grant.Release()
	h, _ := in.Host.(*session)
	out, err := s.cfg.Pool.Do(ctx, worker.Task{
		Source: source, Input: in, Class: class, Began: func() { h.begin(in.Limits.Time()) },
	})
	if err != nil {
		return err
	}
	habit.ended(&out)
	known.Observe(out.Usage.PeakBytes)
	res.Outcome, res.Lane = out, engine.LaneWorker.String()
	s.metrics.ended(res)
	return nil
}
