package simulate

import (
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

func TestKeepAliveHoldsWhatWasNeededAtOnce(t *testing.T) {
	k := NewKeepAlive(10*time.Minute, 1)
	check := func(after time.Duration, want int) {
		t.Helper()
		if g := k.Target(monday.Add(after)); g.Warm != want || g.Cold != 1 {
			t.Errorf("after %v: %d+%d; want %d+1", after, g.Warm, g.Cold, want)
		}
	}
	check(0, 0)
	for range 3 { // three that find nothing: three replacements
		k.Observe(monday, forecast.KindNew)
	}
	check(0, 3)
	k.Observe(monday.Add(5*time.Minute), forecast.KindWarm) // takes one, replaces it
	check(5*time.Minute, 3)
	check(10*time.Minute, 1) // two have run out
	check(15*time.Minute, 0)
}

func TestHybridWarmsUpForATimer(t *testing.T) {
	h := NewHybrid(0)
	last := monday
	for i := range 20 {
		last = monday.Add(time.Duration(i) * 30 * time.Minute)
		h.Observe(last, forecast.KindWarm)
	}
	// All gaps are in bin 30: warm from 27 min (10 % early) to 34.1 (10 % late).
	for minutes, want := range map[int]int{1: 0, 26: 0, 28: 1, 34: 1, 36: 0} {
		c := *h
		c.held.list = append([]window(nil), h.held.list...)
		if g := c.Target(last.Add(time.Duration(minutes) * time.Minute)); g.Warm != want {
			t.Errorf("%d min after the last: %d warm; want %d", minutes, g.Warm, want)
		}
	}
}

func TestHybridForecastsLongGaps(t *testing.T) {
	h := NewHybrid(0)
	last := monday
	for i := range 20 {
		last = monday.Add(time.Duration(i) * 10 * time.Hour)
		h.Observe(last, forecast.KindWarm)
	}
	// 600 minutes forecast: warm from 510 to 690.
	for minutes, want := range map[int]int{300: 0, 509: 0, 511: 1, 689: 1, 691: 0} {
		c := *h
		c.held.list = append([]window(nil), h.held.list...)
		if g := c.Target(last.Add(time.Duration(minutes) * time.Minute)); g.Warm != want {
			t.Errorf("%d min after the last: %d warm; want %d", minutes, g.Warm, want)
		}
	}
}

func TestHybridKeepsForItsRangeWhileItKnowsNothing(t *testing.T) {
	h := NewHybrid(0)
	h.Observe(monday, forecast.KindNew)
	if g := h.Target(monday.Add(239 * time.Minute)); g.Warm != 1 {
		t.Errorf("after 239 min: %d warm; want 1", g.Warm)
	}
	if g := h.Target(monday.Add(241 * time.Minute)); g.Warm != 0 {
		t.Errorf("after 241 min: %d warm; want 0", g.Warm)
	}
}

func TestDepthKeepsWhatCameAtOnce(t *testing.T) {
	c := forecast.DefaultCosts()
	d := NewDepth(c, 10*time.Minute)
	for i := range 4 { // 60 ms apart: three within the 150 ms of a restore
		d.Observe(monday.Add(time.Duration(i)*60*time.Millisecond), forecast.KindNew)
	}
	if g := d.Target(monday.Add(time.Minute)); g.Warm != 3 || g.Cold != 1 {
		t.Errorf("after a minute: %d+%d; want 3+1", g.Warm, g.Cold)
	}
	if g := d.Target(monday.Add(time.Hour)); g.Warm != 0 || g.Cold != 4 {
		t.Errorf("after an hour: %d+%d; want 0+4", g.Warm, g.Cold)
	}
	if g := d.Target(monday.Add(24 * time.Hour)); g.Warm != 0 || g.Cold != 1 {
		t.Errorf("after a day: %d+%d; want 0+1", g.Warm, g.Cold)
	}
}

func TestRateFollowsTheClaims(t *testing.T) {
	r := NewRate(forecast.DefaultCosts())
	if g := r.Target(monday); g.Warm != 0 || g.Cold != 1 {
		t.Errorf("before any claim: %d+%d; want 0+1", g.Warm, g.Cold)
	}
	now := monday
	for range 100 {
		now = now.Add(500 * time.Millisecond)
		r.Observe(now, forecast.KindWarm)
	}
	busy := r.Target(now)
	if busy.Warm < 2 || busy.Warm+busy.Cold < 5 {
		t.Errorf("at two a second: %d+%d; want some", busy.Warm, busy.Cold)
	}
	if g := r.Target(now.Add(24 * time.Hour)); g.Warm != 0 {
		t.Errorf("a day later: %d warm; want 0", g.Warm)
	}
}
