package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead"
)

// memory is a [Source] that a test sets.
type memory struct {
	used atomic.Int64
	fail atomic.Bool
}

func (m *memory) Read(bool) (Reading, error) {
	if m.fail.Load() {
		return Reading{}, errors.New("no such file")
	}
	return Reading{Used: m.used.Load(), Limit: 2 * gib, Source: "test"}, nil
}

func (m *memory) set(fraction float64) { m.used.Store(int64(fraction * 2 * gib)) }

// start returns a running guard; the bubble's end stops it.
func start(t *testing.T, cfg Config, m Source, log *slog.Logger) *Guard {
	t.Helper()
	g, err := New(cfg, m, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return g
}

func TestAcquireReleaseTwice(t *testing.T) {
	g, err := New(Config{MaxConcurrent: 2}, &memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := g.Acquire(t.Context(), mib, PriorityNormal)
	if err != nil {
		t.Fatal(err)
	}
	b, err := g.Acquire(t.Context(), mib, PriorityNormal)
	if err != nil {
		t.Fatal(err)
	}
	a.Release()
	a.Release()
	if got := g.Stats().ActiveTasks; got != 1 {
		t.Errorf("%d active after one grant was released twice, want 1", got)
	}
	b.Release()
	(*Grant)(nil).Release()
}

func TestPressureNoticedWithin100ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		g := start(t, Config{}, &m, nil)
		time.Sleep(time.Second)
		m.set(0.9)
		time.Sleep(100 * time.Millisecond)
		if got := g.Stats().Level; got != LevelCritical {
			t.Errorf("level %v 100 ms after the pressure came, want CRITICAL", got)
		}
	})
}

func TestFailFastAboveCritical(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		m.set(0.873)
		g := start(t, Config{}, &m, nil)
		begin := time.Now()
		_, err := g.Acquire(t.Context(), mib, PriorityHigh)
		if bulkhead.CodeOf(err) != bulkhead.CodeUnavailable || time.Since(begin) != 0 {
			t.Fatalf("got %v after %v, want unavailable at once", err, time.Since(begin))
		}
		if msg := bulkhead.Message(err); !strings.Contains(msg, "87.3 %") {
			t.Errorf("message %q does not name the use", msg)
		}
		var e *bulkhead.Error
		if errors.As(err, &e) && e.RetryAfter <= 0 {
			t.Error("no RetryAfter")
		}
	})
}

func TestAcquireWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		g := start(t, Config{MaxConcurrent: 1}, &m, nil)
		first, err := g.Acquire(t.Context(), mib, PriorityNormal)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = g.Acquire(t.Context(), mib, PriorityNormal)
		if bulkhead.CodeOf(err) != bulkhead.CodeUnavailable || time.Since(begin) != 10*time.Second {
			t.Errorf("got %v after %v, want unavailable after 10 s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = g.Acquire(ctx, mib, PriorityNormal); bulkhead.CodeOf(err) != bulkhead.CodeTimeout {
			t.Errorf("got %v when the request ended, want timeout", err)
		}
		time.AfterFunc(time.Second, first.Release)
		begin = time.Now()
		second, err := g.Acquire(t.Context(), mib, PriorityNormal)
		if err != nil || time.Since(begin) != time.Second {
			t.Fatalf("got %v after %v, want a grant when the first was released", err, time.Since(begin))
		}
		second.Release()
		if s := g.Stats(); s.ActiveTasks != 0 || s.WaitingTasks != 0 || s.RejectedRequests != 2 || s.CompletedRequests != 2 {
			t.Errorf("statistics %+v", s)
		}
	})
}

// TestScenariosLive plays the document's three cases as they go here: requests of
// 200 MB, all at once, each holding its memory for 300 ms, on 2 GB. Eight fit into
// 80 %; whoever is beyond that waits until there is room, all complete, and none is
// refused, where the document's guard refuses in its case C.
func TestScenariosLive(t *testing.T) {
	for _, c := range []struct {
		name            string
		requests, waits int64
		longest         time.Duration
	}{
		{"A: five at once", 5, 0, 0},
		{"B: eight at once", 8, 0, 0},
		{"C: ten at once", 10, 2, 320 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var m memory
				g := start(t, Config{}, &m, nil)
				time.Sleep(100 * time.Millisecond)
				var wg sync.WaitGroup
				var done, peak, longest atomic.Int64
				for range c.requests {
					wg.Go(func() {
						begin := time.Now()
						grant, err := g.Acquire(t.Context(), 200*mib, PriorityNormal)
						if err != nil {
							t.Error(err)
							return
						}
						defer grant.Release()
						longest.Store(max(longest.Load(), int64(time.Since(begin))))
						peak.Store(max(peak.Load(), m.used.Add(200*mib)))
						time.Sleep(300 * time.Millisecond)
						m.used.Add(-200 * mib)
						done.Add(1)
					})
				}
				wg.Wait()
				s := g.Stats()
				waited := time.Duration(longest.Load())
				t.Logf("completed %d, refused %d, waited %d, longest wait %v, most memory %d MiB of 2048",
					done.Load(), s.RejectedRequests, s.WaitCount, waited, peak.Load()>>20)
				if done.Load() != c.requests || s.RejectedRequests != 0 || s.WaitCount != c.waits || waited > c.longest || peak.Load() > 1638*mib {
					t.Errorf("want %d, 0, %d, at most %v and at most 1638 MiB", c.requests, c.waits, c.longest)
				}
			})
		})
	}
}

