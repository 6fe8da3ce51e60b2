package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// sandbox makes a sandbox that ends with the test.
func (s *server) sandbox(t *testing.T, req bulkhead.CreateRequest) *client.Sandbox {
	t.Helper()
	if req.Template == "" {
		req.Template = "base"
	}
	if req.TTL == 0 {
		req.TTL = 5 * time.Minute
	}
	req.Secure = true
	sb, err := s.client.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := s.client.Kill(context.WithoutCancel(t.Context()), sb.ID())
		if err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			t.Error(err)
		}
	})
	return sb
}

func shell(line string) client.Command {
	return client.Command{Path: "/bin/bash", Args: []string{"-c", line}}
}

// ready waits until a program says "ready". It runs on.
func ready(t *testing.T, p *client.Process) {
	t.Helper()
	for out, err := range p.Output() {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out.Data), "ready") {
			return
		}
	}
	t.Fatal("the program ended and was not ready")
}

// Each limit, reached by a program that tries, ends that program or its box with
// the cause's own name, and the neighbour notices nothing.
func TestLimits(t *testing.T) {
	s := serve(t)
	neighbour := s.sandbox(t, bulkhead.CreateRequest{})
	small := bulkhead.Limits{MemoryMB: 512, DiskMB: 64, Pids: 32, OutputMB: 1}
	for name, tt := range map[string]struct {
		line string
		want bulkhead.Cause
	}{
		"memory": {`python3 -c 'x = bytearray(2 << 30)
for i in range(0, len(x), 4096): x[i] = 1'`, bulkhead.CauseMemoryLimit},
		"output": {`yes`, bulkhead.CauseOutputLimit},
		"pids": {`python3 -c 'import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(600)
    except OSError: pass'`, bulkhead.CausePidsLimit},
	} {
		t.Run(name, func(t *testing.T) {
			sb := s.sandbox(t, bulkhead.CreateRequest{Limits: small})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			p, err := sb.Start(ctx, shell(tt.line))
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range p.Output() { // until its end
				if err != nil {
					t.Fatal(err)
				}
			}
			end, err := p.Wait()
			if err != nil {
				t.Fatalf("%v (end %v)", err, end)
			}
			if end.Cause != tt.want || end.Limit == 0 {
				t.Errorf("end: %+v, want %s with its limit", end, tt.want)
			}
			out, err := neighbour.Exec(t.Context(), shell("echo fine"), nil)
			if err != nil || string(out.Stdout) != "fine\n" {
				t.Errorf("neighbour: %v, %v", out, err)
			}
		})
	}
}

func TestDiskLimit(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{DiskMB: 64}})
	out, err := sb.Exec(t.Context(), shell("head -c 100000000 /dev/zero > /home/user/fill"), nil)
	if err != nil || out.End.ExitCode == 0 || !strings.Contains(string(out.Stderr), "No space left") {
		t.Fatalf("fill: %+v, %v", out, err)
	}
	size := out.End.Limit // under runc, that of the file system, which has records of its own
	if out.End.Cause != bulkhead.CauseDiskLimit || size != 64<<20 && (*driverName != "runc" || size < 56<<20 || size > 72<<20) {
		t.Errorf("fill ended: %+v", out.End)
	}
	if _, err := sb.Files().Write(t.Context(), "/home/user/more", strings.NewReader(strings.Repeat("x", 5<<20))); err == nil || !strings.Contains(err.Error(), "space") {
		t.Errorf("write to a full disk: %v", err)
	}
	if out, err := sb.Exec(t.Context(), shell("rm /home/user/fill && echo again > /home/user/a && cat /home/user/a"), nil); err != nil || string(out.Stdout) != "again\n" {
		t.Errorf("after clearing: %+v, %v", out, err)
	}
}

// Memory that belongs to no program, as files in memory do, is bounded like any
// other: either the guard in the box ends the writer and the box lives on, or the
// box dies alone, by name.
func TestBoxMemoryLimit(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{MemoryMB: 128}})
	if *driverName == "runc" {
		t.Skip("a box of runc mounts nothing, and its /dev/shm is a quarter of its memory")
	}
	fill := shell("sudo mount -t tmpfs none /mnt && head -c 1000000000 /dev/zero | sudo tee /mnt/x > /dev/null; stat -c %s /mnt/x")
	_, _ = sb.Exec(t.Context(), fill, nil)
	if out, err := sb.Exec(t.Context(), shell("stat -c %s /mnt/x"), nil); err == nil && out.End.Cause == bulkhead.CauseExited {
		size, err := strconv.ParseInt(strings.TrimSpace(string(out.Stdout)), 10, 64)
		const runtime = 64 << 20 // what the host allows the sentry beside the box
		if err != nil || size > 128<<20+runtime {
			t.Errorf("the box lives on with a file of %s bytes in memory, %v", out.Stdout, err)
		}
		return
	}
	for range 200 {
		info, err := s.client.Get(t.Context(), sb.ID())
		if err != nil {
			t.Fatal(err)
		}
		if info.End != nil {
			if info.End.Cause != bulkhead.CauseMemoryLimit || info.End.Limit != 128<<20 {
				t.Errorf("end: %+v", info.End)
			}
			return
		}
		<-time.After(50 * time.Millisecond) // its end has no event over HTTP
	}
	t.Error("the box neither answers nor has ended")
}

// A box reaches neither the host, nor the metadata address, nor private ranges,
// nor another box.
func TestIsolation(t *testing.T) {
	s := serve(t)
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "host") })}
	go func() { _ = srv.Serve(ln) }()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, apiPort, _ := net.SplitHostPort(s.http)
	a := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true})
	b := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true})
	if _, err := b.Start(t.Context(), shell("python3 -m http.server 3000")); err != nil {
		t.Fatal(err)
	}
	addrs, err := b.Exec(t.Context(), shell("hostname -I"), nil)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Fields(string(addrs.Stdout))[0]
	gateway, err := a.Exec(t.Context(), shell("ip route | awk '/default/{print $3}'"), nil)
	if err != nil {
		t.Fatal(err)
	}
	gw := strings.TrimSpace(string(gateway.Stdout))
	targets := map[string]string{
		"host by its gateway": gw + ":" + port,
		"API by its gateway":  gw + ":" + apiPort,
		"metadata":            "169.254.169.254:80",
		"private 10/8":        "10.0.0.1:80",
		"private 192.168/16":  "192.168.1.1:80",
		"private 172.16/12":   "172.17.0.1:" + port,
		"another box":         other + ":3000",
		"another box's envd":  other + ":49983",
	}
	if ifaces, err := net.InterfaceAddrs(); err == nil {
		for _, i := range ifaces {
			if n, ok := i.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !strings.HasPrefix(n.IP.String(), "10.213.") {
				targets["host by "+n.IP.String()] = n.IP.String() + ":" + port
			}
		}
	}
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			host, p, _ := net.SplitHostPort(target)
			out, err := a.Exec(t.Context(), shell("timeout 3 bash -c 'exec 3<>/dev/tcp/"+host+"/"+p+"' && echo reached"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(out.Stdout), "reached") {
				t.Errorf("the box reached %s", target)
			}
		})
	}
}
