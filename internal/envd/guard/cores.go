package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// tellCores gives the programs that run, and those that will be started, an
// affinity to the first n processors, from which nproc and most runtimes learn how
// many there are. gVisor's kernel keeps it and schedules without regard to it; a
// kernel that many boxes share would crowd all of them on the same processors, so
// that it is left alone.
func (g *Guard) tellCores(n int64) error {
	if _, ok := g.cfg.Meter.(sentryMeter); !ok || n == 0 {
		return nil
	}
	var mask unix.CPUSet
	for i := range int(min(n, int64(len(mask)*64))) {
		mask.Set(i)
	}
	if err := g.onSpawner(func() error { return unix.SchedSetaffinity(0, &mask) }); err != nil {
		return fmt.Errorf("tell the number of processors: %w", err)
	}
	all, err := proctree.List(g.cfg.Proc)
	if err != nil {
		return err
	}
	for _, p := range proctree.Descendants(all, os.Getpid()) {
		threads, err := os.ReadDir(filepath.Join(g.cfg.Proc, strconv.Itoa(p.Pid), "task"))
		if err != nil {
			continue // it has ended
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err == nil {
				err = unix.SchedSetaffinity(tid, &mask)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("tell process %d the number of processors: %w", p.Pid, err)
			}
		}
	}
	return nil
}
