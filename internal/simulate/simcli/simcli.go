// Package simcli is the command "bulkhead simulate": it replays traces against
// pool policies and prints what they cost.
//
// It reads the files it is given and writes to the streams and files it is given;
// all the rest is in package simulate.
package simcli

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/simulate"
)

// Command is the group "simulate".
type Command struct {
	Pool   Pool   `cmd:"" help:"Replay claims against pool policies, side by side."`
	Goals  Goals  `cmd:"" help:"Check the pools' policy against its goals on several traces, as a Markdown table."`
	Tables Tables `cmd:"" help:"Run the replays that a document quotes and put their tables into it."`
}

// Host is what the replayed host is like.
type Host struct {
	Create    time.Duration `help:"Time to make a cold box." default:"${create}"`
	Restore   time.Duration `help:"Time to turn a cold box into a warm one." default:"${restore}"`
	Lease     time.Duration `help:"Time to lease a warm box." default:"${lease}"`
	WarmMB    float64       `help:"Memory of an idle warm box, in MB." default:"${warm_mb}" name:"warm-mb"`
	ColdMB    float64       `help:"Memory of a cold box, in MB." default:"${cold_mb}" name:"cold-mb"`
	WaitPrice float64       `help:"MB·s of idle memory that are as bad as one second of waiting." default:"${wait_price}"`
	Builders  int           `help:"Boxes that are created or restored at once." default:"${builders}"`
	MaxAge    time.Duration `help:"Age at which an idle box is replaced." default:"${max_age}"`
	Life      time.Duration `help:"How long a box is leased, where the trace does not say." default:"1m"`
}

// params are the host's, or a *bulkhead.Error that names what is out of range.
func (h *Host) params() (simulate.Params, error) {
	p := simulate.DefaultParams()
	p.Create, p.Restore, p.Lease = h.Create, h.Restore, h.Lease
	p.WarmMB, p.ColdMB, p.WaitPrice = h.WarmMB, h.ColdMB, h.WaitPrice
	p.Builders, p.MaxAge = h.Builders, h.MaxAge
	return p, p.Validate() //nolint:wrapcheck // names the field
}

// Pool is "simulate pool".
type Pool struct { //nolint:recvcheck // kong asks the value for its help
	Trace    string   `help:"CSV file of claims, may be gzipped: a column for the time, maybe template and life." placeholder:"FILE" xor:"source"`
	Generate string   `help:"Generate the claims instead: seed=1,templates=40,days=28,requests=1000000, any part of it, or default." placeholder:"SHAPE" xor:"source"`
	Policies []string `help:"Policies to run: ${policies}." placeholder:"NAME,..."`

	Host `embed:""`

	JSON     bool   `name:"as-json" help:"Write JSON instead of a table." xor:"form"`
	Markdown bool   `help:"Write a Markdown table." xor:"form"`
	SVG      string `help:"Also draw a picture into this file." placeholder:"FILE"`
}

// Vars are what the help texts and defaults of [Command] refer to; they are
// passed to kong.New.
func Vars() kong.Vars {
	p := simulate.DefaultParams()
	return kong.Vars{
		"policies": strings.Join(simulate.DefaultPolicies(), ","),
		"create":   p.Create.String(), "restore": p.Restore.String(), "lease": p.Lease.String(),
		"warm_mb": fmt.Sprint(p.WarmMB), "cold_mb": fmt.Sprint(p.ColdMB), "wait_price": fmt.Sprint(p.WaitPrice),
		"builders": strconv.Itoa(p.Builders), "max_age": p.MaxAge.String(),
	}
}

// Help lists the policies.
func (Pool) Help() string {
	return "Policies:\n\n    " + strings.ReplaceAll(simulate.PolicyHelp, "\n", "\n    ")
}

// Run replays and writes to kong's standard output.
func (c *Pool) Run(k *kong.Kong) error { return c.replay(k.Stdout, "") }

// replay runs the command; a relative trace is looked for in dir.
func (c *Pool) replay(w io.Writer, dir string) error {
	p, err := c.params()
	if err != nil {
		return err
	}
	tr, err := c.load(dir)
	if err != nil {
		return err
	}
	names := c.Policies
	if len(names) == 0 {
		names = simulate.DefaultPolicies()
	}
	rep, err := simulate.Compare(tr, p, names)
	if err != nil {
		return err
	}
	if c.SVG != "" {
		var b bytes.Buffer
		if err := rep.WriteSVG(&b); err != nil {
			return err
		}
		if err := os.WriteFile(c.SVG, b.Bytes(), 0o644); err != nil { //nolint:gosec // a picture to be looked at by all
			return fmt.Errorf("write picture: %w", err)
		}
	}
	switch {
	case c.JSON:
		return rep.WriteJSON(w)
	case c.Markdown:
		return rep.WriteMarkdown(w)
	}
	return rep.WriteText(w)
}

// maxTraceBytes bounds what is read of a trace, after gunzip.
const maxTraceBytes = 2 << 30

func (c *Pool) load(dir string) (*simulate.Trace, error) {
	if c.Trace != "" {
		return readTrace(c.Trace, dir, c.Life)
	}
	shape, err := simulate.ParseShape(c.Generate)
	if err != nil {
		return nil, err
	}
	return simulate.Generate(shape), nil
}

// readTrace reads a file; a relative name is looked for in dir.
func readTrace(name, dir string, life time.Duration) (*simulate.Trace, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open trace: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("open trace: %w", err)
		}
		r = z
	}
	limited := &io.LimitedReader{R: r, N: maxTraceBytes + 1}
	tr, err := simulate.ReadCSV(limited, filepath.Base(name), life)
	if limited.N == 0 {
		return nil, bulkhead.Errorf(bulkhead.CodeTooLarge, "trace %s has more than %d bytes", name, maxTraceBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("trace %s: %w", name, err)
	}
	return tr, nil
}
