package netslot

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

// TestRestart ends a server without a word; the next one adopts one box and
// reaps the other.
func TestRestart(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	first, err := New(cfg)
	must(t, err)
	if _, err := New(cfg); err == nil {
		t.Error("two servers share a directory")
	}
	kept, lost, claimed := acquire(t, first), acquire(t, first), acquire(t, first)
	must(t, kept.SetEgress(Egress{Internet: true}))
	must(t, kept.SetBandwidth(5000, 0))
	must(t, lost.SetBandwidth(5000, 0))
	must(t, first.shut()) // what a kill leaves behind

	second := l.allocator(t, cfg)
	echo(t, l.world, worldPublic+":80")
	if _, err := ask(kept.Path(), "tcp4", worldPublic+":80"); err == nil {
		t.Error("a box that nobody has adopted yet reaches the internet")
	}
	s, err := second.Adopt(kept.Index())
	must(t, err)
	if _, err := second.Adopt(kept.Index()); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("second Adopt: %v; want a conflict", err)
	}
	if _, err := second.Adopt(77); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Adopt of what is not there: %v", err)
	}
	removed, err := second.Reap(t.Context(), func(n int) bool { return n == claimed.Index() })
	must(t, err)
	if diff := cmp.Diff([]int{lost.Index()}, removed); diff != "" {
		t.Errorf("reaped (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(lost.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reaped namespace: %v", err)
	}
	if _, err := ask(s.Path(), "tcp4", worldPublic+":80"); !refused(err) {
		t.Errorf("adopted box, closed: %v", err)
	}
	must(t, s.SetEgress(Egress{Internet: true}))
	if got, err := ask(s.Path(), "tcp4", worldPublic+":80"); err != nil {
		t.Errorf("adopted box, open: %q, %v", got, err)
	}
	if got := qdiscs(t, l, s.Link()); !slices.Contains(got, "tbf") {
		t.Errorf("adopted box lost its bandwidth limit: %v", got)
	}
	removed, err = second.Reap(t.Context(), nil)
	must(t, err)
	if diff := cmp.Diff([]int{claimed.Index()}, removed); diff != "" {
		t.Errorf("reaped at last (-want +got):\n%s", diff)
	}
}

// TestDetach leaves leased slots to the next server.
func TestDetach(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	first, err := New(cfg)
	must(t, err)
	s, back := acquire(t, first), acquire(t, first)
	must(t, back.Release())
	recycle(t, first)
	must(t, first.Detach())
	must(t, first.Detach())
	if _, err := os.Stat(back.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a slot that waited was left: %v", err)
	}
	must(t, s.Release()) // too late, and harmless
	second := l.allocator(t, cfg)
	if _, err := second.Adopt(s.Index()); err != nil {
		t.Errorf("Adopt after Detach: %v", err)
	}
}

// TestLeftoverInTheWay builds over what a crash left under the same name.
func TestLeftoverInTheWay(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	first, err := New(cfg)
	must(t, err)
	acquire(t, first)
	must(t, first.shut())
	second := l.allocator(t, cfg)
	s := acquire(t, second)
	if s.Index() != 0 {
		t.Fatalf("got slot %d; want the one with a leftover, 0", s.Index())
	}
	echo(t, s.Path(), "0.0.0.0:8080")
	if _, err := ask(l.host, "tcp4", s.Addr().String()+":8080"); err != nil {
		t.Errorf("host to box: %v", err)
	}
}

// TestMany makes, uses and removes many slots in parallel, at random.
func TestMany(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.Ready = 10
	a := l.allocator(t, cfg)
	const slots = 100
	start := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	for range slots {
		wg.Go(func() {
			s, err := a.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			if seen[s.Addr()] {
				t.Errorf("%v is leased twice", s.Addr())
			}
			seen[s.Addr()] = true
			mu.Unlock()
			err = errors.Join(s.SetEgress(Egress{Internet: rand.IntN(2) == 0, DNS: true}), s.SetBandwidth(1_000_000, 0))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d slots acquired and set up in parallel: %v", slots, time.Since(start))
	start = time.Now()
	must(t, a.Close())
	t.Logf("closed in %v", time.Since(start))
}

// TestChurn leases and releases in parallel and ends where it began.
func TestChurn(t *testing.T) {
	l := newLab(t)
	cfg := l.config(t)
	cfg.Ready = 4
	a := l.allocator(t, cfg)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 10 {
				s, err := a.Acquire(t.Context())
				if err == nil {
					err = errors.Join(s.SetEgress(Egress{Internet: i%2 == 0}), s.Prepare(), s.Release())
				}
				if i%3 == w%3 {
					a.recycle()
				}
				if err != nil {
					t.Errorf("worker %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	recycle(t, a)
	if st := a.Stats(); st.Leased != 0 || st.Cooling != 0 {
		t.Errorf("stats are %+v; want none leased or cooling", st)
	}
}

// TestThreadsStayHome runs many namespace switches and then looks at every
// thread of this process.
func TestThreadsStayHome(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	home, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_ = within(s.Path(), func() error { return errors.New("a failure in there") })
			_ = within("/nonexistent", func() error { return nil })
		})
	}
	wg.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, task := range tasks {
		ns, err := os.Readlink(fmt.Sprintf("/proc/self/task/%s/ns/net", task.Name()))
		if err == nil && ns != home {
			t.Errorf("thread %s is in %s; home is %s", task.Name(), ns, home)
		}
	}
}
