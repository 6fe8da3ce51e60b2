package cli

import (
	"context"
	"errors"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// TenantCmd holds the commands on tenants.
type TenantCmd struct {
	Ls     TenantLsCmd     `cmd:"" help:"List tenants."`
	Show   TenantShowCmd   `cmd:"" help:"Show a tenant and the quota that holds for it."`
	Create TenantCreateCmd `cmd:"" help:"Make a tenant."`
	Set    TenantSetCmd    `cmd:"" help:"Change a tenant's name, tier or overrides of its tier's quota."`
	Rm     TenantRmCmd     `cmd:"" help:"Remove tenants and revoke their keys."`
}

// QuotaFlags are the fields of a quota. What is not given is nil.
type QuotaFlags struct {
	Sandboxes        *int           `help:"Sandboxes at once." placeholder:"N"`
	CPU              *float64       `name:"cpu" help:"Cores of all sandboxes together." placeholder:"N"`
	MemoryMB         *int64         `name:"memory-mb" help:"Memory of all sandboxes together." placeholder:"MIB"`
	DiskMB           *int64         `name:"disk-mb" help:"Disk of all sandboxes together." placeholder:"MIB"`
	TTL              *time.Duration `name:"ttl" help:"Longest time to live." placeholder:"TIME"`
	CreatesPerSecond *float64       `help:"Sandboxes created a second." placeholder:"N"`
	CPUSecondsPerDay *float64       `name:"cpu-seconds-per-day" help:"Processor time that all of them use in a UTC day." placeholder:"N"`
	GBHoursPerDay    *float64       `name:"gb-hours-per-day" help:"GB hours of memory that all of them use in a UTC day." placeholder:"N"`
	SandboxCPU       *float64       `name:"sandbox-cpu" help:"Cores of one sandbox." placeholder:"N"`
	SandboxMemoryMB  *int64         `name:"sandbox-memory-mb" help:"Memory of one sandbox." placeholder:"MIB"`
	SandboxDiskMB    *int64         `name:"sandbox-disk-mb" help:"Disk of one sandbox." placeholder:"MIB"`
	SandboxPids      *int64         `name:"sandbox-pids" help:"Processes and threads of one sandbox." placeholder:"N"`
	SandboxBandwidth *int64         `name:"sandbox-bandwidth-kbps" help:"Network rate of one sandbox, each way." placeholder:"KBPS"`
	SandboxPackets   *int64         `name:"sandbox-packets" help:"Packets a second of one sandbox, each way." placeholder:"N"`
	SandboxConns     *int64         `name:"sandbox-connections" help:"Connections to the outside of one sandbox." placeholder:"N"`
	SandboxOutput    *int64         `name:"sandbox-output-mb" help:"What one program of a sandbox prints." placeholder:"MIB"`
	SandboxPrints    *int64         `name:"sandbox-output-mb-per-second" help:"How fast the programs of one sandbox print." placeholder:"MIB"`
	SandboxFiles     *int64         `name:"sandbox-open-files" help:"Open files of one program of a sandbox." placeholder:"N"`
	SandboxCPUTime   *int64         `name:"sandbox-cpu-seconds" help:"Processor time of one program of a sandbox." placeholder:"N"`
}

// sandboxField is one of the whole numbers that bound one sandbox.
type sandboxField struct {
	json, shown, unit string
	given             *int64
	of                func(*bulkhead.Limits) *int64
}

// sandboxFields are those that have no name of their own among a quota's sums.
func (f QuotaFlags) sandboxFields() []sandboxField {
	return []sandboxField{
		{"pids", "pids", "", f.SandboxPids, func(l *bulkhead.Limits) *int64 { return &l.Pids }},
		{"bandwidthKbps", "bandwidth", " kbit/s", f.SandboxBandwidth, func(l *bulkhead.Limits) *int64 { return &l.BandwidthKbps }},
		{"packetsPerSecond", "packets", "/s", f.SandboxPackets, func(l *bulkhead.Limits) *int64 { return &l.PacketsPerSecond }},
		{"connections", "connections", "", f.SandboxConns, func(l *bulkhead.Limits) *int64 { return &l.Connections }},
		{"outputMB", "output", " MiB", f.SandboxOutput, func(l *bulkhead.Limits) *int64 { return &l.OutputMB }},
		{"outputMBPerSecond", "output rate", " MiB/s", f.SandboxPrints, func(l *bulkhead.Limits) *int64 { return &l.OutputMBPerSecond }},
		{"openFiles", "open files", "", f.SandboxFiles, func(l *bulkhead.Limits) *int64 { return &l.OpenFiles }},
		{"cpuSeconds", "cpu time", " s", f.SandboxCPUTime, func(l *bulkhead.Limits) *int64 { return &l.CPUSeconds }},
	}
}

// over returns q with the fields that are given.
func (f QuotaFlags) over(q bulkhead.Quota) bulkhead.Quota {
	set(&q.Sandboxes, f.Sandboxes)
	set(&q.CPU, f.CPU)
	set(&q.MemoryMB, f.MemoryMB)
	set(&q.DiskMB, f.DiskMB)
	if f.TTL != nil {
		q.TTLSeconds = int64(*f.TTL / time.Second)
	}
	set(&q.CreatesPerSecond, f.CreatesPerSecond)
	set(&q.CPUSecondsPerDay, f.CPUSecondsPerDay)
	set(&q.GBHoursPerDay, f.GBHoursPerDay)
	set(&q.Sandbox.CPU, f.SandboxCPU)
	set(&q.Sandbox.MemoryMB, f.SandboxMemoryMB)
	set(&q.Sandbox.DiskMB, f.SandboxDiskMB)
	for _, x := range f.sandboxFields() {
		set(x.of(&q.Sandbox), x.given)
	}
	return q
}

func set[T any](field, given *T) {
	if given != nil {
		*field = *given
	}
}

// fields returns the fields that are given, under their names in JSON.
func (f QuotaFlags) fields() map[string]any {
	out, sandbox := map[string]any{}, map[string]any{}
	give(out, "sandboxes", f.Sandboxes)
	give(out, "cpu", f.CPU)
	give(out, "memoryMB", f.MemoryMB)
	give(out, "diskMB", f.DiskMB)
	if f.TTL != nil {
		out["ttlSeconds"] = int64(*f.TTL / time.Second)
	}
	give(out, "createsPerSecond", f.CreatesPerSecond)
	give(out, "cpuSecondsPerDay", f.CPUSecondsPerDay)
	give(out, "gbHoursPerDay", f.GBHoursPerDay)
	give(sandbox, "cpu", f.SandboxCPU)
	give(sandbox, "memoryMB", f.SandboxMemoryMB)
	give(sandbox, "diskMB", f.SandboxDiskMB)
	for _, x := range f.sandboxFields() {
		give(sandbox, x.json, x.given)
	}
	if len(sandbox) > 0 {
		out["sandbox"] = sandbox
	}
	return out
}

func give[T any](into map[string]any, name string, given *T) {
	if given != nil {
		into[name] = *given
	}
}

// quotaRows are a quota as people read it, beside the tier's that it overrides.
func quotaRows(q bulkhead.Quota) [][]string {
	rows := [][]string{
		{"sandboxes", most(float64(q.Sandboxes), "")},
		{"cpu", most(q.CPU, "")},
		{"memory", mostMiB(q.MemoryMB)},
		{"disk", mostMiB(q.DiskMB)},
		{"time to live", most(float64(q.TTLSeconds), " s")},
		{"creates", most(q.CreatesPerSecond, "/s")},
		{"cpu a day", most(q.CPUSecondsPerDay, " s")},
		{"memory a day", most(q.GBHoursPerDay, " GB·h")},
		{"sandbox cpu", most(q.Sandbox.CPU, "")},
		{"sandbox memory", mostMiB(q.Sandbox.MemoryMB)},
		{"sandbox disk", mostMiB(q.Sandbox.DiskMB)},
	}
	for _, x := range (QuotaFlags{}).sandboxFields() {
		rows = append(rows, []string{"sandbox " + x.shown, most(float64(*x.of(&q.Sandbox)), x.unit)})
	}
	return rows
}

// TenantLsCmd lists tenants.
type TenantLsCmd struct{}

// Run lists tenants.
func (*TenantLsCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	tenants, err := cl.Tenants(ctx)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(append([]bulkhead.Tenant{}, tenants...))
	}
	rows := make([][]string, len(tenants))
	for i, t := range tenants {
		overrides := "none"
		if t.Quota != (bulkhead.Quota{}) {
			overrides = "some"
		}
		rows[i] = []string{t.ID, t.Name, t.Tier, overrides, moment(t.CreatedAt)}
	}
	return a.table([]string{"TENANT", "NAME", "TIER", "OVERRIDES", "MADE"}, rows)
}

