package bulkhead

import (
	"fmt"
	"slices"
	"strings"
)

// Limits bounds one sandbox. A zero field means "the template's default"; after
// [Limits.Or] no field is zero.
type Limits struct {
	// CPU is the number of cores, as a quota: 0.5 is half a core. 0.05 to 64.
	CPU float64 `json:"cpu,omitempty" yaml:"cpu"`
	// MemoryMB is the hard memory limit in MiB, of everything in the box and of
	// the sentry that serves it. 64 to 1048576.
	MemoryMB int64 `json:"memoryMB,omitempty" yaml:"memoryMB"`
	// DiskMB is how much the box may write, in MiB. 16 to 1048576.
	DiskMB int64 `json:"diskMB,omitempty" yaml:"diskMB"`
	// Pids is the largest number of processes and threads in the box. 16 to 65536.
	Pids int64 `json:"pids,omitempty" yaml:"pids"`
	// OutputMB is how much one program may print, in MiB, before it is ended
	// with [CauseOutputLimit]. 1 to 65536.
	OutputMB int64 `json:"outputMB,omitempty" yaml:"outputMB"`
	// OpenFiles is RLIMIT_NOFILE in the box. 64 to 1048576.
	OpenFiles int64 `json:"openFiles,omitempty" yaml:"openFiles"`
	// BandwidthKbps is the network rate each way in kbit/s. 64 to 100000000.
	BandwidthKbps int64 `json:"bandwidthKbps,omitempty" yaml:"bandwidthKbps"`
	// PacketsPerSecond is the network rate each way in packets. 100 to 10000000.
	PacketsPerSecond int64 `json:"packetsPerSecond,omitempty" yaml:"packetsPerSecond"`
	// Connections is how many connections to the outside may be open at once. 1 to
	// 1048576; never more than the operator's bound.
	Connections int64 `json:"connections,omitempty" yaml:"connections"`
	// OutputMBPerSecond is how fast the programs of the box may print together, in
	// MiB a second. 1 to 1024.
	OutputMBPerSecond int64 `json:"outputMBPerSecond,omitempty" yaml:"outputMBPerSecond"`
	// CPUSeconds is how much processor time one program may use, its children
	// included, in seconds, before it is ended with [CauseTimeLimit]. 1 to 31536000.
	CPUSeconds int64 `json:"cpuSeconds,omitempty" yaml:"cpuSeconds"`
}

// DefaultLimits are the limits of a template that names none. Two cores and
// 1 GiB are what E2B's SDK asks for when a template is built.
func DefaultLimits() Limits {
	return Limits{
		CPU: 2, MemoryMB: 1024, DiskMB: 2048, Pids: 512, OutputMB: 256,
		OpenFiles: 65536, BandwidthKbps: 1_000_000, PacketsPerSecond: 20_000, Connections: 4096, OutputMBPerSecond: 16, CPUSeconds: 86400,
	}
}

// Or returns l with each zero field taken from d.
func (l Limits) Or(d Limits) Limits {
	if l.CPU == 0 {
		l.CPU = d.CPU
	}
	if l.MemoryMB == 0 {
		l.MemoryMB = d.MemoryMB
	}
	if l.DiskMB == 0 {
		l.DiskMB = d.DiskMB
	}
	if l.Pids == 0 {
		l.Pids = d.Pids
	}
	if l.OutputMB == 0 {
		l.OutputMB = d.OutputMB
	}
	if l.OpenFiles == 0 {
		l.OpenFiles = d.OpenFiles
	}
	if l.BandwidthKbps == 0 {
		l.BandwidthKbps = d.BandwidthKbps
	}
	if l.PacketsPerSecond == 0 {
		l.PacketsPerSecond = d.PacketsPerSecond
	}
	if l.Connections == 0 {
		l.Connections = d.Connections
	}
	if l.OutputMBPerSecond == 0 {
		l.OutputMBPerSecond = d.OutputMBPerSecond
	}
	if l.CPUSeconds == 0 {
		l.CPUSeconds = d.CPUSeconds
	}
	return l
}

// Validate checks every field that is not zero against its range. The error is
// an *[Error] with [CodeInvalid] that names the field, the value and the range.
func (l Limits) Validate() error { return l.ValidateNamed(nil) }

// ValidateNamed is [Limits.Validate] for limits of which some are named, by their
// names in JSON in any case: there 0 is a value as well, and out of range.
func (l Limits) ValidateNamed(named []string) error {
	given := func(name string, zero bool) bool {
		return !zero || slices.ContainsFunc(named, func(n string) bool { return strings.EqualFold(n, name) })
	}
	if given("cpu", l.CPU == 0) && !(l.CPU >= 0.05 && l.CPU <= 64) {
		return Errorf(CodeInvalid, "cpu is %v; it must be between 0.05 and 64 cores", l.CPU)
	}
	for _, f := range []struct {
		name       string
		value      int64
		least, max int64
		unit       string
	}{
		{"memoryMB", l.MemoryMB, 64, 1 << 20, "MiB"},
		{"diskMB", l.DiskMB, 16, 1 << 20, "MiB"},
		{"pids", l.Pids, 16, 1 << 16, "tasks"},
		{"outputMB", l.OutputMB, 1, 1 << 16, "MiB"},
		{"openFiles", l.OpenFiles, 64, 1 << 20, "files"},
		{"bandwidthKbps", l.BandwidthKbps, 64, 100_000_000, "kbit/s"},
		{"packetsPerSecond", l.PacketsPerSecond, 100, 10_000_000, "packets/s"},
		{"connections", l.Connections, 1, 1 << 20, "connections"},
		{"outputMBPerSecond", l.OutputMBPerSecond, 1, 1024, "MiB/s"},
		{"cpuSeconds", l.CPUSeconds, 1, 365 * 86400, "s"},
	} {
		if given(f.name, f.value == 0) && (f.value < f.least || f.value > f.max) {
			return &Error{Code: CodeInvalid, Msg: fmt.Sprintf("%s is %d; it must be between %d and %d %s",
				f.name, f.value, f.least, f.max, f.unit)}
		}
	}
	return nil
}
