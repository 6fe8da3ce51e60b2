package supply_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/driver/fake"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply"
	"github.com/bulkheadhq/bulkhead/internal/supply/supplytest"
)

func template(name, digest string) bulkhead.Template {
	return bulkhead.Template{ID: name, Name: name, Digest: "sha256:" + digest, Defaults: bulkhead.DefaultLimits()}
}

// world is a host inside a synctest bubble, on which servers come and go.
type world struct {
	t         *testing.T
	templates *supplytest.Templates
	books     *supplytest.Store
	log       bytes.Buffer
	mu        sync.Mutex
	memory    supply.Memory // but for what boxes take
	boxMB     int64

	driver  *fake.Driver
	pool    *pool.Pool
	planner *supply.Planner
	stop    func()
}

func newWorld(t *testing.T, list ...bulkhead.Template) *world {
	t.Helper()
	w := &world{
		t: t, templates: &supplytest.Templates{}, books: &supplytest.Store{},
		memory: supply.Memory{Available: 64 << 30}, boxMB: 170,
	}
	w.templates.Set(list...)
	return w
}

// measure is the host's memory, less that of the warm boxes.
func (w *world) measure() (supply.Memory, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.memory
	if w.pool != nil {
		for _, s := range w.pool.Stats() {
			m.Available -= int64(s.Warm+s.Leased) * w.boxMB * 1e6
		}
	}
	return m, nil
}

func (w *world) setMemory(m supply.Memory) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory = m
}

// start starts a server.
func (w *world) start(change func(*supply.Config)) {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	w.driver = fake.New(fake.Config{Snapshots: true, Delay: func(method string) time.Duration {
		return map[string]time.Duration{"Create": 100 * time.Millisecond, "Start": 2 * time.Second, "Restore": 200 * time.Millisecond}[method]
	}})
	snapshots, err := pool.OpenSnapshots(w.t.TempDir(), "salt")
	if err != nil {
		w.t.Fatal(err)
	}
	w.pool, err = pool.New(pool.Config{
		Maker:    &pool.Maker{Driver: w.driver, Parts: fake.NewParts(), Snapshots: snapshots, Log: log},
		Parallel: 2, Log: log,
		Observe: func(t bulkhead.Template, stage pool.Stage) { w.planner.Observe(t, stage) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := supply.Config{Boxes: w.pool, Templates: w.templates, Store: w.books, Log: log, Builders: 2, Memory: w.measure}
	if change != nil {
		change(&cfg)
	}
	if w.planner, err = supply.New(w.t.Context(), cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { _ = w.pool.Run(ctx) })
	runs.Go(func() { _ = w.planner.Run(ctx) })
	w.stop = sync.OnceFunc(func() {
		cancel()
		runs.Wait()
	})
}

func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) status(name string) supply.Status {
	w.t.Helper()
	for _, s := range w.planner.Report().Pools {
		if s.Template == name {
			return s
		}
	}
	w.t.Fatalf("no pool of %s in %+v", name, w.planner.Report())
	return supply.Status{}
}

// use takes n boxes of the template and destroys them.
func (w *world) use(name string, n int) {
	w.t.Helper()
	t, err := supply.Versions{Planner: w.planner, Templates: w.templates}.Get(name)
	if err != nil {
		w.t.Fatal(err)
	}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			b, _, err := w.pool.Acquire(w.t.Context(), t, t.Defaults)
			if err != nil {
				w.t.Error(err)
				return
			}
			if err := b.Release(w.t.Context()); err != nil {
				w.t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestPoolsFollowUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, template("base", "b"), template("code", "c"))
		w.start(func(c *supply.Config) { c.Always = []string{"code"} })
		defer w.stop()
		settle(10 * time.Second)
		if s := w.status("code"); s.Warm != 2 || s.Cold != 3 || s.Target.Why == "" {
			t.Errorf("from the first start: %+v", s)
		}
		if s := w.status("base"); s.Warm+s.Cold+s.Making != 0 {
			t.Errorf("before anybody asked: %+v", s)
		}
		w.use("base", 1)
		settle(10 * time.Second)
		if s := w.status("base"); s.Warm < 2 || s.Warm > 10 || s.Cold < 3 || s.Use.Total != 1 || s.Use.Recent != 1 {
			t.Errorf("once asked for: %+v", s)
		}
		w.use("base", 12)
		settle(time.Second)
		if s := w.status("base"); s.Target.Warm < 8 || s.Target.Warm > 10 || s.Target.Cold > 15 {
			t.Errorf("a second after a burst of 12: %+v", s.Target)
		}
		settle(26 * time.Hour)
		if s := w.status("base"); s.Warm != 0 {
			t.Errorf("a day after its last use: %+v", s)
		}
		if s := w.status("code"); s.Warm != 2 {
			t.Errorf("always there: %+v", s)
		}
		if r := w.planner.Report(); r.Totals.TotalUse != 13 || r.Totals.IdleMBs < 0 || r.Totals.Warm != 2 {
			t.Errorf("totals: %+v", r.Totals)
		}
	})
}

func TestSwitchedOffButForPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, template("base", "b"), template("code", "c"))
		w.start(func(c *supply.Config) {
			c.Off, c.Always = true, []string{"code"}
			c.Pins = map[string]pool.Target{"base": {Warm: 1, Why: "pinned by --warm"}, "nope": {Warm: 1}}
		})
		defer w.stop()
		w.use("code", 3)
		settle(20 * time.Second)
		if s := w.status("code"); s.Warm != 0 || s.Use.Total != 3 {
			t.Errorf("not pinned: %+v", s)
		}
		if s := w.status("base"); s.Warm != 1 || !s.Pinned || s.Target.Why != "pinned by --warm" {
			t.Errorf("pinned: %+v", s)
		}
		if !strings.Contains(w.log.String(), "nope") {
			t.Error("nothing was said of a pin on no template")
		}
	})
}

func TestWhatWasLearnedSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, template("base", "b"), template("code", "c"), template("third", "3"))
		w.start(nil)
		w.use("base", 5)
		w.use("third", 2)
		if _, err := w.planner.Pin(t.Context(), "code", &store.PoolSize{Warm: 1, Cold: 1}); err != nil {
			t.Fatal(err)
		}
		settle(20 * time.Second)
		before, err := w.planner.Predict("base", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		w.stop()
		third := w.books.Row("third")
		third.Forecast = []byte(`{"version":1,"now":-1}`)
		if err := w.books.PutPools(t.Context(), third); err != nil {
			t.Fatal(err)
		}

		w.start(nil)
		defer w.stop()
		settle(20 * time.Second)
		after, err := w.planner.Predict("base", time.Hour)
		if err != nil || after.Use.Total != 5 || after.Mean <= 0 || after.P99 < after.P50 || before.Use.Total != after.Use.Total {
			t.Errorf("before: %+v, after: %+v, %v", before, after, err)
		}
		if s := w.status("code"); !s.Pinned || s.Warm != 1 || s.Cold != 1 {
			t.Errorf("pinned: %+v", s)
		}
		if s := w.status("third"); s.Use.Total != 0 || s.Warm != 0 {
			t.Errorf("from a state that is corrupt: %+v", s)
		}
		if !strings.Contains(w.log.String(), "level=ERROR msg=\"the stored forecast cannot be read") {
			t.Errorf("nothing was said of the corrupt state:\n%s", w.log.String())
		}
		s, err := w.planner.Pin(t.Context(), "code", nil)
		if err != nil || s.Pinned || w.books.Row("code").Pin != nil {
			t.Errorf("unpinned: %+v, %v", s, err)
		}
	})
}

func TestPinRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, template("base", "b"))
		w.start(nil)
		defer w.stop()
		for name, c := range map[string]struct {
			do   func() error
			code bulkhead.Code
		}{
			"no template": {func() error { _, err := w.planner.Pin(t.Context(), "nope", nil); return err }, bulkhead.CodeNotFound},
			"too many": {func() error {
				_, err := w.planner.Pin(t.Context(), "base", &store.PoolSize{Warm: 1001})
				return err
			}, bulkhead.CodeInvalid},
			"no horizon":   {func() error { _, err := w.planner.Predict("base", 0); return err }, bulkhead.CodeInvalid},
			"far horizon":  {func() error { _, err := w.planner.Predict("base", 29*24*time.Hour); return err }, bulkhead.CodeInvalid},
			"no such pool": {func() error { _, err := w.planner.Predict("nope", time.Hour); return err }, bulkhead.CodeNotFound},
		} {
			if err := c.do(); bulkhead.CodeOf(err) != c.code {
				t.Errorf("%s: %v, want %s", name, err, c.code)
			}
		}
		w.books.Fail(errors.New("disk full"))
		if _, err := w.planner.Pin(t.Context(), "base", &store.PoolSize{Warm: 1}); err == nil {
			t.Error("a pin that was not stored was accepted")
		}
		if s := w.status("base"); s.Pinned {
			t.Error("a pin that was not stored holds")
		}
		w.books.Fail(nil)
	})
}

// Memory pressure takes warm boxes, those least likely to be missed first and
// pinned ones last, leaves cold ones, and lets the pools grow back.
func TestMemoryPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gb = int64(1e9)
		w := newWorld(t, template("busy", "b"), template("rare", "r"), template("pinned", "p"))
		w.start(func(c *supply.Config) {
			c.Reserve = gb
			c.Pins = map[string]pool.Target{"pinned": {Warm: 3}}
			c.Costs = forecast.DefaultCosts()
		})
		defer w.stop()
		w.use("rare", 1)
		for range 20 {
			w.use("busy", 8)
			settle(30 * time.Second)
		}
		busy, rare := w.status("busy"), w.status("rare")
		if busy.Warm < 6 || rare.Warm != 2 || w.status("pinned").Warm != 3 {
			t.Fatalf("to begin with: busy %d, rare %d, pinned %d", busy.Warm, rare.Warm, w.status("pinned").Warm)
		}
		all := busy.Warm + rare.Warm + 3
		used := int64(all) * w.boxMB * 1e6
		w.setMemory(supply.Memory{Available: gb + used - 4*w.boxMB*1e6})
		settle(5 * time.Second)
		busy, rare = w.status("busy"), w.status("rare")
		if got := busy.Warm + rare.Warm; got > all-3-4 || got < all-3-6 || rare.Warm > 0 || w.status("pinned").Warm != 3 {
			t.Errorf("4 boxes short of %d: busy %d, rare %d, pinned %d", all, busy.Warm, rare.Warm, w.status("pinned").Warm)
		}
		if !strings.Contains(busy.Target.Why, "memory is short") || busy.Cold == 0 || !w.planner.Report().Memory.Short {
			t.Errorf("busy: %+v", busy)
		}
		w.setMemory(supply.Memory{Available: 64 * gb, Total: 256 * gb, Stalled: 50})
		settle(20 * time.Second)
		if s := w.status("busy"); s.Warm != 0 || w.status("pinned").Warm != 0 || s.Cold == 0 {
			t.Errorf("tasks that wait for memory: %+v", s)
		}
		w.setMemory(supply.Memory{Available: 64 * gb})
		settle(time.Minute)
		if s := w.status("busy"); s.Warm < 6 || w.status("pinned").Warm != 3 || w.status("rare").Warm != 2 || w.planner.Report().Memory.Short {
			t.Errorf("afterwards: busy %+v, rare %d", s, w.status("rare").Warm)
		}
	})
}

func TestBudgetBoundsAllPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, template("a", "a"), template("b", "b"), template("c", "c"))
		w.start(func(c *supply.Config) { c.Budget = 4 * 170 * 1e6 })
		defer w.stop()
		for range 5 {
			for _, name := range []string{"a", "b", "c"} {
				w.use(name, 6)
			}
			settle(20 * time.Second)
		}
		if r := w.planner.Report(); r.Totals.Warm > 4 || r.Totals.Warm == 0 {
			t.Errorf("%d warm boxes in a budget for 4", r.Totals.Warm)
		}
	})
}

