package simcli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
)

// Tables is "simulate tables". In the document, a table stands between
//
//	<!-- simulate pool --generate seed=101 --policies seed,bulkhead -->
//	<!-- end -->
//
// and is replaced by what that command prints; "simulate goals" as well. Files are named relative to the
// document.
type Tables struct {
	File string `arg:"" help:"The document."`
}

// Run replaces the tables.
func (c *Tables) Run() error {
	old, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	text, err := fill(string(old), filepath.Dir(c.File))
	if err != nil {
		return err
	}
	if text == string(old) {
		return nil
	}
	if err := os.WriteFile(c.File, []byte(text), 0o644); err != nil { //nolint:gosec // a document to be read by all
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}

const (
	opening = "<!-- simulate "
	closing = "<!-- end -->"
)

// fill returns the document with every table computed again.
func fill(text, dir string) (string, error) {
	var out bytes.Buffer
	for {
		before, rest, ok := strings.Cut(text, opening)
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		args, rest, ok := strings.Cut(rest, " -->\n")
		_, after, closed := strings.Cut(rest, closing)
		if !ok || !closed {
			return "", fmt.Errorf("document has no end for the table of %.80q", args)
		}
		replay, err := parse(strings.Fields(args), dir)
		if err != nil {
			return "", fmt.Errorf("table of %.80q: %w", args, err)
		}
		fmt.Fprintf(&out, "%s%s -->\n", opening, args)
		if err := replay(&out); err != nil {
			return "", fmt.Errorf("table of %.80q: %w", args, err)
		}
		out.WriteString(closing)
		text = after
	}
}

// parse reads the arguments of "simulate pool" or "simulate goals" and returns
// what writes the table, with files relative to dir.
func parse(args []string, dir string) (func(io.Writer) error, error) {
	var cli struct {
		Pool  Pool  `cmd:""`
		Goals Goals `cmd:""`
	}
	k, err := kong.New(&cli, Vars(), kong.Exit(func(int) {}))
	if err != nil {
		return nil, err
	}
	c, err := k.Parse(args)
	if err != nil {
		return nil, err
	}
	if c.Command() == "goals" {
		return func(w io.Writer) error { return cli.Goals.check(w, dir) }, nil
	}
	pool := &cli.Pool
	pool.Markdown, pool.JSON = true, false
	if pool.SVG != "" {
		pool.SVG = filepath.Join(dir, pool.SVG)
	}
	return func(w io.Writer) error { return pool.replay(w, dir) }, nil
}
