package guard

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// epoch is the time zero of the tests.
var epoch = time.Unix(1_000_000, 0)

func newCore(t *testing.T, cfg Config) *Core {
	t.Helper()
	c, err := NewCore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func at(fraction float64) Reading {
	return Reading{Used: int64(fraction * 2 * gib), Limit: 2 * gib}
}

func TestLevelsAndConcurrency(t *testing.T) {
	type step struct {
		used        float64
		level       Level
		concurrency int
	}
	c := newCore(t, Config{})
	for i, s := range []step{
		{0.50, LevelNormal, 10},
		{0.61, LevelStable, 10},
		{0.75, LevelWarning, 7},
		{0.65, LevelStable, 7}, // stable keeps what is
		{0.59, LevelStable, 7}, // within the margin
		{0.57, LevelNormal, 10},
		{0.82, LevelHigh, 5},
		{0.79, LevelHigh, 5}, // within the margin
		{0.77, LevelWarning, 7},
		{0.85, LevelHigh, 5}, // critical is above 85 %, not at it
		{0.90, LevelCritical, 0},
		{0.84, LevelCritical, 0}, // within the margin
		{0.10, LevelNormal, 10},
	} {
		ch := c.Observe(epoch.Add(time.Duration(i)*time.Millisecond), at(s.used))
		if got := (step{s.used, ch.Level, ch.Concurrency}); got != s {
			t.Errorf("step %d: got %+v, want %+v", i, got, s)
		}
	}
}

func TestPressureRaisesLevel(t *testing.T) {
	c := newCore(t, Config{})
	for _, s := range []struct {
		r    Reading
		want Level
	}{
		{Reading{Used: 5 * gib, Limit: 10 * gib, Some10: 9}, LevelNormal},
		{Reading{Used: 5 * gib, Limit: 10 * gib, Some10: 12}, LevelWarning},
		{Reading{Used: 5 * gib, Limit: 10 * gib, Some10: 35}, LevelHigh},
		{Reading{Used: 5 * gib, Limit: 10 * gib, Some10: 90, Full10: 40}, LevelCritical},
		{Reading{Used: 4 * gib, Limit: 10 * gib, Some10: 90, Full10: 40}, LevelNormal}, // somebody at a limit of their own
		{Reading{Some10: 90, Full10: 40}, LevelCritical},
		{Reading{Used: gib, Limit: 10 * gib}, LevelNormal},
	} {
		if got := c.Observe(epoch, s.r).Level; got != s.want {
			t.Errorf("%+v: level %v, want %v", s.r, got, s.want)
		}
	}
}

func TestThresholdsAdapt(t *testing.T) {
	c := newCore(t, Config{})
	now := epoch
	c.Observe(now, at(0.5))
	stalled := at(0.5)
	stalled.Some10 = 50
	for range 3 {
		now = now.Add(5 * time.Second)
		c.Observe(now, stalled)
	}
	if got := c.Stats().ThresholdOffset; got >= -0.04 {
		t.Fatalf("after 15 s of pressure the offset is %v, want below -0.04", got)
	}
	if got := c.Observe(now, at(0.66)).Level; got != LevelWarning {
		t.Errorf("0.66 with lowered thresholds is %v, want WARNING", got)
	}
	for range 100 {
		c.ReportOOM()
	}
	if got := c.Stats().ThresholdOffset; got != -0.10 {
		t.Errorf("offset %v, want the floor -0.10", got)
	}
	for range 100 {
		now = now.Add(5 * time.Second)
		c.Observe(now, at(0.5))
	}
	if got := c.Stats().ThresholdOffset; got != 0 {
		t.Errorf("after a calm time the offset is %v, want 0", got)
	}
	fixed := newCore(t, Config{FixedThresholds: true})
	fixed.ReportOOM()
	if got := fixed.Stats().ThresholdOffset; got != 0 {
		t.Errorf("fixed thresholds moved by %v", got)
	}
}

// The three scenarios of the document that the guard is built after: 2 GB, 200
// MB a request, 5, 8 and 10 at once; with the memory that it says is in use.
func TestSeedScenarios(t *testing.T) {
	for _, s := range []struct {
		name        string
		requests    int
		used        float64
		level       Level
		concurrency int
		admitsMore  bool
		refused     bool
	}{
		{"A: five at once", 5, 0.50, LevelNormal, 10, true, false},
		{"B: eight at once", 8, 0.75, LevelWarning, 7, false, false},
		{"C: ten at once", 10, 0.90, LevelCritical, -1, false, true},
	} {
		t.Run(s.name, func(t *testing.T) {
			c := newCore(t, Config{})
			c.Observe(epoch, Reading{Used: 10 * mib, Limit: 2 * gib})
			var running int
			for range s.requests {
				if tk, err := c.Offer(epoch, Claim{Cost: 200 * mib}); err == nil && tk.ready == nil {
					running++
				}
			}
			if want := min(s.requests, 8); running != want {
				t.Errorf("%d of %d started, want %d: 8 × 200 MB fit in 80 %% of 2 GB", running, s.requests, want)
			}
			now := epoch.Add(2 * time.Second)
			ch := c.Observe(now, at(s.used))
			want := s.concurrency
			if want < 0 {
				want = running // only what is running
			}
			if ch.Level != s.level || ch.Concurrency != want {
				t.Errorf("level %v concurrency %d, want %v and %d", ch.Level, ch.Concurrency, s.level, want)
			}
			tk, err := c.Offer(now, Claim{Cost: 200 * mib})
			if got := err != nil; got != s.refused {
				t.Errorf("one more was refused: %v (%v), want %v", got, err, s.refused)
			}
			if err != nil && bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
				t.Errorf("code %v, want unavailable", bulkhead.CodeOf(err))
			}
			if got := err == nil && tk.ready == nil; got != s.admitsMore {
				t.Errorf("one more was admitted: %v, want %v", got, s.admitsMore)
			}
		})
	}
}

