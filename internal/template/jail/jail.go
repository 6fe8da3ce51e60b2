// Package jail runs one program of a template build where nothing that it does
// or leaves behind touches the host: in mount, PID, IPC and UTS namespaces of its
// own, as the root user of a directory tree, with the capabilities of an ordinary
// container. When the program ends, or the process that started it dies in any
// way, the kernel ends everything in the namespace and undoes every mount.
//
// The program shares the host's network, since a build downloads, and runs as the
// host's root user. That is a fence for the scripts of packages and for the
// operator's own recipes, not a place for a tenant's code: that runs in boxes.
//
// The namespaces are set up by this same executable, started again: the main
// function of every program that calls [Run] must begin with
//
//	if jail.Is(os.Args) {
//		os.Exit(jail.Main(os.Stdin, os.Stderr))
//	}
package jail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// name is the first argument of the process that sets up the namespaces.
const name = "bulkhead-jail"

// failed is the exit status when the program could not be started.
const failed = 125

// Spec is a program and where it runs.
type Spec struct {
	// Root becomes the program's root directory. It has the real directories
	// dev, proc and run, which get file systems of their own. Empty means the
	// host's root, with all capabilities: for trusted tools that mount.
	Root string `json:"root,omitempty"`
	// Binds are shown in Root, in order.
	Binds []Bind `json:"binds,omitempty"`
	// Argv is the program, by its absolute path in Root, and its arguments.
	Argv []string `json:"argv"`
	// Env is its whole environment.
	Env []string `json:"env,omitempty"`
	// Dir is where it starts; empty means "/".
	Dir string `json:"dir,omitempty"`
}

// Bind shows a file or directory of the host in the tree.
type Bind struct {
	// Source is the path on the host.
	Source string `json:"source"`
	// Target is relative to the root and contains no symbolic link. Below
	// "run/" it is made, elsewhere it exists.
	Target string `json:"target"`
	// Writable lets the program write to it.
	Writable bool `json:"writable,omitempty"`
}

// Is reports whether this process was started by [Run]; args is os.Args.
func Is(args []string) bool { return len(args) == 1 && args[0] == name }

// Run runs the program and waits for it; both its outputs go to out, in order.
// A program that fails gives an error with an [*exec.ExitError] in its chain.
// When ctx ends, everything in the jail is killed before Run returns. Needs root.
func Run(ctx context.Context, spec Spec, out io.Writer) error {
	in, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode jail: %w", err)
	}
	// The kernel sends Pdeathsig when the starting thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{name}
	cmd.Env = []string{"LANG=C.UTF-8"}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", spec.Argv[0], context.Cause(ctx))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program ended well; nothing of it is left to write
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", spec.Argv[0], err)
	}
	return nil
}

// Main is the process that [Run] starts: it reads the [Spec] from in, enters the
// jail and becomes the program. It returns only when it cannot, with an exit status.
func Main(in io.Reader, errOut io.Writer) int {
	runtime.LockOSThread() // capabilities belong to a thread
	var spec Spec
	err := json.NewDecoder(in).Decode(&spec)
	if err == nil {
		err = enter(spec)
	}
	fmt.Fprintf(errOut, "%s: %v\n", name, err)
	return failed
}
