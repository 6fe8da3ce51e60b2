package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Stat is what a group has used since it was made, from the kernel's files. A
// figure that this kernel does not keep is 0.
type Stat struct {
	// At is when it was read.
	At time.Time
	// CPU is processor time of all processes, past ones too.
	CPU time.Duration
	// Throttled is how long the group was held back by its CPU limit, and
	// Throttles how often.
	Throttled time.Duration
	Throttles uint64
	// Memory, MemoryPeak and MemoryLimit are in bytes; a group without a limit
	// has 0. Cache is the part of Memory that the kernel can take back: pages of
	// files, not of shared memory.
	Memory, MemoryPeak, MemoryLimit, Cache int64
	// MemoryHits is how often the limit was reached, OOMs how often nothing could be
	// taken back then, and OOMKills how many processes were killed for memory: for
	// that of the host or of a group above, too. On v1 OOMs are those of a peak near
	// the limit.
	MemoryHits, OOMs, OOMKills uint64
	// Pids, PidsPeak and PidsLimit count tasks: processes and threads.
	Pids, PidsPeak, PidsLimit int64
	// PidsHits is how often a task could not be made because of the limit.
	PidsHits uint64
}

// Stat reads the group's figures: some ten small files, about 0.3 ms. The
// error wraps [os.ErrNotExist] when the group is gone.
func (g *Group) Stat() (Stat, error) {
	r := reader{}
	s := Stat{At: time.Now()}
	if g.t.layout.Mode == ModeV2 {
		g.statV2(&r, &s)
	} else {
		g.statV1(&r, &s)
	}
	pids := g.in(Pids)
	s.Pids = r.number(pids, "pids.current")
	s.PidsLimit = r.number(pids, "pids.max")
	s.PidsPeak = r.optional(pids, "pids.peak")
	s.PidsHits = uint64(r.keyedOptional(pids, "pids.events")["max"]) //nolint:gosec // a counter
	if r.err != nil {
		return Stat{}, fmt.Errorf("read group %s: %w", g.name, r.err)
	}
	return s, nil
}

// CPUTime reads the processor time of all the group's processes, past ones too:
// one small file.
func (g *Group) CPUTime() (time.Duration, error) {
	r := reader{}
	var used time.Duration
	if g.t.layout.Mode == ModeV2 {
		used = time.Duration(r.keyed(g.unified(), "cpu.stat")["usage_usec"]) * time.Microsecond
	} else if g.t.layout.V1[CPUAcct] != "" {
		used = time.Duration(r.number(g.in(CPUAcct), "cpuacct.usage"))
	}
	if r.err != nil {
		return 0, fmt.Errorf("read group %s: %w", g.name, r.err)
	}
	return used, nil
}

func (g *Group) statV1(r *reader, s *Stat) {
	mem, cpu := g.in(Memory), g.in(CPU)
	if dir := g.t.layout.V1[CPUAcct]; dir != "" {
		s.CPU = time.Duration(r.number(g.in(CPUAcct), "cpuacct.usage"))
	}
	throttle := r.keyed(cpu, "cpu.stat")
	s.Throttled, s.Throttles = time.Duration(throttle["throttled_time"]), uint64(throttle["nr_throttled"]) //nolint:gosec // a counter
	s.Memory = r.number(mem, "memory.usage_in_bytes")
	s.MemoryPeak = r.number(mem, "memory.max_usage_in_bytes")
	s.MemoryLimit = r.number(mem, "memory.limit_in_bytes")
	// Where swap is limited too, its counter is the one that is hit.
	s.MemoryHits = uint64(r.number(mem, "memory.failcnt") + r.optional(mem, "memory.memsw.failcnt")) //nolint:gosec // counters
	stat := r.keyed(mem, "memory.stat")
	s.Cache = stat["total_inactive_file"] + stat["total_active_file"]
	s.OOMKills = uint64(r.keyed(mem, "memory.oom_control")["oom_kill"]) //nolint:gosec // a counter
	if s.MemoryLimit > 0 && s.MemoryPeak >= s.MemoryLimit-s.MemoryLimit/16 {
		s.OOMs = s.OOMKills
	}
}

func (g *Group) statV2(r *reader, s *Stat) {
	dir := g.unified()
	cpu := r.keyed(dir, "cpu.stat")
	s.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
	s.Throttled, s.Throttles = time.Duration(cpu["throttled_usec"])*time.Microsecond, uint64(cpu["nr_throttled"]) //nolint:gosec // a counter
	s.Memory = r.number(dir, "memory.current")
	s.MemoryPeak = r.optional(dir, "memory.peak")
	s.MemoryLimit = r.number(dir, "memory.max")
	stat := r.keyed(dir, "memory.stat")
	s.Cache = stat["inactive_file"] + stat["active_file"]
	events := r.keyed(dir, "memory.events")
	s.MemoryHits, s.OOMs, s.OOMKills = uint64(events["max"]), uint64(events["oom"]), uint64(events["oom_kill"]) //nolint:gosec // counters
}

// reader reads control files and keeps the first error.
type reader struct{ err error }

// read returns a file's text; a missing one is an error unless optional.
func (r *reader) read(dir, name string, optional bool) string {
	if r.err != nil {
		return ""
	}
	s, err := readFile(dir, name)
	if err != nil && (!optional || !errors.Is(err, os.ErrNotExist)) {
		r.err = err
	}
	return s
}

// number reads one number. "max", and anything near the largest number that v1
// writes for it, is 0.
func (r *reader) number(dir, name string) int64 { return r.parse(name, r.read(dir, name, false)) }

// optional is number for a file that older kernels do not have.
func (r *reader) optional(dir, name string) int64 {
	s := r.read(dir, name, true)
	if s == "" {
		return 0
	}
	return r.parse(name, s)
}

func (r *reader) parse(name, s string) int64 {
	if r.err != nil || s == "max" {
		return 0
	}
	u, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		r.err = fmt.Errorf("%s: %w", name, err)
		return 0
	}
	if u >= math.MaxInt64&^(1<<20-1) {
		return 0
	}
	return int64(u)
}

// keyed reads lines of a name and a number. Other lines are passed over.
func (r *reader) keyed(dir, name string) map[string]int64 { return pairs(r.read(dir, name, false)) }

// keyedOptional is keyed for a file that older kernels do not have.
func (r *reader) keyedOptional(dir, name string) map[string]int64 {
	return pairs(r.read(dir, name, true))
}

func pairs(s string) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseInt(value, 10, 64); err == nil {
			m[key] = v
		}
	}
	return m
}

// Evidence says which limit ended something in a group between two readings:
// the cause, the limit and the peak in the unit of the cause, as in
// [bulkhead.End]. A kill for memory counts before a refused fork, since only it
// is an end by itself. The cause is "" when neither happened; a kill because the
// host, or a group above, was out of memory is none of the group's limits.
func Evidence(before, after Stat) (cause bulkhead.Cause, limit, peak int64) {
	switch {
	case after.OOMKills > before.OOMKills && after.OOMs > before.OOMs:
		peak = max(after.MemoryPeak, after.Memory)
		if after.MemoryPeak == 0 { // v2 before Linux 5.19: it was at the limit
			peak = after.MemoryLimit
		}
		return bulkhead.CauseMemoryLimit, after.MemoryLimit, peak
	case after.PidsHits > before.PidsHits:
		return bulkhead.CausePidsLimit, after.PidsLimit, max(after.PidsPeak, after.Pids)
	}
	return "", 0, 0
}
