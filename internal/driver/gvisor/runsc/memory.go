package runsc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/usage"
)

// A sentry reports a memory size to its box that is fixed when it boots, while
// the limit of its cgroup changes when the box is leased, and later. So it keeps
// that file open from before it locks itself in, and is told of each change by
// inotify: two descriptors that say nothing but the limit, and one thread that
// sleeps.

// memoryVariable hands the descriptors on when runsc executes itself anew.
const memoryVariable = "BULKHEAD_SENTRY_MEMORY"

// openMemory opens a cgroup's limit, of which the box has told bytes and the
// runtime the rest. Without it, the size stays what it is.
func openMemory(file string, told int64) {
	limit, err := unix.Open(file, unix.O_RDONLY, 0) // both without O_CLOEXEC
	if err != nil {
		return
	}
	events, err := unix.InotifyInit1(0)
	if err == nil {
		_, err = unix.InotifyAddWatch(events, file, unix.IN_MODIFY)
	}
	now, ok := readLimit(limit)
	if err != nil || !ok || now < told {
		_ = unix.Close(limit)
		_ = unix.Close(events)
		return
	}
	_ = os.Setenv(memoryVariable, fmt.Sprint(limit, events, now-told)) // a valid name
}

// followMemory reports the size that the limit gives, if it was opened.
func followMemory() {
	var limit, events int
	var overhead int64
	if _, err := fmt.Sscan(os.Getenv(memoryVariable), &limit, &events, &overhead); err != nil { //nolint:forbidigo // set by the same program
		return
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			// A plain call: the runtime's poller is not used, so that the sentry's
			// system call filters need to allow nothing more.
			if _, err := unix.Read(events, buf); err != nil && err != unix.EINTR {
				return
			}
			if now, ok := readLimit(limit); ok && now > overhead {
				// Words that the sentry reads one by one, without a lock of its own.
				size := uint64(now - overhead) //nolint:gosec // positive
				usage.MinimumTotalMemoryBytes, usage.MaximumTotalMemoryBytes = size, size
			}
		}
	}()
}

// readLimit reads a limit in bytes. "max" is none.
func readLimit(fd int) (int64, bool) {
	buf := make([]byte, 32)
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(string(bytes.TrimSpace(buf[:n])), 10, 64)
	return v, err == nil && v > 0
}
