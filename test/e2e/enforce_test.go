package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// number runs a program in a box that prints one number.
func number(t *testing.T, sb *client.Sandbox, line string) int {
	t.Helper()
	out, err := sb.Exec(t.Context(), shell(line), nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out.Stdout)))
	if err != nil {
		t.Fatalf("%s: %+v", line, out)
	}
	return n
}

// A box tells programs its own size, also when it was leased at another than its
// template's.
func TestOwnSize(t *testing.T) {
	s := serve(t)
	if *driverName == "runc" {
		t.Skip("a box of runc sees the host's size: it has the host's kernel")
	}
	for _, l := range []bulkhead.Limits{{}, {CPU: 0.5, MemoryMB: 300}, {MemoryMB: 2048}} {
		sb := s.sandbox(t, bulkhead.CreateRequest{Limits: l})
		want := l.Or(bulkhead.DefaultLimits())
		cores := int(max(1, want.CPU))
		for what, tt := range map[string]struct {
			line string
			want int
		}{
			"nproc":       {"nproc", cores},
			"sysconf":     {"getconf _NPROCESSORS_ONLN", cores},
			"cpu_count":   {"python3 -c 'import os; print(os.cpu_count())'", cores},
			"free":        {"free -m | awk '/Mem:/ {print $2}'", int(want.MemoryMB)},
			"meminfo":     {"awk '/MemTotal/ {print $2 / 1024}' /proc/meminfo", int(want.MemoryMB)},
			"pages":       {"echo $(($(getconf _PHYS_PAGES) / 256))", int(want.MemoryMB)},
			"of a daemon": {"sudo nproc", cores},
		} {
			if got := number(t, sb, tt.line); got != tt.want {
				t.Errorf("%+v: %s says %d, want %d", l, what, got, tt.want)
			}
		}
	}
}

// A program that uses more processor time than it may is ended, whatever it runs
// as; one that waits is not.
func TestCPUTime(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{CPUSeconds: 1}})
	for name, line := range map[string]string{
		"loop":     "while :; do :; done",
		"children": "while :; do (for i in {1..10000}; do :; done); done",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := sb.Exec(ctx, shell(line), nil)
		cancel()
		if err != nil || out.End.Cause != bulkhead.CauseTimeLimit || out.End.Limit != 1000 {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
	if out, err := sb.Exec(t.Context(), shell("sleep 2; echo fine"), nil); err != nil || string(out.Stdout) != "fine\n" {
		t.Errorf("a program that waits: %+v, %v", out, err)
	}
}

// The quota holds for all programs of a box together, as the host measures it; a box
// that uses all of it lets the others go first.
func TestCPUQuota(t *testing.T) {
	s := serve(t)
	s.sandbox(t, bulkhead.CreateRequest{}) // one that uses nothing
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{CPU: 0.25}})
	if _, err := sb.Start(t.Context(), shell("for i in 1 2 3 4; do (while :; do :; done) & done; wait")); err != nil {
		t.Fatal(err)
	}
	inBackground := func(want int) {
		t.Helper()
		line := fmt.Sprintf("bulkhead_quota_background %d\n", want)
		for range 300 {
			if strings.Contains(s.metrics(t), line) {
				return
			}
			<-time.After(50 * time.Millisecond)
		}
		t.Errorf("it never came to %q", line)
	}
	inBackground(1)
	for range 300 {
		samples, err := s.client.Metrics(t.Context(), sb.ID(), time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(samples); n >= 2 && samples[n-1].CPUPercent > 1 {
			if got := samples[n-1].CPUPercent; got > 35 {
				t.Errorf("four loops use %.0f %% of a core; their limit is 25 %%", got)
			}
			if err := sb.Kill(t.Context()); err != nil {
				t.Error(err)
			}
			inBackground(0)
			return
		}
		<-time.After(50 * time.Millisecond) // a sample has no event over HTTP
	}
	t.Error("the box was never measured")
}

