package simcli

import (
	"io"

	"github.com/alecthomas/kong"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/simulate"
)

// maxSeeds bounds how many generated traces are run.
const maxSeeds = 1000

// Goals is "simulate goals".
type Goals struct {
	Trace    []string `help:"CSV files of claims, as 'simulate pool' reads them." placeholder:"FILE,..."`
	Generate []string `help:"Shapes to generate claims of, as 'simulate pool' does." placeholder:"SHAPE" sep:";"`
	Seeds    int      `help:"How many seeds of each shape, from its own on." default:"1"`
	Policy   string   `help:"The policy." default:"bulkhead"`

	Host `embed:""`
}

// Run replays and writes to kong's standard output.
func (c *Goals) Run(k *kong.Kong) error { return c.check(k.Stdout, "") }

// check runs the command; relative traces are looked for in dir.
func (c *Goals) check(w io.Writer, dir string) error {
	p, err := c.params()
	if err != nil {
		return err
	}
	if c.Seeds < 1 || c.Seeds > maxSeeds {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "seeds is %d; it must be between 1 and %d", c.Seeds, maxSeeds)
	}
	var all []*simulate.Goals
	check := func(tr *simulate.Trace) error {
		g, err := simulate.CheckGoals(tr, p, c.Policy)
		all = append(all, g)
		return err //nolint:wrapcheck // names the policy
	}
	for _, name := range c.Trace {
		tr, err := readTrace(name, dir, c.Life)
		if err != nil {
			return err
		}
		if err := check(tr); err != nil {
			return err
		}
	}
	for _, text := range c.Generate {
		shape, err := simulate.ParseShape(text)
		if err != nil {
			return err //nolint:wrapcheck // quotes the shape
		}
		for range c.Seeds {
			if err := check(simulate.Generate(shape)); err != nil {
				return err
			}
			shape.Seed++
		}
	}
	return simulate.WriteGoals(w, p, c.Policy, all) //nolint:wrapcheck // says what it writes
}
