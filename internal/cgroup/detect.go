package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// errBusy is the kernel's refusal of a limit below what is in use.
const errBusy = unix.EBUSY

// Mode is how a host has its control groups.
type Mode string

// The modes.
const (
	// ModeNone: no control groups are mounted.
	ModeNone Mode = "none"
	// ModeV1: controllers in hierarchies of their own.
	ModeV1 Mode = "v1"
	// ModeHybrid: like v1, with a v2 tree beside them that has no controller we use.
	ModeHybrid Mode = "hybrid"
	// ModeV2: one tree with all controllers.
	ModeV2 Mode = "v2"
)

// Controller is the kernel's name of what limits or measures one thing.
type Controller string

// The controllers that boxes use. CPUAcct and Freezer are part of the core of
// cgroup v2.
const (
	CPU     Controller = "cpu"
	CPUAcct Controller = "cpuacct"
	Memory  Controller = "memory"
	Pids    Controller = "pids"
	Freezer Controller = "freezer"
)

// controllers are all of them in the order in which a thread joins them: the
// one that can slow it down last.
var controllers = []Controller{Memory, Pids, Freezer, CPUAcct, CPU}

// Layout is where a host's control groups are.
type Layout struct {
	// Mode sums the rest up.
	Mode Mode
	// V1 is the directory of each controller that has a v1 hierarchy.
	V1 map[Controller]string
	// V2 is where the v2 tree is mounted, "" if nowhere.
	V2 string
	// V2Controllers are those of V2 that boxes can have.
	V2Controllers []Controller

	// roots is what part of each v1 hierarchy is mounted: "/", or this server's
	// container.
	roots map[Controller]string
	// others are the v1 hierarchies without a controller that we use. A runtime may
	// make a box's group there too.
	others []string
}

// Detect reads the mount table of this process.
func Detect() (Layout, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return Layout{}, fmt.Errorf("read mount table: %w", err)
	}
	return detect(mounts)
}

// detect is Detect on a given mount table.
func detect(mounts []*procfs.MountInfo) (Layout, error) {
	l := Layout{Mode: ModeNone, V1: map[Controller]string{}, roots: map[Controller]string{}}
	for _, m := range mounts {
		switch m.FSType {
		case "cgroup":
			used := false
			for _, c := range controllers {
				// Where two share a hierarchy, each has a link of its own name.
				dir := filepath.Join(filepath.Dir(m.MountPoint), string(c))
				if _, ok := m.SuperOptions[string(c)]; ok && exists(dir) {
					l.V1[c], l.roots[c] = dir, m.Root
					used = true
				}
			}
			if !used {
				l.others = append(l.others, m.MountPoint)
			}
		case "cgroup2":
			if l.V2 == "" {
				l.V2 = m.MountPoint
			}
		}
	}
	if l.V2 != "" {
		s, err := readFile(l.V2, "cgroup.controllers")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return l, fmt.Errorf("read controllers: %w", err)
		}
		for c := range strings.FieldsSeq(s) {
			if slices.Contains(controllers, Controller(c)) {
				l.V2Controllers = append(l.V2Controllers, Controller(c))
			}
		}
	}
	switch {
	case len(l.V1) > 0 && l.V2 != "":
		l.Mode = ModeHybrid
	case len(l.V1) > 0:
		l.Mode = ModeV1
	case l.V2 != "":
		l.Mode = ModeV2
	}
	return l, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Has reports whether boxes can have a controller.
func (l Layout) Has(c Controller) bool {
	if l.Mode == ModeV2 {
		return c == CPUAcct || c == Freezer || slices.Contains(l.V2Controllers, c)
	}
	return l.V1[c] != ""
}

// dir is the mount point that a controller's files are under.
func (l Layout) dir(c Controller) string {
	if l.Mode == ModeV2 {
		return l.V2
	}
	return l.V1[c]
}

// limiting is the hierarchy of the v1 controllers that have limits.
func (l Layout) limiting() ([]cgroup1.Subsystem, error) {
	above := func(c Controller) string { return filepath.Dir(l.V1[c]) }
	return []cgroup1.Subsystem{
		cgroup1.NewCpu(above(CPU)), cgroup1.NewMemory(above(Memory)), cgroup1.NewPids(above(Pids)),
	}, nil
}
