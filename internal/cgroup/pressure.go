package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Stall is how much work waits for one resource, as the kernel's pressure
// stall information (PSI) has it.
type Stall struct {
	// Some10 and Some60 are the percentage of the last 10 and 60 seconds in
	// which at least one task waited; Full10 that in which all did.
	Some10, Some60, Full10 float64
	// Total is how long at least one task waited, ever.
	Total time.Duration
}

// Pressure is the stall of each resource.
type Pressure struct {
	CPU, Memory, IO Stall
}

// Pressure reads the group's own stalls, which the kernel keeps in the v2 tree.
// The error wraps [errors.ErrUnsupported] on a host without such a tree or PSI.
func (g *Group) Pressure() (Pressure, error) {
	dir := g.unified()
	if dir == "" {
		return Pressure{}, fmt.Errorf("pressure of group %s: %w", g.name, errors.ErrUnsupported)
	}
	p, err := pressure(dir, ".pressure")
	if err != nil {
		return p, fmt.Errorf("pressure of group %s: %w", g.name, err)
	}
	return p, nil
}

// HostPressure reads the whole host's stalls. The error wraps
// [errors.ErrUnsupported] where the kernel was built or started without PSI.
func HostPressure() (Pressure, error) {
	p, err := pressure("/proc/pressure", "")
	if err != nil {
		return p, fmt.Errorf("pressure of the host: %w", err)
	}
	return p, nil
}

// pressure reads the three files of a directory.
func pressure(dir, suffix string) (Pressure, error) {
	var p Pressure
	for _, f := range []struct {
		name string
		into *Stall
	}{{"cpu", &p.CPU}, {"memory", &p.Memory}, {"io", &p.IO}} {
		s, err := readFile(dir, f.name+suffix)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			return p, errors.Join(err, errors.ErrUnsupported)
		}
		if err != nil {
			return p, err
		}
		*f.into = parseStall(s)
	}
	return p, nil
}

// parseStall reads the lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
// and "full …". What it does not know it passes over.
func parseStall(s string) Stall {
	var st Stall
	for line := range strings.Lines(s) {
		kind, rest, _ := strings.Cut(line, " ")
		for field := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(field, "=")
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch kind + " " + key {
			case "some avg10":
				st.Some10 = v
			case "some avg60":
				st.Some60 = v
			case "full avg10":
				st.Full10 = v
			case "some total":
				st.Total = time.Duration(v) * time.Microsecond
			}
		}
	}
	return st
}

// HostMem is the host's memory in bytes.
type HostMem struct {
	// Total is what there is, Available what programs could still get without
	// swapping, by the kernel's own estimate.
	Total, Available int64
	// SwapTotal and SwapFree are the swap space.
	SwapTotal, SwapFree int64
}

// Memory is what all boxes together may have: the host's memory, or what is left
// where the tree's group, or one above it as in a container, has a limit that is
// tighter. Page cache counts as available, since it is given back first.
func (t *Tree) Memory() (HostMem, error) {
	m, err := HostMemory()
	if err != nil {
		return m, err
	}
	var r reader
	for at := t.root; ; at = path.Dir(at) {
		m = within(m, &r, filepath.Join(t.layout.dir(Memory), at), t.layout.Mode == ModeV2)
		if at == "/" {
			break
		}
	}
	if r.err != nil {
		return m, fmt.Errorf("read the boxes' memory limit: %w", r.err)
	}
	return m, nil
}

// within is m as the group at dir has it.
func within(m HostMem, r *reader, dir string, v2 bool) HostMem {
	limit, usage, prefix := "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
	if v2 {
		limit, usage, prefix = "memory.max", "memory.current", ""
	}
	most := r.optional(dir, limit)
	if most == 0 || most >= m.Total {
		return m
	}
	stat := r.keyed(dir, "memory.stat")
	free := most - r.number(dir, usage) + stat[prefix+"inactive_file"] + stat[prefix+"active_file"]
	m.Total, m.Available = most, min(m.Available, max(0, free))
	return m
}

// HostMemory reads the host's memory.
func HostMemory() (HostMem, error) { return hostMemory(procfs.DefaultMountPoint) }

func hostMemory(proc string) (HostMem, error) {
	fs, err := procfs.NewFS(proc)
	if err != nil {
		return HostMem{}, fmt.Errorf("read host memory: %w", err)
	}
	m, err := fs.Meminfo()
	if err != nil {
		return HostMem{}, fmt.Errorf("read host memory: %w", err)
	}
	if m.MemTotalBytes == nil || m.MemAvailableBytes == nil {
		return HostMem{}, errors.New("read host memory: the kernel does not say how much is available")
	}
	value := func(p *uint64) int64 {
		if p == nil {
			return 0
		}
		return int64(*p) //nolint:gosec // bytes of memory
	}
	return HostMem{
		Total: value(m.MemTotalBytes), Available: value(m.MemAvailableBytes),
		SwapTotal: value(m.SwapTotalBytes), SwapFree: value(m.SwapFreeBytes),
	}, nil
}

// HostCPU is the host's processor time since it was started, summed over all
// cores.
type HostCPU struct {
	// Busy is all but Idle; Idle includes waiting for disks; Stolen is what the
	// hypervisor gave to others, part of neither.
	Busy, Idle, Stolen time.Duration
	// Load1 is the load average of the last minute.
	Load1 float64
}

// HostProcessors reads the host's processor time. Two readings make a rate.
func HostProcessors() (HostCPU, error) { return hostProcessors(procfs.DefaultMountPoint) }

func hostProcessors(proc string) (HostCPU, error) {
	fs, err := procfs.NewFS(proc)
	if err != nil {
		return HostCPU{}, fmt.Errorf("read host processors: %w", err)
	}
	st, err := fs.Stat()
	if err != nil {
		return HostCPU{}, fmt.Errorf("read host processors: %w", err)
	}
	load, err := fs.LoadAvg()
	if err != nil {
		return HostCPU{}, fmt.Errorf("read load: %w", err)
	}
	c := st.CPUTotal
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return HostCPU{
		// Guest time is part of user time already.
		Busy:   seconds(c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ),
		Idle:   seconds(c.Idle + c.Iowait),
		Stolen: seconds(c.Steal),
		Load1:  load.Load1,
	}, nil
}