func TestDisabledOnlyCounts(t *testing.T) {
	var m memory
	m.set(0.99)
	g, err := New(Config{Disabled: true}, &m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := g.Acquire(t.Context(), gib, PriorityNormal); err != nil {
			t.Fatal(err)
		}
	}
	if got := g.Stats().ActiveTasks; got != 50 {
		t.Errorf("%d active, want 50", got)
	}
}

func TestUnlimitedCount(t *testing.T) {
	var m memory
	g, err := New(Config{MaxConcurrent: -1}, &m, nil)
	if err != nil {
		t.Fatal(err)
	}
	var grants []*Grant
	for range 100 {
		gr, err := g.Acquire(t.Context(), mib, PriorityNormal)
		if err != nil {
			t.Fatal(err)
		}
		grants = append(grants, gr)
	}
	if got := g.Stats().CurrentConcurrency; got != -1 {
		t.Errorf("concurrency %d, want -1", got)
	}
	m.set(0.75)
	g.mu.Lock()
	g.observeLocked(time.Now())
	g.mu.Unlock()
	if got := g.Stats().CurrentConcurrency; got != 75 {
		t.Errorf("concurrency %d under WARNING with 100 running, want 75", got)
	}
	for _, gr := range grants {
		gr.Release()
	}
}

func TestLogLinesAndStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		log := slog.New(slog.NewTextHandler(&buf, nil))
		var m memory
		g := start(t, Config{}, &m, log)
		time.Sleep(100 * time.Millisecond)
		m.set(0.752)
		time.Sleep(100 * time.Millisecond)
		m.set(0.9)
		time.Sleep(100 * time.Millisecond)
		if _, err := g.Acquire(t.Context(), mib, PriorityNormal); err == nil {
			t.Fatal("no refusal")
		}
		m.fail.Store(true)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		for _, want := range []string{
			`msg="memory guard ready" enabled=true max_memory_percent=80 warning_percent=70 critical_percent=85 check_interval=5s estimated_mem_per_req_mb=200 base_concurrency=10`,
			`msg="memory guard adjusted concurrency" action=WARNING memory_percent=75.2 old_concurrency=10 new_concurrency=7 active_tasks=0`,
			`level=WARN msg="memory guard refused" error="memory pressure is too high (level CRITICAL: 90.0 % of 2048 MiB in use, stalled 0 % of the time; 0 run, 0 wait)"`,
			`memory_stats.total_requests=1 memory_stats.rejected_requests=1`,
			`level=ERROR msg="memory guard cannot read memory" error="no such file"`,
		} {
			if !strings.Contains(buf.String(), want) {
				t.Errorf("log lacks %q; it is:\n%s", want, buf.String())
			}
		}
		data, err := json.Marshal(g.Stats())
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{
			"total_requests", "rejected_requests", "completed_requests", "active_tasks", "current_concurrency",
			"base_concurrency", "memory_percent", "memory_alloc_mb", "memory_sys_mb",
		} {
			if !bytes.Contains(data, []byte(`"`+key+`":`)) {
				t.Errorf("statistics lack %s: %s", key, data)
			}
		}
	})
}

func TestMetricNames(t *testing.T) {
	g, err := New(Config{}, &memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(g); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range families {
		got[f.GetName()] = true
	}
	for _, want := range []string{
		"memory_guard_rejected_requests_total", "memory_guard_active_tasks",
		"memory_guard_current_concurrency", "memory_guard_memory_percent",
	} {
		if !got[want] {
			t.Errorf("no metric %s", want)
		}
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	docs, alerts := read("../../docs/scripts.md"), read("../../examples/alerts.yml")
	for name := range got {
		if !strings.Contains(docs, "`"+name+"`") {
			t.Errorf("docs/scripts.md lacks %s", name)
		}
	}
	for _, name := range regexp.MustCompile(`memory_guard_\w+`).FindAllString(docs+alerts, -1) {
		if !got[name] {
			t.Errorf("there is no metric %s, which docs or alerts name", name)
		}
	}
	if want := "      - alert: HighMemoryPressure\n        expr: memory_guard_memory_percent > 80\n        for: 5m\n"; !strings.Contains(alerts, want) {
		t.Errorf("the alert rule is not\n%s", want)
	}
}

// TestManyGoroutines lets many acquire and release at once; with -race it also
// proves the locking. All must end admitted, in budget, and the books at zero.
func TestManyGoroutines(t *testing.T) {
	var m memory
	g := start(t, Config{MaxConcurrent: 4}, &m, nil)
	var wg sync.WaitGroup
	var running, most atomic.Int64
	for range 64 {
		wg.Go(func() {
			for range 50 {
				gr, err := g.Acquire(t.Context(), mib, PriorityNormal)
				if err != nil {
					t.Error(err)
					return
				}
				n := running.Add(1)
				for {
					old := most.Load()
					if n <= old || most.CompareAndSwap(old, n) {
						break
					}
				}
				running.Add(-1)
				gr.Release()
			}
		})
	}
	wg.Wait()
	if most.Load() > 4 {
		t.Errorf("%d ran at once, limit 4", most.Load())
	}
	if s := g.Stats(); s.ActiveTasks != 0 || s.WaitingTasks != 0 || s.CompletedRequests != 64*50 {
		t.Errorf("statistics %+v", s)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	p, err := OpenProbe("/")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	g, err := New(Config{}, p, nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = g.Run(ctx) }()
	b.ReportAllocs()
	for b.Loop() {
		gr, err := g.Acquire(ctx, 64<<10, PriorityNormal)
		if err != nil {
			b.Fatal(err)
		}
		gr.Release()
	}
}

func BenchmarkProbe(b *testing.B) {
	p, err := OpenProbe("/")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for b.Loop() {
		if _, err := p.Read(true); err != nil {
			b.Fatal(err)
		}
	}
}
