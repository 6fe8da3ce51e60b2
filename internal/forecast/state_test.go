package forecast

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

// wander claims at random for a while and returns when it stopped.
func wander(m *Model, seed uint64, n int) time.Time {
	rng := rand.New(rand.NewPCG(seed, 9))
	now := monday
	for range n {
		now = now.Add(time.Duration(math.Exp(rng.NormFloat64()*3+1) * float64(time.Second)))
		for range 1 + rng.IntN(3)*rng.IntN(10) {
			m.Observe(now, Kind(rng.IntN(3)))
		}
		m.Target(now)
	}
	return now
}

func TestStateSurvivesARestart(t *testing.T) {
	m := newModel(t, Config{})
	now := wander(m, 3, 5000)
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	back := newModel(t, Config{})
	back.Pin(1, 1)
	if err := json.Unmarshal(data, back); err != nil {
		t.Fatal(err)
	}
	if !back.Pinned() {
		t.Error("reading a state took the pin away")
	}
	back.Unpin()
	if a, b := m.Stats(now), back.Stats(now); a.Total != b.Total || a.Recent != b.Recent || math.Abs(a.PerHour-b.PerHour) > 1e-3*a.PerHour {
		t.Errorf("stats %+v; want %+v", b, a)
	}
	// Boxes under way are not part of the state: let them end, then compare.
	now = now.Add(time.Minute)
	for range 300 {
		now = now.Add(17 * time.Second)
		a, b := m.Target(now), back.Target(now)
		if a.Warm != b.Warm || a.Cold != b.Cold {
			t.Fatalf("at %v: %d+%d after the restart, %d+%d without", now, b.Warm, b.Cold, a.Warm, a.Cold)
		}
	}
	again, err := json.Marshal(back)
	if err != nil {
		t.Fatal(err)
	}
	twice := newModel(t, Config{})
	if err := json.Unmarshal(again, twice); err != nil {
		t.Fatal(err)
	}
	third, err := json.Marshal(twice)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(again), string(third)); d != "" {
		t.Errorf("state changes when it is only read and written:\n%s", d)
	}
}

func TestStateIsBounded(t *testing.T) {
	m := newModel(t, Config{})
	rng := rand.New(rand.NewPCG(5, 5))
	now := monday
	for range 60_000 { // every group, every bin
		now = now.Add(time.Duration(math.Exp(rng.NormFloat64()*5) * float64(time.Millisecond) * 300))
		for range 1 + int(math.Exp(rng.Float64()*5)) {
			m.Observe(now, KindCold)
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > MaxState/2 {
		t.Errorf("state has %d bytes; want at most half of %d", len(data), MaxState)
	}
	if err := json.Unmarshal(data, newModel(t, Config{})); err != nil {
		t.Error(err)
	}
}

func TestBadStateIsRefusedAndChangesNothing(t *testing.T) {
	m := newModel(t, Config{})
	now := wander(m, 4, 200)
	good, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want := m.Target(now)
	swap := func(old, with string) string {
		if !strings.Contains(string(good), old) {
			t.Fatalf("the state does not contain %s", old)
		}
		return strings.Replace(string(good), old, with, 1)
	}
	for name, data := range map[string]string{
		"empty":      `{}`,
		"other":      `[1,2]`,
		"version":    swap(`"version":1`, `"version":2`),
		"huge":       `{"version":1,"x":"` + strings.Repeat("x", MaxState) + `"}`,
		"overflow":   swap(`"mean":[`, `"mean":[1e39,`),
		"minutes":    swap(`"minutes":[`, `"minutes":[1,`),
		"negative":   swap(`"counts":[`, `"counts":[-`),
		"group":      swap(`"group":0`, `"group":99`),
		"twice":      swap(`"group":1`, `"group":0`),
		"pace":       swap(`"pace":`, `"pace":9`),
		"born later": swap(`"born":1`, `"born":7`),
	} {
		if err := m.UnmarshalJSON([]byte(data)); err == nil {
			t.Errorf("%s: no error", name)
		} else if name != "other" && name != "overflow" && bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%s: %v; want it invalid", name, err)
		}
		if got := m.Target(now); got != want {
			t.Errorf("%s: the target changed to %+v", name, got)
		}
	}
}

func FuzzState(f *testing.F) {
	m, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	wander(m, 1, 50)
	data, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, int64(1))
	f.Add([]byte(`{"version":1}`), int64(-5))
	f.Fuzz(func(t *testing.T, data []byte, skip int64) {
		m := newModel(t, Config{})
		if m.UnmarshalJSON(data) != nil {
			return
		}
		now := monday.Add(time.Duration(skip % int64(1e17)))
		for i := range 20 {
			m.Observe(now, KindCold)
			g := m.Target(now)
			if g.Warm < 0 || g.Warm > 64 || g.Cold < 1 || g.Cold > maxDepth {
				t.Fatalf("target %+v leaves the bounds", g)
			}
			if d := m.Predict(now, time.Hour); math.IsNaN(d.Mean) || d.Mean < 0 || math.IsNaN(d.Variance) {
				t.Fatalf("forecast %+v", d)
			}
			now = now.Add(time.Duration(i*i) * time.Second)
		}
		if _, err := json.Marshal(m); err != nil {
			t.Fatalf("write what was read: %v", err)
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	m := newModel(b, Config{})
	now := wander(m, 1, 2000)
	rng := rand.New(rand.NewPCG(1, 1))
	gaps := make([]time.Duration, 4096)
	for i := range gaps {
		gaps[i] = time.Duration(rng.ExpFloat64() * float64(time.Second))
	}
	i := 0
	for b.Loop() {
		now = now.Add(gaps[i&4095])
		i++
		m.Observe(now, KindWarm)
	}
}

func BenchmarkTarget(b *testing.B) {
	m := newModel(b, Config{})
	now := wander(m, 1, 2000)
	for b.Loop() {
		now = now.Add(time.Millisecond)
		m.Target(now)
	}
}

func BenchmarkTargetAndWhy(b *testing.B) {
	m := newModel(b, Config{})
	now := wander(m, 1, 2000)
	for b.Loop() {
		now = now.Add(time.Millisecond)
		_ = m.Target(now).Why.String()
	}
}

func BenchmarkPredictDay(b *testing.B) {
	m := newModel(b, Config{})
	now := wander(m, 1, 2000)
	for b.Loop() {
		m.Predict(now, 24*time.Hour)
	}
}

func BenchmarkState(b *testing.B) {
	m := newModel(b, Config{})
	wander(m, 1, 2000)
	var size int
	for b.Loop() {
		data, err := json.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		size = len(data)
	}
	b.ReportMetric(float64(size), "bytes")
}
