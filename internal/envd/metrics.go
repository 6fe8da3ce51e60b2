package envd

import (
	"math"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// metricsAnswer is E2B's form of a measurement. Sizes are in bytes unless they
// say otherwise.
type metricsAnswer struct {
	Timestamp   int64   `json:"ts"` // Unix seconds
	CPUCount    int     `json:"cpu_count"`
	CPUPercent  float64 `json:"cpu_used_pct"` // of all cores together
	MemTotal    int64   `json:"mem_total"`
	MemUsed     int64   `json:"mem_used"`
	MemCache    int64   `json:"mem_cache"`
	MemTotalMiB int64   `json:"mem_total_mib"`
	MemUsedMiB  int64   `json:"mem_used_mib"`
	DiskUsed    uint64  `json:"disk_used"`
	DiskTotal   uint64  `json:"disk_total"`
}

// metrics answers GET /metrics. What the box does not tell is 0.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	m := metricsAnswer{Timestamp: now.Unix(), CPUCount: runtime.NumCPU(), CPUPercent: s.cpu.percent(now)}
	mem := readMeminfo("/proc/meminfo")
	m.MemTotal, m.MemCache = mem["MemTotal"], mem["Cached"]
	m.MemUsed = max(0, m.MemTotal-mem["MemAvailable"])
	if usage, err := s.cfg.Guard.Usage(); err == nil {
		m.MemUsed = usage.Memory
	}
	if limit := s.cfg.Guard.Limits().MemoryBytes; limit > 0 {
		m.MemTotal = limit
	}
	m.MemTotalMiB, m.MemUsedMiB = m.MemTotal>>20, m.MemUsed>>20
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err == nil {
		size := uint64(max(0, st.Bsize))
		m.DiskTotal, m.DiskUsed = st.Blocks*size, (st.Blocks-min(st.Bfree, st.Blocks))*size
	}
	writeJSON(w, m)
}

// maxStat bounds a file of the kernel's, in bytes.
const maxStat = 64 << 10

// readMeminfo reads a file like /proc/meminfo, in bytes.
func readMeminfo(path string) map[string]int64 {
	values := make(map[string]int64)
	text, err := sysfile.Read(path, maxStat)
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
			values[name] = kib << 10
		}
	}
	return values
}

// cpuMeter measures how busy the processors were since the last question.
type cpuMeter struct {
	path string // of /proc/stat

	mu          sync.Mutex
	at          time.Time
	busy, total uint64
	last        float64
}

// cpuInterval is the shortest time over which use is measured.
const cpuInterval = 100 * time.Millisecond

// percent returns the use of all processors together since it was last asked, 0
// to 100, or since the start of the box the first time.
func (c *cpuMeter) percent(now time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && now.Sub(c.at) < cpuInterval {
		return c.last
	}
	busy, total, ok := readCPU(c.path)
	if !ok || total <= c.total || busy < c.busy {
		return c.last
	}
	percent := 100 * float64(busy-c.busy) / float64(total-c.total)
	c.at, c.busy, c.total, c.last = now, busy, total, math.Round(100*percent)/100
	return c.last
}

// readCPU reads the ticks of all processors from a file like /proc/stat.
func readCPU(path string) (busy, total uint64, ok bool) {
	text, err := sysfile.Read(path, maxStat)
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if err != nil || len(fields) < 5 || fields[0] != "cpu" {
		return 0, 0, false
	}
	for i, field := range fields[1:min(len(fields), 9)] { // guest time is in user time already
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		total += n
		if i != 3 && i != 4 { // idle and waiting for the disk
			busy += n
		}
	}
	return busy, total, true
}
