package simulate

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// at makes a trace of one template from times in milliseconds.
func at(ms ...int) *Trace {
	t := &Trace{Name: "test", Start: monday, Templates: []string{"a"}}
	for _, m := range ms {
		t.Arrivals = append(t.Arrivals, Arrival{At: time.Duration(m) * time.Millisecond, Life: 1})
		t.Span = max(t.Span, time.Duration(m)*time.Millisecond)
	}
	return t
}

func fixed(warm, cold int) func(int) Policy {
	return func(int) Policy { return forecast.Fixed{Warm: warm, Cold: cold} }
}

// small are round costs: create 1 s, restore 100 ms, lease 1 ms.
func small(builders int) Params {
	return Params{
		Costs:    forecast.Costs{Lease: time.Millisecond, Restore: 100 * time.Millisecond, Create: time.Second, WarmMB: 100, ColdMB: 10, WaitPrice: 1e6},
		Builders: builders, MaxAge: time.Hour,
	}
}

func TestStagesAsTheyAreCounted(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, tc := range []struct {
		name            string
		tr              *Trace
		warm, cold      int
		builders        int
		wantWarm        int
		wantCold        int
		wantNew         int
		wantMax         time.Duration
		wantIdleWarmSec float64
	}{
		{name: "no pool", tr: at(0, 5000), builders: 4, wantNew: 2, wantMax: ms(1101)},
		// Ready at 1.1 s, taken at 5 s, again at 6.1 s until 10 s.
		{name: "one warm", tr: at(5000, 10000), warm: 1, builders: 4, wantWarm: 2, wantMax: ms(1), wantIdleWarmSec: 3.9 + 3.9},
		// The second comes while nothing is there; its box was begun by the first.
		{name: "two at once", tr: at(5000, 5500), warm: 1, builders: 4, wantWarm: 1, wantNew: 1, wantMax: ms(601), wantIdleWarmSec: 3.9},
		// A cold box waits: only the restore is left.
		{name: "cold", tr: at(5000), cold: 1, builders: 4, wantCold: 1, wantMax: ms(101)},
		{name: "cold behind warm", tr: at(5000, 5010), warm: 1, cold: 1, builders: 4, wantWarm: 1, wantCold: 1, wantMax: ms(91), wantIdleWarmSec: 3.9},
		// Three callers and one builder, which alternates between the two jobs.
		{name: "one builder", tr: at(0, 0, 0), builders: 1, wantNew: 3, wantMax: ms(3301)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Run(tc.tr, small(tc.builders), "x", fixed(tc.warm, tc.cold))
			if r.Warm != tc.wantWarm || r.Cold != tc.wantCold || r.New != tc.wantNew {
				t.Errorf("warm %d, cold %d, new %d; want %d, %d, %d", r.Warm, r.Cold, r.New, tc.wantWarm, tc.wantCold, tc.wantNew)
			}
			if r.WaitMax != tc.wantMax {
				t.Errorf("longest wait %v; want %v", r.WaitMax, tc.wantMax)
			}
			if got := r.IdleWarm / 100; math.Abs(got-tc.wantIdleWarmSec) > 1e-9 {
				t.Errorf("warm boxes idle for %v s; want %v", got, tc.wantIdleWarmSec)
			}
		})
	}
}

func TestOldBoxesAreReplacedWithoutAGap(t *testing.T) {
	p := small(4)
	p.MaxAge = time.Minute
	// One claim per second for ten minutes beside a box that none of them needs.
	tr := at(600_000)
	r := Run(tr, p, "x", fixed(1, 1))
	if r.Warm != 1 {
		t.Errorf("the claim after ten minutes: %d warm; want 1", r.Warm)
	}
	// Ready at 1.1 s, then a new one each 60 to 62 s.
	if r.DroppedWarm < 8 || r.DroppedWarm > 10 {
		t.Errorf("%d warm boxes dropped in ten minutes; want about 9", r.DroppedWarm)
	}
	if idle := r.IdleWarm / 100; idle < 598 {
		t.Errorf("a warm box was there for %.1f s; want all but the first second", idle)
	}
}

