package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

var residueRun = flag.Int("residue", 60, "sandboxes that TestResidue makes; `make residue` makes 1000")

// clients is how many make sandboxes at once.
const clients = 6

// load is the run of TestResidue.
type load struct {
	s    *server
	seed uint64
	up   sync.RWMutex // held while there is no server

	made, cut, refused, ran, reused atomic.Int64
	mu                              sync.Mutex
	wrong                           []string
}

// The ways in which a sandbox ends, or is cut off before it begins.
var ends = []struct {
	name string
	end  func(ctx context.Context, l *load, rng *rand.Rand)
}{
	{"the caller leaves while it is made", func(ctx context.Context, l *load, rng *rand.Rand) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(int(40*time.Millisecond))))
		defer cancel()
		if sb, err := l.s.client.Create(ctx, l.request(rng)); err != nil {
			l.cut.Add(1)
		} else {
			l.fresh(context.WithoutCancel(ctx), sb)
			_ = l.s.client.Kill(context.WithoutCancel(ctx), sb.ID())
		}
	}},
	{"killed at once", func(ctx context.Context, l *load, rng *rand.Rand) {
		if sb := l.create(ctx, l.request(rng)); sb != nil {
			_ = sb.Kill(ctx)
		}
	}},
	{"killed after a program", func(ctx context.Context, l *load, rng *rand.Rand) {
		if sb := l.create(ctx, l.request(rng)); sb != nil {
			l.fresh(ctx, sb)
			_ = sb.Kill(ctx)
		}
	}},
	{"killed in the middle of a program", func(ctx context.Context, l *load, rng *rand.Rand) {
		if sb := l.create(ctx, l.request(rng)); sb != nil {
			p, err := sb.Start(ctx, shell("sleep 60 & while :; do :; done"))
			if err == nil {
				p.Detach()
			}
			_ = sb.Kill(ctx)
		}
	}},
	{"its time is over", func(ctx context.Context, l *load, rng *rand.Rand) {
		req := l.request(rng)
		req.TTL = time.Second
		if sb := l.create(ctx, req); sb != nil {
			l.fresh(ctx, sb)
		}
	}},
	{"it ends itself", func(ctx context.Context, l *load, rng *rand.Rand) {
		if sb := l.create(ctx, l.request(rng)); sb != nil {
			_, _ = sb.Exec(ctx, shell("sudo kill -9 -1; sudo reboot -f"), nil)
			_ = sb.Kill(ctx)
		}
	}},
	{"a disk of its own", func(ctx context.Context, l *load, rng *rand.Rand) {
		req := l.request(rng)
		req.Limits.DiskMB = 32 + rng.Int64N(64)
		if sb := l.create(ctx, req); sb != nil {
			l.fresh(ctx, sb)
			_ = sb.Kill(ctx)
		}
	}},
}

func (l *load) request(rng *rand.Rand) bulkhead.CreateRequest {
	req := bulkhead.CreateRequest{Template: "base", TTL: time.Minute, Secure: true, AllowInternet: rng.IntN(2) == 0}
	if rng.IntN(6) == 0 {
		req.Template = "code-interpreter-v1"
	}
	if rng.IntN(3) == 0 {
		req.Limits = bulkhead.Limits{MemoryMB: 256 + rng.Int64N(256), Pids: 64, BandwidthKbps: 1000 * rng.Int64N(20)}
		req.Env = map[string]string{"N": strconv.Itoa(rng.Int())}
	}
	return req
}

// create returns a sandbox, or nil when the server could not: it is being killed
// now and then.
func (l *load) create(ctx context.Context, req bulkhead.CreateRequest) *client.Sandbox {
	sb, err := l.s.client.Create(ctx, req)
	if err != nil {
		l.refused.Add(1)
		return nil
	}
	l.made.Add(1)
	return sb
}

// fresh runs a program in the box that tells whether one ran there before.
func (l *load) fresh(ctx context.Context, sb *client.Sandbox) {
	out, err := sb.Exec(ctx, shell("[ -e /tmp/used ] && echo used; ls /home/user; touch /tmp/used /home/user/mark"), nil)
	if err != nil {
		return // the server was killed, or its time is over
	}
	l.ran.Add(1)
	if len(out.Stdout) > 0 {
		l.reused.Add(1)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wrong = append(l.wrong, fmt.Sprintf("%s has %q", sb.ID(), out.Stdout))
	}
}

