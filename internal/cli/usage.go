package cli

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// UsageCmd shows what was used.
type UsageCmd struct {
	Tenant  string    `help:"Only this tenant's; without an operator's key you see your own." placeholder:"ID"`
	Sandbox string    `help:"Only this sandbox's." placeholder:"ID"`
	From    time.Time `format:"2006-01-02" help:"The first UTC day. Default: the first of the month." placeholder:"YYYY-MM-DD"`
	To      time.Time `format:"2006-01-02" help:"The last UTC day. Default: today." placeholder:"YYYY-MM-DD"`
	By      string    `enum:"day,tenant,sandbox" default:"day" help:"A row for each day, tenant or sandbox."`
	CSV     bool      `name:"csv" help:"Print CSV."`
}

// Run shows the usage.
func (c *UsageCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	u, err := cl.Usage(ctx, client.UsageQuery{Tenant: c.Tenant, Sandbox: c.Sandbox, From: c.From, To: c.To, By: c.By})
	if err != nil {
		return err
	}
	switch {
	case a.flags.JSON:
		return a.printJSON(u)
	case c.CSV:
		return c.csv(a, u)
	}
	rows := make([][]string, 0, len(u.Rows)+1)
	row := func(of []string, u bulkhead.Usage) {
		rows = append(rows, append(of, strconv.FormatInt(u.Sandboxes, 10), span(time.Duration(u.Seconds*float64(time.Second))), fmt.Sprintf("%.1f", u.CPUSeconds),
			fmt.Sprintf("%.3f", u.GBHours()), size(u.EgressBytes), size(u.IngressBytes), fmt.Sprintf("%.4f", u.Cost)))
	}
	heading := []string{"DAY"}
	for _, r := range u.Rows {
		switch u.By {
		case "tenant":
			heading = []string{"TENANT"}
			row([]string{r.Tenant}, r.Usage)
		case "sandbox":
			heading = []string{"TENANT", "SANDBOX"}
			row([]string{r.Tenant, cmp.Or(r.Sandbox, "(earlier ones)")}, r.Usage)
		default:
			row([]string{r.Day}, r.Usage)
		}
	}
	total := make([]string, len(heading))
	total[0] = "total"
	row(total, u.Total)
	a.note("usage from %s to %s, UTC days", u.From, u.To)
	return a.table(append(heading, "SANDBOXES", "LIVED", "CPU SECONDS", "GB HOURS", "OUT", "IN", "COST"), rows)
}

// csv prints the rows as GET /v1/usage does.
func (*UsageCmd) csv(a *App, u client.Usage) error {
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	out := csv.NewWriter(a.env.Stdout)
	rows := [][]string{{"day", "tenant", "sandbox", "sandboxes", "seconds", "cpu_seconds", "gb_seconds", "egress_bytes", "ingress_bytes", "cost"}}
	for _, r := range u.Rows {
		rows = append(rows, []string{
			r.Day, r.Tenant, r.Sandbox, strconv.FormatInt(r.Sandboxes, 10), number(r.Seconds), number(r.CPUSeconds), number(r.GBSeconds),
			strconv.FormatInt(r.EgressBytes, 10), strconv.FormatInt(r.IngressBytes, 10), number(r.Cost),
		})
	}
	if err := out.WriteAll(rows); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// AuditCmd shows who did what.
type AuditCmd struct {
	Tenant string    `help:"Only what this tenant did and what was done to it." placeholder:"ID"`
	Action string    `help:"Only this action, such as key.create." placeholder:"ACTION"`
	KeyID  string    `name:"by" help:"Only what was done with this key." placeholder:"KEY-ID"`
	Target string    `help:"Only what was done to this." placeholder:"ID"`
	Since  time.Time `format:"2006-01-02" help:"Not before this day." placeholder:"YYYY-MM-DD"`
	Limit  int       `short:"n" default:"50" help:"Show the newest N acts; 0 shows all." placeholder:"N"`
}

// Run shows the audit log.
func (c *AuditCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	acts := []bulkhead.Act{}
	for act, err := range cl.Acts(ctx, client.ActQuery{Tenant: c.Tenant, Action: c.Action, Key: c.KeyID, Target: c.Target, From: c.Since}) {
		if err != nil {
			return err
		}
		acts = append(acts, act)
		if len(acts) == c.Limit {
			break
		}
	}
	if a.flags.JSON {
		return a.printJSON(acts)
	}
	rows := make([][]string, len(acts))
	for i, act := range acts {
		rows[i] = []string{moment(act.At), act.Tenant, act.Key, act.Action, act.Target, act.Source, act.Outcome, act.Detail}
	}
	return a.table([]string{"TIME", "TENANT", "KEY", "ACTION", "TARGET", "FROM", "OUTCOME", "DETAIL"}, rows)
}
