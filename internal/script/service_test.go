package script

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// TestMain makes this test binary its own worker.
func TestMain(m *testing.M) {
	if worker.Is(os.Args[0]) {
		os.Exit(worker.Main(os.Args[1:]))
	}
	if os.Args[0] == hogName {
		if err := hog(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "hog:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tenantKey carries a tenant in a test's context.
type tenantKey struct{}

// alice is the tenant of the tests.
var alice = Tenant{ID: "alice"}

// newStore returns a store that knows the tests' tenants.
func newStore(tb testing.TB) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), filepath.Join(tb.TempDir(), "bulkhead.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	for _, t := range []Tenant{alice, mallory, patient} {
		if _, err := s.CreateTenant(tb.Context(), bulkhead.Tenant{ID: t.ID, Tier: bulkhead.TierUnlimited}); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

// newService returns a running service on a real pool, a real guard and a real
// store.
func newService(tb testing.TB, change func(*Config, *worker.Config)) *Service {
	tb.Helper()
	testenv.Need(tb, "root")
	log := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	e, err := engine.New()
	if err != nil {
		tb.Fatal(err)
	}
	probe, err := guard.OpenProbe("/")
	if err != nil {
		tb.Fatal(err)
	}
	g, err := guard.New(guard.Config{MaxConcurrent: 32}, probe, log)
	if err != nil {
		tb.Fatal(err)
	}
	m := newStore(tb)
	cfg := Config{
		Engine: e, Guard: g, Store: m, KeyValue: m, Log: log,
		Tenant: func(ctx context.Context) (Tenant, error) {
			if who, ok := ctx.Value(tenantKey{}).(Tenant); ok {
				return who, nil
			}
			return alice, nil
		},
	}
	name := strings.ToLower(strings.NewReplacer("/", "-").Replace(tb.Name()))
	pool := worker.Config{Cgroup: "bulkhead-test-" + name, Log: log}
	if change != nil {
		change(&cfg, &pool)
	}
	if cfg.Pool, err = worker.New(pool); err != nil {
		tb.Fatal(err)
	}
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			tb.Errorf("run service: %v", err)
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait(); _ = probe.Close() })
	warm := Request{Code: "eval('1')"}
	if _, err := s.Execute(tb.Context(), alice, warm, nil); err != nil {
		tb.Fatal(err)
	}
	return s
}

func (s *Service) mustRun(tb testing.TB, req Request) Result {
	tb.Helper()
	res, err := s.Execute(tb.Context(), alice, req, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

func TestLanes(t *testing.T) {
	s := newService(t, nil)
	for _, c := range []struct {
		name, code, input, want, lane, reason string
	}{
		{"small", `input.a + 1`, `{"a":1}`, `2`, "in-process", ""},
		{"syntax needs a worker", `[...(function* () { yield 1 })()]`, ``, `[1]`, "worker", "it has a generator"},
		{"outgrows by a call", `"x".repeat(input).length`, `2000000`, `2000000`, "worker", "JSON.stringify"},
		{"outgrows by time", `let n = 0; for (let i = 0; i < 1e6; i++) n += i % 7; n`, ``, `2999997`, "worker", "it runs long"},
		{"outgrows by memory", `const a = []; for (let i = 0; i < 2e5; i++) a.push([i]); a.length`, ``, `200000`, "worker", "it allocates much"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "outgrows by a call" {
				c.code, c.reason = `"x".repeat(input).toUpperCase().length`, "a built-in gets a string that is long or not a string"
			}
			s.trust(c.code)
			res := s.mustRun(t, Request{Code: c.code, Input: json.RawMessage(c.input), Limits: engine.Limits{MemoryMB: 512, TimeMS: 60_000}})
			if string(res.Result) != c.want || res.Lane != c.lane {
				t.Errorf("result %s in %s (%v, %+v), want %s in %s", res.Result, res.Lane, res.End, res.Failure, c.want, c.lane)
			}
			if res.Reason != c.reason && (c.reason == "" || !timeFirst(res)) {
				t.Errorf("reason %q, want %q", res.Reason, c.reason)
			}
		})
	}
}

// timeFirst reports whether a run was moved by its time, which on a slow machine
// comes before what would move it otherwise.
func timeFirst(r Result) bool { return r.Reason == "it runs long" }

// TestMovedRunDoesNothingTwice lets a program do things, then outgrow the
// in-process lane: what it did is done once, and it sees the same world again.
func TestMovedRunDoesNothingTwice(t *testing.T) {
	var fetched int
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched++
		_, _ = fmt.Fprintf(w, "answer %d", fetched)
	}))
	t.Cleanup(upstream.Close)
	s := newService(t, func(c *Config, _ *worker.Config) {
		c.FetchClient = upstream.Client()
		c.AllowFetch = func(context.Context, Tenant, *url.URL) error { return nil }
	})
	code := fmt.Sprintf(`
		const before = Date.now(), chance = Math.random();
		const n = (kv.get("n") || 0) + 1;
		kv.set("n", n);
		console.log("n is", n);
		const text = await (await fetch(%q)).text();
		await new Promise(done => setTimeout(done, 5));
		console.log(text, chance, before);
		"x".repeat(3e6).trim();
		console.log("moved");
		return [n, text, chance, before];`, upstream.URL)
	s.trust(code)
	res := s.mustRun(t, Request{Code: code})
	long := strings.HasPrefix(res.Reason, "a built-in gets a string that is long")
	if res.Lane != "worker" || !long && !timeFirst(res) {
		t.Fatalf("the run was not moved: %+v", res)
	}
	var got []any
	if err := json.Unmarshal(res.Result, &got); err != nil {
		t.Fatal(err)
	}
	if got[0] != 1.0 || got[1] != "answer 1" || fetched != 1 {
		t.Errorf("result %v after %d requests, want everything done once", got, fetched)
	}
	want := []string{"n is 1", fmt.Sprintf("answer 1 %v %.0f", got[2], got[3]), "moved"}
	var lines []string
	for _, l := range res.Logs {
		lines = append(lines, l.Message)
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	v, err := s.cfg.KeyValue.Value(t.Context(), alice.ID, "n")
	if err != nil || string(v) != "1" {
		t.Errorf("the store has %s (%v), want 1", v, err)
	}
}

