package e2e

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// kill -9 of the server takes no sandbox with it: the next server has it back
// with its files and processes, under the same handle.
func TestCrash(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{Metadata: map[string]string{"who": "survivor"}})
	if _, err := sb.Files().Write(t.Context(), "/home/user/before", strings.NewReader("crash")); err != nil {
		t.Fatal(err)
	}
	p, err := sb.Start(t.Context(), shell("while sleep 0.2; do date +%s > /home/user/tick; done"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.start(bin); err != nil {
		t.Fatal(err)
	}
	t.Logf("serving again after %s", time.Since(began))
	info, err := s.client.Get(t.Context(), sb.ID())
	if err != nil || info.State != bulkhead.StateRunning || info.Metadata["who"] != "survivor" {
		t.Fatalf("after the restart: %+v, %v", info, err)
	}
	out, err := sb.Exec(t.Context(), shell("cat /home/user/before; pgrep -f 'sleep 0.2' > /dev/null && echo alive"), nil)
	if err != nil || string(out.Stdout) != "crashalive\n" {
		t.Errorf("in the box: %+v, %v", out, err)
	}
	_ = p
	if err := s.client.Kill(t.Context(), sb.ID()); err != nil {
		t.Error(err)
	}
}

// Bad input gets a clear answer, and the server serves on.
func TestBadInput(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{})
	call := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.http+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", s.key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return resp.StatusCode, string(text)
	}
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"unknown template": {"POST", "/v2/sandboxes", `{"templateID":"nope"}`, 404, "nope"},
		"no template":      {"POST", "/v2/sandboxes", `{}`, 400, "templateID"},
		"negative timeout": {"POST", "/v2/sandboxes", `{"templateID":"base","timeout":-1}`, 400, "imeout"},
		"huge timeout":     {"POST", "/v2/sandboxes", `{"templateID":"base","timeout":999999999}`, 400, "hours"},
		"not JSON":         {"POST", "/v2/sandboxes", `{"templateID":`, 400, ""},
		"wrong type":       {"POST", "/v2/sandboxes", `{"templateID":7}`, 400, "templateID"},
		"negative limit":   {"POST", "/v1/sandboxes", `{"template":"base","limits":{"memoryMB":-5}}`, 400, "memoryMB"},
		"unknown field":    {"POST", "/v1/sandboxes", `{"template":"base","colour":"red"}`, 400, "colour"},
		"no such route":    {"GET", "/v1/nothing", "", 404, ""},
		"no such sandbox":  {"DELETE", "/sandboxes/i00000000000000000000", "", 404, "i00000000000000000000"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := call(tt.method, tt.path, tt.body)
			if status != tt.status || !strings.Contains(text, tt.says) {
				t.Errorf("got %d %s, want %d with %q", status, text, tt.status, tt.says)
			}
		})
	}
	t.Run("a body of 1 GB", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.http+"/v2/sandboxes", io.LimitReader(zeros{}, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", s.key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return // cut off while we were sending: as good
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	t.Run("a stream cut in the middle", func(t *testing.T) {
		p, err := sb.Start(t.Context(), shell("sleep 1; echo done > /home/user/finished"))
		if err != nil {
			t.Fatal(err)
		}
		p.Detach()
		out, err := sb.Exec(t.Context(), shell("for i in $(seq 50); do [ -e /home/user/finished ] && break; sleep 0.1; done; cat /home/user/finished"), nil)
		if err != nil || string(out.Stdout) != "done\n" {
			t.Errorf("the process did not go on: %+v, %v", out, err)
		}
	})
	if out, err := sb.Exec(t.Context(), shell("echo alive"), nil); err != nil || string(out.Stdout) != "alive\n" {
		t.Errorf("after it all: %+v, %v", out, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The command line, against the real server.
func TestCommandLine(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	dir := t.TempDir()
	run := func(stdin string, args ...string) (code int, out, errOut string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bin, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "BULKHEAD_URL=http://"+s.http, "BULKHEAD_API_KEY="+s.key, "NO_COLOR=1")
		var o, e bytes.Buffer
		cmd.Stdout, cmd.Stderr = &o, &e
		err := cmd.Run()
		if _, failed := err.(*exec.ExitError); err != nil && !failed { //nolint:errorlint // it is never wrapped
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), o.String(), e.String()
	}
	for name, tt := range map[string]struct {
		stdin string
		args  []string
		code  int
		out   string
		err   string
	}{
		"prints":   {"", []string{"run", "-e", "print(6 * 7)"}, 0, "42", ""},
		"stdin":    {"print('from stdin')", []string{"run", "-"}, 0, "from stdin", ""},
		"raises":   {"", []string{"run", "-e", "1/0"}, 1, "", "ZeroDivisionError"},
		"bash":     {"", []string{"run", "--language", "bash", "-e", "echo $((40 + 2))"}, 0, "42", ""},
		"draws":    {"", []string{"run", "--out", dir, "-e", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"}, 0, "", ".png"},
		"template": {"", []string{"run", "--template", "nope", "-e", "1"}, 1, "", "nope"},
		"usage":    {"", []string{"run", "--no-such-flag"}, 2, "", "no-such-flag"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := run(tt.stdin, tt.args...)
			if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(errOut, tt.err) {
				t.Errorf("code %d (want %d)\nstdout %q (want %q)\nstderr %q (want %q)", code, tt.code, out, tt.out, errOut, tt.err)
			}
		})
	}
	sb := s.sandbox(t, bulkhead.CreateRequest{})
	if code, out, errOut := run("", "sandbox", "exec", sb.ID(), "--", "sh", "-c", "echo hi; exit 7"); code != 7 || out != "hi\n" {
		t.Errorf("exec: %d %q %q", code, out, errOut)
	}
	if err := os.WriteFile(dir+"/local.txt", []byte("copied"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := run("", "sandbox", "cp", "local.txt", sb.ID()+":/tmp/there.txt"); code != 0 {
		t.Errorf("cp: %d %q", code, errOut)
	}
	if code, out, errOut := run("", "sandbox", "exec", sb.ID(), "--", "cat", "/tmp/there.txt"); code != 0 || out != "copied" {
		t.Errorf("cat: %d %q %q", code, out, errOut)
	}
	if code, out, _ := run("", "sandbox", "ls"); code != 0 || !strings.Contains(out, sb.ID()) {
		t.Errorf("ls: %d %q", code, out)
	}
	if code, _, errOut := run("", "sandbox", "kill", sb.ID()); code != 0 {
		t.Errorf("kill: %d %q", code, errOut)
	}
	if code, out, errOut := run("", "sandbox", "info", sb.ID()); code != 0 || !strings.Contains(out, "killed") {
		t.Errorf("info: %d %q %q", code, out, errOut)
	}
}

// Scripts run through the same server and key, and a bomb costs nobody else.
func TestScripts(t *testing.T) {
	bin, _ := need(t)
	s := serve(t)
	for name, tt := range map[string]struct {
		code string
		exit int
		says string
	}{
		"result": {"[1, 2, 3].map((x) => x * 7)", 0, "[7,14,21]"},
		"throws": {"null.x", 1, "TypeError"},
		"memory": {"'x'.repeat(2 ** 40)", 137, "memory_limit"},
		"time":   {"for (;;);", 124, "time_limit"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), bin, "script", "run", "--time-ms", "500", "-e", tt.code)
			cmd.Env = append(os.Environ(), "BULKHEAD_URL=http://"+s.http, "BULKHEAD_API_KEY="+s.key, "NO_COLOR=1")
			out, _ := cmd.CombinedOutput() // the exit code is looked at
			if code := cmd.ProcessState.ExitCode(); code != tt.exit || !strings.Contains(string(out), tt.says) {
				t.Errorf("exit code %d with %q, want %d with %q", code, out, tt.exit, tt.says)
			}
		})
	}
}
