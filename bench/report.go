package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// row is one line of a result.
type row struct {
	Name     string  `json:"name"`
	P50      float64 `json:"p50"`
	P95      float64 `json:"p95"`
	P99      float64 `json:"p99"`
	Unit     string  `json:"unit"`
	Peer     string  `json:"peer,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"`
	Failures int     `json:"failures"`
	N        int     `json:"n"`
}

// report is the rows of a suite.
type report struct {
	Name string `json:"name"`
	Rows []row  `json:"rows"`
	out  io.Writer
}

// add records a figure. peer, when not nil, is what it is compared with: the
// ratio is the peer's median by ours, so that more is better.
func (r *report) add(name string, s sample, peerName string, peer *sample) {
	x := row{
		Name: name, P50: ms(s.percentile(50)), P95: ms(s.percentile(95)), P99: ms(s.percentile(99)),
		Unit: "ms", Failures: s.failures, N: len(s.times),
	}
	if peer != nil && len(peer.times) > 0 && x.P50 > 0 {
		x.Peer = fmt.Sprintf("%s %.1f ms", peerName, ms(peer.percentile(50)))
		x.Ratio = ms(peer.percentile(50)) / x.P50
	}
	r.Rows = append(r.Rows, x)
	r.print(x, s.firstErr)
}

// rate records a number of things per second.
func (r *report) rate(name string, perSecond float64, failures int, peerName string, peer float64) {
	x := row{Name: name, P50: perSecond, P95: perSecond, P99: perSecond, Unit: "1/s", Failures: failures, N: 1}
	if peer > 0 {
		x.Peer, x.Ratio = fmt.Sprintf("%s %.2f/s", peerName, peer), perSecond/peer
	}
	r.Rows = append(r.Rows, x)
	r.print(x, nil)
}

func (r *report) print(x row, err error) {
	fmt.Fprintf(r.out, "   %-44s p50 %9.2f  p95 %9.2f  p99 %9.2f %-4s", x.Name, x.P50, x.P95, x.P99, x.Unit)
	if x.Peer != "" {
		fmt.Fprintf(r.out, "  %.1f x %s", x.Ratio, x.Peer)
	}
	if x.Failures > 0 {
		fmt.Fprintf(r.out, "  %d FAILED: %v", x.Failures, err)
	}
	fmt.Fprintln(r.out)
}

func (r *report) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644) //nolint:gosec // results are public
}

var tableMark = regexp.MustCompile(`(?s)(<!-- bench:([a-z]+) -->\n).*?(<!-- /bench -->)`)

// writeTables makes every marked table of a document anew from the results.
func writeTables(doc, out string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	var failed error
	made := tableMark.ReplaceAllFunc(text, func(m []byte) []byte {
		parts := tableMark.FindSubmatch(m)
		table, err := tableOf(filepath.Join(out, string(parts[2])+".json"))
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
	var r report
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
