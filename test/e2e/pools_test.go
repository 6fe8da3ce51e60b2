package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// identity is Python that prints all that two boxes must not share.
const identity = `
import json, os, random, secrets, socket, ssl, tempfile, time, uuid
import numpy as np
read = lambda path: open(path).read().strip()
print(json.dumps({
    "machine id": read("/etc/machine-id"), "boot id": read("/proc/sys/kernel/random/boot_id"),
    "host name": socket.gethostname(), "host name file": read("/etc/hostname"), "uname": os.uname().nodename,
    "sandbox": os.environ["E2B_SANDBOX_ID"], "sandbox file": read("/run/e2b/.E2B_SANDBOX_ID"),
    "random": random.random(), "random state": random.getrandbits(64), "SystemRandom": random.SystemRandom().random(),
    "numpy": np.random.rand(), "numpy generator": np.random.default_rng().random(),
    "urandom": os.urandom(16).hex(), "RAND_bytes": ssl.RAND_bytes(16).hex(), "getrandom": os.getrandom(16).hex(),
    "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()), "secrets": secrets.token_hex(),
    "tempfile": tempfile.mktemp(), "kernel uuid": read("/proc/sys/kernel/random/uuid"),
    "address": socket.gethostbyname(socket.gethostname()) + os.popen("hostname -I").read(), "time": time.time(),
}))`

// Boxes are restored from one snapshot and share nothing that is somebody's own.
func TestRestoredBoxesShareNoIdentity(t *testing.T) {
	s := serve(t)
	const boxes = 3
	var all []map[string]any
	tokens := map[string]bool{}
	for range boxes {
		sb := s.sandbox(t, bulkhead.CreateRequest{Template: "code-interpreter-v1", PrivateTraffic: true})
		out, err := sb.RunCode(t.Context(), identity, client.CodeOptions{})
		if err != nil || out.Err != nil {
			t.Fatalf("%v, %+v", err, out)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(out.Stdout), &got); err != nil {
			t.Fatalf("%v in %s", err, out.Stdout)
		}
		at, _ := got["time"].(float64)
		if off := time.Since(time.UnixMicro(int64(at * 1e6))).Abs(); off > 5*time.Second {
			t.Errorf("the box's clock is off by %s", off)
		}
		delete(got, "time")
		all = append(all, got)
		tokens[sb.Info().EnvdToken], tokens[sb.Info().TrafficToken] = true, true
	}
	for _, what := range slices.Sorted(maps.Keys(all[0])) {
		seen := map[any]bool{}
		for _, got := range all {
			if v := got[what]; v == nil || v == "" || v == 0.0 || seen[v] {
				t.Errorf("%s: %v and others", what, v)
			} else {
				seen[v] = true
			}
		}
	}
	if len(tokens) != 2*boxes {
		t.Errorf("%d tokens for %d boxes", len(tokens), boxes)
	}
	pool := s.pool(t, "code-interpreter-v1")
	if pool.Image.State != "ready" || len(pool.Image.Skipped) > 0 {
		t.Errorf("the boxes were not restored from a whole snapshot: %+v", pool.Image)
	}
}

// What is imported before the snapshot is there before the first cell.
func TestImportsAreDone(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{Template: "code-interpreter-v1"})
	out, err := sb.RunCode(t.Context(), `import sys
print([m for m in ("sys", "os", "json", "datetime", "math", "pandas", "numpy", "matplotlib.pyplot", "requests") if m not in sys.modules])`, client.CodeOptions{})
	if err != nil || out.Stdout != "[]\n" {
		t.Errorf("not imported yet: %q, %v", out.Stdout, err)
	}
}

func (s *server) pool(t *testing.T, template string) client.Pool {
	t.Helper()
	r, err := s.client.Pools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Pools {
		if p.Template == template {
			return p
		}
	}
	t.Fatalf("no pool of %s: %+v", template, r)
	return client.Pool{}
}

// awaitPool waits until a pool is as it should be.
func (s *server) awaitPool(t *testing.T, template string, is func(client.Pool) bool) client.Pool {
	t.Helper()
	for range 600 {
		if p := s.pool(t, template); is(p) {
			return p
		}
		<-time.After(100 * time.Millisecond) // the server tells of no change by itself
	}
	t.Fatalf("after a minute: %+v\n%s", s.pool(t, template), tail(s.log.String(), 30))
	return client.Pool{}
}

