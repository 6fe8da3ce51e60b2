package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/driver/fake"
	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// ram is a host with this much of 10 GiB in use, in MiB.
type ram int64

func (r *ram) Read(bool) (guard.Reading, error) {
	return guard.Reading{Used: int64(*r) << 20, Limit: 10 << 30, Source: "test"}, nil
}

// TestAdmitSandboxes asks the one guard that scripts ask too.
func TestAdmitSandboxes(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	used := ram(1024)
	s := &server{}
	var err error
	if s.pool, err = pool.New(pool.Config{Maker: &pool.Maker{Driver: fake.New(fake.Config{}), Parts: fake.NewParts(), Guest: "/guest", Log: log}, Log: log}); err != nil {
		t.Fatal(err)
	}
	if s.guard, err = guard.New(guard.Config{MaxConcurrent: 1}, &used, log); err != nil {
		t.Fatal(err)
	}
	if s.needs, err = guard.NewLearner(8); err != nil {
		t.Fatal(err)
	}
	ask := node.Ask{Tenant: "t", Template: bulkhead.Template{Digest: "sha256:a", Interpreter: true}, Limits: bulkhead.DefaultLimits()}
	for range 10 {
		a, err := s.admit(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		a.Made()
		a.Ended(300 << 20)
	}
	if cost, known := s.needs.Kind("sha256:a made", 0).Estimate(0); !known || cost < 300<<20 || cost > 400<<20 {
		t.Errorf("learned %d MiB, known %v; its boxes grew by 300", cost>>20, known)
	}
	live, err := s.admit(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	live.Made()
	run, err := s.guard.Acquire(t.Context(), 1<<20, guard.PriorityNormal)
	if err != nil {
		t.Fatalf("a sandbox that stands keeps a script out: %v", err)
	}
	if st := s.guard.Stats(); st.StandingTasks != 1 || st.ActiveTasks != 1 || st.StartingTasks != 0 {
		t.Errorf("%+v", st)
	}
	run.Release()

	used = 9 * 1024
	for err = nil; err == nil; { // until the last reading is too old
		var a node.Admitted
		if a, err = s.admit(t.Context(), ask); err == nil {
			a.Ended(-1)
		}
	}
	e, ok := err.(*bulkhead.Error) //nolint:errorlint // it is returned as it is
	if !ok || e.Code != bulkhead.CodeUnavailable || e.RetryAfter <= 0 ||
		!strings.Contains(e.Msg, "level CRITICAL: 90.0 % of 10240 MiB in use") {
		t.Errorf("error %v", err)
	}
}

// TestPoolsShrinkBeforeSandboxesAreRefused: pools keep free what the guard keeps
// free, and the host's reserve at least.
func TestPoolsShrinkBeforeSandboxesAreRefused(t *testing.T) {
	const gb = int64(1) << 30
	for _, c := range []struct {
		guard bool
		total int64
		want  int64
	}{{true, 20 * gb, 4 * gb}, {false, 20 * gb, gb / 2}, {true, gb, gb / 2}} {
		s := &server{cfg: &config.Config{GuardEnabled: c.guard, GuardMax: 0.8, ReserveMemory: 512}}
		if got := s.refusedBelow(c.total); got>>20 != c.want>>20 && got>>20 != c.want>>20-1 {
			t.Errorf("guard %v, %d MiB: refused below %d MiB; want %d", c.guard, c.total>>20, got>>20, c.want>>20)
		}
	}
}
