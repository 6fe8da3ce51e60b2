package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

const (
	interpreter = "code-interpreter-v1"
	plain       = "print(6 * 7)"
	pandas      = "import pandas as pd; print(pd.DataFrame({'a': [6 * 7]}).a[0])"
)

// open connects to the server.
func (o options) open() (*client.Client, error) {
	return client.New(client.Config{BaseURL: o.url, APIKey: o.key, Tries: 1})
}

// request asks for a sandbox of the template that every suite measures.
func request() bulkhead.CreateRequest {
	return bulkhead.CreateRequest{Template: interpreter, TTL: 5 * time.Minute, Secure: true, AllowInternet: true}
}

// drop ends a sandbox whatever became of the measurement.
func drop(ctx context.Context, c *client.Client, id string) error {
	return c.Kill(context.WithoutCancel(ctx), id)
}

// command runs a peer and checks that it printed 42.
func command(name string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := exec.LookPath(name); err != nil {
			return errNone
		}
		var out, errOut bytes.Buffer
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, errOut.String())
		}
		if !strings.Contains(out.String(), "42") {
			return fmt.Errorf("%s printed %q", name, out.String())
		}
		return nil
	}
}

// peers are the ways to run Python code on the template's root without us.
func (o options) peers(code string) map[string]func(context.Context) error {
	p := map[string]func(context.Context) error{}
	if o.image != "" {
		p["docker run"] = command("docker", "run", "--rm", "--network=none", o.image, "python3", "-c", code)
	}
	if o.bundle != "" {
		p["runc run"] = command("sh", "-c", fmt.Sprintf(
			"python3 - <<'E'\nimport json\np='%[1]s/config.json'\nc=json.load(open(p))\nc['process']['args']=['python3','-c',%[2]q]\njson.dump(c,open(p,'w'))\nE\nexec runc run --bundle %[1]s bulkhead-bench-$$", o.bundle, code))
	}
	if o.rootfs != "" {
		p["bare process"] = command("chroot", o.rootfs, "python3", "-c", code)
	}
	return p
}

// lifecycle measures from nothing to the first result.
func lifecycle(ctx context.Context, o options, r *report) error {
	c, err := o.open()
	if err != nil {
		return err
	}
	first := func(code string) sample {
		return measure(ctx, o.n, func(ctx context.Context) (time.Duration, error) {
			defer func() { _ = o.settled(ctx) }() // else the next create says so
			return firstResult(ctx, c, request(), code)
		})
	}
	if err := o.pin(ctx, 4, 2); err != nil {
		return err
	}
	create := func(env map[string]string) sample {
		return measure(ctx, max(o.n, 30), func(ctx context.Context) (time.Duration, error) {
			req := request()
			req.Env = env
			began := time.Now()
			sb, err := c.Create(ctx, req)
			took := time.Since(began)
			if err != nil {
				return took, err
			}
			defer func() { _ = o.settled(ctx) }() // else the next create says so
			return took, drop(ctx, c, sb.ID())
		})
	}
	created, withEnv := create(nil), create(map[string]string{"A": "1"})
	docker := map[string]sample{}
	for _, x := range []struct{ name, code string }{{"first result", plain}, {"first result with pandas", pandas}} {
		others := map[string]sample{}
		for name, f := range o.peers(x.code) {
			others[name] = measure(ctx, max(3, o.n/5), timed(f))
		}
		docker[x.code] = others["docker run"]
		ours := first(x.code)
		if x.code == plain {
			r.add("create over HTTP, from the pool", created, "docker run", peer(docker[plain]))
			r.add("   the same with variables of its own", withEnv, "docker run", peer(docker[plain]))
		}
		r.add("create → "+x.name+", from the pool", ours, "docker run", peer(docker[x.code]))
		for _, name := range []string{"docker run", "runc run", "bare process"} {
			if s, ok := others[name]; ok {
				r.add("   "+name+", "+x.name, s, "ours", &ours)
			}
		}
	}
	for _, pool := range []struct {
		name       string
		warm, cold int
	}{{"a cold box", 0, 4}, {"no pool", 0, 0}} {
		if err := o.pin(ctx, pool.warm, pool.cold); err != nil {
			return err
		}
		r.add("create → first result with pandas, "+pool.name, first(pandas), "docker run", peer(docker[pandas]))
	}
	if err := o.unpin(ctx); err != nil {
		return err
	}
	fresh := measure(ctx, max(3, o.n/5), func(ctx context.Context) (time.Duration, error) {
		req := request()
		req.Limits.DiskMB = 777 // a disk of its own size: no waiting box, no snapshot fits
		return firstResult(ctx, c, req, pandas)
	})
	r.add("create → first result with pandas, booted anew", fresh, "docker run", peer(docker[pandas]))
	return nil
}

// peer is a sample to compare with, nil when it was not measured.
func peer(s sample) *sample {
	if len(s.times) == 0 {
		return nil
	}
	return &s
}

