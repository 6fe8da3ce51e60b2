package main

import (
	"context"
	"os"

	"github.com/bulkheadhq/bulkhead"
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
	report := doctor.Check(ctx, doctor.Deps{Data: data, Runtime: doctor.Runsc("/proc/self/exe", gvisorVersion())})
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
