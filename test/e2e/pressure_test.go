package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
)

// hogEnv makes this program a hog instead of running tests.
const hogEnv = "BULKHEAD_TEST_HOG"

// hog fills memory: it reads numbers of MiB, holds as much of it, and answers with
// what it holds, until its input ends.
func hog(in io.Reader, out io.Writer) error {
	var held [][]byte
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		want, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		for ; len(held) > want; held = held[:len(held)-1] {
			if err := syscall.Munmap(held[len(held)-1]); err != nil {
				return err
			}
		}
		for len(held) < want {
			b, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
			if err != nil {
				return err
			}
			for i := 0; i < len(b); i += os.Getpagesize() {
				b[i] = 1
			}
			held = append(held, b)
		}
		if _, err := fmt.Fprintln(out, len(held)); err != nil {
			return err
		}
	}
	return lines.Err()
}

// budget is a limit on the memory of all boxes together, and a hog within it.
type budget struct {
	tree *cgroup.Tree
	in   io.Writer
	out  *bufio.Reader
	held int64 // MiB
}

// newBudget sets the limit, until the end of the test.
func newBudget(t *testing.T, mb int64) *budget {
	t.Helper()
	layout, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	b := &budget{}
	if b.tree, err = cgroup.New(cgroup.Config{Layout: layout}); err != nil {
		t.Fatal(err)
	}
	file, none := filepath.Join(layout.V1[cgroup.Memory], "bulkhead/memory.limit_in_bytes"), "-1"
	if layout.Mode == cgroup.ModeV2 {
		file, none = filepath.Join(layout.V2, "bulkhead/memory.max"), "max"
	}
	if err := os.WriteFile(file, []byte(strconv.FormatInt(mb<<20, 10)), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A server that has stopped has removed the group.
		if err := os.WriteFile(file, []byte(none), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return b
}

// startHog starts the hog, until the end of the test. It must not be there when a
// server starts, which ends what it does not know.
func (b *budget) startHog(t *testing.T, mb int64) {
	t.Helper()
	l := bulkhead.DefaultLimits()
	l.MemoryMB = mb
	group, err := b.tree.Create("hog", l, cgroup.Extra{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hogEnv+"=1")
	in, out := pipe(t, cmd.StdinPipe), pipe(t, cmd.StdoutPipe)
	if err := group.Start(cmd); err != nil {
		t.Fatal(err)
	}
	b.in, b.out = in, bufio.NewReader(out)
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill() // where the host is too short of memory for it to end itself
		_ = cmd.Wait()
		if err := group.Delete(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

func pipe[T any](t *testing.T, open func() (T, error)) T {
	t.Helper()
	p, err := open()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// available is what is left of the budget, in MiB.
func (b *budget) available(t *testing.T) int64 {
	t.Helper()
	m, err := b.tree.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return m.Available >> 20
}

// hold makes the hog hold so many MiB.
func (b *budget) hold(t *testing.T, mb int64) {
	t.Helper()
	if _, err := fmt.Fprintln(b.in, mb); err != nil {
		t.Fatal(err)
	}
	if line, err := b.out.ReadString('\n'); err != nil || strings.TrimSpace(line) != strconv.FormatInt(mb, 10) {
		t.Fatalf("the hog holds %q of %d MiB: %v", line, mb, err)
	}
	b.held = mb
}

// Programs that fill the memory take it from the pools first: warm boxes, then
// cold ones, and requests are served meanwhile and without a pool. Only what is
// beyond that is refused, with the time to try again. Afterwards the pools grow
// back.
func TestPressure(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.start(bin); err != nil { // for the tests that follow
			t.Error(err)
		}
	})
	const total, guarded, poolReserve = 4096, 4096 / 5, 1024 // MiB; the guard lets 80 % be filled
	b := newBudget(t, total)
	if err := s.start(bin, "--pool-reserve-mb", strconv.Itoa(poolReserve), "--pool-template", "base"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(killAll(context.WithoutCancel(t.Context()), s), s.stop()); err != nil {
			t.Error(err)
		}
	})
	b.startHog(t, total)
	size := client.PoolSize{Warm: 6, Cold: 4}
	if _, err := s.client.SetPool(t.Context(), "base", &size); err != nil {
		t.Fatal(err)
	}
	full := func(p client.Pool) bool { return p.Warm == size.Warm && p.Cold == size.Cold }
	empty := b.available(t)
	before := s.awaitPool(t, "base", full)
	lasting := s.sandbox(t, bulkhead.CreateRequest{})
	s.awaitPool(t, "base", full)

	// More than the pools have is missing to their reserve, but not what requests need.
	t.Logf("%d MiB, %d available, %d of them without pools", total, b.available(t), empty)
	b.hold(t, empty-(guarded+poolReserve)+250)
	served := s.squeeze(t, size)
	p := s.pool(t, "base")
	t.Logf("%d served while the pool went; then %d MiB available: %s", served, b.available(t), p.Target.Why)
	if !strings.Contains(p.Target.Why, "memory is short") || p.Misses["empty"]+p.Misses["unpooled"] == before.Misses["empty"]+before.Misses["unpooled"] {
		t.Errorf("after the pressure: %+v", p)
	}

	// Nothing is left that may be promised: refused, not made.
	b.hold(t, b.held+b.available(t)-300)
	refused := s.refusal(t)
	t.Logf("with %d MiB available: %s", b.available(t), refused)
	if out, err := lasting.Exec(t.Context(), shell("echo here"), nil); err != nil || string(out.Stdout) != "here\n" {
		t.Errorf("a sandbox from before: %+v, %v", out, err)
	}

	b.hold(t, 0)
	s.awaitPool(t, "base", full)
	hits := s.pool(t, "base").Hits["warm"]
	s.sandbox(t, bulkhead.CreateRequest{})
	if got := s.pool(t, "base").Hits["warm"]; got != hits+1 {
		t.Errorf("%d warm hits after the pressure, %d before", got, hits)
	}
	if _, err := s.client.SetPool(t.Context(), "base", nil); err != nil {
		t.Error(err)
	}
}

// squeeze makes sandboxes, one after another, until the pool has neither warm nor
// cold boxes, and returns how many; it holds that cold ones go after warm ones.
func (s *server) squeeze(t *testing.T, size client.PoolSize) (served int) {
	t.Helper()
	for range 100 {
		p := s.pool(t, "base")
		if p.Target.Cold < size.Cold && p.Target.Warm > 0 {
			t.Errorf("cold boxes go before warm ones: %+v", p.Target)
		}
		if p.Warm+p.Cold+p.Making == 0 && served >= 5 {
			return served
		}
		sb := s.sandbox(t, bulkhead.CreateRequest{})
		if out, err := sb.Exec(t.Context(), shell("echo here"), nil); err != nil || string(out.Stdout) != "here\n" {
			t.Errorf("sandbox %d under pressure: %+v, %v", served, out, err)
		}
		if err := sb.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		served++
	}
	t.Fatalf("the pool did not shrink: %+v\n%s", s.pool(t, "base"), tail(s.log.String(), 30))
	return served
}

// refusal asks for sandboxes until one is refused, and returns how.
func (s *server) refusal(t *testing.T) string {
	t.Helper()
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.http+"/v1/sandboxes", strings.NewReader(`{"template":"base"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", s.key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusCreated {
			<-time.After(100 * time.Millisecond) // the server looks at the host every half second
			continue
		}
		after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if resp.StatusCode != http.StatusServiceUnavailable || err != nil || after < 1 || !strings.Contains(string(body), `"name":"host.memoryMB"`) {
			t.Errorf("refused with %s, Retry-After %q: %s", resp.Status, resp.Header.Get("Retry-After"), body)
		}
		return fmt.Sprintf("%s, Retry-After %d: %s", resp.Status, after, body)
	}
	t.Errorf("nothing was refused\n%s", tail(s.log.String(), 30))
	return ""
}
