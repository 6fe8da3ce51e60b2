package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/node"
	"github.com/bulkheadhq/bulkhead/internal/template"
)

var (
	_ cli.Templates  = (*builder)(nil)
	_ api.Templates  = apiTemplates{}
	_ node.Templates = (*template.Store)(nil)
)

// openTemplates opens the templates in a data folder.
func openTemplates(data string, log *slog.Logger) (*template.Store, error) {
	s, err := template.New(template.Config{
		Dir: data, Log: log, Env: template.BuildEnv(os.Environ()), Keychain: authn.DefaultKeychain,
	})
	if err != nil {
		return nil, fmt.Errorf("open templates: %w", err)
	}
	return s, nil
}

// builder builds templates on this host for the command line.
type builder struct{ data string }

// Build builds what is asked for and writes progress to log.
func (b *builder) Build(ctx context.Context, req cli.TemplateBuild, log io.Writer) (bulkhead.Template, error) {
	s, err := openTemplates(b.data, nil)
	if err != nil {
		return bulkhead.Template{}, err
	}
	recipe, err := recipeOf(req)
	if err != nil {
		return bulkhead.Template{}, err
	}
	var last template.Event
	t, err := s.Build(ctx, recipe, template.BuildOptions{Force: req.Force, Progress: func(e template.Event) {
		if e.Action == last.Action && e.Line == last.Line && e.Bytes == last.Bytes {
			return
		}
		last = e
		line := fmt.Sprintf("%s [%d/%d] %s", e.Template, e.Step, e.Steps, e.Action)
		if e.Bytes > 0 {
			line += fmt.Sprintf(" (%d MiB)", e.Bytes>>20)
		}
		if e.Line != "" {
			line += ": " + e.Line
		}
		fmt.Fprintln(log, line)
	}})
	if err != nil {
		return t, fmt.Errorf("build template: %w", err)
	}
	return t, nil
}

// recipeOf reads or makes the recipe of a request.
func recipeOf(req cli.TemplateBuild) (r template.Recipe, err error) {
	switch {
	case req.Image != "":
		r.From.Image = req.Image
	case req.Tarball != "":
		r.From.Archive, err = filepath.Abs(req.Tarball)
	default:
		var known bool
		if r, known = template.Builtin()[req.Recipe]; known {
			break
		}
		f, ferr := os.Open(req.Recipe)
		if ferr != nil {
			return r, bulkhead.Errorf(bulkhead.CodeInvalid, "recipe %q is neither a file nor one that Bulkhead brings (base, code-interpreter-v1)", req.Recipe)
		}
		defer f.Close() //nolint:errcheck // only read
		r, err = template.ParseRecipe(f)
	}
	if err != nil {
		return r, fmt.Errorf("read recipe: %w", err)
	}
	if req.Name != "" {
		r.Name = req.Name
	}
	r.Limits = req.Limits.Or(r.Limits)
	return r, nil
}

// List returns the templates on this host.
func (b *builder) List(context.Context) ([]bulkhead.Template, error) {
	s, err := openTemplates(b.data, nil)
	if err != nil {
		return nil, err
	}
	return s.List() //nolint:wrapcheck // says what it does
}

// Remove removes a template. Its sandboxes run on: they hold the image open.
func (b *builder) Remove(ctx context.Context, name string) error {
	s, err := openTemplates(b.data, nil)
	if err != nil {
		return err
	}
	return s.Remove(ctx, name, nil) //nolint:wrapcheck // says what it does
}

// apiTemplates gives the API the templates that the node has.
type apiTemplates struct{ store *template.Store }

// List returns all templates.
func (t apiTemplates) List(context.Context) ([]bulkhead.Template, error) {
	return t.store.List() //nolint:wrapcheck // says what it does
}

// Get returns one by name or ID.
func (t apiTemplates) Get(_ context.Context, nameOrID string) (bulkhead.Template, error) {
	return t.store.Get(nameOrID) //nolint:wrapcheck // says what it does
}
