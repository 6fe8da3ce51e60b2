package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// SandboxCmd holds the commands on sandboxes.
type SandboxCmd struct {
	Ls    LsCmd    `cmd:"" help:"List sandboxes."`
	Info  InfoCmd  `cmd:"" help:"Show everything known of a sandbox."`
	Exec  ExecCmd  `cmd:"" help:"Run a program in a sandbox."`
	Shell ShellCmd `cmd:"" help:"Open a shell in a sandbox."`
	Cp    CpCmd    `cmd:"" help:"Copy files to or from a sandbox."`
	Logs  LogsCmd  `cmd:"" help:"Print a sandbox's log."`
	Kill  KillCmd  `cmd:"" help:"End sandboxes."`

	Resize ResizeCmd `cmd:"" help:"Change what a running sandbox may use."`
}

// LsCmd lists sandboxes.
type LsCmd struct {
	All      bool              `short:"a" help:"List ended ones, too, with the cause of their end."`
	Template string            `help:"Only those of this template." placeholder:"NAME"`
	Metadata map[string]string `help:"Only those with this metadata, K=V. May be repeated." mapsep:"none" placeholder:"K=V"`
	Limit    int               `help:"At most this many, the newest first." default:"1000"`
}

// Run lists sandboxes.
func (c *LsCmd) Run(ctx context.Context, a *App) error {
	if c.Limit < 1 {
		return usagef("--limit is %d; it must be positive", c.Limit)
	}
	cl, err := a.Client()
	if err != nil {
		return err
	}
	f := bulkhead.Filter{Template: c.Template, Metadata: c.Metadata}
	if c.All {
		f.States = []bulkhead.State{bulkhead.StateRunning, bulkhead.StateEnding, bulkhead.StateEnded}
	}
	list := []bulkhead.Sandbox{}
	more := false
	for s, err := range cl.List(ctx, f) {
		if err != nil {
			return err
		}
		if more = len(list) == c.Limit; more {
			break
		}
		list = append(list, s)
	}
	if a.flags.JSON {
		return a.printJSON(list)
	}
	if more {
		a.note("only the newest %d are shown; --limit shows more", c.Limit)
	}
	return c.print(a, list, time.Now())
}

// print is the table of a list.
func (c *LsCmd) print(a *App, list []bulkhead.Sandbox, now time.Time) error {
	heading := []string{"SANDBOX", "TEMPLATE", "STATE", "AGE", "LEFT", "CPU", "MEMORY", "DISK"}
	if c.All {
		heading = append(heading, "END")
	}
	rows := make([][]string, 0, len(list))
	for _, s := range list {
		left := ""
		if s.End == nil && !s.EndAt.IsZero() {
			left = span(max(s.EndAt.Sub(now), 0))
		}
		row := []string{
			s.ID, cmp.Or(s.Template, s.TemplateID), string(s.State), span(now.Sub(s.StartedAt)), left,
			fmt.Sprintf("%g", s.Limits.CPU), mib(s.Limits.MemoryMB), mib(s.Limits.DiskMB),
		}
		if c.All {
			row = append(row, endCell(s.End))
		}
		rows = append(rows, row)
	}
	return a.table(heading, rows)
}

func endCell(end *bulkhead.End) string {
	if end == nil {
		return ""
	}
	return evidence(*end)
}

// InfoCmd shows one sandbox.
type InfoCmd struct {
	ID string `arg:"" name:"id" help:"The sandbox."`
}

// info is what sandbox info prints with --json.
type info struct {
	bulkhead.Sandbox
	Usage *bulkhead.Sample `json:"usage,omitempty"`
}

// Run shows the sandbox, with its latest measurement where there is one.
func (c *InfoCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	sb, err := cl.Get(ctx, c.ID)
	if err != nil {
		return err
	}
	shown := info{Sandbox: sb}
	if samples, err := cl.Metrics(ctx, c.ID, time.Time{}, time.Time{}); err == nil && len(samples) > 0 {
		shown.Usage = &samples[len(samples)-1]
	}
	if a.flags.JSON {
		return a.printJSON(shown)
	}
	return c.print(a, shown)
}