// Whatever a second of waiting is worth, a budget goes to the boxes with the most
// use: a template with deep bursts now and then does not starve one that is asked
// for all the time.
func TestNoPriceStarvesATemplate(t *testing.T) {
	for _, price := range []float64{1e6, forecast.DefaultCosts().WaitPrice, 1e10} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, template("bursts", "b"), template("steady", "s"))
			w.start(func(c *supply.Config) {
				c.Budget = 4 * 170 * 1e6
				c.Costs = forecast.DefaultCosts()
				c.Costs.WaitPrice = price
				c.Bounds = forecast.DefaultBounds()
			})
			defer w.stop()
			for i := range 40 {
				if i%10 == 0 {
					w.use("bursts", 10)
				}
				w.use("steady", 1)
				settle(30 * time.Second)
			}
			steady, all := w.status("steady"), w.planner.Report().Totals
			if steady.Warm < 1 || all.Warm > 4 {
				t.Errorf("at price %g: %d warm boxes for steady use, %d in all in a budget for 4", price, steady.Warm, all.Warm)
			}
		})
	}
}

// A new version of a template serves once it has boxes, and until then the old
// one does: the pool is never empty. If no box can be made of it, it serves at
// once, so that its owner learns of it.
func TestNewVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second, third := template("base", "1"), template("base", "2"), template("base", "3")
		w := newWorld(t, first)
		w.start(nil)
		defer w.stop()
		versions := supply.Versions{Planner: w.planner, Templates: w.templates}
		serves := func() string {
			t.Helper()
			got, err := versions.Get("base")
			if err != nil {
				t.Fatal(err)
			}
			return got.Digest
		}
		w.use("base", 1)
		settle(20 * time.Second)
		w.templates.Set(second)
		for range 200 {
			if warm := w.status("base").Warm; warm == 0 {
				t.Fatal("the pool is empty")
			}
			if serves() == second.Digest {
				break
			}
			settle(100 * time.Millisecond)
		}
		if warm, _, _ := w.pool.Waiting(second); serves() != second.Digest || warm < 2 {
			t.Errorf("%s serves, the second version has %d boxes", serves(), warm)
		}
		if got, err := versions.Get(second.Digest); err != nil || got.Digest != second.Digest {
			t.Errorf("by digest: %+v, %v", got, err)
		}
		settle(10 * time.Second)
		if warm, cold, _ := w.pool.Waiting(first); warm+cold != 0 {
			t.Errorf("%d boxes of the first version are left", warm+cold)
		}
		w.driver.Fail("Checkpoint", errors.New("its warm-up failed"))
		w.templates.Set(third)
		settle(10 * time.Second)
		if serves() != third.Digest {
			t.Error("a version without boxes never serves")
		}
		w.driver.Fail("Checkpoint", nil)
	})
}

// A template that is removed takes its boxes with it; under two names one version
// has the boxes of both.
func TestTemplatesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reaped [][]bulkhead.Template
		w := newWorld(t, template("base", "b"), template("alias", "b"))
		w.start(func(c *supply.Config) {
			c.Pins = map[string]pool.Target{"base": {Warm: 1, Cold: 1}, "alias": {Warm: 2}}
			c.Reap = func(list []bulkhead.Template) error {
				reaped = append(reaped, list)
				return nil
			}
		})
		defer w.stop()
		settle(20 * time.Second)
		if warm, cold, _ := w.pool.Waiting(template("base", "b")); warm != 3 || cold != 1 {
			t.Errorf("under two names: %d warm, %d cold", warm, cold)
		}
		w.templates.Set()
		settle(5 * time.Second)
		if r := w.planner.Report(); r.Totals.Warm+r.Totals.Cold != 0 {
			t.Errorf("after both are gone: %+v", r)
		}
		if len(reaped) != 2 || len(reaped[1]) != 0 {
			t.Errorf("reaped for %v", reaped)
		}
	})
}
