// Package doctor says what this host can enforce, what it cannot, and how to
// mend that.
//
// Wherever that is possible an ability is tried, with the same code that serves
// sandboxes, in throw-away namespaces, groups and directories whose names begin
// with "bulkhead-doctor"; a version number or a file that merely exists proves
// little. [Probe] collects the [Facts], [Judge] makes [Finding]s of them and
// touches nothing, so that every verdict can be tested without such a host.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Status is how good a finding is.
type Status string

// The statuses.
const (
	// OK: nothing to do.
	OK Status = "ok"
	// Warn: sandboxes run, with something missing or slower.
	Warn Status = "warn"
	// Fail: sandboxes do not run, or are not held in their limits.
	Fail Status = "fail"
)

// Finding is what was found out about one thing.
type Finding struct {
	// Name is what was looked at, in a word or two, the same in every report.
	Name string `json:"name"`
	// Status is the verdict.
	Status Status `json:"status"`
	// Found is what there is, in a sentence without a full stop.
	Found string `json:"found"`
	// How is how that was found out.
	How string `json:"how"`
	// Disables is what does not work because of it. Empty when OK.
	Disables string `json:"disables,omitempty"`
	// Mend is what the operator can do about it. Empty when OK.
	Mend string `json:"mend,omitempty"`
}

// Report is a list of findings, in the order in which one builds on the other.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Check probes this host and judges what it finds. It takes a second or two,
// most of it in [Deps.Runtime].
func Check(ctx context.Context, d Deps) Report { return Judge(Probe(ctx, d)) }

// Worst is the worst status of all findings, OK for none.
func (r Report) Worst() Status {
	worst := OK
	for _, f := range r.Findings {
		if f.Status == Fail || (f.Status == Warn && worst == OK) {
			worst = f.Status
		}
	}
	return worst
}

// ExitCode is 1 when something fails, else 0.
func (r Report) ExitCode() int {
	if r.Worst() == Fail {
		return 1
	}
	return 0
}

// WriteJSON writes the report with its worst status for programs.
func (r Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	err := enc.Encode(struct {
		Status Status `json:"status"`
		Report
	}{r.Worst(), r})
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// WriteTable writes the report for people: a line for each finding, then the
// details of those that are not OK. With all, the details of all.
func (r Report) WriteTable(w io.Writer, all bool) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, f := range r.Findings {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", f.Status, f.Name, f.Found)
	}
	_ = tw.Flush() // into memory
	counts := map[Status]int{}
	for _, f := range r.Findings {
		counts[f.Status]++
		if f.Status == OK && !all {
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s\n", f.Name, f.Found)
		for _, line := range []struct{ label, text string }{
			{"looked at", f.How}, {"disables", f.Disables}, {"to mend", f.Mend},
		} {
			if line.text != "" {
				fmt.Fprintf(&b, "  %-9s  %s\n", line.label, line.text)
			}
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d to look at, %d failed\n", counts[OK], counts[Warn], counts[Fail])
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
