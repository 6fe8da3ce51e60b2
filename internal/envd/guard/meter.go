package guard

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// Usage is what the whole box uses.
type Usage struct {
	// Memory is in bytes, without what could be dropped at once.
	Memory int64
	// Tasks is the number of processes and threads.
	Tasks int64
}

// Meter measures a box. Measure must be cheap and may be called from many
// goroutines.
type Meter interface {
	Measure() (Usage, error)
}

var errNoMeter = errors.New("measure box: neither gVisor nor a readable cgroup")

// Detect returns the meter for the box that the caller is in, or an error when
// it is in none: the whole host is no box. cgroups is where cgroups are mounted,
// "/sys/fs/cgroup" outside tests.
func Detect(cgroups string) (Meter, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("measure box: %w", err)
	}
	if bytes.Contains(name.Release[:], []byte("gvisor")) {
		return sentryMeter{}, nil
	}
	for _, m := range []cgroupMeter{
		{ // version 2
			memory: filepath.Join(cgroups, "memory.current"), stat: filepath.Join(cgroups, "memory.stat"),
			droppable: "inactive_file", tasks: filepath.Join(cgroups, "pids.current"),
		},
		{ // version 1
			memory: filepath.Join(cgroups, "memory", "memory.usage_in_bytes"), stat: filepath.Join(cgroups, "memory", "memory.stat"),
			droppable: "total_inactive_file", tasks: filepath.Join(cgroups, "pids", "pids.current"),
		},
	} {
		if _, err := m.Measure(); err == nil {
			return m, nil
		}
	}
	return nil, errNoMeter
}

// sentryMeter asks gVisor's kernel, which serves one box alone.
type sentryMeter struct{}

// Measure implements [Meter].
func (sentryMeter) Measure() (Usage, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Usage{}, fmt.Errorf("measure box: %w", err)
	}
	used := (info.Totalram - min(info.Freeram, info.Totalram)) * uint64(max(1, info.Unit))
	return Usage{Memory: int64(used), Tasks: int64(info.Procs)}, nil //nolint:gosec // less than the host's memory
}

// cgroupMeter reads the files of the box's own cgroup.
type cgroupMeter struct {
	memory, stat, droppable, tasks string
}

// Measure implements [Meter].
func (m cgroupMeter) Measure() (Usage, error) {
	memory, err := readNumber(m.memory)
	if err != nil {
		return Usage{}, fmt.Errorf("measure box: %w", err)
	}
	stat, err := sysfile.Read(m.stat, maxStat)
	if err != nil {
		return Usage{}, fmt.Errorf("measure box: %w", err)
	}
	tasks, err := readNumber(m.tasks)
	if err != nil {
		return Usage{}, fmt.Errorf("measure box: %w", err)
	}
	for line := range bytes.Lines(stat) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if string(name) == m.droppable {
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				memory -= n
			}
		}
	}
	return Usage{Memory: max(0, memory), Tasks: tasks}, nil
}

// maxStat bounds a memory.stat, in bytes.
const maxStat = 64 << 10

// readNumber reads a file that holds one number.
func readNumber(path string) (int64, error) {
	text, err := sysfile.Read(path, 64)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
}