func TestFetchPolicy(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "/secret", http.StatusFound)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		case "/silent":
			<-r.Context().Done()
		case "/cookies":
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.WriteHeader(http.StatusTeapot)
		case "/large":
			_, _ = io.CopyN(w, zeros{}, fetchBody+1)
		default:
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Method", r.Method+" "+r.Header.Get("X-Test"))
			w.Header().Set("X-Type", r.Header.Get("Content-Type"))
			_, _ = fmt.Fprintf(w, `{"got":%q}`, body)
		}
	}))
	t.Cleanup(upstream.Close)
	s := newService(t, func(c *Config, _ *worker.Config) {
		c.FetchClient = upstream.Client()
		c.AllowFetch = func(_ context.Context, _ Tenant, u *url.URL) error {
			if u.Path == "/secret" {
				return bulkhead.Errorf(bulkhead.CodeForbidden, "egress to %s is not allowed", u.Path)
			}
			return nil
		}
	})
	run := func(path, options string) Result {
		return s.mustRun(t, Request{Code: fmt.Sprintf(
			`const r = await fetch(%q, %s); return [r.status, r.ok, r.headers.get("X-Method"), await r.json()]`, upstream.URL+path, options)})
	}
	res := run("/", `{method: "post", headers: {"X-Test": "1"}, body: "hello"}`)
	if want := `[200,true,"POST 1",{"got":"hello"}]`; string(res.Result) != want {
		t.Errorf("result %s (%+v), want %s", res.Result, res.Failure, want)
	}
	for path, want := range map[string]string{
		"/secret": "egress to /secret is not allowed",
		"/away":   "egress to /secret is not allowed",
		"/large":  "larger than 2097152 bytes",
	} {
		if res := run(path, "{}"); res.Failure == nil || !strings.Contains(res.Failure.Message, want) {
			t.Errorf("%s gave %+v, want %q", path, res.Failure, want)
		}
	}
	for _, c := range []struct{ code, want string }{
		{`r = await fetch(at + "/away", {redirect: "manual"}); return [r.status, r.redirected, r.headers.get("location")]`, `[302,false,"/secret"]`},
		{`r = await fetch(at + "/cookies"); return [r.status, r.statusText, r.headers.getSetCookie(), [...r.headers.keys()].length > 2]`, `[418,"I'm a teapot",["a=1","b=2"],true]`},
		{`r = await fetch(new URL("/x", at), {method: "POST", body: new URLSearchParams({a: "1 2"})}); return [await r.json(), r.headers.get("x-type")]`, `[{"got":"a=1+2"},"application/x-www-form-urlencoded;charset=UTF-8"]`},
		{`r = await fetch(at, {method: "PUT", body: new Uint8Array([65, 66])}); return [(await r.bytes()).length, (await r.arrayBuffer()).byteLength]`, `[12,12]`},
		{`r = await fetch(at, {method: "POST", body: "t", headers: new Headers([["x-test", "2"]])}); return [r.headers.get("x-method"), r.headers.get("x-type")]`, `["POST 2","text/plain;charset=UTF-8"]`},
		{`r = await fetch(at, {method: "POST", body: {a: 1}})`, `the body must be a string, bytes or URLSearchParams; JSON.stringify makes one of an object`},
		{`r = await fetch(at, {body: "x"})`, `a request with the method GET cannot have a body`},
		{`r = await fetch(at, {redirect: "maybe"})`, `redirect is "maybe"; it must be follow, manual or error`},
		{`r = await fetch(at + "/round")`, `redirects more than 5 times`},
		{`r = await fetch(at + "/away", {redirect: "error"})`, `answers with a redirect, and redirect is error`},
		{`r = await fetch(at, {headers: {"x": "a\nb"}})`, `a header's value is one line`},
		{`r = await fetch("http://127.0.0.1:1/")`, `127.0.0.1:1 refuses connections`},
		{`r = await fetch("file:///etc/passwd")`, `it must be an http or https URL`},
		{`r = await fetch(at + "/silent", {signal: AbortSignal.timeout(20)})`, `The operation timed out`},
		{`r = await fetch(at, {signal: new AbortController().signal}); return r.status`, `200`},
		{`r = await fetch(at, {signal: AbortSignal.any([new AbortController().signal, AbortSignal.timeout(1e9)])}); return r.status`, `200`},
		{`r = await fetch(at, {signal: AbortSignal.abort()})`, `The operation was aborted`},
		{`const c = new AbortController(); setTimeout(() => c.abort(), 0); await new Promise(d => setTimeout(d, 5)); r = await fetch(at, {signal: c.signal})`, `The operation was aborted`},
		{`const c = new AbortController(); setTimeout(() => c.abort(), 0); r = await fetch(at, {signal: c.signal})`, `The operation was aborted`},
	} {
		res := s.mustRun(t, Request{Code: fmt.Sprintf("const at = %q; let r; %s", upstream.URL, c.code), Limits: engine.Limits{TimeMS: 60_000}})
		got := string(res.Result)
		if res.Failure != nil {
			got = res.Failure.Message
		}
		if got != c.want && !strings.HasSuffix(got, c.want) {
			t.Errorf("%s\ngave %s (%v), want %s", c.code, got, res.End, c.want)
		}
	}
	for _, lane := range []string{"in-process", "worker"} { // a server that does not answer takes no longer than the run may
		code := fmt.Sprintf(`// %s
			const r = await fetch(%q); return 1`, lane, upstream.URL+"/silent")
		if lane == "in-process" {
			s.trust(code)
		}
		res := s.mustRun(t, Request{Code: code, Limits: engine.Limits{TimeMS: 300}})
		if res.End.Cause != bulkhead.CauseTimeLimit || res.Usage.WallMS > float64(fetchTime.Milliseconds())/2 {
			t.Errorf("a silent server: %s in %s after %.0f ms", res.End, res.Lane, res.Usage.WallMS)
		}
	}
	if res := s.mustRun(t, Request{Code: `await fetch("file:///etc/passwd")`}); res.Failure == nil {
		t.Errorf("a file was fetched: %s", res.Result)
	}
	off := newService(t, func(_ *Config, p *worker.Config) { p.Cgroup += "-off" })
	if res := off.mustRun(t, Request{Code: `typeof fetch`}); string(res.Result) != `"undefined"` {
		t.Errorf("without a policy fetch is %s", res.Result)
	}
}