// print is the table of one sandbox.
func (c *InfoCmd) print(a *App, s info) error {
	rows := [][]string{
		{"template", strings.TrimSpace(s.Template + " " + s.TemplateDigest)},
		{"state", string(s.State)},
		{"started", moment(s.StartedAt)},
		{"ends", moment(s.EndAt)},
		{"end", endCell(s.End)},
		{"cpu", fmt.Sprintf("%g cores", s.Limits.CPU)},
		{"memory", mib(s.Limits.MemoryMB)},
		{"disk", mib(s.Limits.DiskMB)},
		{"internet", map[bool]string{true: "allowed", false: "blocked"}[s.AllowInternet]},
		{"envd", s.EnvdVersion},
	}
	if s.Allocation != nil {
		for _, r := range s.Allocation.Reasons {
			granted := fmt.Sprintf("%g", r.Granted)
			if r.Granted != r.Asked {
				granted += fmt.Sprintf(" instead of %g", r.Asked)
			}
			rows = append(rows, []string{r.Field, granted + ": " + r.Detail})
		}
	}
	if u := s.Usage; u != nil {
		rows = append(rows, []string{"in use", fmt.Sprintf("%.0f%% cpu, %s memory, %s disk, at %s",
			u.CPUPercent, size(u.MemUsed), size(u.DiskUsed), moment(u.At))})
	}
	for _, k := range slices.Sorted(maps.Keys(s.Metadata)) {
		rows = append(rows, []string{"metadata " + k, s.Metadata[k]})
	}
	return a.table([]string{"sandbox", s.ID}, rows)
}

// LogsCmd prints a log.
type LogsCmd struct {
	ID     string        `arg:"" name:"id" help:"The sandbox."`
	Follow bool          `short:"f" help:"Wait for further lines."`
	Since  time.Duration `help:"Only lines of the last while, such as 10m." placeholder:"SPAN"`
}

const (
	// logPage is how many lines are asked for at once.
	logPage = 1000
	// logPause is how often a followed log is asked for.
	logPause = time.Second
)

// Run prints the log.
func (c *LogsCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	t := &tail{app: a}
	if c.Since > 0 {
		t.after = time.Now().Add(-c.Since)
	}
	tick := time.NewTicker(logPause)
	defer tick.Stop()
	for {
		lines, err := cl.Logs(ctx, c.ID, t.after, logPage)
		if err != nil {
			return err
		}
		fresh, err := t.print(lines)
		switch {
		case err != nil:
			return err
		case fresh && len(lines) == logPage:
			continue
		case !c.Follow:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// tail prints log lines once each: a page may begin with lines of the same
// moment that the page before ended with.
type tail struct {
	app   *App
	after time.Time
	seen  map[string]bool // the lines printed of the moment after
}

// print prints the lines not yet seen and reports whether there were any.
func (t *tail) print(lines []bulkhead.LogLine) (fresh bool, err error) {
	for _, l := range lines {
		id := l.Level + "\x00" + l.Message
		if l.At.Before(t.after) || l.At.Equal(t.after) && t.seen[id] {
			continue
		}
		if l.At.After(t.after) || t.seen == nil {
			t.after, t.seen = l.At, map[string]bool{}
		}
		t.seen[id], fresh = true, true
		if err := t.app.logLine(l); err != nil {
			return fresh, err
		}
	}
	return fresh, nil
}

// logLine prints one line of a log.
func (a *App) logLine(l bulkhead.LogLine) error {
	if a.flags.JSON {
		return a.printLine(l)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-5s %s", l.At.Local().Format("2006-01-02 15:04:05.000"), l.Level, clean(l.Message))
	for _, k := range slices.Sorted(maps.Keys(l.Fields)) {
		fmt.Fprintf(&b, " %s=%q", clean(k), l.Fields[k])
	}
	return a.line(b.String())
}

// KillCmd ends sandboxes.
type KillCmd struct {
	IDs []string `arg:"" optional:"" name:"id" help:"The sandboxes."`
	All bool     `help:"End all that run."`
}

// Validate checks that something is named.
func (c *KillCmd) Validate() error {
	if c.All == (len(c.IDs) > 0) {
		return errors.New("name the sandboxes to end, or give --all")
	}
	return nil
}

// Run ends the sandboxes.
func (c *KillCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	ids := c.IDs
	if c.All {
		if ids, err = running(ctx, cl); err != nil {
			return err
		}
	}
	return a.each("killed", ids, func(id string) error {
		err := cl.Kill(ctx, id)
		if c.All && bulkhead.CodeOf(err) == bulkhead.CodeNotFound { // it ended by itself meanwhile
			return nil
		}
		return err
	})
}

// running returns the sandboxes that run.
func running(ctx context.Context, cl *client.Client) ([]string, error) {
	var ids []string
	for s, err := range cl.List(ctx, bulkhead.Filter{}) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, s.ID)
	}
	return ids, nil
}
