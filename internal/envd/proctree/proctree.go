// Package proctree reads the processes of the box from /proc and ends whole
// trees of them.
//
// A tree is a leader, everything in its session or process group, and all their
// descendants. A program that makes a session of its own and whose parent is
// gone is a daemon: it is in no tree but its own.
package proctree

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// Process is one line of the process table.
type Process struct {
	// Pid, Parent, Group and Session are process numbers.
	Pid, Parent, Group, Session int
	// Threads is the number of its threads, at least 1.
	Threads int64
	// Resident is its resident memory in bytes.
	Resident int64
	// CPU is the processor time it has used, with that of the children it has
	// waited for.
	CPU time.Duration
	// Zombie says that it has ended and waits to be reaped.
	Zombie bool
	// Name is its short name, at most 15 bytes.
	Name string
}

// The bounds of one reading of the process table: how many processes, and how
// many bytes on each.
const (
	maxProcesses = 1 << 17
	maxStat      = 4096
)

// List returns the processes under the mounted proc, "/proc" outside tests.
// Processes that end meanwhile are left out.
func List(proc string) ([]Process, error) {
	dir, err := sysfile.Open(proc, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close() //nolint:errcheck // only read
	names, err := dir.Readdirnames(maxProcesses)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Process
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		stat, err := sysfile.Read(proc+"/"+name+"/stat", maxStat)
		if err != nil {
			continue // it has ended
		}
		if p, ok := parse(stat); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// The fields of /proc/PID/stat after the name, counted from 0; see proc(5).
const (
	fieldState   = 0
	fieldParent  = 1
	fieldGroup   = 2
	fieldSession = 3
	fieldCPU     = 11 // user, system, then both of waited-for children
	fieldThreads = 17
	fieldRSS     = 21
)

// tick is the unit of processor time in there, the same on every Linux.
const tick = time.Second / 100

// parse reads one /proc/PID/stat. The name may hold spaces and parentheses.
func parse(stat []byte) (Process, bool) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return Process{}, false
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) <= fieldRSS {
		return Process{}, false
	}
	number := func(b []byte) int64 {
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	var ticks int64
	for _, f := range fields[fieldCPU : fieldCPU+4] {
		ticks += max(0, number(f))
	}
	p := Process{
		Pid:      int(number(bytes.TrimSpace(stat[:open]))),
		Parent:   int(number(fields[fieldParent])),
		Group:    int(number(fields[fieldGroup])),
		Session:  int(number(fields[fieldSession])),
		Threads:  max(1, number(fields[fieldThreads])),
		Resident: max(0, number(fields[fieldRSS])) * int64(os.Getpagesize()),
		CPU:      time.Duration(ticks) * tick,
		Zombie:   fields[fieldState][0] == 'Z' || fields[fieldState][0] == 'X',
		Name:     strings.ToValidUTF8(string(stat[open+1:end]), "�"),
	}
	return p, p.Pid > 0
}

// Members returns those of all that are in leader's tree and still run.
func Members(all []Process, leader int) []Process {
	return grow(all, map[int]bool{leader: true}, func(p Process) bool {
		return p.Session == leader || p.Group == leader
	})
}

// Descendants returns those of all that pid started, directly or not, and still
// run; pid itself is not among them.
func Descendants(all []Process, pid int) []Process {
	members := grow(all, map[int]bool{pid: true}, func(Process) bool { return false })
	return slices.DeleteFunc(members, func(p Process) bool { return p.Pid == pid })
}

// grow adds to in every process that belongs or whose parent is in, and returns
// those of them that run.
func grow(all []Process, in map[int]bool, belongs func(Process) bool) []Process {
	// A parent may come after its child, so go on until nothing is added.
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !in[p.Pid] && (in[p.Parent] || belongs(p)) {
				in[p.Pid], grown = true, true
			}
		}
	}
	var members []Process
	for _, p := range all {
		if in[p.Pid] && !p.Zombie {
			members = append(members, p)
		}
	}
	return members
}

// maxPasses bounds how often [Kill] reads the process table. Each pass stops
// what it finds, so only a tree that grows faster than that needs more than
// three.
const maxPasses = 64

// Kill ends leader's tree with SIGKILL and returns how many processes it ended.
// It first stops the tree, pass by pass, until no new member appears, so that
// nothing is born while it works. It does not wait for the ends and does not
// reap. Process 1 and the caller are never touched.
func Kill(proc string, leader int) int {
	if leader == os.Getpid() || leader <= 1 {
		return 0
	}
	return kill(proc, func(all []Process) []Process { return Members(all, leader) })
}

// KillAll ends every process that the caller started, directly or not; see
// [Kill]. For process 1 that is every other process of the box.
func KillAll(proc string) int {
	return kill(proc, func(all []Process) []Process { return Descendants(all, os.Getpid()) })
}

func kill(proc string, choose func([]Process) []Process) int {
	self := os.Getpid()
	stopped := make(map[int]bool)
	for range maxPasses {
		all, err := List(proc)
		if err != nil {
			break
		}
		fresh := false
		for _, p := range choose(all) {
			if p.Pid == self || p.Pid == 1 || stopped[p.Pid] {
				continue
			}
			stopped[p.Pid], fresh = true, true
			_ = syscall.Kill(p.Pid, syscall.SIGSTOP) // it may have ended
		}
		if !fresh {
			break
		}
	}
	for pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	return len(stopped)
}
