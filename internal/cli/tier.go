package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/bulkheadhq/bulkhead"
)

// TierCmd holds the commands on tiers.
type TierCmd struct {
	Ls  TierLsCmd  `cmd:"" help:"List tiers."`
	Set TierSetCmd `cmd:"" help:"Make or change a tier, for all of its tenants."`
	Rm  TierRmCmd  `cmd:"" help:"Remove tiers that no tenant has."`
}

// TierLsCmd lists tiers.
type TierLsCmd struct{}

// Run lists tiers.
func (*TierLsCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	tiers, err := cl.Tiers(ctx)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(append([]bulkhead.Tier{}, tiers...))
	}
	rows := make([][]string, len(tiers))
	for i, t := range tiers {
		q := t.Quota
		rows[i] = []string{
			t.Name, fmt.Sprintf("× %g", t.Multiplier), strconv.Itoa(t.Priority), most(float64(q.Sandboxes), ""), most(q.CPU, ""), mostMiB(q.MemoryMB),
			most(q.CreatesPerSecond, "/s"), most(q.Sandbox.CPU, ""), mostMiB(q.Sandbox.MemoryMB), most(q.CPUSecondsPerDay, " s"), most(q.GBHoursPerDay, " GB·h"),
		}
	}
	return a.table([]string{"TIER", "SIZES", "PRIORITY", "SANDBOXES", "CPU", "MEMORY", "CREATES", "EACH CPU", "EACH MEMORY", "CPU A DAY", "MEMORY A DAY"}, rows)
}

// TierSetCmd makes or changes a tier.
type TierSetCmd struct {
	Name       string   `arg:"" help:"The tier: lower-case letters, digits, '_' or '-'."`
	Multiplier *float64 `help:"What CPU and memory that are asked for are multiplied with: 0.1 to 10. Default: 1." placeholder:"N"`
	Priority   *int     `help:"Higher is served first: 1 to 100. Default: 1." placeholder:"N"`

	QuotaFlags `embed:"" group:"Quota of each of its tenants; 0 is unlimited:"`
}

// Run makes or changes the tier.
func (c *TierSetCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	t, err := cl.Tier(ctx, c.Name)
	switch bulkhead.CodeOf(err) {
	case "":
	case bulkhead.CodeNotFound:
		t = bulkhead.Tier{Name: c.Name, Multiplier: 1, Priority: 1}
	default:
		return err
	}
	set(&t.Multiplier, c.Multiplier)
	set(&t.Priority, c.Priority)
	t.Quota = c.over(t.Quota)
	if t, err = cl.PutTier(ctx, t); err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(t)
	}
	return a.line(t.Name)
}

// TierRmCmd removes tiers.
type TierRmCmd struct {
	Names []string `arg:"" name:"name" help:"The tiers."`
}

// Run removes the tiers.
func (c *TierRmCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	return a.each("removed", c.Names, func(name string) error { return cl.DeleteTier(ctx, name) })
}
