package e2e

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// A running sandbox gets more memory and less, both hold at once for programs that
// start and for those that run, and what is in use is not taken.
func TestResize(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{MemoryMB: 512}})
	take := func(mib int) bulkhead.End {
		t.Helper()
		out, err := sb.Exec(t.Context(), shell("python3 -c 'x = bytearray("+strconv.Itoa(mib)+" << 20)\nfor i in range(0, len(x), 4096): x[i] = 1'"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return out.End
	}
	resize := func(l bulkhead.Limits) error {
		t.Helper()
		a, err := s.client.Resize(t.Context(), sb.ID(), l)
		if err == nil && a.Limits != l.Or(a.Limits) {
			t.Errorf("asked for %+v, got %+v", l, a.Limits)
		}
		return err
	}
	if end := take(600); end.Cause != bulkhead.CauseMemoryLimit || end.Limit != 512<<20 {
		t.Errorf("600 MiB of 512: %+v", end)
	}
	if err := resize(bulkhead.Limits{MemoryMB: 900, CPU: 1, Pids: 200, BandwidthKbps: 50_000}); err != nil {
		t.Fatal(err)
	}
	if end := take(600); end.Cause != bulkhead.CauseExited || end.ExitCode != 0 {
		t.Errorf("600 MiB of 900: %+v", end)
	}
	var err error
	for range 100 { // the runtime gives memory back a moment after a program's end
		if err = resize(bulkhead.Limits{MemoryMB: 400, CPU: 0.5}); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if end := take(600); end.Cause != bulkhead.CauseMemoryLimit || end.Limit != 400<<20 {
		t.Errorf("600 MiB of 400: %+v", end)
	}
	p, err := sb.Start(t.Context(), shell("exec python3 -c 'x = bytearray(250 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(\"ready\", flush=True)\nimport time; time.sleep(60)'"))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	err = resize(bulkhead.Limits{MemoryMB: 200})
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != bulkhead.CodeConflict || e.Limit == nil || e.Limit.Used < 250 || e.Limit.Limit <= e.Limit.Used {
		t.Errorf("memory in use: %v, %+v", err, e)
	}
	if out, err := sb.Exec(t.Context(), shell("pgrep -f bytearray"), nil); err != nil || out.End.ExitCode != 0 {
		t.Errorf("the program that holds the memory: %+v, %v", out, err)
	}
	if err := resize(bulkhead.Limits{DiskMB: 4096}); bulkhead.CodeOf(err) != bulkhead.CodeUnsupported {
		t.Errorf("another disk: %v", err)
	}
	info, err := s.client.Get(t.Context(), sb.ID())
	if err != nil || info.Limits.MemoryMB != 400 || info.Allocation == nil || len(info.Allocation.Reasons) == 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// state is what a server, its store and its host agree on.
type state struct {
	live []bulkhead.Sandbox
	used bulkhead.Sums
	host bulkhead.HostState
}

func (s *server) state(t *testing.T) state {
	t.Helper()
	var st state
	for sb, err := range s.client.List(t.Context(), bulkhead.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		st.live = append(st.live, sb)
	}
	q, err := s.client.Quota(t.Context(), "")
	if err != nil || q.Host == nil {
		t.Fatalf("quota: %+v, %v", q, err)
	}
	st.used, st.host = q.Used, *q.Host
	return st
}

// groups are the memory limits of the boxes' cgroups, in bytes, sorted.
func groups(t *testing.T) []int64 {
	t.Helper()
	var out []int64
	for _, pattern := range []string{"/sys/fs/cgroup/memory/bulkhead/bulkhead-*/memory.limit_in_bytes", "/sys/fs/cgroup/bulkhead/bulkhead-*/memory.max"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(text)) == "max" {
				continue // it is being made, and has no limit and no process yet
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if n < 1<<50 { // as above, on v1
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// agree fails unless books, rows and host say the same. overhead is what a box's
// cgroup may have beyond its sandbox's limit.
func (st state) agree(t *testing.T, overhead int64) {
	t.Helper()
	var sum bulkhead.Sums
	var want []int64
	for _, sb := range st.live {
		sum.Sandboxes++
		sum.CPU += sb.Limits.CPU
		sum.MemoryMB += sb.Limits.MemoryMB
		sum.DiskMB += sb.Limits.DiskMB
		want = append(want, sb.Limits.MemoryMB<<20+overhead)
	}
	slices.Sort(want)
	if st.used != sum || st.host.Granted != sum || st.host.Bookings != len(st.live) {
		t.Errorf("rows have %+v, the tenant's book %+v, the host's %+v", sum, st.used, st.host)
	}
	// Beside them wait those of pools, with the limits of their templates; one that
	// is being made has none yet.
	waiting := bulkhead.DefaultLimits().MemoryMB<<20 + overhead
	got := slices.DeleteFunc(groups(t), func(limit int64) bool { return limit == waiting || limit > 1<<60 })
	if !slices.Equal(got, want) {
		t.Errorf("cgroups are limited to %v, rows say %v", got, want)
	}
}

// kill -9 at any point of creates and resizes: a sweep over the time that creates
// take, which by what the next server finds hits them before a box is there, before its row is durable,
// before the client has its answer, and after. Each time books, rows and host agree
// after the restart.
func TestCrashAtAnyPoint(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	const overhead = 64 << 20
	found := regexp.MustCompile(`host ready.* adopted=\d+`)
	points := map[string]int{}
	victim := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{MemoryMB: 400}})
	s.quiet(t, 1) // of what other tests left
	s.state(t).agree(t, overhead)
	var whole time.Duration // how long creates take here, once known
	const rounds = 16
	for round := range rounds {
		var creates, resizes sync.WaitGroup
		var mu sync.Mutex
		acknowledged := map[string]bool{}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		began := time.Now()
		for i := range 3 {
			creates.Go(func() {
				sb, err := s.client.Create(ctx, bulkhead.CreateRequest{Template: "base", TTL: time.Minute, Limits: bulkhead.Limits{MemoryMB: int64(310 + i)}})
				if err == nil {
					mu.Lock()
					acknowledged[sb.ID()] = true
					mu.Unlock()
				}
			})
		}
		resizes.Go(func() {
			for mib := int64(300); ctx.Err() == nil; mib = 700 - mib {
				if _, err := s.client.Resize(ctx, victim.ID(), bulkhead.Limits{MemoryMB: mib}); err != nil {
					return
				}
			}
		})
		if round < 2 { // with boxes that waited, then right after a start
			creates.Wait()
			whole = max(whole, time.Since(began))
		} else {
			<-time.After(whole * time.Duration(round-2) / (rounds - 5)) // somewhere in the middle of it
		}
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		cancel()
		creates.Wait()
		resizes.Wait()
		bound := 0
		for _, limit := range groups(t) {
			if mib := (limit - overhead) >> 20; mib >= 310 && mib < 313 {
				bound++
			}
		}
		if err := s.start(bin); err != nil {
			t.Fatal(err)
		}
		st := s.state(t)
		st.agree(t, overhead)
		if !found.MatchString(s.log.String()) {
			t.Fatalf("the server does not say what it found:\n%s", s.log)
		}
		points["nothing in force"] += 3 - bound
		points["limits in force, no row"] += bound - (len(st.live) - 1)
		for _, sb := range st.live {
			switch {
			case sb.ID == victim.ID():
				if sb.Limits.MemoryMB != 300 && sb.Limits.MemoryMB != 400 {
					t.Errorf("the resized one has %d MiB", sb.Limits.MemoryMB)
				}
				continue
			case acknowledged[sb.ID]:
				points["acknowledged"]++
				delete(acknowledged, sb.ID)
			default:
				points["a row, not acknowledged"]++
			}
			h, err := s.client.Open(t.Context(), sb.ID)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := h.Exec(t.Context(), shell("echo alive"), nil); err != nil || string(out.Stdout) != "alive\n" {
				t.Errorf("a sandbox that was taken over: %+v, %v", out, err)
			}
			if err := s.client.Kill(t.Context(), sb.ID); err != nil {
				t.Error(err)
			}
		}
		if len(acknowledged) > 0 {
			t.Errorf("acknowledged and gone: %v", slices.Collect(maps.Keys(acknowledged)))
		}
		s.quiet(t, 1)
	}
	t.Logf("killed with creates at: %v", points)
	for _, point := range []string{"nothing in force", "acknowledged"} {
		if points[point] == 0 {
			t.Errorf("no kill hit a create with %s", point)
		}
	}
	if err := s.client.Kill(t.Context(), victim.ID()); err != nil {
		t.Error(err)
	}
	s.quiet(t, 0)
	s.state(t).agree(t, overhead)
}

// quiet waits until no more than n sandboxes are booked: boxes are torn down in the
// background, and booked until they are gone.
func (s *server) quiet(t *testing.T, n int) {
	t.Helper()
	for range 400 {
		if st := s.state(t); st.host.Bookings <= n {
			return
		}
		<-time.After(25 * time.Millisecond) // the end of a teardown has no event over HTTP
	}
	t.Fatalf("more than %d are booked still: %+v", n, s.state(t))
}

// What a sandbox does not use is lent to others, down to a floor and never less than
// it uses, and is there again as soon as it is used: its limit stays what it was.
func TestLending(t *testing.T) {
	s := serve(t)
	s.quiet(t, 0)
	const memory, takes = 1000, 600
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{CPU: 0.5, MemoryMB: memory}})
	var began time.Time
	// host waits until so much is booked of the host.
	host := func(what string, is func(bulkhead.Sums) bool) {
		t.Helper()
		began = time.Now()
		var last bulkhead.Sums
		for range 1200 {
			st := s.state(t)
			if st.used.MemoryMB != memory || st.used.CPU != 0.5 {
				t.Fatalf("the tenant holds %+v", st.used)
			}
			if last = st.host.Booked; is(last) {
				t.Logf("%s: %g cores and %d MiB are booked after %s", what, last.CPU, last.MemoryMB, time.Since(began).Round(10*time.Millisecond))
				return
			}
			<-time.After(50 * time.Millisecond) // what is booked has no event
		}
		t.Fatalf("%s: %+v are booked", what, last)
	}
	floor := func(b bulkhead.Sums) bool { return b.MemoryMB == memory*15/100 && b.CPU == 0.075 }
	host("idle", floor)
	p, err := sb.Start(t.Context(), shell("exec python3 -c 'x = bytearray("+strconv.Itoa(takes)+" << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint(\"ready\", flush=True)\nwhile True: pass'"))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	host("at work", func(b bulkhead.Sums) bool { return b.MemoryMB >= takes && b.CPU > 0.075 })
	if out, err := sb.Exec(t.Context(), shell("pkill -9 python3; true"), nil); err != nil || out.End.ExitCode != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	host("idle again", floor)
	// All that was granted is there at once, whatever is booked.
	began = time.Now()
	out, err := sb.Exec(t.Context(), shell("python3 -c 'x = bytearray(800 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1'"), nil)
	if err != nil || out.End.Cause != bulkhead.CauseExited || out.End.ExitCode != 0 {
		t.Errorf("800 MiB of %d: %+v, %v", memory, out, err)
	}
	t.Logf("800 MiB were taken from a sandbox that was idle within %s", time.Since(began).Round(10*time.Millisecond))
	info, err := s.client.Get(t.Context(), sb.ID())
	if err != nil || info.End != nil || info.Limits.MemoryMB != memory {
		t.Errorf("%+v, %v", info, err)
	}
}

// A tenant of a tier gets what the tier says, is told why, is refused with the
// limit's figures on every way in, and gets a place once one is free.
func TestTier(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	const tenant = "tier-test"
	_, err := s.client.CreateTenant(t.Context(), bulkhead.Tenant{ID: tenant, Tier: "free", Quota: bulkhead.Quota{Sandboxes: 2, CreatesPerSecond: 100}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.client.DeleteTenant(context.WithoutCancel(t.Context()), tenant, true); err != nil {
			t.Error(err)
		}
	})
	key, err := s.client.CreateKey(t.Context(), client.KeyRequest{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.New(client.Config{BaseURL: "http://" + s.http, APIKey: key.Secret, Tries: 1})
	if err != nil {
		t.Fatal(err)
	}
	create := func(wait time.Duration) (*client.Sandbox, error) {
		return cl.Create(t.Context(), bulkhead.CreateRequest{Template: "base", TTL: time.Minute, Secure: true, Wait: wait})
	}
	first, err := create(0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := cl.Get(t.Context(), first.ID())
	if err != nil || info.Limits.MemoryMB > 512 || info.Limits.CPU > 1 || info.Allocation == nil || info.Allocation.Priority != 1 {
		t.Fatalf("%+v, %v", info, err)
	}
	var said strings.Builder
	for _, r := range info.Allocation.Reasons {
		said.WriteString(r.Field + ": " + r.Detail + "\n")
	}
	if !strings.Contains(said.String(), "memoryMB: 1024 MiB × 0.5 for tier free") {
		t.Errorf("reasons:\n%s", &said)
	}
	if _, err := create(0); err != nil {
		t.Fatal(err)
	}
	_, err = create(0)
	var e *bulkhead.Error
	if !errors.As(err, &e) || e.Code != bulkhead.CodeQuotaExceeded || e.Limit == nil ||
		e.Limit.Name != "tenant.sandboxes" || e.Limit.Limit != 2 || e.Limit.Used != 2 || e.Limit.Asked != 1 {
		t.Errorf("a third: %v, %+v", err, e)
	}
	cmd := exec.CommandContext(t.Context(), bin, "quota", "whatif", "--template", "base", "--count", "3")
	cmd.Env = append(os.Environ(), "BULKHEAD_URL=http://"+s.http, "BULKHEAD_API_KEY="+key.Secret, "NO_COLOR=1")
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	if cmd.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), "0 of 3 would fit now") || !strings.Contains(string(out), "tenant.sandboxes") {
		t.Errorf("what if: exit code %d\n%s", cmd.ProcessState.ExitCode(), out)
	}
	got := make(chan error, 1)
	go func() {
		_, err := create(30 * time.Second)
		got <- err
	}()
	for range 400 { // until it waits, which has no event over HTTP
		if q, err := cl.Quota(t.Context(), ""); err != nil || q.Host != nil {
			t.Fatalf("%+v, %v", q, err)
		} else if q.Waiting == 1 {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := cl.Kill(t.Context(), first.ID()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("after a place was free: %v", err)
	}
}