func TestShrinkingTargetDropsBoxes(t *testing.T) {
	tr := at(100_000)
	r := Run(tr, small(4), "x", func(int) Policy { return &steps{} })
	if r.DroppedWarm != 4 || r.Warm != 1 {
		t.Errorf("dropped %d, warm %d; want 4 of 5 dropped and the claim warm", r.DroppedWarm, r.Warm)
	}
}

// steps wants five boxes for 50 seconds, then one.
type steps struct{}

func (*steps) Observe(time.Time, forecast.Kind) {}

func (*steps) Target(now time.Time) forecast.Target {
	if edge := monday.Add(50 * time.Second); now.Before(edge) {
		return forecast.Target{Warm: 5, Until: edge}
	}
	return forecast.Target{Warm: 1, Until: now.Add(time.Hour)}
}

// chaos makes targets that no policy would: the host must stay right under them.
type chaos struct{ rng *rand.Rand }

func (c *chaos) Observe(time.Time, forecast.Kind) {}

func (c *chaos) Target(now time.Time) forecast.Target {
	return forecast.Target{
		Warm: c.rng.IntN(6), Cold: c.rng.IntN(6),
		Until: now.Add(time.Duration(c.rng.Int64N(int64(time.Minute))) - 10*time.Second),
	}
}

func testTrace(seed uint64) *Trace {
	return Generate(Shape{Seed: seed, Templates: 12, Days: 3, Requests: 20_000})
}

// TestBooksBalance drives the host with random targets and checks what must hold
// whatever a policy does.
func TestBooksBalance(t *testing.T) {
	for seed := range uint64(8) {
		tr := testTrace(seed)
		p := DefaultParams()
		p.Builders = 1 + int(seed)*3
		p.MaxAge = 10 * time.Minute
		r := Run(tr, p, "chaos", func(i int) Policy { return &chaos{rand.New(rand.NewPCG(seed, uint64(i)))} })
		checkBooks(t, tr, p, r)
	}
}

func checkBooks(t *testing.T, tr *Trace, p Params, r *Result) {
	t.Helper()
	if r.Requests != len(tr.Arrivals) || r.Warm+r.Cold+r.New != r.Requests {
		t.Errorf("%s: %d + %d + %d claims served of %d", r.Policy, r.Warm, r.Cold, r.New, len(tr.Arrivals))
	}
	misses, waited := 0, 0.0
	for _, x := range r.Templates {
		misses += x.Misses
		waited += x.Waited
	}
	if misses != r.Cold+r.New {
		t.Errorf("%s: %d misses by template, %d in all", r.Policy, misses, r.Cold+r.New)
	}
	if total := waited + float64(r.Requests)*p.Lease.Seconds(); math.Abs(total-r.WaitMean.Seconds()*float64(r.Requests)) > 1e-6*total+1e-3 {
		t.Errorf("%s: waited %g s by template, %g s by the mean", r.Policy, total, r.WaitMean.Seconds()*float64(r.Requests))
	}
	// Every box restored was used, dropped or left over; none was used twice.
	if r.Restored < r.Requests {
		t.Errorf("%s: %d boxes restored for %d claims", r.Policy, r.Restored, r.Requests)
	}
	if r.Created < r.Restored {
		t.Errorf("%s: %d boxes restored of %d created", r.Policy, r.Restored, r.Created)
	}
	// Idle memory by box is idle memory by time.
	sum := 0.0
	for _, v := range r.timeline.idleNS {
		sum += v / 1e9
	}
	if math.Abs(sum-r.Idle()) > 1e-6*r.Idle()+1 {
		t.Errorf("%s: idle %g MB·s by box and %g by time", r.Policy, r.Idle(), sum)
	}
	if r.WaitP50 > r.WaitP95 || r.WaitP95 > r.WaitP99 || r.WaitP99 > r.WaitMax || r.WaitP50 < p.Lease {
		t.Errorf("%s: waits %v, %v, %v, %v are out of order", r.Policy, r.WaitP50, r.WaitP95, r.WaitP99, r.WaitMax)
	}
}

var allPolicies = []string{
	"none", "fixed:2+3", "fixed:10", "equal", "equal+cold", "hindsight", "keepalive:10m", "keepalive:1h+2", "hybrid", "hybrid+1",
	"seed", "depth:10m", "rate", "bulkhead", "bulkhead:1e5", "bulkhead-season", "bulkhead-timers", "oracle",
}

