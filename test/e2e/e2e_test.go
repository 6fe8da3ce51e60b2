// Package e2e runs the real program, as its users do: the server with real
// sandboxes, the command line, the published SDKs.
//
// `make test` builds the program and the templates and installs the SDKs first;
// without them the tests are skipped with the reason.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// driverName says what isolates the sandboxes of the run.
var driverName = flag.String("driver", "gvisor", "driver of the server: gvisor or runc")

var compatFile = flag.String("compat", "", "write the compatibility table to this file of the repository")

// domain is what the tests' sandboxes are named below.
const domain = "bulkhead.test"

// server is a running `bulkhead serve`.
type server struct {
	data, run string
	http, tls string // addresses
	key       string
	caFile    string
	client    *client.Client

	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var (
	shared     *server
	sharedOnce sync.Once
	errShared  error
)

func TestMain(m *testing.M) {
	if os.Getenv(hogEnv) != "" {
		if err := hog(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "hog:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	code := m.Run()
	if shared != nil {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop server:", err)
			code = 1
		}
		if left := residue(shared.run); len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left on the host after a clean stop:\n ", strings.Join(left, "\n  "))
			code = 1
		}
		if code != 0 {
			fmt.Fprintln(os.Stderr, "---- server log ----\n"+tail(shared.log.String(), 200))
		}
	}
	closeWorld()
	os.Exit(code)
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// need skips the test where the program or its templates are missing.
func need(t *testing.T) (bin, data string) {
	t.Helper()
	testenv.Need(t, "root")
	bin, data = os.Getenv("BULKHEAD_TEST_BIN"), os.Getenv("BULKHEAD_TEST_DATA")
	testenv.Have(t, "bulkhead", bin != "" && data != "", "BULKHEAD_TEST_BIN and BULKHEAD_TEST_DATA are not set: run make test")
	return bin, data
}

// serve returns the server that most tests share.
func serve(t *testing.T) *server {
	t.Helper()
	bin, data := need(t)
	sharedOnce.Do(func() {
		if errShared = openWorld(); errShared != nil {
			return
		}
		shared = &server{data: data, run: "/run/bulkhead-test"}
		errShared = shared.start(bin)
	})
	if errShared != nil {
		log := ""
		if shared != nil {
			log = shared.log.String()
		}
		t.Fatalf("start server: %v\n%s", errShared, log)
	}
	return shared
}

// start runs the program and waits until it serves.
func (s *server) start(bin string, args ...string) error {
	if s.http == "" {
		var ports [2]string
		for i := range ports {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			ports[i] = ln.Addr().String()
			if err := ln.Close(); err != nil {
				return err
			}
		}
		s.http, s.tls = ports[0], ports[1]
	}
	s.log = &lockedBuffer{}
	s.cmd = exec.Command(bin, append([]string{
		"serve", "--data", s.data, "--run", s.run, "--listen", s.http, "--listen-tls", s.tls, "--domain", domain,
		"--log-level=debug", "--reserve-disk-mb=500", "--driver", *driverName,
		"--nameserver", worldDNS, "--open-private", worldNet, "--max-connections", strconv.Itoa(maxConns),
	}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan error, 1)
	go func() { s.done <- s.cmd.Wait() }()
	if err := s.healthy(); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(s.data, "client.json"))
	if err != nil {
		return err
	}
	var creds cli.Credentials
	if err := json.Unmarshal(raw, &creds); err != nil {
		return err
	}
	s.key, s.caFile = creds.APIKey, filepath.Join(s.data, "tls", "ca.crt")
	s.client, err = client.New(client.Config{BaseURL: "http://" + s.http, APIKey: s.key})
	return err
}

func (s *server) healthy() error {
	for range 2400 {
		resp, err := http.Get("http://" + s.http + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-s.done:
			return fmt.Errorf("the server ended: %w", errors.Join(err, errors.New(tail(s.log.String(), 20))))
		case <-time.After(50 * time.Millisecond): // a server that starts has no event to wait for
		}
	}
	return errors.New("the server was not ready within 2 minutes")
}

// stop ends the server cleanly.
func (s *server) stop() error {
	if s.cmd == nil || s.cmd.Process == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-s.done:
		return err
	case <-time.After(90 * time.Second):
		return errors.Join(errors.New("the server did not stop within 90 s"), s.cmd.Process.Kill())
	}
}

// kill ends the server as a crash does.
func (s *server) kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.done
	return nil
}

// residue lists what of Bulkhead is on the host.
func residue(run string) (left []string) {
	add := func(kind string, items ...string) {
		for _, i := range items {
			left = append(left, kind+": "+i)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/bulkhead/*", "/sys/fs/cgroup/*/bulkhead/*"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if st, err := os.Stat(f); err == nil && st.IsDir() {
				add("cgroup", f)
			}
		}
	}
	for _, pattern := range []string{run + "/netns/bulkhead*", run + "/*/boxes/*", "/sys/class/net/bulkhead*", "/sys/class/net/ifb-bulkhead*"} {
		found, _ := filepath.Glob(pattern)
		add("file", found...)
	}
	if mounts, err := os.ReadFile("/proc/mounts"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, run+"/") {
				add("mount", strings.TrimSpace(line))
			}
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if line, err := os.ReadFile(p); err == nil && bytes.HasPrefix(line, []byte("runsc")) && bytes.Contains(line, []byte(run)) {
			add("process", strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

// row is what an SDK's runner prints for a feature.
type row struct {
	Feature string `json:"feature"`
	OK      bool   `json:"ok"`
	Skip    string `json:"skip"`
	Error   string `json:"error"`
	Ms      int    `json:"ms"`
}

// rows runs a command and reads its rows as they come.
func rows(t *testing.T, cmd *exec.Cmd, each func(row)) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr lockedBuffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Errorf("line %q: %v", lines.Text(), err)
			continue
		}
		n++
		each(r)
	}
	if err := cmd.Wait(); err != nil || n == 0 {
		t.Errorf("%s: %v after %d rows\n%s", cmd, err, n, tail(stderr.String(), 40))
	}
}