// Files, inodes, connections, packets and bytes: each is tried until it is refused.
func TestBounds(t *testing.T) {
	s := serve(t)
	neighbour := s.sandbox(t, bulkhead.CreateRequest{})

	t.Run("open files", func(t *testing.T) {
		sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{OpenFiles: 128}})
		n := number(t, sb, `python3 -c 'import os
n = 0
try:
    while True: os.open("/dev/null", os.O_RDONLY); n += 1
except OSError as e: print(n if e.errno == 24 else e)'`)
		if n < 100 || n > 128 {
			t.Errorf("%d files could be opened, want less than 128", n)
		}
		if out, err := sb.Exec(t.Context(), shell("ulimit -n 4096"), nil); err != nil || out.End.ExitCode == 0 {
			t.Errorf("a program raised its limit: %+v, %v", out, err)
		}
	})
	t.Run("inodes", func(t *testing.T) {
		sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{DiskMB: 64, MemoryMB: 128}})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		out, err := sb.Exec(ctx, shell(`cd; mkdir many; cd many; python3 -c 'n = 0
while True: open(str(n), "w").close(); n += 1'`), nil)
		if err == nil && out.End.Cause == bulkhead.CauseExited && strings.Contains(string(out.Stderr), "No space") ||
			err == nil && out.End.Cause == bulkhead.CauseDiskLimit || err == nil && out.End.Cause == bulkhead.CauseMemoryLimit {
			return
		}
		// An inode of gVisor is a piece of the box's memory: the box may end with it.
		for range 200 {
			info, getErr := s.client.Get(t.Context(), sb.ID())
			if getErr != nil {
				t.Fatal(getErr)
			}
			if info.End != nil {
				if info.End.Cause != bulkhead.CauseMemoryLimit {
					t.Errorf("the box ended: %+v", info.End)
				}
				return
			}
			<-time.After(50 * time.Millisecond) // its end has no event over HTTP
		}
		t.Errorf("files without end: %+v, %v", out, err)
	})
	const connect = `python3 -c 'import socket
held = []
try:
    while len(held) < 2000: held.append(socket.create_connection(("` + worldAPI + `", 80), timeout=5))
except OSError: pass
print(len(held))'`
	t.Run("connections", func(t *testing.T) {
		sb := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true})
		if n := number(t, sb, connect); n != maxConns {
			t.Errorf("%d connections were possible, want %d", n, maxConns)
		}
	})
	t.Run("connections of its own", func(t *testing.T) {
		const conns = 20
		sb := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true, Limits: bulkhead.Limits{Connections: conns}})
		if n := number(t, sb, connect); n != conns {
			t.Errorf("%d connections were possible, want %d", n, conns)
		}
		// Some that a program holds count for what is allowed while it runs.
		const held, more = 15, 40
		p, err := sb.Start(t.Context(), shell(strings.TrimSuffix(strings.Replace(connect, "2000", strconv.Itoa(held), 1), ")'")+`, flush=True)
import time; time.sleep(60)'`))
		if err != nil {
			t.Fatal(err)
		}
		for out, err := range p.Output() {
			if err != nil || strings.TrimSpace(string(out.Data)) != strconv.Itoa(held) {
				t.Fatalf("the program that holds connections: %q, %v", out.Data, err)
			}
			break
		}
		for _, conns := range []int64{more, 10} {
			if _, err := s.client.Resize(t.Context(), sb.ID(), bulkhead.Limits{Connections: conns}); err != nil {
				t.Fatal(err)
			}
			// What the programs before had open leaves its room within two seconds.
			want, n := int(max(0, conns-held)), -1
			for range 40 {
				if n = number(t, sb, connect); n >= want {
					break
				}
				<-time.After(100 * time.Millisecond)
			}
			if n != want {
				t.Errorf("%d connections were possible beside %d of %d, want %d", n, held, conns, want)
			}
		}
	})
	t.Run("packets", func(t *testing.T) {
		const pps, seconds = 500, 2
		sb := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true, Limits: bulkhead.Limits{PacketsPerSecond: pps}})
		before := world.packets.Load()
		sent := number(t, sb, `python3 -c 'import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("`+worldAPI+`", 80))
n, end = 0, time.monotonic() + `+strconv.Itoa(seconds)+`
while time.monotonic() < end:
    try: s.send(b"x"); n += 1
    except OSError: pass
print(n)'`)
		if got := world.packets.Load() - before; got > pps*seconds*2 || got == 0 || sent < pps {
			t.Errorf("%d packets were sent, %d arrived; want some, and at most about %d", sent, got, pps*seconds)
		}
	})
	t.Run("bandwidth", func(t *testing.T) {
		const kbps, seconds = 4000, 2
		sb := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true, Limits: bulkhead.Limits{BandwidthKbps: kbps}})
		before := world.bytes.Load()
		number(t, sb, `python3 -c 'import socket, time
s = socket.create_connection(("`+worldAPI+`", 80))
n, end, data = 0, time.monotonic() + `+strconv.Itoa(seconds)+`, b"x" * 65536
while time.monotonic() < end: n += s.send(data)
print(n)'`)
		if got := world.bytes.Load() - before; got > kbps*1000/8*seconds*2 || got == 0 {
			t.Errorf("%d bytes left the box in %d s; want some, and at most about %d", got, seconds, kbps*1000/8*seconds)
		}
	})
	t.Run("output rate", func(t *testing.T) {
		const mb, most = 3, 15 // the client keeps 16
		sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{OutputMBPerSecond: 1}})
		prints := func(mb int) client.Command { return shell("head -c " + strconv.Itoa(mb<<20) + " /dev/zero") }
		began := time.Now()
		var both sync.WaitGroup
		for range 2 { // they share it
			both.Go(func() {
				if out, err := sb.Exec(t.Context(), prints(mb), nil); err != nil || len(out.Stdout) != mb<<20 {
					t.Errorf("%d bytes came, %v", len(out.Stdout), err)
				}
			})
		}
		both.Wait()
		if took := time.Since(began); took < (2*mb-1)*time.Second {
			t.Errorf("%d MiB at 1 MiB/s took %v", 2*mb, took)
		}
		if _, err := s.client.Resize(t.Context(), sb.ID(), bulkhead.Limits{OutputMBPerSecond: 1024}); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if out, err := sb.Exec(t.Context(), prints(most), nil); err != nil || len(out.Stdout) != most<<20 || time.Since(began) > (most-2)*time.Second {
			t.Errorf("at 1024 MiB/s: %d bytes in %v, %v", len(out.Stdout), time.Since(began), err)
		}
	})
	if out, err := neighbour.Exec(t.Context(), shell("echo fine"), nil); err != nil || string(out.Stdout) != "fine\n" {
		t.Errorf("neighbour: %v, %v", out, err)
	}
}