// TestHighRunsHalf fills 83 %: half of the scripts go on, those that need next to
// nothing; what needs more waits for the level to be left.
func TestHighRunsHalf(t *testing.T) {
	c := newCore(t, Config{})
	if ch := c.Observe(epoch, at(0.83)); ch.Level != LevelHigh || ch.Concurrency != 5 {
		t.Fatalf("level %v, concurrency %d", ch.Level, ch.Concurrency)
	}
	if tk, err := c.Offer(epoch, Claim{Cost: 64 * mib}); err != nil || tk.ready == nil {
		t.Errorf("64 MiB do not wait: %v", err)
	}
	running := 0
	for range 10 {
		tk, err := c.Offer(epoch, Claim{Cost: mib})
		if err != nil {
			t.Fatal(err)
		}
		if tk.ready == nil {
			running++
		}
	}
	if running != 5 {
		t.Errorf("%d small ones run, want 5", running)
	}
}

func TestNeverFitsIsRefused(t *testing.T) {
	c := newCore(t, Config{Tiers: map[string]TierBudget{"free": {MemoryShare: 0.25}}})
	c.Observe(epoch, at(0.1))
	for _, s := range []struct {
		claim Claim
		ok    bool
	}{
		{Claim{Cost: 1600 * mib}, true},
		{Claim{Cost: 1700 * mib}, false},
		{Claim{Cost: 400 * mib, Tier: "free"}, true},
		{Claim{Cost: 500 * mib, Tier: "free"}, false},
	} {
		tk, err := c.Offer(epoch, s.claim)
		if (err == nil) != s.ok {
			t.Errorf("%+v: error %v, want ok=%v", s.claim, err, s.ok)
		}
		if err != nil {
			if bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
				t.Errorf("%+v: code %v, want invalid", s.claim, bulkhead.CodeOf(err))
			}
			continue
		}
		c.Release(epoch, tk)
	}
}

