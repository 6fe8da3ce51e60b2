package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// Cgroup is a box's cgroup, which exists before the box and outlives it.
type Cgroup interface {
	// Start starts cmd as a member of the group from its first instruction on.
	Start(cmd *exec.Cmd) error
	// CgroupsPath is the group's name in an OCI bundle.
	CgroupsPath() string
	// MemoryLimitFile is the kernel's file with the group's memory limit in bytes.
	MemoryLimitFile() string
}

// Runtime is an OCI runtime, called through its command line. It is a value;
// its methods may be called from several goroutines.
//
// containerd/go-runc does the same for most of it, but has no way to start the
// runtime inside a cgroup, which saves runsc the 25 ms of moving itself there
// and back (measured on cgroup v1).
type Runtime struct {
	// Path is the program, Name its argv[0].
	Path, Name string
	// Flags come before the command.
	Flags []string
}

// command prepares `runtime FLAGS --log BOX/runtime.log args…`. It gets a
// process group of its own, so that a signal to the server's does not reach it.
func (r Runtime) command(ctx context.Context, b Box, args []string) *exec.Cmd {
	all := append([]string{r.Name}, r.Flags...)
	all = append(all, "--log="+b.RuntimeLog(), "--log-format=json")
	cmd := exec.CommandContext(ctx, r.Path)
	cmd.Args = append(all, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Do runs a command of the runtime to its end. Its error carries what the
// runtime wrote, and matches [ErrNoContainer] when the runtime knows no such
// container.
func (r Runtime) Do(ctx context.Context, b Box, args ...string) error {
	if err := b.Exists(); err != nil { // the runtime would make the folder for its log
		return err
	}
	cmd := r.command(ctx, b, args)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return b.failure(args[0], err, out.String())
	}
	return nil
}

// DoIn is [Runtime.Do] with the runtime in the group and the box's pipes as its
// standard streams, as create and restore want it. A nil group means the
// server's own.
func (r Runtime) DoIn(ctx context.Context, b Box, group Cgroup, args ...string) error {
	pipes, err := b.pipes()
	if err != nil {
		return err
	}
	defer pipes.close()
	cmd := r.command(ctx, b, args)
	// Plain files, so that os/exec passes the descriptors and copies nothing.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes.in, pipes.out, pipes.err
	start := (*exec.Cmd).Start
	if group != nil {
		start = func(c *exec.Cmd) error { return group.Start(c) }
	}
	if err := start(cmd); err != nil {
		return fmt.Errorf("%s %s: %w", r.Name, args[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return b.failure(args[0], err, "")
	}
	return nil
}

// ErrNoContainer is matched by the error of a command on a container that the
// runtime does not know.
var ErrNoContainer = errors.New("no such container")

// failure explains a runtime's exit with its log, or what it printed.
func (b Box) failure(op string, err error, printed string) error {
	said := b.lastLog()
	if said == "" {
		said = strings.TrimSpace(printed)
	}
	if strings.Contains(said, "does not exist") {
		err = errors.Join(ErrNoContainer, err)
	}
	if said == "" {
		return fmt.Errorf("%s box %s: %w", op, b.ID, err)
	}
	return fmt.Errorf("%s box %s: %w: %s", op, b.ID, err, said)
}
