package cli

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// QuotaCmd holds the commands on quotas.
type QuotaCmd struct {
	Show   QuotaShowCmd   `cmd:"" default:"withargs" help:"Show what a tenant may use, and does."`
	Whatif QuotaWhatifCmd `cmd:"" help:"Say whether more sandboxes would fit, and what is in the way."`
}

// QuotaShowCmd shows a quota.
type QuotaShowCmd struct {
	Tenant string `help:"Whose. Default: your own; another one takes an operator's key." placeholder:"NAME"`
}

// Run shows the quota.
func (c *QuotaShowCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	q, err := cl.Quota(ctx, c.Tenant)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(q)
	}
	return c.print(a, q)
}

// print is the tables of one quota.
func (c *QuotaShowCmd) print(a *App, q client.Quota) error {
	limit := q.Tier.Quota
	a.note("tenant %s, tier %s: sizes × %g, priority %d, %d waiting", q.Tenant, q.Tier.Name, q.Tier.Multiplier, q.Tier.Priority, q.Waiting)
	rows := [][]string{
		{"sandboxes", strconv.FormatInt(q.Used.Sandboxes, 10), most(float64(limit.Sandboxes), ""), ""},
		{"cpu", number(q.Used.CPU), most(limit.CPU, ""), most(limit.Sandbox.CPU, "")},
		{"memory", mib(q.Used.MemoryMB), mostMiB(limit.MemoryMB), mostMiB(limit.Sandbox.MemoryMB)},
		{"disk", mib(q.Used.DiskMB), mostMiB(limit.DiskMB), mostMiB(limit.Sandbox.DiskMB)},
		{"creates", "", most(limit.CreatesPerSecond, "/s"), ""},
		{"time to live", "", "", most(float64(limit.TTLSeconds), " s")},
		{"cpu today", number(q.Today.CPUSeconds) + " s", most(limit.CPUSecondsPerDay, " s"), ""},
		{"memory today", number(q.Today.GBHours) + " GB·h", most(limit.GBHoursPerDay, " GB·h"), ""},
	}
	if err := a.table([]string{"RESOURCE", "USED", "LIMIT", "EACH"}, rows); err != nil || q.Host == nil {
		return err
	}
	h := q.Host
	a.note("this host: load %.0f %% cpu, %.0f %% memory, so that sizes are × %g; %d waiting", 100*h.Load.CPU, 100*h.Load.Memory, h.LoadFactor, h.Waiting)
	if h.Pressure != "" {
		a.note("nothing new is taken on: %s", h.Pressure)
	}
	return a.table([]string{"HOST", "BOOKED", "CAPACITY", "GRANTED"}, [][]string{
		{"sandboxes", strconv.FormatInt(h.Booked.Sandboxes, 10), most(float64(h.Capacity.Sandboxes), ""), strconv.FormatInt(h.Granted.Sandboxes, 10)},
		{"cpu", number(h.Booked.CPU), most(h.Capacity.CPU, ""), number(h.Granted.CPU)},
		{"memory", mib(h.Booked.MemoryMB), mostMiB(h.Capacity.MemoryMB), mib(h.Granted.MemoryMB)},
		{"disk", mib(h.Booked.DiskMB), mostMiB(h.Capacity.DiskMB), mib(h.Granted.DiskMB)},
	})
}

// number writes a figure with at most two decimals.
func number(v float64) string { return strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64) }

// most writes a limit; 0 is none.
func most(v float64, unit string) string {
	if v == 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%g%s", v, unit)
}

func mostMiB(n int64) string {
	if n == 0 {
		return "unlimited"
	}
	return mib(n)
}

// QuotaWhatifCmd asks whether more would fit.
type QuotaWhatifCmd struct {
	Count    int    `short:"n" help:"How many more." default:"1"`
	Template string `help:"Template they would be made from." default:"code-interpreter-v1" placeholder:"NAME"`
	CPU      Cores  `name:"cpu" help:"Cores of each." placeholder:"CORES"`
	Memory   Bytes  `help:"Memory of each." placeholder:"SIZE"`
	Disk     Bytes  `help:"Disk of each." placeholder:"SIZE"`
	Tenant   string `help:"Whose. Default: your own; another one takes an operator's key." placeholder:"NAME"`
}

// Run asks, and exits with 4 when they would not fit.
func (c *QuotaWhatifCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	answer, err := cl.WhatIf(ctx, bulkhead.CreateRequest{
		Template: c.Template, Tenant: c.Tenant,
		Limits: bulkhead.Limits{CPU: float64(c.CPU), MemoryMB: c.Memory.MiB(), DiskMB: c.Disk.MiB()},
	}, c.Count)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		err = a.printJSON(answer)
	} else {
		err = c.print(a, answer)
	}
	if err == nil && !answer.Fits {
		err = ended{code: exitRefused}
	}
	return err
}

func (c *QuotaWhatifCmd) print(a *App, w bulkhead.WhatIf) error {
	l := w.Allocation.Limits
	a.note("%d of %d would fit now, each with %s cores, %s memory, %s disk", w.Fitting, w.Count, number(l.CPU), mib(l.MemoryMB), mib(l.DiskMB))
	for _, r := range w.Allocation.Reasons {
		a.note("%s: %s", r.Field, r.Detail)
	}
	if len(w.Blocks) == 0 {
		return nil
	}
	rows := make([][]string, len(w.Blocks))
	for i, b := range w.Blocks {
		wait := "not known"
		switch {
		case b.Never:
			wait = "never fits"
		case b.WaitSeconds > 0:
			wait = fmt.Sprintf("%.1f s", b.WaitSeconds)
		}
		rows[i] = []string{b.Name, number(b.Limit), number(b.Used), number(b.Asked), b.Unit, wait}
	}
	return a.table([]string{"LIMIT", "IS", "USED", "ASKED", "UNIT", "WAIT"}, rows)
}

// ResizeCmd changes what a running sandbox may use.
type ResizeCmd struct {
	ID        string `arg:"" name:"id" help:"The sandbox."`
	CPU       Cores  `name:"cpu" help:"Limit in cores." placeholder:"CORES"`
	Memory    Bytes  `help:"Limit of memory; not below what is in use." placeholder:"SIZE"`
	Pids      Count  `help:"Limit of processes and threads." placeholder:"N"`
	Bandwidth Count  `help:"Network rate each way, in kbit/s." placeholder:"KBPS"`
	Packets   Count  `help:"Network rate each way, in packets a second." placeholder:"N"`
	Conns     Count  `name:"connections" help:"Connections to the outside that may be open." placeholder:"N"`
	Prints    Count  `name:"output-mb-per-second" help:"How fast its programs print together." placeholder:"MIB"`
}

// Run changes it.
func (c *ResizeCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	got, err := cl.Resize(ctx, c.ID, bulkhead.Limits{
		CPU: float64(c.CPU), MemoryMB: c.Memory.MiB(), Pids: int64(c.Pids), BandwidthKbps: int64(c.Bandwidth),
		PacketsPerSecond: int64(c.Packets), Connections: int64(c.Conns), OutputMBPerSecond: int64(c.Prints),
	})
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(got)
	}
	l := got.Limits
	return a.line(fmt.Sprintf("%s: %s cores, %s memory, %d processes, %d kbit/s, %d packets/s, %d connections, output %d MiB/s",
		c.ID, number(l.CPU), mib(l.MemoryMB), l.Pids, l.BandwidthKbps, l.PacketsPerSecond, l.Connections, l.OutputMBPerSecond))
}
