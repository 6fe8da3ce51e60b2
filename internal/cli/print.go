package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// coloured reports whether w takes colours.
func (a *App) coloured(w io.Writer) bool {
	return !a.env.NoColor && isTerminal(w)
}

// red returns s in red when w takes colours.
func (a *App) red(w io.Writer, s string) string {
	if !a.coloured(w) {
		return s
	}
	return "\x1b[31m" + s + "\x1b[0m"
}

// isTerminal reports whether stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// ansi matches the escape sequences that colour text.
var ansi = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

// clean frees s of what could move the cursor or recolour the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, ansi.ReplaceAllString(s, ""))
}

// printJSON prints v for programs.
func (a *App) printJSON(v any) error {
	enc := json.NewEncoder(a.env.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// table prints rows under a heading, in columns.
func (a *App) table(heading []string, rows [][]string) error {
	tw := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		cells := make([]string, len(row))
		for i, c := range row {
			if cells[i] = clean(c); cells[i] == "" {
				cells[i] = "-"
			}
		}
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// line prints a line of what was asked for.
func (a *App) line(s string) error {
	if _, err := fmt.Fprintln(a.env.Stdout, s); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// aside prints a line on standard error. That it cannot be printed has nowhere
// to be said.
func (a *App) aside(s string) { _, _ = fmt.Fprintln(a.env.Stderr, s) }

// note prints a remark on standard error.
func (a *App) note(format string, args ...any) {
	a.aside("bulkhead: " + clean(fmt.Sprintf(format, args...)))
}

// each does something to every name, to the rest also when it failed for one,
// and prints the names it was done to: a line each, or with --json a list.
func (a *App) each(done string, names []string, do func(name string) error) error {
	did := []string{}
	var failed error
	for _, name := range names {
		err := do(name)
		switch {
		case errors.Is(err, context.Canceled):
			return err
		case err != nil && len(names) > 1:
			a.note("%s", text(err))
			failed = ended{code: exitOfError(err)}
		case err != nil:
			failed = err
		default:
			did = append(did, name)
			if a.flags.JSON {
				continue
			}
			if err := a.line(name); err != nil {
				return err
			}
		}
	}
	if a.flags.JSON {
		return errors.Join(failed, a.printJSON(map[string][]string{done: did}))
	}
	return failed
}

// span is a duration as people read it: the two largest units.
func span(d time.Duration) string {
	d = d.Abs()
	days := int(d / (24 * time.Hour))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case days == 0:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", days, int(d.Hours())%24)
	}
}

// mib is a number of MiB as people read it.
func mib(n int64) string {
	if n <= 0 {
		return ""
	}
	return humanize.IBytes(uint64(n) << 20)
}

// size is a number of bytes as people read it.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// moment is a point in time in the local zone, "" for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// printLine prints v for programs, on one line.
func (a *App) printLine(v any) error {
	if err := json.NewEncoder(a.env.Stdout).Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
