package script

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/guard"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// hogName is argv[0] of this test binary as a program that holds as many MiB as its
// argument says, says so, and ends with its input.
const hogName = "bulkhead-test-hog"

func hog(mb string) error {
	n, err := strconv.Atoi(mb)
	if err != nil {
		return err
	}
	held, err := unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	fmt.Println(len(held) >> 20)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestPressure fills a small host with a real program: scripts are refused with 503
// and the time to try again, log, statistics and metrics say so, and afterwards
// scripts run again.
func TestPressure(t *testing.T) {
	if os.Getenv(inSmallHost) == "" {
		out := inSmall(t, "^TestPressure$")
		t.Logf("%s", out)
		return
	}
	var lines lockedBuffer
	log := slog.New(slog.NewTextHandler(io.MultiWriter(&lines, t.Output()), nil))
	probe, err := guard.OpenProbe("/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = probe.Close() }()
	g, err := guard.New(guard.Config{}, probe, log)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Run(t.Context()) }()
	s := newService(t, func(c *Config, _ *worker.Config) { c.Guard = g })
	post := func() *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/scripts/run", strings.NewReader(`{"code":"1 + 1"}`)))
		return rec
	}
	await := func(status int) *httptest.ResponseRecorder {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; {
			rec := post()
			if rec.Code == status {
				return rec
			}
			if time.Now().After(end) {
				t.Fatalf("status %d, want %d: %s; %+v", rec.Code, status, rec.Body, g.Stats())
			}
		}
	}
	await(http.StatusOK)
	const total, percent = 512, 92
	size := total*percent/100 - int(g.Stats().MemoryAllocMB)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{hogName, strconv.Itoa(size)}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || strings.TrimSpace(line) != strconv.Itoa(size) {
		t.Fatalf("the hog says %q, %v; want %d", line, err, size)
	}
	rec := await(http.StatusServiceUnavailable)
	if after, err := strconv.Atoi(rec.Header().Get("Retry-After")); err != nil || after < 1 ||
		!strings.Contains(rec.Body.String(), `"code":"unavailable"`) || !strings.Contains(rec.Body.String(), "level CRITICAL") {
		t.Errorf("refused with Retry-After %q: %s", rec.Header().Get("Retry-After"), rec.Body)
	}
	stats := g.Stats()
	t.Logf("a hog of %d MiB: %s%+v", size, rec.Body, stats)
	if stats.Level != guard.LevelCritical || stats.MemoryPercent < 85 || stats.MemorySysMB != total || stats.RejectedRequests == 0 {
		t.Errorf("statistics: %+v", stats)
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(g); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		m := f.GetMetric()[0]
		switch n := m.GetGauge().GetValue() + m.GetCounter().GetValue(); f.GetName() {
		case "memory_guard_memory_percent":
			if n < 85 {
				t.Errorf("%s is %v", f.GetName(), n)
			}
		case "memory_guard_rejected_requests_total":
			if n < 1 {
				t.Errorf("%s is %v", f.GetName(), n)
			}
		}
	}
	for _, want := range []string{`msg="memory guard adjusted concurrency" action=CRITICAL`, `level=WARN msg="memory guard refused"`} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, lines.String())
		}
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the hog: %v", err)
	}
	await(http.StatusOK)
}

// lockedBuffer is a buffer for any goroutine.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