// TenantShowCmd shows a tenant.
type TenantShowCmd struct {
	ID string `arg:"" help:"The tenant."`
}

// Run shows the tenant.
func (c *TenantShowCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	t, err := cl.Tenant(ctx, c.ID)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(t)
	}
	a.note("tenant %s, tier %s, made %s", t.ID, t.Tier, moment(t.CreatedAt))
	rows, own := quotaRows(t.Effective), quotaRows(t.Quota)
	none := quotaRows(bulkhead.Quota{})
	for i := range rows {
		from := "tier " + t.Tier
		if own[i][1] != none[i][1] {
			from = "override"
		}
		rows[i] = append(rows[i], from)
	}
	return a.table([]string{"QUOTA", "LIMIT", "FROM"}, rows)
}

// TenantCreateCmd makes a tenant.
type TenantCreateCmd struct {
	ID   string `arg:"" help:"Its ID: letters, digits, '.', '_', '@' and '-'. It cannot be changed."`
	Name string `help:"What to call it." placeholder:"NAME"`
	Tier string `help:"Its tier, as 'tier ls' shows them. Default: basic." placeholder:"TIER"`

	QuotaFlags `embed:"" group:"Overrides of the tier's quota:"`
}

// Run makes the tenant.
func (c *TenantCreateCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	t, err := cl.CreateTenant(ctx, bulkhead.Tenant{ID: c.ID, Name: c.Name, Tier: c.Tier, Quota: c.over(bulkhead.Quota{})})
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(t)
	}
	a.note("tenant %s has the tier %s; give it a key with 'bulkhead key create --tenant %[1]s'", t.ID, t.Tier)
	return a.line(t.ID)
}

