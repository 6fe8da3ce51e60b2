package simcli

import (
	"bytes"
	"fmt"
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
// and is replaced by what that command prints. Files are named relative to the
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
	opening = "<!-- simulate pool "
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
		pool, err := parse(strings.Fields(args))
		if err != nil {
			return "", fmt.Errorf("table of %.80q: %w", args, err)
		}
		pool.Markdown, pool.JSON = true, false
		if pool.SVG != "" {
			pool.SVG = filepath.Join(dir, pool.SVG)
		}
		fmt.Fprintf(&out, "%s%s -->\n", opening, args)
		if err := pool.replay(&out, dir); err != nil {
			return "", fmt.Errorf("table of %.80q: %w", args, err)
		}
		out.WriteString(closing)
		text = after
	}
}

// parse reads the arguments of "simulate pool".
func parse(args []string) (*Pool, error) {
	var pool Pool
	k, err := kong.New(&pool, Vars(), kong.Exit(func(int) {}))
	if err != nil {
		return nil, err
	}
	if _, err := k.Parse(args); err != nil {
		return nil, err
	}
	return &pool, nil
}