// zeros reads as zeros for ever.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestTypeScript(t *testing.T) {
	s := newService(t, nil)
	for range 2 { // built, then from the cache
		res := s.mustRun(t, Request{
			Language: "typescript", Input: json.RawMessage(`{"n":20}`),
			Code: `interface In { n: number } function main(i: In): number { return (i.n as number) * 2 + 2 }`,
		})
		if string(res.Result) != "42" {
			t.Errorf("result %s, %+v", res.Result, res.Failure)
		}
	}
	if s.builds.Len() != 1 {
		t.Errorf("%d builds are kept, want 1", s.builds.Len())
	}
	located := Request{
		Language: "typescript", Input: json.RawMessage(`{"n":1}`),
		Code: "interface In {\n  n: number\n}\n\nfunction main(i: In): number {\n  console.log(new Error('said'))\n  return (i as any).none.more\n}\n",
	}
	for range 2 { // in a worker, then in process
		res := s.mustRun(t, located)
		s.habit(res.Fingerprint).quick.Store(true)
		if res.Failure == nil || !strings.HasPrefix(res.Failure.Stack, "at main (script.ts:7:26)") {
			t.Errorf("%s: %+v, want a place in the TypeScript", res.Lane, res.Failure)
		}
		if len(res.Logs) != 1 || res.Logs[0].Message != "Error: said\n    at main (script.ts:6:15)" {
			t.Errorf("%s: logs %+v", res.Lane, res.Logs)
		}
	}
	res := s.mustRun(t, Request{Language: "typescript", Code: `if (input) return null.x as any`, Input: json.RawMessage("1")})
	if res.Failure == nil || res.Failure.Stack != "at <anonymous> (script.ts:1:24)" {
		t.Errorf("a source that returns: %+v", res.Failure)
	}
	res = s.mustRun(t, Request{Language: "typescript", Code: `let x: number = ;`})
	if res.Failure == nil || res.Failure.Name != "SyntaxError" || res.End.ExitCode != 1 {
		t.Errorf("bad TypeScript gave %+v", res)
	}
}