// TenantSetCmd changes a tenant.
type TenantSetCmd struct {
	ID   string  `arg:"" help:"The tenant."`
	Name *string `help:"What to call it." placeholder:"NAME"`
	Tier *string `help:"Its tier." placeholder:"TIER"`

	QuotaFlags `embed:"" group:"Overrides of the tier's quota; 0 removes one:"`
}

// Run changes the tenant.
func (c *TenantSetCmd) Run(ctx context.Context, a *App) error {
	patch := client.TenantPatch{Name: c.Name, Tier: c.Tier, Quota: c.fields()}
	if c.Name == nil && c.Tier == nil && len(patch.Quota) == 0 {
		return usageError{err: errors.New("tenant set: nothing is to be changed"), hint: "give --name, --tier or an override, such as --sandboxes=10"}
	}
	cl, err := a.Client()
	if err != nil {
		return err
	}
	t, err := cl.UpdateTenant(ctx, c.ID, patch)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(t)
	}
	return a.line(t.ID)
}

// TenantRmCmd removes tenants.
type TenantRmCmd struct {
	IDs   []string `arg:"" name:"id" help:"The tenants."`
	Force bool     `help:"End their live sandboxes."`
}

// Run removes the tenants.
func (c *TenantRmCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	return a.each("removed", c.IDs, func(id string) error { return cl.DeleteTenant(ctx, id, c.Force) })
}
