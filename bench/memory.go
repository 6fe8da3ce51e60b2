package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// boxGroups are where the boxes' cgroups may be.
var boxGroups = []string{"/sys/fs/cgroup/memory/bulkhead/bulkhead-*", "/sys/fs/cgroup/bulkhead/bulkhead-*"}

// watched is how long waiting boxes are watched for the processor time they use.
const watched = 10 * time.Second

// memory measures what one waiting box costs: the proportional set size of all
// processes of the boxes, so that a page that several share counts once, and the
// processor time they use, divided by their number. It must run on the server's
// host.
func memory(ctx context.Context, o options, r *report) error {
	for _, pool := range []struct {
		name       string
		warm, cold int
	}{{"warm", 8, 0}, {"cold", 0, 8}} {
		if err := o.pin(ctx, pool.warm, pool.cold); err != nil {
			return err
		}
		pss, boxes, err := boxesPSS()
		if err != nil {
			return err
		}
		if boxes == 0 {
			return errors.New("no boxes' cgroups on this host")
		}
		before, err := boxesCPU()
		if err != nil {
			return err
		}
		pause(ctx, watched)
		after, err := boxesCPU()
		if err != nil {
			return err
		}
		each := float64(pss) / float64(boxes) / (1 << 20)
		r.value(fmt.Sprintf("memory of a waiting %s box (%d waited)", pool.name, boxes), each, "MiB")
		r.value(fmt.Sprintf("   %s boxes in 8 GB", pool.name), 8e9/(1<<20)/each, "boxes")
		r.value(fmt.Sprintf("   processor time of a waiting %s box", pool.name),
			(after-before).Seconds()*1000/float64(boxes)/watched.Seconds(), "ms/s")
	}
	return o.unpin(ctx)
}

// boxesPSS sums the proportional set sizes of every process in a box's cgroup, in
// bytes, and counts the boxes.
func boxesPSS() (sum uint64, boxes int, err error) {
	return sum, boxes, eachBox(func(procs []procfs.Proc) {
		boxes++
		for _, p := range procs {
			if m, err := p.ProcSMapsRollup(); err == nil { // else it has ended
				sum += m.Pss
			}
		}
	})
}

// boxesCPU sums the processor time that the processes of all boxes have used.
func boxesCPU() (sum time.Duration, err error) {
	return sum, eachBox(func(procs []procfs.Proc) {
		for _, p := range procs {
			if st, err := p.Stat(); err == nil {
				sum += time.Duration(st.CPUTime() * float64(time.Second))
			}
		}
	})
}

// eachBox calls f with the processes of every box that has any.
func eachBox(f func([]procfs.Proc)) error {
	for _, pattern := range boxGroups {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, g := range groups {
			data, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
			if err != nil {
				continue // it is going away
			}
			var procs []procfs.Proc
			for pid := range strings.FieldsSeq(string(data)) {
				n, err := strconv.Atoi(pid)
				if err != nil {
					return err
				}
				if p, err := procfs.NewProc(n); err == nil {
					procs = append(procs, p)
				}
			}
			if len(procs) > 0 {
				f(procs)
			}
		}
	}
	return nil
}
