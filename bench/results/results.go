// Package results is the form in which every bench writes what it measured: a
// JSON file for each suite, and the tables of documents that are made from them.
package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Row is one figure of a suite.
type Row struct {
	// Name says what was measured.
	Name string `json:"name"`
	// P50, P95 and P99 are percentiles, in Unit; all the same for a figure that
	// was taken once.
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Unit string  `json:"unit"`
	// Peer is what Ratio compares with, for a person; both may be empty.
	Peer  string  `json:"peer,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	// Failures is how many measurements failed, N how many did not.
	Failures int `json:"failures"`
	N        int `json:"n"`
}

// Report is the rows of one suite. The zero value of all but the names is ready.
type Report struct {
	Name string `json:"name"`
	Rows []Row  `json:"rows"`
	out  io.Writer
}

// New returns an empty report that prints its rows to out.
func New(name string, out io.Writer) *Report { return &Report{Name: name, out: out} }

// Add appends a row and prints it, with the first error of its failures.
func (r *Report) Add(x Row, err error) {
	r.Rows = append(r.Rows, x)
	r.Printf("   %-48s p50 %10.3f  p95 %10.3f  p99 %10.3f %-4s", x.Name, x.P50, x.P95, x.P99, x.Unit)
	if x.Peer != "" {
		r.Printf("  %.2f x %s", x.Ratio, x.Peer)
	}
	if x.Failures > 0 {
		r.Printf("  %d FAILED: %v", x.Failures, err)
	}
	r.Printf("\n")
}

// Printf prints a remark between the rows.
func (r *Report) Printf(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format, args...) }

// Write writes the report as DIR/NAME.json.
func (r *Report) Write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // results are public
		return err
	}
	return os.WriteFile(filepath.Join(dir, r.Name+".json"), append(data, '\n'), 0o644) //nolint:gosec // results are public
}

// tableMark finds the tables, each with the name of its suite.
var tableMark = regexp.MustCompile(`(?s)(<!-- bench:([a-z]+) -->\n).*?(<!-- /bench -->)`)

// WriteTables makes every marked table of a document anew from the results.
func WriteTables(doc, out string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	var failed error
	made := tableMark.ReplaceAllFunc(text, func(m []byte) []byte {
		parts := tableMark.FindSubmatch(m)
		table, err := tableOf(filepath.Join(out, string(parts[2])+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			return m // its suite has not been run
		}
		if err != nil {
			failed = err
			return m
		}
		return []byte(string(parts[1]) + table + string(parts[3]))
	})
	if failed != nil {
		return failed
	}
	return os.WriteFile(doc, made, 0o644) //nolint:gosec // a document
}

func tableOf(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| | p50 | p95 | p99 | | peer, same run | times better | failures |\n|---|--:|--:|--:|---|---|--:|--:|\n")
	for _, x := range r.Rows {
		ratio := ""
		if x.Ratio > 0 {
			ratio = fmt.Sprintf("%.1f", x.Ratio)
		}
		fmt.Fprintf(&b, "| %s | %.2f | %.2f | %.2f | %s | %s | %s | %d of %d |\n",
			x.Name, x.P50, x.P95, x.P99, x.Unit, x.Peer, ratio, x.Failures, x.Failures+x.N)
	}
	return b.String(), nil
}