func TestTierDoesNotHoldBackOthers(t *testing.T) {
	c := newCore(t, Config{Tiers: map[string]TierBudget{"free": {Concurrency: 1}}})
	c.Observe(epoch, at(0.1))
	first, _ := c.Offer(epoch, Claim{Cost: mib, Tier: "free"})
	second, _ := c.Offer(epoch, Claim{Cost: mib, Tier: "free"})
	paid, _ := c.Offer(epoch, Claim{Cost: 50 * mib, Tier: "pro", Priority: PriorityHigh})
	later := epoch.Add(3 * time.Second)
	if got := c.Admit(later); got != paid {
		t.Fatalf("the paid claim did not pass the free tier's second")
	}
	if got := c.Admit(later); got != nil {
		t.Fatalf("the free tier got a second slot")
	}
	c.Release(later, first)
	if got := c.Admit(later); got != second {
		t.Fatalf("the free tier's second did not follow its first")
	}
}

func TestQueueOrder(t *testing.T) {
	c := newCore(t, Config{MaxConcurrent: 1})
	c.Observe(epoch, at(0.1))
	running, _ := c.Offer(epoch, Claim{Cost: mib})
	offer := func(after time.Duration, p Priority) *Ticket {
		tk, err := c.Offer(epoch.Add(after), Claim{Cost: mib, Priority: p})
		if err != nil {
			t.Fatal(err)
		}
		return tk
	}
	names := map[*Ticket]string{
		offer(0, PriorityLow):                        "low at 0",
		offer(time.Second, PriorityNormal):           "normal at 1 s",
		offer(1550*time.Millisecond, PriorityNormal): "normal at 1.55 s",
		offer(1900*time.Millisecond, PriorityHigh):   "high at 1.9 s",
	}
	now := epoch.Add(2 * time.Second)
	// Weight × waited: low 1×2 s, normal 4×1 s and 4×0.45 s, high 16×0.1 s.
	var got []string
	for range 4 {
		c.Release(now, running)
		running = c.Admit(now)
		got = append(got, names[running])
	}
	want := []string{"normal at 1 s", "low at 0", "normal at 1.55 s", "high at 1.9 s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestBigClaimIsNotStarved(t *testing.T) {
	c := newCore(t, Config{MaxConcurrent: 100, Ramp: time.Hour})
	c.Observe(epoch, at(0))
	var running []*Ticket
	for range 8 {
		tk, _ := c.Offer(epoch, Claim{Cost: 200 * mib})
		running = append(running, tk)
	}
	big, _ := c.Offer(epoch, Claim{Cost: 1200 * mib})
	small, _ := c.Offer(epoch, Claim{Cost: 10 * mib, Priority: PriorityHigh})
	if got := c.Admit(epoch.Add(time.Millisecond)); got != small {
		t.Fatal("a small claim of another class should pass at first")
	}
	late, _ := c.Offer(epoch.Add(2*time.Second), Claim{Cost: 10 * mib, Priority: PriorityLow})
	now := epoch.Add(2 * time.Second)
	for i, tk := range running {
		c.Release(now, tk)
		got := c.Admit(now)
		if got == late {
			t.Fatalf("after %d releases a later claim passed the big one that has waited 2 s", i+1)
		}
		if got == big {
			return
		}
	}
	t.Fatal("the big claim was never admitted")
}

// TestYields: what may run long leaves places to what does not, and what is slight
// goes past what waits for memory, however long.
func TestYields(t *testing.T) {
	c := newCore(t, Config{MaxConcurrent: 10, Ramp: time.Hour})
	c.Observe(epoch, at(0))
	for i := range 9 {
		tk, err := c.Offer(epoch, Claim{Cost: 100 * mib, Yields: true})
		if err != nil || (tk.state == ticketAdmitted) != (i < 8) {
			t.Fatalf("claim %d that yields: %+v, %v", i, tk, err)
		}
	}
	for i := range 3 {
		tk, err := c.Offer(epoch, Claim{Cost: mib})
		if err != nil || (tk.state == ticketAdmitted) != (i < 2) {
			t.Fatalf("claim %d that does not: %+v, %v", i, tk, err)
		}
	}
	c = newCore(t, Config{MaxConcurrent: 10, Ramp: time.Hour})
	c.Observe(epoch, at(0.7))
	big, _ := c.Offer(epoch, Claim{Cost: 300 * mib, Yields: true})
	later := epoch.Add(2 * bypassFor)
	if tk := c.Admit(later); tk != nil {
		t.Fatalf("admitted %+v", tk)
	}
	slight, _ := c.Offer(later, Claim{Cost: mib})
	medium, _ := c.Offer(later, Claim{Cost: 20 * mib})
	if slight.state != ticketAdmitted || medium.state != ticketWaiting || big.state != ticketWaiting {
		t.Errorf("slight %v, medium %v, big %v; want the first alone admitted", slight.state, medium.state, big.state)
	}
	if tk := c.Admit(later); tk != nil {
		t.Errorf("%+v passed one that has waited for %v", tk, 2*bypassFor)
	}
}

// TestInvariants offers, releases and observes at random: what is booked is
// never more than allowed, nothing is lost, and all ends at zero.
func TestInvariants(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	c := newCore(t, Config{MaxConcurrent: 6, MaxStarting: 3, MaxWaiting: 20, Tiers: map[string]TierBudget{"a": {Concurrency: 2}}})
	now := epoch
	live := map[*Ticket]bool{}
	for range 20_000 {
		now = now.Add(time.Duration(rnd.IntN(50)) * time.Millisecond)
		switch rnd.IntN(5) {
		case 0, 1:
			tier := [...]string{"", "a", "b"}[rnd.IntN(3)]
			tk, err := c.Offer(now, Claim{
				Cost: int64(rnd.IntN(300)) * mib, Tier: tier, Priority: Priority(rnd.IntN(3) - 1), Standing: rnd.IntN(3) == 0, Yields: rnd.IntN(2) == 0,
			})
			if err == nil {
				live[tk] = true
			}
		case 2:
			for tk := range live {
				c.Release(now, tk)
				c.Release(now, tk) // twice on purpose
				delete(live, tk)
				break
			}
		case 3:
			c.Observe(now, at(rnd.Float64()))
		case 4:
			for tk := range live {
				c.Settle(now, tk)
				c.Settle(now, tk)
				break
			}
		}
		for tk := c.Admit(now); tk != nil; tk = c.Admit(now) {
			if k := tk.claim.kind(); c.active[k] > c.most[k] {
				t.Fatalf("admitted %d with a concurrency of %d", c.active, c.most)
			}
		}
		s := c.Stats()
		if s.ActiveTasks+s.StartingTasks+s.StandingTasks+s.WaitingTasks != len(live) || c.tiers["a"].count > 2 ||
			s.TotalRequests != s.RejectedRequests+s.CompletedRequests+int64(len(live)) {
			t.Fatalf("books are wrong: %+v, %d live, tiers %v", s, len(live), c.tiers)
		}
	}
	for tk := range live {
		c.Release(now, tk)
	}
	c.settle(now.Add(time.Hour))
	if c.active != [kinds]int{} || c.standing != 0 || c.queued != 0 || c.pending != 0 || len(c.tiers) != 0 || len(c.recent) != 0 {
		t.Errorf("not zero at the end: active %d queued %d pending %d tiers %v recent %d",
			c.active, c.queued, c.pending, c.tiers, len(c.recent))
	}
}

// TestStanding makes things that stay: they take places among those being made,
// none among the runs, and their memory counts as booked until it can be measured.
func TestStanding(t *testing.T) {
	c := newCore(t, Config{MaxConcurrent: 1, MaxStarting: 2})
	c.Observe(epoch, Reading{Used: 0, Limit: gib})
	offer := func(now time.Time, standing bool) *Ticket {
		tk, err := c.Offer(now, Claim{Cost: 100 * mib, Standing: standing})
		if err != nil {
			t.Fatal(err)
		}
		return tk
	}
	first, second, third := offer(epoch, true), offer(epoch, true), offer(epoch, true)
	run, wait := offer(epoch, false), offer(epoch, false)
	if first.ready != nil || second.ready != nil || third.ready == nil || run.state != ticketWaiting {
		t.Fatalf("two are made at once, and who comes later waits: %+v", c.Stats())
	}
	if got := c.Admit(epoch); got != run {
		t.Errorf("%v was admitted; a full kind must not hold back the other", got)
	}
	if got := c.Admit(epoch); got != nil {
		t.Errorf("%v was admitted beside what is full", got)
	}
	made := epoch.Add(3 * time.Second)
	c.Settle(made, first)
	if got := c.Admit(made); got != third {
		t.Errorf("%v was admitted, want the third of those that are made", got)
	}
	if got := c.Stats(); got.StartingTasks != 2 || got.StandingTasks != 1 || got.ActiveTasks != 1 || c.pending != 300*mib {
		t.Errorf("%+v, pending %d MiB, want 300: the run's ramp is over", got, c.pending/mib)
	}
	if c.settle(made.Add(2 * time.Second)); c.pending != 200*mib {
		t.Errorf("pending %d MiB after the ramp of what stands, want 200", c.pending/mib)
	}
	for _, tk := range []*Ticket{first, second, third, run, wait} {
		c.Release(made, tk)
	}
	if got := c.Stats(); got.StartingTasks+got.StandingTasks+got.ActiveTasks+got.WaitingTasks != 0 || c.pending != 0 {
		t.Errorf("not zero at the end: %+v, pending %d", got, c.pending)
	}
}

// TestComesBackFromCritical falls from critical to stable at once, with nothing
// running: something must be admitted again.
func TestComesBackFromCritical(t *testing.T) {
	c := newCore(t, Config{})
	c.Observe(epoch, at(0.95))
	c.Observe(epoch.Add(time.Second), at(0.65))
	for _, standing := range []bool{false, true} {
		tk, err := c.Offer(epoch.Add(time.Second), Claim{Cost: mib, Standing: standing})
		if err != nil || tk.ready != nil {
			t.Errorf("standing %v: nothing is admitted at %v (%v)", standing, c.level, err)
		}
	}
}

// TestRefusalSaysWhy wants the level and the numbers in what a caller reads.
func TestRefusalSaysWhy(t *testing.T) {
	c := newCore(t, Config{})
	c.Observe(epoch, Reading{Used: 1900 * mib, Limit: 2 * gib, Some10: 12})
	_, err := c.Offer(epoch, Claim{Cost: mib})
	want := "memory pressure is too high (level CRITICAL: 92.8 % of 2048 MiB in use, stalled 12 % of the time; 0 run, 0 wait)"
	if e, ok := err.(*bulkhead.Error); !ok || e.Msg != want || e.RetryAfter <= 0 { //nolint:errorlint // it is returned as it is
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestNextCheck(t *testing.T) {
	c := newCore(t, Config{})
	for _, s := range []struct {
		used float64
		want time.Duration
	}{
		{0.10, 80 * time.Millisecond},
		{0.57, 20 * time.Millisecond},
		{0.62, 80 * time.Millisecond},
		{0.90, 20 * time.Millisecond},
	} {
		c.Observe(epoch, at(s.used))
		if got := c.NextCheck(); got != s.want {
			t.Errorf("at %v: next check in %v, want %v", s.used, got, s.want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for _, s := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"zero", Config{}, true},
		{"development of the document", Config{MaxPercent: 0.85, WarningPercent: 0.75, CriticalPercent: 0.90}, true},
		{"production of the document", Config{MaxPercent: 0.75, WarningPercent: 0.65}, true},
		{"no band of its own for high, none for warning", Config{MaxPercent: 0.85, WarningPercent: 0.85}, true},
		{"warning above max", Config{WarningPercent: 0.81}, false},
		{"stable above warning", Config{StablePercent: 0.71}, false},
		{"critical above 1", Config{CriticalPercent: 85}, false},
		{"no estimate", Config{EstimatedMemPerReqMB: -1}, false},
		{"no concurrency", Config{MaxConcurrent: -2}, false},
		{"check every 1 ms", Config{CheckInterval: time.Millisecond}, false},
		{"tier share 2", Config{Tiers: map[string]TierBudget{"x": {MemoryShare: 2}}}, false},
	} {
		if err := s.cfg.Validate(); (err == nil) != s.ok {
			t.Errorf("%s: error %v, want ok=%v", s.name, err, s.ok)
		}
	}
}
