package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Probe reads the memory that bounds this process: its cgroup's where that has
// a limit below the host's memory, else the host's. It keeps its files open, so
// that a reading is a few system calls. Close it when done.
type Probe struct {
	source   string
	limit    int64
	usage    *os.File // cgroup usage, or /proc/meminfo
	stat     *os.File // cgroup memory.stat; nil for the host
	cacheKey string   // the line of stat that is reclaimable
	pressure *os.File // may be nil
	cache    int64    // reclaimable at the last full reading
	buf      []byte
}

var _ Source = (*Probe)(nil)

// cgroupFiles are the names of one cgroup version.
type cgroupFiles struct {
	source, mount, limit, usage, cacheKey string
}

var (
	cgroup2Files = cgroupFiles{
		"cgroup2", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file",
	}
	cgroup1Files = cgroupFiles{
		"cgroup1", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
	}
)

// OpenProbe finds what bounds this process under root, which is "/" except in
// tests. The error says which file could not be read.
func OpenProbe(root string) (*Probe, error) {
	meminfo, err := os.Open(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return nil, fmt.Errorf("open memory probe: %w", err)
	}
	p := &Probe{source: "host", usage: meminfo, buf: make([]byte, 16<<10)}
	p.pressure, _ = os.Open(filepath.Join(root, "proc/pressure/memory"))
	total, _, err := p.meminfo()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open memory probe: %w", err), p.Close())
	}
	p.limit = total
	for _, files := range []cgroupFiles{cgroup2Files, cgroup1Files} {
		dir, limit := ownCgroup(root, files)
		if dir == "" || limit >= p.limit {
			continue
		}
		if err := p.useCgroup(dir, files); err != nil {
			return nil, errors.Join(fmt.Errorf("open memory probe: %w", err), p.Close())
		}
		p.limit = limit
	}
	return p, nil
}

// useCgroup makes p read the cgroup at dir.
func (p *Probe) useCgroup(dir string, files cgroupFiles) error {
	usage, err := os.Open(filepath.Join(dir, files.usage))
	if err != nil {
		return fmt.Errorf("read cgroup usage: %w", err)
	}
	stat, err := os.Open(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return errors.Join(fmt.Errorf("read cgroup statistics: %w", err), usage.Close())
	}
	pressure, err := os.Open(filepath.Join(dir, "memory.pressure"))
	if err == nil {
		p.closeFile(&p.pressure)
		p.pressure = pressure
	}
	p.closeFile(&p.usage)
	p.closeFile(&p.stat)
	p.source, p.usage, p.stat, p.cacheKey = files.source, usage, stat, files.cacheKey
	return nil
}

// ownCgroup returns the directory and limit of the tightest memory limit at or
// above this process's cgroup, or "" when there is none.
func ownCgroup(root string, files cgroupFiles) (dir string, limit int64) {
	mount := filepath.Join(root, files.mount)
	sub := cgroupPath(filepath.Join(root, "proc/self/cgroup"), files.source)
	if _, err := os.Stat(filepath.Join(mount, sub)); err != nil {
		sub = "/" // inside a container the path is the host's and the mount is ours
	}
	limit = math.MaxInt64
	for {
		at := filepath.Join(mount, sub)
		if n, err := readInt(filepath.Join(at, files.limit)); err == nil && n > 0 && n < limit {
			if _, err := os.Stat(filepath.Join(at, files.usage)); err == nil {
				dir, limit = at, n
			}
		}
		if sub == "/" || sub == "." || sub == "" {
			return dir, limit
		}
		sub = path.Dir(sub)
	}
}

// cgroupPath returns this process's path in the memory hierarchy, "/" if none.
func cgroupPath(file, source string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return "/"
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			continue
		}
		v2 := f[0] == "0" && f[1] == ""
		v1 := false
		for c := range strings.SplitSeq(f[1], ",") {
			v1 = v1 || c == "memory"
		}
		if source == "cgroup2" && v2 || source == "cgroup1" && v1 {
			return path.Clean("/" + f[2])
		}
	}
	return "/"
}

// readInt reads a file with one number; "max" is an error.
func readInt(file string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Limit returns the memory there is, in bytes.
func (p *Probe) Limit() int64 { return p.limit }

// Close closes the probe's files. It may be called again.
func (p *Probe) Close() error {
	p.closeFile(&p.usage)
	p.closeFile(&p.stat)
	p.closeFile(&p.pressure)
	return nil
}

// closeFile closes a file that was only read, so that its error says nothing.
func (p *Probe) closeFile(f **os.File) {
	if *f != nil {
		_ = (*f).Close()
		*f = nil
	}
}

// Read returns the memory now. Page cache that the kernel would give back is
// not counted; for a cgroup it is measured when full is set, and once more
// whenever the raw figure alone would be above half the limit.
func (p *Probe) Read(full bool) (Reading, error) {
	if p.usage == nil {
		return Reading{}, fmt.Errorf("read memory: %w", os.ErrClosed)
	}
	r := Reading{Limit: p.limit, Source: p.source}
	if p.stat == nil {
		total, available, err := p.meminfo()
		if err != nil {
			return Reading{}, err
		}
		r.Used = total - available
	} else {
		data, err := p.readAll(p.usage)
		if err != nil {
			return Reading{}, err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
		if err != nil {
			return Reading{}, fmt.Errorf("read memory usage: %w", err)
		}
		if full || n > p.limit/2 {
			if data, err := p.readAll(p.stat); err == nil {
				p.cache = field(data, p.cacheKey)
			}
		}
		r.Used = max(0, n-p.cache)
	}
	if p.pressure != nil {
		if data, err := p.readAll(p.pressure); err == nil {
			r.Some10, r.Full10 = parsePressure(data)
		}
	}
	return r, nil
}

// readAll reads a small kernel file from its start into p's buffer.
func (p *Probe) readAll(f *os.File) ([]byte, error) {
	n, err := f.ReadAt(p.buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return p.buf[:n], nil
}

// meminfo returns MemTotal and MemAvailable in bytes.
func (p *Probe) meminfo() (total, available int64, err error) {
	data, err := p.readAll(p.usage)
	if err != nil {
		return 0, 0, err
	}
	total, available = field(data, "MemTotal:")<<10, field(data, "MemAvailable:")<<10
	if total <= 0 {
		return 0, 0, errors.New("read host memory: no MemTotal in meminfo")
	}
	return total, available, nil
}

// field returns the number after key at the start of a line, 0 if there is none.
func field(data []byte, key string) int64 {
	for len(data) > 0 {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if !ok || len(rest) == 0 || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		if f := bytes.Fields(rest); len(f) > 0 {
			n, err := strconv.ParseInt(string(f[0]), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// parsePressure returns avg10 of the lines "some" and "full" of a PSI file, 0
// for what is not there.
func parsePressure(data []byte) (some, full float64) {
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		v, ok := bytes.CutPrefix(f[1], []byte("avg10="))
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(string(v), 64)
		if err != nil || !(n >= 0 && n <= 100) {
			continue
		}
		switch string(f[0]) {
		case "some":
			some = n
		case "full":
			full = n
		}
	}
	return some, full
}
