package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/store/pgtest"
)

// used returns what the books say of a sandbox.
func (s *server) used(t *testing.T, id string) bulkhead.Usage {
	t.Helper()
	now := time.Now()
	u, err := s.client.Usage(t.Context(), client.UsageQuery{Sandbox: id, By: "sandbox", From: now.Add(-24 * time.Hour), To: now})
	if err != nil {
		t.Fatal(err)
	}
	return u.Total
}

// share is how much at least of what a program counted the host gave it: the clock
// in the box goes on while the host serves others.
const share = 0.3

// burn uses some processor time in a sandbox and sends MiB to its caller. It returns
// the seconds that the program counted itself.
func burn(t *testing.T, sb *client.Sandbox, mib int) float64 {
	t.Helper()
	out, err := sb.Exec(t.Context(), shell("python3 -c 'import time\nwhile time.process_time() < 0.7: pass\nprint(time.process_time())'; head -c "+
		strconv.Itoa(mib)+"M /dev/zero"), nil)
	if err != nil || out.End.ExitCode != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	text, _, _ := strings.Cut(string(out.Stdout), "\n")
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}

// What a sandbox used is in the books when its end is acknowledged, on both
// databases, and kill -9 in its life loses at most the time of a sample.
func TestUsage(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	restart := func(args ...string) {
		t.Helper()
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.start(bin, args...); err != nil {
			t.Fatal(err)
		}
	}
	check := func(t *testing.T, args ...string) {
		t.Helper()
		sb := s.sandbox(t, bulkhead.CreateRequest{})
		began := time.Now()
		cpu := burn(t, sb, 2)
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.start(bin, args...); err != nil {
			t.Fatal(err)
		}
		again, err := s.client.Connect(t.Context(), sb.ID(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		cpu += burn(t, again, 2)
		if err := s.client.Kill(t.Context(), sb.ID()); err != nil {
			t.Fatal(err)
		}
		u, lived := s.used(t, sb.ID()), time.Since(began).Seconds()
		t.Logf("the programs counted %.2f s in %.1f s; the books say %+v", cpu, lived, u)
		if u.Sandboxes != 1 || u.Seconds <= 0 || u.Seconds > lived+1 || u.GBSeconds <= 0 {
			t.Errorf("used %+v of %.1f s", u, lived)
		}
		// The part before the crash counts only where a sample was taken, within five
		// seconds of the start; the part after it counts always.
		if u.CPUSeconds < cpu/2*share || u.EgressBytes < 2<<20 {
			t.Errorf("used %+v; the programs counted %.2f s and sent 4 MiB", u, cpu)
		}
		short := s.sandbox(t, bulkhead.CreateRequest{})
		cpu = burn(t, short, 1)
		if err := s.client.Kill(t.Context(), short.ID()); err != nil {
			t.Fatal(err)
		}
		if u := s.used(t, short.ID()); u.Sandboxes != 1 || u.CPUSeconds < cpu*share || u.CPUSeconds > cpu+5 || u.EgressBytes < 1<<20 || u.EgressBytes > 4<<20 {
			t.Errorf("one that no sample saw used %+v; its program counted %.2f s and sent 1 MiB", u, cpu)
		}
	}
	t.Run("sqlite", func(t *testing.T) { check(t) })
	t.Run("postgres", func(t *testing.T) {
		args := []string{"--database", pgtest.Start(t).Database(t)}
		restart(args...)
		defer restart() // before PostgreSQL ends
		check(t, args...)
	})
}