// Other env, limits, time-outs and egress are hits; another disk is a miss that
// says so. Pins and use survive the server.
func TestPoolsFromOutside(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	if _, err := s.client.SetPool(t.Context(), "base", &client.PoolSize{Warm: 3, Cold: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.client.SetPool(context.WithoutCancel(t.Context()), "base", nil); err != nil {
			t.Error(err)
		}
	})
	full := func(p client.Pool) bool { return p.Warm == 3 && p.Cold == 1 }
	before := s.awaitPool(t, "base", full)
	for _, req := range []bulkhead.CreateRequest{
		{Env: map[string]string{"A": "1"}, Metadata: map[string]string{"b": "2"}},
		{Limits: bulkhead.Limits{MemoryMB: 256, CPU: 0.5, Pids: 64, OutputMB: 1}, TTL: time.Hour},
		{AllowInternet: true, PrivateTraffic: true},
	} {
		s.sandbox(t, req)
		s.awaitPool(t, "base", full)
	}
	s.sandbox(t, bulkhead.CreateRequest{Limits: bulkhead.Limits{DiskMB: 77}})
	after := s.pool(t, "base")
	if hits := after.Hits["warm"] - before.Hits["warm"]; hits != 3 || after.Misses["disk"]-before.Misses["disk"] != 1 || after.Leased < 4 {
		t.Errorf("%d hits; before %+v, after %+v", hits, before, after)
	}
	if after.Use.Total-before.Use.Total != 3 || after.RestoreTime <= 0 || after.WarmSeconds <= before.WarmSeconds || !after.Pinned {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if text := s.metrics(t); !strings.Contains(text, `bulkhead_pool_misses_total{cause="disk",template="base"}`) {
		t.Errorf("metrics:\n%s", text)
	}
	if f, err := s.client.PredictPool(t.Context(), "base", 3*time.Hour); err != nil || f.Use.Total < 3 || f.Mean <= 0 {
		t.Errorf("forecast: %+v, %v", f, err)
	}
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(bin); err != nil {
		t.Fatal(err)
	}
	if p := s.awaitPool(t, "base", full); !p.Pinned {
		t.Errorf("after kill -9: %+v", p)
	}
}

// variant makes a template out of another one's image, as a build that changes
// nothing but the description would, and removes it at the end.
func variant(t *testing.T, data, from, name string, change map[string]any) {
	t.Helper()
	dir := filepath.Join(data, "templates")
	digest, err := os.ReadFile(filepath.Join(dir, "names", from))
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, strings.TrimPrefix(strings.TrimSpace(string(digest)), "sha256:"))
	raw, err := os.ReadFile(filepath.Join(old, "template.json"))
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(raw, &record); err != nil {
		t.Fatal(err)
	}
	maps.Copy(record, change)
	record["name"] = name
	if raw, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	own := hex.EncodeToString(sum[:])
	record["digest"] = "sha256:" + own
	if raw, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	place, label := filepath.Join(dir, own), filepath.Join(dir, "names", url.PathEscape(name))
	t.Cleanup(func() {
		for _, path := range []string{label, place} {
			if err := os.RemoveAll(path); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.MkdirAll(place, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(old, "rootfs.erofs"), filepath.Join(place, "rootfs.erofs")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(place, "template.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(label+".new", []byte("sha256:"+own+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(label+".new", label); err != nil {
		t.Fatal(err)
	}
}

// Warm-up code runs once, before the snapshot; an import that fails is told and
// passed over; code that fails fails the template, by name.
func TestWarmup(t *testing.T) {
	s := serve(t)
	variant(t, s.data, "code-interpreter-v1", "e2e-warm", map[string]any{
		"preload": []string{"colorsys", "bulkhead_absent"}, "warmup": "import os\nborn = os.urandom(8).hex()",
	})
	variant(t, s.data, "base", "e2e-script", map[string]any{"warmup": "date +%N > /home/user/born\nid -un >> /home/user/born"})
	variant(t, s.data, "base", "e2e-broken", map[string]any{"warmup": "echo about to fail\nls /bulkhead-absent"})
	variant(t, s.data, "code-interpreter-v1", "e2e-raises", map[string]any{"preload": []string{}, "warmup": "1 / 0"})

	born := map[string]bool{}
	s.sandbox(t, bulkhead.CreateRequest{Template: "e2e-warm"})
	pool := s.awaitPool(t, "e2e-warm", func(p client.Pool) bool { return p.Image.State == "ready" && p.Warm >= 2 })
	if len(pool.Image.Skipped) != 1 || !strings.Contains(pool.Image.Skipped[0], "bulkhead_absent") {
		t.Errorf("skipped imports: %q", pool.Image.Skipped)
	}
	for range 2 {
		sb := s.sandbox(t, bulkhead.CreateRequest{Template: "e2e-warm"})
		out, err := sb.RunCode(t.Context(), "import sys; print(born, 'colorsys' in sys.modules)", client.CodeOptions{})
		if err != nil || !strings.HasSuffix(out.Stdout, " True\n") {
			t.Errorf("%+v, %v", out, err)
		}
		born[out.Stdout] = true
	}
	if len(born) != 1 {
		t.Errorf("two restored boxes were warmed up apart: %v", born)
	}
	s.sandbox(t, bulkhead.CreateRequest{Template: "e2e-script"})
	sb := s.sandbox(t, bulkhead.CreateRequest{Template: "e2e-script"})
	if out, err := sb.Exec(t.Context(), shell("tail -n 1 /home/user/born"), nil); err != nil || string(out.Stdout) != "user\n" {
		t.Errorf("%+v, %v", out, err)
	}
	for name, says := range map[string]string{"e2e-broken": "/bulkhead-absent", "e2e-raises": "ZeroDivisionError"} {
		_, err := s.client.Create(t.Context(), bulkhead.CreateRequest{Template: name, TTL: time.Minute})
		if bulkhead.CodeOf(err) != bulkhead.CodeConflict || !strings.Contains(bulkhead.Message(err), says) {
			t.Errorf("%s: %v; want a conflict with %q", name, err, says)
		}
		if p := s.awaitPool(t, name, func(p client.Pool) bool { return p.Image.State == "failed" }); !strings.Contains(p.Image.Error, says) {
			t.Errorf("%s: %+v", name, p.Image)
		}
	}
}

// A new version of a template takes over without a moment without boxes; removing
// it removes its boxes.
func TestTemplateVersions(t *testing.T) {
	s := serve(t)
	const name = "e2e-version"
	variant(t, s.data, "base", name, map[string]any{"env": map[string]string{"VERSION": "1", "PATH": "/usr/bin:/bin"}})
	first := s.sandbox(t, bulkhead.CreateRequest{Template: name})
	if _, err := s.client.SetPool(t.Context(), name, &client.PoolSize{Warm: 2}); err != nil {
		t.Fatal(err)
	}
	old := s.awaitPool(t, name, func(p client.Pool) bool { return p.Warm >= 2 })
	variant(t, s.data, "base", name, map[string]any{"env": map[string]string{"VERSION": "2", "PATH": "/usr/bin:/bin"}})
	s.awaitPool(t, name, func(p client.Pool) bool {
		if p.Warm == 0 {
			t.Errorf("the pool is empty: %+v", p)
		}
		return p.Digest != old.Digest
	})
	second := s.sandbox(t, bulkhead.CreateRequest{Template: name})
	for sb, want := range map[*client.Sandbox]string{first: "1\n", second: "2\n"} {
		if out, err := sb.Exec(t.Context(), shell("echo $VERSION"), nil); err != nil || string(out.Stdout) != want {
			t.Errorf("%+v, %v; want version %s", out, err, want)
		}
	}
	if p := s.pool(t, name); p.Misses["empty"] != old.Misses["empty"] || p.Hits["warm"] != old.Hits["warm"]+1 {
		t.Errorf("before %+v, after %+v", old, p)
	}
	if err := os.Remove(filepath.Join(s.data, "templates", "names", name)); err != nil {
		t.Fatal(err)
	}
	s.awaitPool(t, name, func(p client.Pool) bool { return p.Warm+p.Cold+p.Making == 0 })
}

// metrics returns what /metrics says.
func (s *server) metrics(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.http+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", s.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(text)
}
