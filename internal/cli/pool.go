package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead/client"
)

// PoolCmd holds the commands on the boxes that wait.
type PoolCmd struct {
	Ls      PoolLsCmd      `cmd:"" help:"Show the pools: what waits, why as many, hits, misses and waste."`
	Set     PoolSetCmd     `cmd:"" help:"Pin the size of a template's pool, or let the forecast decide again."`
	Predict PoolPredictCmd `cmd:"" help:"Forecast the requests for a template."`
}

// PoolLsCmd lists pools.
type PoolLsCmd struct{}

// Run lists pools.
func (*PoolLsCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	r, err := cl.Pools(ctx)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(r)
	}
	rows := make([][]string, 0, len(r.Pools)+1)
	for _, p := range r.Pools {
		rows = append(rows, poolRow(p))
	}
	t := r.Totals
	rows = append(rows, []string{
		"all", strconv.Itoa(t.Warm), strconv.Itoa(t.Cold), strconv.Itoa(t.Leased), "", "", "", "",
		gbs(t.IdleMBs), "", fmt.Sprintf("%d/%d", t.RecentUse, t.TotalUse), "",
	})
	header := []string{"TEMPLATE", "WARM", "COLD", "LEASED", "TARGET", "HITS", "MISSES", "REFILL", "IDLE", "WASTED", "USE", "WHY"}
	if err := a.table(header, rows); err != nil {
		return err
	}
	for _, p := range r.Pools {
		for _, skipped := range p.Image.Skipped {
			a.note("%s: import skipped: %s", p.Template, skipped)
		}
		if p.Image.Error != "" {
			a.note("%s: %s", p.Template, p.Image.Error)
		}
	}
	if r.Memory.Short {
		a.note("memory is short: %d MB available, pools keep %d MB free", r.Memory.AvailableMB, r.Memory.ReserveMB)
	}
	return nil
}

// poolRow is a pool's row. Use is the last hour's and all; a refill is what making
// a warm box takes.
func poolRow(p client.Pool) []string {
	hits, all := p.Hits["warm"], int64(0)
	for _, n := range p.Hits {
		all += n
	}
	share := "-"
	if all > 0 {
		share = fmt.Sprintf("%d (%.0f%%)", hits, 100*float64(hits)/float64(all))
	}
	refill := "-"
	if took := p.CreateTime + p.RestoreTime; took > 0 {
		refill = took.Round(time.Millisecond).String()
	}
	why := p.Target.Why
	if p.Next != "" {
		why = "a new version is made ready; " + why
	}
	return []string{
		p.Template, strconv.Itoa(p.Warm), strconv.Itoa(p.Cold), strconv.Itoa(p.Leased),
		fmt.Sprintf("%d/%d", p.Target.Warm, p.Target.Cold), share, causes(p.Misses), refill, gbs(p.IdleMBs), causes(p.Wasted),
		fmt.Sprintf("%d/%d", p.Use.Recent, p.Use.Total), why,
	}
}

// causes are counts in the order of their names: "empty 3, disk 1".
func causes(counts map[string]int64) string {
	var out []string
	for _, cause := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s %d", cause, counts[cause]))
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

// gbs is idle memory in GB·s.
func gbs(mbs float64) string { return fmt.Sprintf("%.1f GB·s", mbs/1000) }

// PoolSetCmd pins a size.
type PoolSetCmd struct {
	Template string `arg:"" help:"The template."`
	Size     string `arg:"" help:"WARM or WARM/COLD, each 0 to 1000; or auto, for the forecast to decide."`
}

// Run pins the size.
func (c *PoolSetCmd) Run(ctx context.Context, a *App) error {
	size, err := poolSize(c.Size)
	if err != nil {
		return err
	}
	cl, err := a.Client()
	if err != nil {
		return err
	}
	p, err := cl.SetPool(ctx, c.Template, size)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(p)
	}
	a.note("%s: target %d warm, %d cold (%s)", p.Template, p.Target.Warm, p.Target.Cold, p.Target.Why)
	return nil
}

// poolSize reads a size; nil is auto.
func poolSize(text string) (*client.PoolSize, error) {
	if text == "auto" {
		return nil, nil //nolint:nilnil // nil is the size that nobody set
	}
	warm, cold, both := strings.Cut(text, "/")
	var size client.PoolSize
	var err error
	if size.Warm, err = strconv.Atoi(warm); err == nil && both {
		size.Cold, err = strconv.Atoi(cold)
	}
	if err != nil {
		return nil, usagef("size is %q; it must be WARM, WARM/COLD or auto", text)
	}
	return &size, nil
}

// PoolPredictCmd forecasts.
type PoolPredictCmd struct {
	Template string        `arg:"" help:"The template."`
	Horizon  time.Duration `help:"From now until when: 1s to 672h." default:"1h"`
}

// Run forecasts.
func (c *PoolPredictCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	f, err := cl.PredictPool(ctx, c.Template, c.Horizon)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(f)
	}
	return a.line(fmt.Sprintf(
		"%s, until %s: %.1f requests expected; at most %d in 50 of 100 cases, %d in 90, %d in 99\n"+
			"seen: %d in the last hour, %d in all; target %d warm, %d cold: %s",
		f.Template, moment(f.Until), f.Mean, f.P50, f.P90, f.P99, f.Use.Recent, f.Use.Total, f.Target.Warm, f.Target.Cold, f.Target.Why))
}
