package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/client"
)

// offender is a sandbox that does its worst beside a victim.
type offender struct {
	name string
	// line is a program of bash, again and again until the victim was measured.
	line string
	// want is how it ends; nothing ends the ones that only use what is theirs.
	want bulkhead.Cause
	// onEachCore says that there is one for each core, so that none is left.
	onEachCore bool
}

// offenders are what a neighbour can do. Each has the limits of neighbourLimits.
var offenders = []offender{
	{name: "a CPU hog", line: `for i in 1 2 3 4; do (while :; do :; done) & done; wait`},
	{name: "a CPU hog on each core", line: `for i in 1 2 3 4; do (while :; do :; done) & done; wait`, onEachCore: true},
	{name: "a memory bomb", line: `python3 -c 'x = []
while True: x.append(bytearray(b"x" * 1048576))'`, want: bulkhead.CauseMemoryLimit},
	{name: "a fork bomb", line: `python3 -c 'import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(600)
    except OSError: pass'`, want: bulkhead.CausePidsLimit},
	{name: "a disk filler", line: `rm -f ~/fill; head -c 1000000000 /dev/zero > ~/fill`, want: bulkhead.CauseDiskLimit},
	{name: "an output flooder", line: `yes`, want: bulkhead.CauseOutputLimit},
	{name: "a packet flooder", line: `python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for port in range(1, 65536):
        try: s.sendto(b"x", ("198.51.100.1", port))
        except OSError: pass'`},
}

// neighbourLimits leave the host a core, beside one offender: what is measured is
// isolation, not that two programs share what is there.
var neighbourLimits = bulkhead.Limits{CPU: 1, MemoryMB: 1024, DiskMB: 256, Pids: 128, OutputMB: 16}

// noisy measures a victim's calls right before and beside one offender after the
// other. The ratio is the 99th percentile before by the one beside: 1 is no
// difference, 0.5 twice as long. A failure is a call that failed, or an offender that ended
// with another cause than its own.
func noisy(ctx context.Context, o options, r *report) error {
	c, err := o.open()
	if err != nil {
		return err
	}
	req := request()
	req.TTL = time.Hour // beside one offender after the other
	victim, err := c.Create(ctx, req)
	if err != nil {
		return err
	}
	defer func() { _ = drop(ctx, c, victim.ID()) }()
	calls := []struct {
		name string
		f    func(context.Context) error
	}{
		{"runCode 1 + 1", func(ctx context.Context) error {
			_, err := victim.RunCode(ctx, "1 + 1", client.CodeOptions{})
			return err
		}},
		{"write and read a file", func(ctx context.Context) error {
			if _, err := victim.Files().Write(ctx, "/home/user/bench", strings.NewReader("x")); err != nil {
				return err
			}
			body, err := victim.Files().Read(ctx, "/home/user/bench")
			if err != nil {
				return err
			}
			return body.Close()
		}},
	}
	back, err := elsewhere()
	if err != nil {
		return err
	}
	defer back()
	n := 30 * o.n
	for _, off := range offenders {
		before := make([]sample, len(calls))
		for i, call := range calls {
			before[i] = measure(ctx, n, paced(call.f))
			r.add(call.name+", before "+off.name, before[i], "", nil)
		}
		stop, err := off.start(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", off.name, err)
		}
		beside := make([]sample, len(calls))
		for i, call := range calls {
			beside[i] = measure(ctx, n, paced(call.f))
		}
		if err := stop(); err != nil {
			beside[0].failures++
			beside[0].firstErr = errors.Join(beside[0].firstErr, err)
		}
		for i, call := range calls {
			alone, s := ms(before[i].percentile(99)), beside[i]
			r.Add(results.Row{
				Name: call.name + ", beside it", P50: ms(s.percentile(50)), P95: ms(s.percentile(95)), P99: ms(s.percentile(99)),
				Unit: "ms", Failures: s.failures, N: len(s.times), Peer: fmt.Sprintf("before, p99 %.1f ms", alone), Ratio: alone / ms(s.percentile(99)),
			}, s.firstErr)
		}
		if info, err := c.Get(ctx, victim.ID()); err != nil || info.End != nil {
			return errors.Join(fmt.Errorf("%s ended the victim: %+v", off.name, info.End), err)
		}
	}
	return nil
}

// elsewhere gives this process's threads, and those they start, priority over all
// that is not real-time, until back is called: the victim's client stands for a
// machine that is not this one, and must not wait for this one's processors.
func elsewhere() (back func(), err error) {
	set := func(policy, priority uint32) error {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, _ := strconv.Atoi(t.Name())
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("give the client priority: %w", err)
			}
		}
		return nil
	}
	return func() { _ = set(unix.SCHED_NORMAL, 0) }, set(unix.SCHED_FIFO, 1)
}

// paced measures a call of one who thinks a little before each: without a pause the
// victim itself would keep a core busy.
func paced(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	call := timed(f)
	return func(ctx context.Context) (time.Duration, error) {
		time.Sleep(10 * time.Millisecond)
		return call(ctx)
	}
}

// start runs an offender from a process of its own, at the lowest priority: its
// client stands for a machine that is not this one. stop ends it and says whether
// it ended otherwise than it should.
func (off offender) start(ctx context.Context, o options) (stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "chrt", "--other", "0", "nice", "-n", "19", self, "-url", o.url, "-key", o.key, "-offend", off.name)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		_ = in.Close() // tells it
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, said.String())
		}
		return nil
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// offend is the other side of start: it goes on until in ends.
func offend(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	i := slices.IndexFunc(offenders, func(off offender) bool { return off.name == o.offend })
	if i < 0 {
		return fmt.Errorf("-offend is %q; there is no such offender", o.offend)
	}
	c, err := o.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	// By then it is at its worst, and the pool has made another box in place of its.
	time.AfterFunc(4*time.Second, func() { _, _ = io.WriteString(out, ".") })
	copies := 1
	if offenders[i].onEachCore {
		copies = runtime.NumCPU()
	}
	var all errgroup.Group
	for range copies {
		all.Go(func() error { return offenders[i].run(ctx, c) })
	}
	return all.Wait() //nolint:wrapcheck // run's own
}

// run goes on until ctx is done, in one box after the other if need be, and
// returns an end that is not the offender's.
func (off offender) run(ctx context.Context, c *client.Client) error {
	req := request()
	req.Limits = neighbourLimits
	for ctx.Err() == nil {
		sb, err := c.Create(ctx, req)
		if err != nil {
			break // ctx is done, or the next round says so
		}
		wrong := off.runIn(ctx, c, sb)
		if err := drop(ctx, c, sb.ID()); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			wrong = errors.Join(wrong, err)
		}
		if wrong != nil {
			return wrong
		}
	}
	return nil //nolint:nilerr // see the break
}

// runIn goes on in one box until it has ended or ctx is done.
func (off offender) runIn(ctx context.Context, c *client.Client, sb *client.Sandbox) error {
	for {
		out, err := sb.Exec(ctx, client.Command{Path: "/bin/bash", Args: []string{"-c", off.line}}, nil)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the suite has ended
		case err != nil:
			info, getErr := c.Get(ctx, sb.ID())
			if getErr == nil && info.End != nil && info.End.Cause == off.want {
				return nil // the box went with its program, by its right name
			}
			return errors.Join(fmt.Errorf("the box of %s ended with %+v: %w", off.name, info.End, err), getErr)
		case out.End.Cause != off.want:
			return fmt.Errorf("%s ended with %s, not %s", off.name, out.End, off.want)
		}
	}
}
