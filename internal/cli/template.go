package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bulkheadhq/bulkhead"
)

// Templates makes templates on this host. The commands that need it say so when
// cmd has none to give.
type Templates interface {
	// Build makes the template and writes its progress, for people, to log.
	Build(ctx context.Context, req TemplateBuild, log io.Writer) (bulkhead.Template, error)
	// List returns the templates, the newest first.
	List(ctx context.Context) ([]bulkhead.Template, error)
	// Remove deletes a template by name or ID. CodeNotFound when there is none.
	Remove(ctx context.Context, name string) error
}

// TemplateBuild says what to build. Exactly one of Recipe, Image and Tarball is set.
type TemplateBuild struct {
	// Name is what the template will be called; empty where the recipe says.
	Name string
	// Recipe is the path of a recipe file, or the name of one that Bulkhead brings.
	Recipe string
	// Image is an OCI image in a registry, Tarball the path of one on disk.
	Image, Tarball string
	// Limits are those of a sandbox that asks for none; zero fields are defaults.
	Limits bulkhead.Limits
	// Force builds anew what has been built already.
	Force bool
}

// TemplateCmd holds the commands on templates.
type TemplateCmd struct {
	Ls    TemplateLsCmd    `cmd:"" help:"List templates."`
	Build TemplateBuildCmd `cmd:"" help:"Build a template on this host."`
	Rm    TemplateRmCmd    `cmd:"" help:"Remove templates."`
}

// templates is what cmd wired, or the error that it did not.
func (a *App) templates() (Templates, error) {
	if a.env.Templates == nil {
		return nil, &bulkhead.Error{Code: bulkhead.CodeUnsupported, Msg: "templates are built on the server's host, and this is not one"}
	}
	return a.env.Templates, nil
}

// TemplateLsCmd lists templates.
type TemplateLsCmd struct{}

// Run lists templates.
func (*TemplateLsCmd) Run(ctx context.Context, a *App) error {
	t, err := a.templates()
	if err != nil {
		return err
	}
	list, err := t.List(ctx)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(append([]bulkhead.Template{}, list...))
	}
	rows := make([][]string, len(list))
	for i, tm := range list {
		rows[i] = []string{
			tm.Name, tm.ID, size(tm.SizeBytes), moment(tm.CreatedAt), fmt.Sprintf("%g", tm.Defaults.CPU),
			mib(tm.Defaults.MemoryMB), map[bool]string{true: "yes", false: "no"}[tm.Interpreter], short(tm.Digest),
		}
	}
	return a.table([]string{"TEMPLATE", "ID", "SIZE", "BUILT", "CPU", "MEMORY", "CODE", "DIGEST"}, rows)
}

// short is a digest's beginning, enough to tell two apart.
func short(digest string) string { return digest[:min(len(digest), len("sha256:")+12)] }

// TemplateBuildCmd builds a template.
type TemplateBuildCmd struct {
	Recipe  string `arg:"" optional:"" help:"Recipe file, or the name of a recipe that Bulkhead brings."`
	Name    string `short:"n" help:"What to call the template." placeholder:"NAME"`
	Image   string `help:"Build from this OCI image of a registry." placeholder:"REF"`
	Tarball string `help:"Build from an OCI image in this file." type:"existingfile" placeholder:"FILE"`
	CPU     Cores  `name:"cpu" help:"Default limit in cores." placeholder:"CORES"`
	Memory  Bytes  `help:"Default limit of memory." placeholder:"SIZE"`
	Disk    Bytes  `help:"Default limit of what is written to disk." placeholder:"SIZE"`
	Force   bool   `help:"Build anew what has been built already."`
}

// Validate checks that one source is named.
func (c *TemplateBuildCmd) Validate() error {
	sources := 0
	for _, s := range []string{c.Recipe, c.Image, c.Tarball} {
		if s != "" {
			sources++
		}
	}
	switch {
	case sources != 1:
		return errors.New("give one of a recipe, --image and --tarball")
	case c.Recipe == "" && c.Name == "":
		return errors.New("--name is missing: an image does not name its template")
	}
	return nil
}

// Run builds the template.
func (c *TemplateBuildCmd) Run(ctx context.Context, a *App) error {
	t, err := a.templates()
	if err != nil {
		return err
	}
	req := TemplateBuild{
		Name: c.Name, Recipe: c.Recipe, Image: c.Image, Tarball: c.Tarball, Force: c.Force,
		Limits: bulkhead.Limits{CPU: float64(c.CPU), MemoryMB: c.Memory.MiB(), DiskMB: c.Disk.MiB()},
	}
	if err := req.Limits.Validate(); err != nil {
		return usageError{err: err}
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	built, err := t.Build(ctx, req, a.env.Stderr)
	if err != nil {
		return err
	}
	a.awaitRollover(ctx, built)
	if a.flags.JSON {
		return a.printJSON(built)
	}
	a.note("built %s, %s, %s", built.Name, size(built.SizeBytes), short(built.Digest))
	return nil
}

// TemplateRmCmd removes templates.
type TemplateRmCmd struct {
	Names []string `arg:"" name:"name" help:"The templates, by name or ID."`
}

// Run removes the templates.
func (c *TemplateRmCmd) Run(ctx context.Context, a *App) error {
	t, err := a.templates()
	if err != nil {
		return err
	}
	return a.each("removed", c.Names, func(name string) error { return t.Remove(ctx, name) })
}