func TestRequestErrors(t *testing.T) {
	s := newService(t, nil)
	for _, c := range []struct {
		name string
		req  Request
		want string
	}{
		{"nothing", Request{}, "exactly one of code and script"},
		{"both", Request{Code: "1", Script: "a"}, "exactly one of code and script"},
		{"long", Request{Code: strings.Repeat(" ", MaxSource+1)}, "the limit is 1048576"},
		{"language", Request{Code: "1", Language: "perl"}, `language is "perl"`},
		{"input", Request{Code: "1", Input: json.RawMessage("{")}, "input is not JSON"},
		{"limit out of range", Request{Code: "1", Limits: engine.Limits{Depth: 1}}, "limits.depth is 1"},
		{"above the tier", Request{Code: "1", Limits: engine.Limits{MemoryMB: 513}}, "your tier allows at most 512"},
		{"priority", Request{Code: "1", Priority: "urgent"}, `priority is "urgent"`},
		{"unknown script", Request{Script: "none"}, `there is no script "none"`},
	} {
		_, err := s.Execute(t.Context(), alice, c.req, nil)
		if err == nil || !strings.Contains(bulkhead.Message(err), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// TestTiers runs one program for tenants of different tiers: the multiplier scales
// what a run gets and may ask for, the quota bounds one run, and all at once.
func TestTiers(t *testing.T) {
	s := newService(t, nil)
	free := Tenant{ID: "free", Tier: bulkhead.Tier{Name: "free", Multiplier: 0.1}}
	small := Tenant{ID: "small", Tier: bulkhead.Tier{
		Name: "basic", Multiplier: 1, Quota: bulkhead.Quota{MemoryMB: 100, Sandbox: bulkhead.Limits{MemoryMB: 80}},
	}}
	run := func(who Tenant, code string, l engine.Limits) (Result, error) {
		return s.Execute(t.Context(), who, Request{Code: code, Limits: l}, nil)
	}
	if res, err := run(free, "for (;;);", engine.Limits{}); err != nil || res.End.Cause != bulkhead.CauseTimeLimit || res.End.Limit != 500 {
		t.Errorf("a tenth of 5 s did not hold: %v, %v", res.End, err)
	}
	if res, err := run(free, `eval("'x'.repeat(20e6).length")`, engine.Limits{}); err != nil || res.End.Limit != 6<<20 {
		t.Errorf("a tenth of 64 MiB did not hold: %v, %v", res.End, err)
	}
	for _, c := range []struct {
		who  Tenant
		l    engine.Limits
		want string
	}{
		{free, engine.Limits{MemoryMB: 52}, "your tier allows at most 51"},
		{free, engine.Limits{TimeMS: 6001}, "your tier allows at most 6000"},
		{small, engine.Limits{MemoryMB: 81}, "your tier allows at most 80"},
		{small, engine.Limits{MemoryMB: 80}, "at most 100 MiB can be admitted"}, // and 32 for the worker
	} {
		if _, err := run(c.who, `eval("1")`, c.l); bulkhead.CodeOf(err) != bulkhead.CodeInvalid || !strings.Contains(bulkhead.Message(err), c.want) {
			t.Errorf("%s with %+v: error %v, want %q", c.who.ID, c.l, err, c.want)
		}
	}
	if res, err := run(small, `eval("1")`, engine.Limits{MemoryMB: 60}); err != nil || string(res.Result) != "1" {
		t.Errorf("within the quota: %s, %v", res.Result, err)
	}
}

func TestGuardRefuses(t *testing.T) {
	s := newService(t, nil)
	g, err := guard.New(guard.Config{}, pressed{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Guard = g
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/scripts/run", strings.NewReader(`{"code":"1"}`)))
	if rec.Code != http.StatusServiceUnavailable || rec.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q: %s", rec.Code, rec.Header().Get("Retry-After"), rec.Body)
	}
}

// pressed is a host without memory.
type pressed struct{}

func (pressed) Read(bool) (guard.Reading, error) { return guard.Reading{Used: 95, Limit: 100}, nil }

func TestLearnedCost(t *testing.T) {
	s := newService(t, nil)
	code := `eval("1"); const a = []; for (let i = 0; i < 50000; i++) a.push([i]); a.length`
	for range 6 {
		s.mustRun(t, Request{Code: code})
	}
	got, known := s.learner.Kind("worker "+engine.Fingerprint(code), 0).Estimate(64 << 20)
	if !known || got < 1<<20 || got > 40<<20 {
		t.Errorf("learned %d MiB, known %v; want a few MiB", got>>20, known)
	}
}

func TestHandler(t *testing.T) {
	s := newService(t, nil)
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	call := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(data)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PUT", "/v1/scripts/greet", `{"source":"'hello ' + input.name"}`, 200, `"version":1`},
		{"PUT", "/v1/scripts/greet", `{"source":"'hello ' + input.name"}`, 200, `"version":1`},
		{"PUT", "/v1/scripts/greet", `{"source":"const x: string = input.name; 'hi ' + x","language":"typescript"}`, 200, `"version":2`},
		{"POST", "/v1/scripts/run", `{"script":"greet","input":{"name":"Ada"}}`, 200, `"result":"hi Ada"`},
		{"POST", "/v1/scripts/run", `{"script":"greet","version":1,"input":{"name":"Ada"}}`, 200, `"result":"hello Ada"`},
		{"POST", "/v1/scripts/run", `{"code":"throw new TypeError('no')"}`, 200, `"error":{"name":"TypeError","message":"no"`},
		{"GET", "/v1/scripts/greet?version=1", ``, 200, `"source":"'hello ' + input.name"`},
		{"GET", "/v1/scripts/greet?version=9", ``, 404, `{"code":"not_found","message":"there is no version 9 of a script \"greet\""}`},
		{"GET", "/v1/scripts/greet?version=x", ``, 400, `version is`},
		{"GET", "/v1/scripts", ``, 200, `"name":"greet","version":2`},
		{"GET", "/v1/scripts/stats", ``, 200, `"base_concurrency":32`},
		{"PUT", "/v1/scripts/run", `{"source":"1"}`, 400, `the name is`},
		{"PUT", "/v1/scripts/Greet", `{"source":"1"}`, 400, `the name is`},
		{"PUT", "/v1/scripts/a", `{"source":""}`, 400, `the source has 0 bytes`},
		{"PUT", "/v1/scripts/a", `{"source":"1","language":"c"}`, 400, `language is`},
		{"POST", "/v1/scripts/run", `{"cod":"1"}`, 400, `unknown field`},
		{"POST", "/v1/scripts/run", `{"code":"1","limits":{"memoryMB":"64"}}`, 400, `limits.memoryMB is \"64\"; it must be an integer`},
		{"POST", "/v1/scripts/run", `{"code":"1","limits":{"timeMS":1.5}}`, 400, `limits.timeMS is 1.5; it must be an integer`},
		{"POST", "/v1/scripts/run", `{"code":"1","limits":{"memoryMB":0}}`, 400, `limits.memoryMB is 0; it must be between 1 and 4096 MiB`},
		{"POST", "/v1/scripts/run", `{"code":"1","limits":{"memory":5}}`, 400, `unknown field \"limits.memory\"`},
		{"POST", "/v1/scripts/run", `{"code":"1","limits":{"memoryMB":null}}`, 200, `"result":1`},
		{"POST", "/v1/scripts/run", `{"code":"1","limits":null}`, 200, `"result":1`},
		{"POST", "/v1/scripts/run", `{"code":"let x = ;"}`, 200, `"end":{"cause":"exited","at":"2`},
		{"POST", "/v1/scripts/run", `{"code":"function f(n) { return n ? f(n - 1) : 0 } f(100)","limits":{"depth":50}}`, 200, `Maximum call stack size exceeded (limits.depth is 50)`},
		{"POST", "/v1/scripts/run", `{"code":"for (;;) console.log(1)","limits":{"logBytes":60}}`, 200, `it wrote more than 60 bytes to the console`},
		{"POST", "/v1/scripts/run", ``, 400, `the body is empty`},
		{"POST", "/v1/scripts/run", `{"code":"1"} 2`, 400, `after its JSON object`},
		{"DELETE", "/v1/scripts/greet", ``, 204, ``},
		{"DELETE", "/v1/scripts/greet", ``, 404, `not_found`},
	} {
		status, body := call(c.method, c.path, c.body)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s %s: %d %s, want %d %s", c.method, c.path, c.body, status, body, c.status, c.want)
		}
	}
	status, body := call("POST", "/v1/scripts/run?stream=1", `{"code":"console.log('a'); console.warn('b'); 3"}`)
	lines := strings.Split(strings.TrimSpace(body), "\n")
	if status != 200 || len(lines) != 3 || lines[0] != `{"log":{"level":"info","message":"a"}}` ||
		lines[1] != `{"log":{"level":"warn","message":"b"}}` || !strings.HasPrefix(lines[2], `{"result":{"result":3,`) {
		t.Errorf("stream %d:\n%s", status, body)
	}
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(s); err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}

func TestTenantsAreApart(t *testing.T) {
	s := newService(t, nil)
	bob := Tenant{ID: "bob"}
	if _, err := s.cfg.Store.PutScript(t.Context(), alice.ID, bulkhead.Script{Name: "own", Source: "1", Fingerprint: "f"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Execute(t.Context(), bob, Request{Script: "own"}, nil); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("bob ran alice's script: %v", err)
	}
	for _, code := range []string{`kv.set("secret", 7)`, `eval("kv").set("secret", 7)`} {
		s.mustRun(t, Request{Code: code})
		res, err := s.Execute(t.Context(), bob, Request{Code: `kv.get("secret") === undefined && kv.list().length === 0`}, nil)
		if err != nil || string(res.Result) != "true" {
			t.Errorf("bob sees %s (%v)", res.Result, err)
		}
	}
	// A program cannot leave anything in the realm or in the worker for the next.
	for _, code := range []string{`this.left = 1; Object.left = 1; 1`, `eval("1"); globalThis.left = 1; Array.prototype.left = 1; 1`} {
		s.mustRun(t, Request{Code: code})
		if res := s.mustRun(t, Request{Code: `[typeof left, typeof [].left, typeof Object.left].join()`}); string(res.Result) != `"undefined,undefined,undefined"` {
			t.Errorf("left behind: %s", res.Result)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no error for an empty configuration")
	}
}

// TestStuckProgramIsNotRunHereAgain tells the service of a built-in that does
// not come back: the program goes to workers from then on.
func TestStuckProgramIsNotRunHereAgain(t *testing.T) {
	s := newService(t, nil)
	req := Request{Code: `6 * 7`}
	for i, lane := range []string{"worker", "in-process"} {
		if res := s.mustRun(t, req); res.Lane != lane {
			t.Fatalf("run %d was in %s (%s), want %s", i, res.Lane, res.Reason, lane)
		}
	}
	c, ok := s.programs.Get(engine.Fingerprint(req.Code))
	if !ok {
		t.Fatal("the program is not kept")
	}
	s.stuck(c.program)
	if res := s.mustRun(t, req); res.Lane != "worker" || string(res.Result) != "42" {
		t.Errorf("it ran in %s again: %s", res.Lane, res.Result)
	}
}
