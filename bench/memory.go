package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// boxGroups are where the boxes' cgroups may be.
var boxGroups = []string{"/sys/fs/cgroup/memory/bulkhead/bulkhead-*", "/sys/fs/cgroup/bulkhead/bulkhead-*"}

// memory measures what one waiting box costs: the proportional set size of all
// processes of the boxes, so that a page that several share counts once, divided
// by their number. It must run on the server's host.
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
		each := float64(pss) / float64(boxes) / (1 << 20)
		r.value(fmt.Sprintf("memory of a waiting %s box (%d waited)", pool.name, boxes), each, "MiB")
		r.value(fmt.Sprintf("   %s boxes in 8 GB", pool.name), 8e9/(1<<20)/each, "boxes")
	}
	return o.unpin(ctx)
}

// boxesPSS sums the proportional set sizes of every process in a box's cgroup, in
// bytes, and counts the boxes.
func boxesPSS() (sum uint64, boxes int, err error) {
	for _, pattern := range boxGroups {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			return 0, 0, err
		}
		for _, g := range groups {
			data, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
			if err != nil {
				continue // it is going away
			}
			pids := strings.Fields(string(data))
			if len(pids) > 0 {
				boxes++
			}
			for _, pid := range pids {
				n, err := strconv.Atoi(pid)
				if err != nil {
					return 0, 0, err
				}
				if p, err := procfs.NewProc(n); err == nil {
					if m, err := p.ProcSMapsRollup(); err == nil {
						sum += m.Pss
					}
				}
			}
		}
	}
	return sum, boxes, nil
}