// firstResult measures from create until code has printed 42, and then ends the
// sandbox.
func firstResult(ctx context.Context, c *client.Client, req bulkhead.CreateRequest, code string) (time.Duration, error) {
	began := time.Now()
	sb, err := c.Create(ctx, req)
	if err != nil {
		return 0, err
	}
	e, err := sb.RunCode(ctx, code, client.CodeOptions{})
	took := time.Since(began)
	if err == nil && !strings.Contains(e.Stdout, "42") {
		err = fmt.Errorf("it printed %q", e.Stdout)
		if e.Err != nil {
			err = errors.Join(err, e.Err)
		}
	}
	return took, errors.Join(err, drop(ctx, c, sb.ID()))
}

// roundTrips measures calls into a sandbox that runs.
func roundTrips(ctx context.Context, o options, r *report) error {
	c, err := o.open()
	if err != nil {
		return err
	}
	sb, err := c.Create(ctx, request())
	if err != nil {
		return err
	}
	defer func() { _ = drop(ctx, c, sb.ID()) }()
	echo := measure(ctx, 5*o.n, timed(func(ctx context.Context) error {
		out, err := sb.Exec(ctx, client.Command{Path: "/bin/echo", Args: []string{"42"}}, nil)
		if err == nil && string(out.Stdout) != "42\n" {
			err = fmt.Errorf("it printed %q", out.Stdout)
		}
		return err
	}))
	if o.rootfs != "" {
		bare := measure(ctx, 5*o.n, timed(command("chroot", o.rootfs, "/bin/echo", "42")))
		r.add("exec /bin/echo", echo, "bare process", &bare)
	} else {
		r.add("exec /bin/echo", echo, "", nil)
	}
	code := measure(ctx, 5*o.n, timed(func(ctx context.Context) error {
		_, err := sb.RunCode(ctx, "1 + 1", client.CodeOptions{})
		return err
	}))
	r.add("runCode 1 + 1", code, "", nil)
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1 KiB", 1 << 10}, {"1 MiB", 1 << 20}} {
		data := bytes.Repeat([]byte("x"), size.bytes)
		file := measure(ctx, 2*o.n, timed(func(ctx context.Context) error {
			if _, err := sb.Files().Write(ctx, "/home/user/bench", bytes.NewReader(data)); err != nil {
				return err
			}
			body, err := sb.Files().Read(ctx, "/home/user/bench")
			if err != nil {
				return err
			}
			defer body.Close()
			var got bytes.Buffer
			if _, err := got.ReadFrom(body); err != nil {
				return err
			}
			if got.Len() != size.bytes {
				return fmt.Errorf("read %d bytes", got.Len())
			}
			return nil
		}))
		r.add("write and read a file of "+size.name, file, "", nil)
	}
	return nil
}

// bursts measures many creates at once, with as many boxes waiting as are asked
// for, and with the small pool that a quiet hour leaves.
func bursts(ctx context.Context, o options, r *report) error {
	c, err := o.open()
	if err != nil {
		return err
	}
	var docker *sample
	if f, ok := o.peers(plain)["docker run"]; ok {
		s := measureMany(ctx, 20, 20, false, timed(f))
		docker = &s
	}
	for _, b := range []struct{ n, warm, cold int }{{20, 20, 2}, {20, 4, 8}, {100, 100, 2}, {100, 20, 20}} {
		if err := o.pin(ctx, b.warm, b.cold); err != nil {
			return err
		}
		ids := make(chan string, b.n)
		s := measureMany(ctx, b.n, b.n, false, func(ctx context.Context) (time.Duration, error) {
			began := time.Now()
			sb, err := c.Create(ctx, request())
			took := time.Since(began)
			if err == nil {
				ids <- sb.ID()
			}
			return took, err
		})
		close(ids)
		var last error
		for id := range ids {
			last = errors.Join(last, drop(ctx, c, id))
		}
		if last != nil {
			return last
		}
		r.add(fmt.Sprintf("burst of %d creates, %d warm and %d cold waiting", b.n, b.warm, b.cold), s, "docker run × 20", docker)
	}
	if docker != nil {
		r.add("   docker run, 20 at once", *docker, "", nil)
	}
	return o.unpin(ctx)
}

// sustained counts create → run → kill per second, one after the other on as many
// clients as there are cores.
func sustained(ctx context.Context, o options, r *report) error {
	const clients, span = 2, 20 * time.Second
	c, err := o.open()
	if err != nil {
		return err
	}
	loop := func(f func(context.Context) error) (perSecond float64, failures int) {
		ctx, cancel := context.WithTimeout(ctx, span)
		defer cancel()
		began := time.Now()
		s := measureMany(ctx, 100_000, clients, false, timed(func(ctx context.Context) error {
			err := f(ctx)
			if ctx.Err() != nil {
				return nil //nolint:nilerr // cut off by the end of the span
			}
			return err
		}))
		return float64(len(s.times)) / time.Since(began).Seconds(), s.failures
	}
	if err := o.pin(ctx, 8, 8); err != nil {
		return err
	}
	ours, failures := loop(func(ctx context.Context) error {
		_, err := firstResult(ctx, c, request(), plain)
		return err
	})
	if err := o.unpin(ctx); err != nil {
		return err
	}
	r.rate("create → run → kill, 2 clients", ours, failures, "", 0)
	for _, name := range []string{"docker run", "runc run", "bare process"} {
		f, ok := o.peers(plain)[name]
		if !ok {
			continue
		}
		rate, failures := loop(f)
		r.rate("   "+name, rate, failures, "ours", ours)
	}
	return nil
}
