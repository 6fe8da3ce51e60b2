package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// TestLogNeverBlocks: a log that nobody reads costs lines, not envd.
func TestLogNeverBlocks(t *testing.T) {
	r, w := io.Pipe()
	lines := newLineLog(w)
	log := slog.New(slog.NewJSONHandler(lines, nil))
	const n = 1000
	for i := range n {
		log.Info("line", slog.Int("i", i))
	}
	log.Info("long", slog.String("x", strings.Repeat("x", maxLine)))
	read := make(chan int)
	go func() {
		got, dropped := 0, 0
		for s := bufio.NewScanner(r); s.Scan(); {
			var line struct {
				Msg   string `json:"msg"`
				Lines int    `json:"lines"`
			}
			if err := json.Unmarshal(s.Bytes(), &line); err != nil {
				t.Errorf("%v: %s", err, s.Bytes())
			}
			if line.Msg == "log lines dropped" {
				dropped += line.Lines
				continue
			}
			got++
		}
		read <- got + dropped
	}()
	lines.close()
	log.Info("after the end")
	<-lines.done
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got < waitingLines || got > n+1 {
		t.Errorf("%d lines were written or counted; want %d at most", got, n+1)
	}
}

// TestRun runs the program as the host does.
func TestRun(t *testing.T) {
	testenv.Need(t, "root")
	l, err := net.Listen("tcp", ":"+strconv.Itoa(boxrpc.EnvdPort))
	testenv.Have(t, "envd-port", err == nil, fmt.Sprintf("the port of envd is taken: %v", err))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	build := exec.Command("go", "build", "-o", root+"/envd", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// It is process 1 of a root that holds nothing else, in namespaces of its own.
	cmd := exec.CommandContext(ctx, "/envd")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: root, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS, Unshareflags: syscall.CLONE_NEWNS,
	}
	var logged bytes.Buffer
	cmd.Stderr = &logged
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" || err != nil {
		t.Fatalf("it said %q, %v\n%s", line, err, logged.String())
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(fmt.Sprintf("http://127.0.0.1:%d/health", boxrpc.EnvdPort))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("health = %d", resp.StatusCode)
	}
	if mark, err := os.ReadFile(root + "/run/e2b/.E2B_SANDBOX"); err != nil || string(mark) != "true" {
		t.Errorf("mark = %q, %v", mark, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, logged.String())
	}
	for s := bufio.NewScanner(&logged); s.Scan(); {
		if !json.Valid(s.Bytes()) {
			t.Errorf("log line %q is not JSON", s.Text())
		}
	}
}

func TestInterpreterConfig(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	if s, err := interpreter(getenv, nil, nil, log); s != nil || err != nil {
		t.Errorf("without the variable: %v, %v", s, err)
	}
	env[boxrpc.EnvInterpreter] = "1"
	env[boxrpc.EnvPreload] = "pandas"
	if _, err := interpreter(getenv, nil, &guard.Guard{}, log); err == nil || !strings.Contains(err.Error(), boxrpc.EnvPreload) {
		t.Errorf("preload that is no list: %v", err)
	}
}
