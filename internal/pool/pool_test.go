package pool_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/driver/fake"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

var base = bulkhead.Template{ID: "t", Name: "base", Digest: "sha256:base", Defaults: bulkhead.DefaultLimits()}

// bench is a pool on fakes, inside a synctest bubble.
type bench struct {
	t      *testing.T
	driver *fake.Driver
	parts  *fake.Parts
	pool   *pool.Pool
	stop   func()

	snapshots string
	sick      sync.Map // by box: how often it will not answer
	busy      atomic.Bool
	slow      atomic.Bool // a restore takes 4 s
	seen      atomic.Int64
}

// check answers for a box.
func (b *bench) check(_ context.Context, box *pool.Box) error {
	v, ok := b.sick.Load(box.ID)
	times, _ := v.(int)
	if !ok || times == 0 {
		return nil
	}
	b.sick.Store(box.ID, times-1)
	return errors.New("no answer")
}

func newBench(t *testing.T, parallel int) *bench {
	t.Helper()
	b := &bench{t: t, parts: fake.NewParts()}
	b.driver = fake.New(fake.Config{Snapshots: true, Delay: func(method string) time.Duration {
		if method == "Restore" && b.slow.Load() {
			return 4 * time.Second
		}
		return map[string]time.Duration{"Create": 100 * time.Millisecond, "Start": 2 * time.Second, "Restore": 200 * time.Millisecond}[method]
	}})
	b.snapshots = t.TempDir()
	snapshots, err := pool.OpenSnapshots(b.snapshots, "salt")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	b.pool, err = pool.New(pool.Config{
		Maker:    &pool.Maker{Driver: b.driver, Parts: b.parts, Snapshots: snapshots, Log: log},
		Parallel: parallel, Log: log, Check: b.check, Busy: b.busy.Load,
		Observe: func(bulkhead.Template, pool.Stage) { b.seen.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.pool.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.driver.Fail("Destroy", nil)
		if boxes, err := b.driver.List(context.Background()); err != nil || len(boxes) > 0 || b.parts.Taken() > 0 { //nolint:usetesting // in a cleanup
			t.Errorf("left after the end: %v, %d parts, %v", boxes, b.parts.Taken(), err)
		}
	})
	return b
}

// settle lets the pool work for a while.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) stats() pool.Stats {
	b.t.Helper()
	all := b.pool.Stats()
	if len(all) != 1 {
		b.t.Fatalf("%d shelves", len(all))
	}
	return all[0]
}

func (b *bench) acquire(want pool.Stage) *pool.Box {
	b.t.Helper()
	began := time.Now()
	box, stage, err := b.pool.Acquire(b.t.Context(), base, base.Defaults)
	if err != nil {
		b.t.Fatal(err)
	}
	if stage != want {
		b.t.Errorf("got a %s box after %s, want %s", stage, time.Since(began), want)
	}
	return box
}

func (b *bench) release(boxes ...*pool.Box) {
	b.t.Helper()
	for _, box := range boxes {
		if err := box.Release(b.t.Context()); err != nil {
			b.t.Error(err)
		}
	}
}

func TestFillsToTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 3, Cold: 2})
		settle(10 * time.Second)
		if s := b.stats(); s.Warm != 3 || s.Cold != 2 || s.Making != 0 {
			t.Errorf("stats: %+v", s)
		}
		began := time.Now()
		box := b.acquire(pool.StageWarm)
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("a warm box took %s", took)
		}
		settle(5 * time.Second)
		if s := b.stats(); s.Warm != 3 || s.Hits[pool.StageWarm] != 1 {
			t.Errorf("after one lease: %+v", s)
		}
		b.release(box)
		b.pool.SetTarget(base, pool.Target{Warm: 1})
		settle(5 * time.Second)
		if s := b.stats(); s.Warm != 1 || s.Cold != 0 || s.Wasted[pool.WasteSurplus] != 4 {
			t.Errorf("after shrinking: %+v", s)
		}
	})
}

func TestFallsBackStageByStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 1, Cold: 1})
		settle(10 * time.Second)
		l := base.Defaults
		l.DiskMB++
		var other sync.WaitGroup
		other.Go(func() { // while a request waits, nothing is made ahead
			box, _, err := b.pool.Acquire(t.Context(), base, l)
			if err != nil {
				t.Error(err)
				return
			}
			b.release(box)
		})
		synctest.Wait()
		defer other.Wait()
		boxes := []*pool.Box{b.acquire(pool.StageWarm), b.acquire(pool.StageCold), b.acquire(pool.StageNew)}
		seen := map[string]bool{}
		for _, box := range boxes {
			if seen[box.ID] {
				t.Errorf("box %s was given twice", box.ID)
			}
			seen[box.ID] = true
		}
		if s := b.stats(); s.Misses[pool.MissEmpty] != 2 {
			t.Errorf("stats: %+v", s)
		}
		b.release(boxes...)
	})
}

// Env, memory or a time-out never cost a hit; another disk does, and is counted.
func TestLateBindingAndWhatNeedsABoxOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 2})
		settle(10 * time.Second)
		l := base.Defaults
		l.MemoryMB, l.CPU, l.Pids = 64, 0.5, 16
		box, stage, err := b.pool.Acquire(t.Context(), base, l)
		if err != nil || stage != pool.StageWarm {
			t.Fatalf("other limits: %s, %v", stage, err)
		}
		l.DiskMB = 77
		own, stage, err := b.pool.Acquire(t.Context(), base, l)
		if err != nil || stage != pool.StageNew || own.Made.DiskMB != 77 {
			t.Errorf("another disk: %s, %+v, %v", stage, own, err)
		}
		if s := b.stats(); s.Misses[pool.MissDisk] != 1 {
			t.Errorf("stats: %+v", s)
		}
		b.release(box, own)
	})
}

// A template that is asked for gets its snapshot, so that the next box without a
// pool is restored and not started.
func TestSnapshotAfterFirstUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		began := time.Now()
		first := b.acquire(pool.StageNew)
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("the first box took %s: it was not started", took)
		}
		settle(10 * time.Second)
		began = time.Now()
		second := b.acquire(pool.StageNew)
		if took := time.Since(began); took > 400*time.Millisecond {
			t.Errorf("the second box took %s: it was not restored", took)
		}
		b.release(first, second)
	})
}

func TestDeadBoxesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 2})
		settle(10 * time.Second)
		boxes, err := b.driver.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.driver.Crash(boxes[0].ID)
		synctest.Wait()
		box := b.acquire(pool.StageWarm)
		if box.ID == boxes[0].ID {
			t.Error("a dead box was leased")
		}
		settle(5 * time.Second)
		if s := b.stats(); s.Warm != 2 {
			t.Errorf("stats: %+v", s)
		}
		b.release(box)
	})
}

// Old boxes are replaced, and the shelf is never empty meanwhile.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 2})
		settle(10 * time.Second)
		first, err := b.driver.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 70 {
			settle(time.Minute)
			if s := b.stats(); s.Warm < 2 {
				t.Fatalf("the shelf has %d", s.Warm)
			}
		}
		now, err := b.driver.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range first {
			for _, n := range now {
				if a.ID == n.ID {
					t.Errorf("box %s is %s old", a.ID, time.Since(a.CreatedAt))
				}
			}
		}
	})
}

// A shelf whose boxes cannot be made is tried again, more and more rarely, and
// recovers.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.driver.Fail("Create", errors.New("boom"))
		b.pool.SetTarget(base, pool.Target{Warm: 1})
		settle(time.Hour)
		failed := b.stats().Failed
		if failed < 10 || failed > 100 {
			t.Errorf("%d attempts in an hour", failed)
		}
		b.driver.Fail("Create", nil)
		settle(2 * time.Minute)
		if s := b.stats(); s.Warm != 1 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestCancelledRequestLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := b.pool.Acquire(ctx, base, base.Defaults); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error: %v", err)
		}
	})
}

func TestGoneTemplateEmptiesItsShelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		defer b.stop()
		b.pool.SetTarget(base, pool.Target{Warm: 1, Cold: 1})
		settle(10 * time.Second)
		b.pool.Retain(nil)
		settle(5 * time.Second)
		if s := b.stats(); s.Warm != 0 || s.Cold != 0 || s.Digest != "" || s.Wasted[pool.WasteSurplus] != 2 {
			t.Errorf("stats: %+v", s)
		}
	})
}
