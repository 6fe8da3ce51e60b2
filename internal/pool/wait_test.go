package pool_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// A request that waits gets the box that becomes warm first, even if that was
// made for the shelf; what it had already goes back.
func TestWaitingRequestIsHandedABox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.acquire(pool.StageNew).Release(t.Context()) //nolint:errcheck // asked for its snapshot only
		settle(10 * time.Second)
		b.pool.SetTarget(base, pool.Target{Warm: 1})
		settle(150 * time.Millisecond) // a refill is under way
		var boxes []*pool.Box
		var mu sync.Mutex
		var requests sync.WaitGroup
		for range 10 { // more than are made at once
			requests.Go(func() {
				box, _, err := b.pool.Acquire(t.Context(), base, base.Defaults)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				boxes = append(boxes, box)
			})
		}
		requests.Wait()
		seen := map[string]bool{}
		for _, box := range boxes {
			if seen[box.ID] {
				t.Errorf("box %s was given twice", box.ID)
			}
			seen[box.ID] = true
		}
		if s := b.stats(); s.Handed == 0 || s.Leased != 10 {
			t.Errorf("stats: %+v", s)
		}
		b.release(boxes...)
		if s := b.stats(); s.Leased != 0 {
			t.Errorf("%d leased after all were released", s.Leased)
		}
	})
}

// A request that gives up leaves the cold box it had to others.
func TestCancelledRequestReturnsItsColdBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Cold: 1})
		settle(10 * time.Second)
		var busy []*pool.Box
		var mu sync.Mutex
		var all sync.WaitGroup
		l := base.Defaults
		l.DiskMB++
		for range 8 { // take all places where boxes are made
			all.Go(func() {
				box, _, err := b.pool.Acquire(t.Context(), base, l)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				busy = append(busy, box)
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, stage, err := b.pool.Acquire(ctx, base, base.Defaults); stage != pool.StageCold || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, %v", stage, err)
		}
		if s := b.stats(); s.Cold != 1 {
			t.Errorf("stats: %+v", s)
		}
		all.Wait()
		b.release(busy...)
	})
}

// What waits is booked by the second, and measured.
func TestBooksIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 4)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 2, Cold: 1})
		settle(10 * time.Second)
		before := b.stats()
		settle(100 * time.Second)
		after := b.stats()
		if warm, cold := after.WarmSeconds-before.WarmSeconds, after.ColdSeconds-before.ColdSeconds; warm != 200 || cold != 100 {
			t.Errorf("%v s warm and %v s cold, want 200 and 100", warm, cold)
		}
		if after.CreateTime != 100*time.Millisecond || after.RestoreTime != 200*time.Millisecond {
			t.Errorf("a create takes %s, a restore %s", after.CreateTime, after.RestoreTime)
		}
		if after.Created != 3 || after.Restored != 2 {
			t.Errorf("created %d, restored %d; want 3 and 2", after.Created, after.Restored)
		}
	})
}

// A box that does not serve is replaced; one that stumbles once is not.
func TestSickBoxesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 3})
		settle(10 * time.Second)
		boxes, err := b.driver.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.sick.Store(boxes[0].ID, 1000)
		b.sick.Store(boxes[1].ID, 1)
		settle(40 * time.Second)
		if s := b.stats(); s.Warm != 3 || s.Wasted[pool.WasteSick] != 1 {
			t.Errorf("stats: %+v", s)
		}
		now, err := b.driver.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		alive := map[string]bool{}
		for _, box := range now {
			alive[box.ID] = true
		}
		if alive[boxes[0].ID] || !alive[boxes[1].ID] {
			t.Errorf("%v of %v are left", now, boxes)
		}
	})
}

// On a busy host one box is made at a time, with rests.
func TestYieldsToABusyHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 8)
		defer b.stop()
		b.acquire(pool.StageNew).Release(t.Context()) //nolint:errcheck // asked for its snapshot only
		settle(10 * time.Second)
		b.busy.Store(true)
		b.pool.SetTarget(base, pool.Target{Warm: 8})
		for range 50 {
			settle(50 * time.Millisecond)
			if s := b.stats(); s.Making > 1 {
				t.Fatalf("%d boxes are being made on a busy host", s.Making)
			}
		}
		if s := b.stats(); s.Warm == 0 || s.Warm > 5 {
			t.Errorf("%d boxes after 2.5 s at 300 ms each and rests as long", s.Warm)
		}
		b.busy.Store(false)
		settle(2 * time.Second)
		if s := b.stats(); s.Warm != 8 {
			t.Errorf("%d boxes on a host that is not busy any more", s.Warm)
		}
	})
}

// A new version of a template has its own boxes; those of the old one wait until
// they are dropped, and the counts go on under the name.
func TestNewVersionHasBoxesOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		next := base
		next.Digest = "sha256:next"
		b.pool.SetTarget(base, pool.Target{Warm: 2})
		settle(10 * time.Second)
		b.pool.SetTarget(next, pool.Target{Warm: 2})
		settle(10 * time.Second)
		if s := b.stats(); s.Warm != 4 {
			t.Errorf("stats: %+v", s)
		}
		b.pool.Retain([]bulkhead.Template{next})
		settle(5 * time.Second)
		s := b.stats()
		if warm, _, _ := b.pool.Waiting(next); s.Warm != 2 || warm != 2 || s.Digest != next.Digest || s.Retiring != 0 {
			t.Errorf("%d of the new version; stats: %+v", warm, s)
		}
	})
}