// await waits a while for a box that is warm, so that a third of the sandboxes come
// from the pool however slow the host is.
func (l *load) await(ctx context.Context) {
	for range 100 {
		if r, err := l.s.client.Pools(ctx); err != nil || r.Totals.Warm > clients {
			return
		}
		<-time.After(20 * time.Millisecond) // the server tells of no change by itself
	}
}

// run makes sandboxes from number from to number to.
func (l *load) run(ctx context.Context, from, to int) {
	var next atomic.Int64
	next.Store(int64(from))
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= to {
					return
				}
				l.up.RLock()
				l.up.RUnlock() //nolint:staticcheck // only to wait
				if i%3 == 0 {
					l.await(ctx)
				}
				ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
				ends[i%len(ends)].end(ctx, l, rand.New(rand.NewPCG(l.seed, uint64(i))))
				cancel()
			}
		})
	}
	all.Wait()
}

// createdLine is the server's line for each lease.
var createdLine = regexp.MustCompile(`msg="sandbox created" sandbox=(\S+) .*box=(\S+) stage=(\S+)`)

// Sandboxes that end at every stage, under a server that is killed twice, leave
// nothing on the host; no box is leased twice and none has been used before.
func TestResidue(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	l := &load{s: s, seed: uint64(time.Now().UnixNano())}
	t.Logf("%d sandboxes, seed %d", *residueRun, l.seed)
	began := time.Now()
	leases, stages := map[string]string{}, map[string]int{} // by box, by stage
	count := func() {
		for _, m := range createdLine.FindAllStringSubmatch(s.log.String(), -1) {
			if other, ok := leases[m[2]]; ok && other != m[1] {
				t.Errorf("box %s was leased to %s and to %s", m[2], other, m[1])
			}
			leases[m[2]] = m[1]
			stages[m[3]]++
		}
	}
	const parts = 3
	for part := range parts {
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(t.Context(), part**residueRun/parts, (part+1)**residueRun/parts)
		}()
		if part == parts-1 {
			<-done
			break
		}
		// Somewhere in the second half of the part, while all clients are at work.
		half := l.made.Load() + int64(*residueRun/parts/3)
		for l.made.Load() < half {
			select {
			case <-done:
				half = 0
			case <-time.After(10 * time.Millisecond): // the clients tell of nothing by themselves
			}
		}
		t.Logf("after %s: %d made; the server is killed", time.Since(began).Round(time.Second), l.made.Load())
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		l.up.Lock()
		count()
		err := s.start(bin)
		l.up.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		<-done
	}
	took := time.Since(began)
	if err := killAll(t.Context(), s); err != nil {
		t.Error(err)
	}
	if err := s.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	count()
	left := residue(s.run)
	if len(left) > 0 {
		t.Errorf("left on the host:\n  %s", strings.Join(left, "\n  "))
	}
	for _, wrong := range l.wrong {
		t.Errorf("a box that was used before: %s", wrong)
	}
	if fatal := panics(s.log.String()); fatal != "" {
		t.Error(fatal)
	}
	t.Logf("%d made, %d cut off while being made, %d refused while the server was down, %d ran a program; %d leases, of as many boxes, by stage %v; %s, %.1f a second; residue %d",
		l.made.Load(), l.cut.Load(), l.refused.Load(), l.ran.Load(), len(leases), stages, took.Round(time.Second),
		float64(*residueRun)/took.Seconds(), len(left))
	if l.ran.Load() < int64(*residueRun)/5 {
		t.Errorf("only %d of %d ran a program: the run shows nothing", l.ran.Load(), *residueRun)
	}
	if err := s.start(bin); err != nil { // for the tests that follow
		t.Fatal(err)
	}
}

// killAll ends every sandbox and waits until none is left.
func killAll(ctx context.Context, s *server) error {
	var errs []error
	for sb, err := range s.client.List(ctx, bulkhead.Filter{}) {
		if err != nil {
			return err
		}
		if err := s.client.Kill(ctx, sb.ID); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// panics returns what a log has of a crash of the server itself.
func panics(log string) string {
	for _, word := range []string{"panic:", "fatal error:", "DATA RACE"} {
		if i := bytes.Index([]byte(log), []byte(word)); i >= 0 {
			return log[i:min(len(log), i+2000)]
		}
	}
	return ""
}
