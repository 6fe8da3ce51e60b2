package bulkhead

import (
	"slices"
	"strconv"
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
	for _, f := range limitFields {
		v := f.of(&l)
		named := slices.ContainsFunc(named, func(n string) bool { return strings.EqualFold(n, f.Field) })
		if (v != 0 || named) && !(v >= f.Least && v <= f.Most) { // false for NaN, too
			return Errorf(CodeInvalid, "%s is %s; it must be between %s and %s %s", f.Field, f.text(&l), plain(f.Least), plain(f.Most), f.Unit)
		}
	}
	return nil
}

// LimitRange is what a field of [Limits] may be.
type LimitRange struct {
	// Field is its name in JSON.
	Field string
	// Least and Most are its bounds, in Unit.
	Least, Most float64
	Unit        string
}

// LimitRanges are those of all fields.
func LimitRanges() []LimitRange {
	out := make([]LimitRange, len(limitFields))
	for i, f := range limitFields {
		out[i] = f.LimitRange
	}
	return out
}

// limitField is a field's range, and where the field is: one of both.
type limitField struct {
	LimitRange

	whole func(*Limits) int64
	cores func(*Limits) float64
}

var limitFields = []limitField{
	{LimitRange{"cpu", 0.05, 64, "cores"}, nil, func(l *Limits) float64 { return l.CPU }},
	{LimitRange{"memoryMB", 64, 1 << 20, "MiB"}, func(l *Limits) int64 { return l.MemoryMB }, nil},
	{LimitRange{"diskMB", 16, 1 << 20, "MiB"}, func(l *Limits) int64 { return l.DiskMB }, nil},
	{LimitRange{"pids", 16, 1 << 16, "tasks"}, func(l *Limits) int64 { return l.Pids }, nil},
	{LimitRange{"outputMB", 1, 1 << 16, "MiB"}, func(l *Limits) int64 { return l.OutputMB }, nil},
	{LimitRange{"openFiles", 64, 1 << 20, "files"}, func(l *Limits) int64 { return l.OpenFiles }, nil},
	{LimitRange{"bandwidthKbps", 64, 100_000_000, "kbit/s"}, func(l *Limits) int64 { return l.BandwidthKbps }, nil},
	{LimitRange{"packetsPerSecond", 100, 10_000_000, "packets/s"}, func(l *Limits) int64 { return l.PacketsPerSecond }, nil},
	{LimitRange{"connections", 1, 1 << 20, "connections"}, func(l *Limits) int64 { return l.Connections }, nil},
	{LimitRange{"outputMBPerSecond", 1, 1024, "MiB/s"}, func(l *Limits) int64 { return l.OutputMBPerSecond }, nil},
	{LimitRange{"cpuSeconds", 1, 365 * 86400, "s"}, func(l *Limits) int64 { return l.CPUSeconds }, nil},
}

func (f limitField) of(l *Limits) float64 {
	if f.cores != nil {
		return f.cores(l)
	}
	return float64(f.whole(l))
}

// text is the field's value, to the last digit.
func (f limitField) text(l *Limits) string {
	if f.cores != nil {
		return strconv.FormatFloat(f.cores(l), 'g', -1, 64)
	}
	return strconv.FormatInt(f.whole(l), 10)
}

// plain writes a number without an exponent.
func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
