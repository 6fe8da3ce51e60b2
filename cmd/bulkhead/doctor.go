package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/bundled"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/doctor"
)

// doctorCmd looks at this host.
type doctorCmd struct {
	All bool `help:"Show what is in order, too."`
}

// Run prints what the host can enforce. It fails when something is missing that
// sandboxes cannot do without.
func (c *doctorCmd) Run(ctx context.Context, env *cli.Env, app *cli.App) error {
	data := os.Getenv("BULKHEAD_DATA")
	if data == "" {
		data = config.DefaultData
	}
	runtime, remove, err := runtimeForDoctor(data)
	if err != nil {
		return err
	}
	defer remove()
	report := doctor.Check(ctx, doctor.Deps{Data: data, Runtime: doctor.Runsc(runtime, gvisorVersion())})
	write := func() error { return report.WriteTable(env.Stdout, c.All) }
	if app.JSON() {
		write = func() error { return report.WriteJSON(env.Stdout) }
	}
	if err := write(); err != nil {
		return err //nolint:wrapcheck // of the output
	}
	if report.ExitCode() != 0 {
		return bulkhead.Errorf(bulkhead.CodeUnsupported, "this host lacks what sandboxes need: see the lines marked fail")
	}
	return nil
}

// runtimeForDoctor returns the runsc that a server of this data folder uses, or
// one that remove takes away again where there is no such folder or it is not
// ours to write.
func runtimeForDoctor(data string) (runsc string, remove func(), err error) {
	if _, err := os.Stat(data); err == nil { //nolint:gosec // the operator's own folder
		if dir, _, err := bundled.Install(runtimeFolder(data), bundled.Runsc); err == nil {
			return filepath.Join(dir, bundled.Runsc), func() {}, nil
		}
	}
	tmp, err := os.MkdirTemp("", "bulkhead-doctor-")
	if err != nil {
		return "", nil, err //nolint:wrapcheck // names the folder
	}
	remove = func() { _ = os.RemoveAll(tmp) }
	dir, _, err := bundled.Install(tmp, bundled.Runsc)
	if err != nil {
		remove()
		return "", nil, err //nolint:wrapcheck // names the program
	}
	return filepath.Join(dir, bundled.Runsc), remove, nil
}