func TestEveryPolicyKeepsTheBooksAndNoneBeatsTheOracle(t *testing.T) {
	tr := testTrace(11)
	p := DefaultParams()
	rep, err := Compare(tr, p, allPolicies)
	if err != nil {
		t.Fatal(err)
	}
	oracle := rep.Results[len(rep.Results)-1]
	for i, r := range rep.Results {
		if r.Policy != allPolicies[i] {
			t.Errorf("result %d is of %q; want %q", i, r.Policy, allPolicies[i])
		}
		checkBooks(t, tr, p, r)
		if r.WaitMean < oracle.WaitMean || r.WaitMax < oracle.WaitMax || r.Regret < 0 {
			t.Errorf("%s: waits %v, regret %g: better than the oracle", r.Policy, r.WaitMean, r.Regret)
		}
	}
	if oracle.Warm != oracle.Requests || oracle.WaitMax != p.Lease || oracle.Regret != 0 {
		t.Errorf("oracle: %d of %d warm, longest wait %v, regret %g", oracle.Warm, oracle.Requests, oracle.WaitMax, oracle.Regret)
	}
}

// Where more is asked for than can be made since the trace began, however the
// builders are shared out between creates and restores, nobody waits less than
// the oracle.
func TestOracleIsABoundFromTheFirstClaimOn(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		p := small(1 + int(seed)%4)
		p.Create = p.Restore // so that creates and restores interleave
		var times []int
		now := 0
		for range 40 {
			now += rng.IntN(300)
			times = append(times, now)
		}
		tr := at(times...)
		oracle := Oracle(tr, p)
		for _, sizes := range []forecast.Fixed{{}, {Warm: 1}, {Warm: 3, Cold: 2}, {Warm: 40}, {Warm: 1, Cold: 40}} {
			if r := Run(tr, p, "x", fixed(sizes.Warm, sizes.Cold)); r.WaitMean < oracle.WaitMean || r.WaitMax < oracle.WaitMax {
				t.Errorf("seed %d, %d builders, %+v: waits %v, at most %v; the oracle %v, %v", seed, p.Builders, sizes, r.WaitMean, r.WaitMax, oracle.WaitMean, oracle.WaitMax)
			}
		}
	}
}

func TestOracleNeverExceedsItsBuilders(t *testing.T) {
	p := small(2)
	// Five at once: two can be ready at 10 s, two at 8.9 s, one at 7.8 s.
	r := Oracle(at(10_000, 10_000, 10_000, 10_000, 10_000), p)
	if got, want := r.IdleWarm/100, 0+0+1.1+1.1+2.2; math.Abs(got-want) > 1e-9 {
		t.Errorf("idle for %g s; want %g", got, want)
	}
	if r := Oracle(at(10_000, 11_100, 12_200), small(1)); r.IdleWarm != 0 {
		t.Errorf("claims as far apart as a build: idle %g; want 0", r.IdleWarm)
	}
	// Three at the very beginning and two builders: 1.1 s for two, 1.65 s for three.
	if r := Oracle(at(0, 0, 0), p); r.New != 3 || r.WaitMax != 1651*time.Millisecond {
		t.Errorf("at the beginning: %d new, up to %v; want 3, 1.651s", r.New, r.WaitMax)
	}
}

func TestSameSeedSameResult(t *testing.T) {
	opts := cmpopts.IgnoreUnexported(Result{})
	a, b := testTrace(5), testTrace(5)
	if d := cmp.Diff(a, b); d != "" {
		t.Fatalf("traces differ:\n%s", d)
	}
	if cmp.Equal(a.Arrivals, testTrace(6).Arrivals) {
		t.Error("another seed gives the same trace")
	}
	names := []string{"seed", "hybrid", "rate", "bulkhead", "equal"}
	x, err := Compare(a, DefaultParams(), names)
	if err != nil {
		t.Fatal(err)
	}
	y, err := Compare(b, DefaultParams(), names)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(x, y, opts); d != "" {
		t.Errorf("results differ:\n%s", d)
	}
}

