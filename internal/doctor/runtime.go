package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Runsc returns a trial for [Deps.Runtime]: it runs the program at path, as
// runsc, with a sandbox that does nothing, in a directory that it removes. The
// version is the caller's word, since a runsc built as a library does not know its
// own.
func Runsc(path, version string) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		program, err := exec.LookPath("true")
		if err != nil {
			return version, fmt.Errorf("find a program to run: %w", err)
		}
		dir, err := os.MkdirTemp("", "bulkhead-doctor-")
		if err != nil {
			return version, err
		}
		cmd := exec.CommandContext(ctx, path)
		cmd.Args = []string{
			"runsc", "--root=" + dir, "--platform=systrap", "--network=none", "--ignore-cgroups", "--host-settings=ignore",
			"do", program,
		}
		cmd.WaitDelay = time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err = cmd.Run()
		if said := strings.TrimSpace(out.String()); err != nil && said != "" {
			lines := strings.Split(said, "\n")
			err = fmt.Errorf("%w: %s", err, lines[len(lines)-1])
		}
		return version, errors.Join(err, os.RemoveAll(dir))
	}
}
