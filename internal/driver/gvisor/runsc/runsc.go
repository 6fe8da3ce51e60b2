// Package runsc is gVisor's runtime, as cmd/runsc makes a program of it.
//
// A program that calls [Main] first thing is runsc, and needs no other file: runsc
// starts its sentries and gofers by executing itself. One that is something else,
// too, such as a test, asks [Is] first.
package runsc

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli/maincli"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/bulkheadhq/bulkhead/internal/driver/oci"
)

// Is reports whether argv0 asks for runsc: "runsc", the names "runsc-sandbox" and
// "runsc-gofer" that runsc gives its own children, or the path under which it
// starts its helpers. Nobody else starts us under that path as argv[0].
func Is(argv0 string) bool {
	return strings.HasPrefix(filepath.Base(argv0), "runsc") || argv0 == specutils.ExePath
}

// Main runs runsc on os.Args and does not return.
func Main() {
	os.Args = tellSize(os.Args)
	followMemory()
	if slices.Contains(os.Args, "boot") {
		// A sentry that loads a snapshot fills its heap once. Collecting less often
		// saves a tenth of the processor time of a restore for 3 MiB of memory.
		debug.SetGCPercent(400)
	}
	maincli.Main()
}

// tellSize makes a sentry tell its box the box's own size. runsc would read
// memory and CPUs from the cgroup it makes; since the group is ours and runsc is
// told to ignore cgroups, it would tell the host's. The bundle has the limits; a
// sentry is given it open, since it is nobody who may read the file.
func tellSize(args []string) []string {
	boot := slices.Index(args, "boot")
	if boot < 0 {
		return args
	}
	fd := -1
	for _, a := range args[boot:] {
		if v, ok := strings.CutPrefix(a, "--spec-fd="); ok {
			if n, err := strconv.Atoi(v); err == nil {
				fd = n
			}
		}
	}
	var spec specs.Spec
	if json.NewDecoder(io.NewSectionReader(descriptor(fd), 0, maxSpec)).Decode(&spec) != nil || spec.Linux == nil || spec.Linux.Resources == nil {
		return args
	}
	if m := spec.Linux.Resources.Memory; m != nil && m.Limit != nil {
		args = set(args, boot, "--total-memory", strconv.FormatInt(*m.Limit, 10))
		if file := spec.Annotations[oci.MemoryLimitFile]; file != "" {
			openMemory(file, *m.Limit)
		}
	}
	if c := spec.Linux.Resources.CPU; c != nil && c.Quota != nil && c.Period != nil && *c.Period > 0 {
		// The sentry itself wants two; runsc's own rule.
		cpus := max(2, int(math.Ceil(float64(*c.Quota)/float64(*c.Period))))
		args = set(args, boot, "--cpu-num", strconv.Itoa(cpus))
	}
	return args
}

// maxSpec bounds a bundle, in bytes.
const maxSpec = 16 << 20

// descriptor reads a file that stays open and whose position is another's.
type descriptor int

// ReadAt implements [io.ReaderAt].
func (d descriptor) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(d), p, off)
	switch {
	case err != nil:
		return 0, err
	case n < len(p):
		return n, io.EOF
	}
	return n, nil
}

// set gives a flag after position at the value, replacing one that is there.
func set(args []string, at int, flag, value string) []string {
	if i := slices.Index(args[at:], flag); i >= 0 && at+i+1 < len(args) {
		args[at+i+1] = value
		return args
	}
	return slices.Insert(args, at+1, flag, value)
}