func TestEqualHasAtLeastAsMuchIdleMemory(t *testing.T) {
	tr := testTrace(3)
	p := DefaultParams()
	for _, coldPer := range []float64{0, 1.5} {
		for _, idle := range []float64{0, 1e6, 1e8, 1e9} {
			r, sizes := FixedEqual(tr, p, idle, coldPer)
			if r.Idle() < idle {
				t.Errorf("asked for %g MB·s with %g cold: %g", idle, coldPer, r.Idle())
			}
			// One box less would not do.
			boxes := 0
			for _, s := range sizes {
				boxes += s.Warm
			}
			if boxes == 0 {
				continue
			}
			less := spread(boxes-1, ranks(tr.PerTemplate()), coldPer)
			if fewer := Run(tr, p, "", func(i int) Policy { return less[i] }); fewer.Idle() >= idle {
				t.Errorf("asked for %g MB·s with %g cold: %d boxes, though %d have %g", idle, coldPer, boxes, boxes-1, fewer.Idle())
			}
		}
	}
}

// TestGoals holds the policy, at its defaults, to what it was chosen for, on
// traffic that it was not chosen on: fortnights with few claims, days without
// history and a busy week, at sizes that are quick to run.
func TestGoals(t *testing.T) {
	for _, c := range []struct {
		shape Shape
		seeds int
	}{
		{Shape{Seed: 201, Templates: 20, Days: 14, Requests: 50_000}, 3},
		{Shape{Seed: 211, Templates: 40, Days: 1, Requests: 40_000}, 3},
		{Shape{Seed: 221, Templates: 40, Days: 7, Requests: 100_000}, 1},
	} {
		for i := range c.seeds {
			tr := Generate(c.shape)
			goals(t, tr, DefaultParams(), "bulkhead")
			if i == 0 {
				goals(t, tr, DefaultParams(), "bulkhead-bounded")
			}
			c.shape.Seed++
		}
	}
	f, err := os.Open("testdata/azure_llm_2023_code.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr := readGzip(t, f)
	goals(t, tr, DefaultParams(), "bulkhead")
	goals(t, tr, DefaultParams(), "bulkhead:1e6")
}

// TestGoalsOnTraces holds the policy to the same on whatever real traces lie in
// the folder shared/traces beside the repository.
func TestGoalsOnTraces(t *testing.T) {
	files, err := filepath.Glob("../../../shared/traces/*.csv")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("no traces in ../shared/traces beside the repository")
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := ReadCSV(f, filepath.Base(file), time.Minute)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		goals(t, tr, DefaultParams(), "bulkhead")
	}
}

func goals(t *testing.T, tr *Trace, p Params, policy string) {
	t.Helper()
	g, err := CheckGoals(tr, p, policy)
	if err != nil {
		t.Fatal(err)
	}
	if missed := g.Missed(); missed != "" {
		t.Errorf("%s, %s: %s", tr.Name, policy, missed)
	}
}

func TestReportsAreReadable(t *testing.T) {
	rep, err := Compare(testTrace(2), DefaultParams(), []string{"none", "fixed:1+1", "bulkhead", "oracle"})
	if err != nil {
		t.Fatal(err)
	}
	var text, markdown, data strings.Builder
	for _, err := range []error{rep.WriteText(&text), rep.WriteMarkdown(&markdown), rep.WriteJSON(&data)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range rep.Results {
		for name, s := range map[string]string{"text": text.String(), "markdown": markdown.String()} {
			if !strings.Contains(s, r.Policy) || !strings.Contains(s, percent(r.ColdStarts())) {
				t.Errorf("%s lacks %s or its %s", name, r.Policy, percent(r.ColdStarts()))
			}
		}
	}
	var back Report
	if err := json.Unmarshal([]byte(data.String()), &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(rep, &back, cmpopts.IgnoreUnexported(Result{})); d != "" {
		t.Errorf("JSON does not come back as it was:\n%s", d)
	}
}

func BenchmarkMillionClaims(b *testing.B) {
	tr := Generate(DefaultShape())
	for _, name := range []string{"fixed:2+3", "seed", "bulkhead", "oracle"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compare(tr, DefaultParams(), []string{name}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(tr.Arrivals)), "ns/claim")
		})
	}
}
