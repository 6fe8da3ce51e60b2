package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/bulkheadhq/bulkhead/bench/results"
)

// smallMB is the memory for everything in the small host, in MiB.
const smallMB = 512

// besideBombsSmall measures the same as besideBombs in a process of its own that
// has, with its workers, little memory in all.
func besideBombsSmall(ctx context.Context, r *results.Report, corpus string, runs int) (err error) {
	dir, enter, err := smallHost()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(enter), removeIfThere(dir)) }()
	out, err := os.MkdirTemp("", "bulkhead-bench-small-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	// A shell moves itself in before it becomes the bench.
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, enter,
		"/proc/"+strconv.Itoa(os.Getpid())+"/exe", "-out", out, "-bombs", corpus, "-runs", strconv.Itoa(runs), "bombs")
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("in %d MiB: %w\n%s", smallMB, err, text)
	}
	data, err := os.ReadFile(filepath.Join(out, r.Name+".json"))
	if err != nil {
		return err
	}
	var own results.Report
	if err := json.Unmarshal(data, &own); err != nil {
		return err
	}
	r.Printf("   with %d MiB for everything:\n", smallMB)
	for _, x := range own.Rows {
		x.Name += fmt.Sprintf(", %d MiB in all", smallMB)
		r.Add(x, fmt.Errorf("it said:\n%s", text))
	}
	return nil
}

// smallHost makes a cgroup for everything, and the one to enter: the same on
// version 1, below it on version 2, where the workers' groups stand beside the
// server's.
func smallHost() (dir, enter string, err error) {
	const name, v1, v2 = "bulkhead-bench-small", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"
	limit := []byte(strconv.Itoa(smallMB << 20))
	if _, err := os.Stat(v1 + "/memory.limit_in_bytes"); err == nil {
		dir := filepath.Join(v1, name)
		return dir, dir, errors.Join(makeGroup(dir), os.WriteFile(dir+"/memory.limit_in_bytes", limit, 0o600))
	}
	dir = filepath.Join(v2, name)
	return dir, dir + "/server", errors.Join(
		os.WriteFile(v2+"/cgroup.subtree_control", []byte("+memory +cpu"), 0o600),
		makeGroup(dir), os.WriteFile(dir+"/memory.max", limit, 0o600), makeGroup(dir+"/server"),
	)
}

// makeGroup makes a cgroup unless it is there.
func makeGroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // cgroupfs has its own rules
		return err
	}
	return nil
}

// removeIfThere removes a directory that may have gone already.
func removeIfThere(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
