package simulate

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"
)

// WriteJSON writes the whole report.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// WriteText writes a table for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\n", r.title())
	for _, row := range r.table() {
		for i, cell := range row {
			if i == 0 { // tabwriter aligns all columns alike
				cell = fmt.Sprintf("%-18s", cell)
			}
			fmt.Fprintf(t, "%s\t", cell)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// WriteMarkdown writes a table for a document.
func (r *Report) WriteMarkdown(w io.Writer) error {
	text := r.title() + "\n\n"
	for i, row := range r.table() {
		for _, cell := range row {
			text += "| " + cell + " "
		}
		text += "|\n"
		if i == 0 {
			text += "|---"
			for range row[1:] {
				text += "|--:"
			}
			text += "|\n"
		}
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (r *Report) title() string {
	return fmt.Sprintf("%s: %d claims for %d templates in %s; %s", r.Trace, r.Requests, r.Templates, span(r.Span), r.Params)
}

// String says it in one line for a person.
func (p Params) String() string {
	return fmt.Sprintf("%d builders, new %v, cold %v, warm %v, %g and %g MB idle, %.3g MB·s a second of waiting",
		p.Builders, p.Create+p.Restore, p.Restore, p.Lease, p.WarmMB, p.ColdMB, p.WaitPrice)
}

// table is the report in words: the first row names the columns.
//
// "idle MB" is the mean; "idle/leased" is idle memory over that of leased boxes,
// were they as large as warm ones; costs are per claim.
func (r *Report) table() [][]string {
	rows := [][]string{{
		"policy", "cold starts", "of them new", "mean wait", "p50", "p95", "p99",
		"idle MB", "idle/leased", "dropped", "cost/claim", "regret/claim",
	}}
	for _, x := range r.Results {
		n := math.Max(1, float64(x.Requests))
		rows = append(rows, []string{
			x.Policy,
			percent(x.ColdStarts()), percent(float64(x.New) / n),
			millis(x.WaitMean), millis(x.WaitP50), millis(x.WaitP95), millis(x.WaitP99),
			fmt.Sprintf("%.0f", x.Idle()/math.Max(r.Span.Seconds(), 1e-9)),
			fmt.Sprintf("%.2f", x.Idle()/math.Max(r.Leased*r.Params.WarmMB, 1e-9)),
			percent(float64(x.DroppedWarm+x.DroppedCold) / math.Max(1, float64(x.Created))),
			kilo(x.Cost / n), kilo(x.Regret / n),
		})
	}
	return rows
}

// span writes a length of time in days where there are whole ones.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.Round(time.Second).String()
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }

func millis(d time.Duration) string {
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}

// kilo writes MB·s as GB·s.
func kilo(v float64) string { return fmt.Sprintf("%.1f GB·s", v/1000) }