// Every request that the pool could serve is told, others are not.
func TestObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.release(b.acquire(pool.StageNew))
		l := base.Defaults
		l.OpenFiles++
		box, _, err := b.pool.Acquire(t.Context(), base, l)
		if err != nil {
			t.Fatal(err)
		}
		b.release(box)
		if n := b.seen.Load(); n != 1 {
			t.Errorf("%d requests were told, want 1", n)
		}
		if s := b.stats(); s.Misses[pool.MissFiles] != 1 || s.Misses[pool.MissUnpooled] != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A snapshot that cannot be taken says why, and is tried again.
func TestImageSaysWhyItFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.driver.Fail("Checkpoint", errors.New("boom"))
		b.pool.SetTarget(base, pool.Target{Warm: 1})
		settle(2500 * time.Millisecond)
		if img := b.stats().Image; img.State != pool.ImageFailed || img.Error == "" {
			t.Errorf("image: %+v", img)
		}
		b.driver.Fail("Checkpoint", nil)
		settle(time.Minute)
		if img := b.stats().Image; img.State != pool.ImageReady || img.SizeBytes == 0 || img.TakenAt.IsZero() {
			t.Errorf("image: %+v", img)
		}
		snapshots, err := pool.OpenSnapshots(b.snapshots, "salt")
		if err != nil {
			t.Fatal(err)
		}
		again := &pool.Maker{Driver: b.driver, Parts: b.parts, Snapshots: snapshots, Log: slog.New(slog.DiscardHandler)}
		b.driver.Fail("Create", errors.New("boom"))
		if err := again.Take(t.Context(), base); err != nil {
			t.Errorf("an image that is there is made anew: %v", err)
		}
	})
}

// A request that got a box has the processors first: refilling begins a moment
// later, also under a steady stream of requests, but at once when none is left.
func TestRefillingYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 8})
		settle(30 * time.Second)
		took := b.acquire(pool.StageWarm)
		settle(95 * time.Millisecond)
		if s := b.stats(); s.Warm != 7 || s.Making != 0 {
			t.Errorf("95 ms after a request: %+v", s)
		}
		settle(10 * time.Millisecond)
		if s := b.stats(); s.Making != 1 {
			t.Errorf("105 ms after it: %+v", s)
		}
		settle(time.Second)
		boxes := []*pool.Box{took}
		for range 4 { // one each 40 ms
			boxes = append(boxes, b.acquire(pool.StageWarm))
			settle(40 * time.Millisecond)
		}
		if s := b.stats(); s.Making != 1 {
			t.Errorf("160 ms into a stream of requests: %+v", s)
		}
		settle(30 * time.Second)
		for range 8 { // the last one that waits is missed at once
			boxes = append(boxes, b.acquire(pool.StageWarm))
		}
		settle(time.Millisecond)
		if s := b.stats(); s.Warm != 0 || s.Making != 1 {
			t.Errorf("after the last one: %+v", s)
		}
		b.release(boxes...)
	})
}

// A box is made ahead in the background, until somebody waits for one, none is left
// or it takes long; what waits on the shelf never is there.
func TestMadeInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		// made returns the youngest box, and whether it is in the background.
		made := func() (string, bool) {
			t.Helper()
			boxes, err := b.driver.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last := slices.MaxFunc(boxes, func(x, y pool.BoxInfo) int {
				return cmp.Or(cmp.Compare(len(x.ID), len(y.ID)), cmp.Compare(x.ID, y.ID))
			})
			return last.ID, b.parts.Part(last.ID).InBackground()
		}
		expect := func(when string, want bool) {
			t.Helper()
			if id, in := made(); in != want {
				t.Errorf("%s: %s is in the background: %t, want %t", when, id, in, want)
			}
		}
		b.pool.SetTarget(base, pool.Target{Warm: 3})
		settle(30 * time.Second)
		var boxes []*pool.Box
		take := func() { boxes = append(boxes, b.acquire(pool.StageWarm)) }
		take()
		settle(250 * time.Millisecond) // 100 to yield, 100 to create
		expect("while it is restored", true)
		settle(time.Second)
		expect("on the shelf", false)

		b.slow.Store(true)
		take()
		settle(250 * time.Millisecond)
		expect("while it is restored slowly", true)
		take()
		expect("with one left", true)
		take()
		expect("with none left", false)
		settle(20 * time.Second)

		take()
		settle(250 * time.Millisecond)
		own := base.Defaults
		own.DiskMB++
		expect("before somebody waits", true)
		ahead, _ := made()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			box, _, err := b.pool.Acquire(t.Context(), base, own)
			if err != nil {
				t.Error(err)
				return
			}
			boxes = append(boxes, box)
		})
		synctest.Wait()
		if b.parts.Part(ahead).InBackground() {
			t.Error("it is in the background while somebody waits")
		}
		waiting.Wait()
		settle(20 * time.Second)

		take()
		settle(2*time.Second + 100*time.Millisecond)
		expect("after nearly two seconds", true)
		settle(200 * time.Millisecond)
		expect("after two seconds", false)
		settle(20 * time.Second)
		b.release(boxes...)
	})
}
