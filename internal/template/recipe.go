package template

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/bulkheadhq/bulkhead"
)

// maxRecipe bounds a recipe's text, in bytes.
const maxRecipe = 1 << 20

// maxItems bounds each list of a recipe, and maxItem each of its strings.
const (
	maxItems = 1000
	maxItem  = 64 << 10
)

// Recipe says what a template is made of. Its parts are applied in the order of
// the fields. The zero value of every field but Name and From is valid.
type Recipe struct {
	// Name is what people say: 1 to 64 characters of a-z, 0-9, dot, dash and
	// underscore, optionally a namespace and a slash before it and a colon and a
	// tag after it.
	Name string `json:"-" yaml:"name"`
	// From is what it starts with.
	From From `json:"from" yaml:"from"`
	// Apt are Debian packages, without what they recommend.
	Apt []string `json:"apt,omitempty" yaml:"apt"`
	// Pip are Python requirements, installed for all users and compiled.
	Pip []string `json:"pip,omitempty" yaml:"pip"`
	// NPM are npm packages, installed globally.
	NPM []string `json:"npm,omitempty" yaml:"npm"`
	// Layers are the paths of layer tarballs, compressed or not, whose whiteouts
	// are honoured. In a file, a relative path starts at the working directory.
	Layers []string `json:"-" yaml:"layers"`
	// Run are shell scripts, each run by root with /bin/sh -e.
	Run []string `json:"run,omitempty" yaml:"run"`
	// CABundle keeps the host's certificate authorities in the image; otherwise
	// they are there only while it is built.
	CABundle bool `json:"caBundle,omitempty" yaml:"caBundle"`
	// Env is set in every process of the box, and while scripts run. It is added
	// to what From has, as the fields below replace it.
	Env map[string]string `json:"env,omitempty" yaml:"env"`
	// User is the default user of the box's processes, "user" when no one says.
	User string `json:"user,omitempty" yaml:"user"`
	// Workdir is where they start; empty means the user's home.
	Workdir string `json:"workdir,omitempty" yaml:"workdir"`
	// Limits are those of a sandbox that asks for none.
	Limits bulkhead.Limits `json:"limits" yaml:"limits"`
	// Interpreter says that the box serves /execute: its python3 has IPython.
	Interpreter bool `json:"interpreter,omitempty" yaml:"interpreter"`
	// Preload is the Python code that warms the interpreter before a snapshot.
	Preload []string `json:"preload,omitempty" yaml:"preload"`
	// Warmup is code that runs before a snapshot, after the imports: Python in the
	// interpreter's first context, whose names stay there, or a script for /bin/sh
	// -e where there is no interpreter. At most 64 KiB. If it fails there are no
	// boxes of the template.
	Warmup string `json:"warmup,omitempty" yaml:"warmup"`
}

// From is where a template starts: exactly one of its fields is set.
type From struct {
	// Debian is a suite, such as "trixie".
	Debian string `json:"debian,omitempty" yaml:"debian"`
	// Image is an OCI image in a registry, such as "python:3.13-slim". Its tag
	// is resolved at every build.
	Image string `json:"image,omitempty" yaml:"image"`
	// Archive is the path of a tarball with one image, as "docker save" writes it.
	Archive string `json:"archive,omitempty" yaml:"archive"`
	// Template is the name of another template.
	Template string `json:"template,omitempty" yaml:"template"`
}

// ParseRecipe reads a recipe from YAML. A field that is not known or is given
// twice, a second document and a value that [Recipe.Validate] refuses give a
// [bulkhead.CodeInvalid] error; it names the line where there is one.
func ParseRecipe(r io.Reader) (Recipe, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxRecipe+1))
	if err != nil {
		return Recipe{}, &bulkhead.Error{Code: bulkhead.CodeInternal, Op: "read recipe", Msg: "the recipe cannot be read", Err: err}
	}
	if len(text) > maxRecipe {
		return Recipe{}, bulkhead.Errorf(bulkhead.CodeTooLarge, "the recipe is larger than %d KiB", maxRecipe>>10)
	}
	var recipe Recipe
	dec := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := dec.Decode(&recipe); err != nil {
		if errors.Is(err, io.EOF) {
			return Recipe{}, bulkhead.Errorf(bulkhead.CodeInvalid, "the recipe is empty")
		}
		return Recipe{}, bulkhead.Errorf(bulkhead.CodeInvalid, "recipe: %s", yaml.FormatError(err, false, false))
	}
	var more any
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return Recipe{}, bulkhead.Errorf(bulkhead.CodeInvalid, "recipe: a file holds one recipe, this one goes on after its end")
	}
	if err := recipe.Validate(); err != nil {
		return Recipe{}, err
	}
	return recipe, nil
}

var (
	nameSyntax  = regexp.MustCompile(`^([a-z0-9][a-z0-9._-]{0,63}/)?[a-z0-9][a-z0-9._-]{0,63}(:[a-zA-Z0-9][a-zA-Z0-9._-]{0,63})?$`)
	suiteSyntax = regexp.MustCompile(`^[a-z]{1,32}$`)
	aptSyntax   = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+~:-]+)?$`)
	envSyntax   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	userSyntax  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// Validate checks the recipe's form, not that its parts exist. The error is an
// *[bulkhead.Error] with [bulkhead.CodeInvalid] that names the field.
func (r *Recipe) Validate() error {
	if !nameSyntax.MatchString(r.Name) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "name is %q; it must be 1 to 64 of a-z, 0-9, '.', '-', '_', with an optional namespace/ and :tag", r.Name)
	}
	if err := r.From.validate(); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		list []string
	}{
		{"apt", r.Apt},
		{"pip", r.Pip},
		{"npm", r.NPM},
		{"layers", r.Layers},
		{"run", r.Run},
		{"preload", r.Preload},
		{"warmup", nonEmpty(r.Warmup)},
		{"env", slices.Collect(maps.Values(r.Env))},
	} {
		if err := validList(f.name, f.list); err != nil {
			return err
		}
	}
	for _, p := range r.Apt {
		if !aptSyntax.MatchString(p) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "apt: %q is not a package name", p)
		}
	}
	for k := range r.Env {
		if !envSyntax.MatchString(k) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "env: %q is not a variable name", k)
		}
	}
	if r.User != "" && !userSyntax.MatchString(r.User) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "user is %q, which is not a user name", r.User)
	}
	if r.Workdir != "" && (!path.IsAbs(r.Workdir) || strings.ContainsRune(r.Workdir, 0) || len(r.Workdir) > 4095) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "workdir is %q; it must be an absolute path", r.Workdir)
	}
	return r.Limits.Validate()
}

// nonEmpty is a list of s, or of nothing.
func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func validList(field string, list []string) error {
	if len(list) > maxItems {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has %d entries; at most %d are allowed", field, len(list), maxItems)
	}
	for _, s := range list {
		switch {
		case len(s) > maxItem:
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has an entry of %d bytes; at most %d are allowed", field, len(s), maxItem)
		case strings.ContainsRune(s, 0):
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has an entry with a zero byte", field)
		case s == "" && field != "env":
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has an empty entry", field)
		case (field == "pip" || field == "npm") && (s[0] == '-' || strings.ContainsAny(s, "\r\n")):
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s: %q is not a package", field, s)
		}
	}
	return nil
}

func (f From) validate() error {
	set := 0
	for _, s := range []string{f.Debian, f.Image, f.Archive, f.Template} {
		if s != "" {
			set++
		}
	}
	switch {
	case set != 1:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "from has %d of debian, image, archive, template; it must have exactly one", set)
	case f.Debian != "" && !suiteSyntax.MatchString(f.Debian):
		return bulkhead.Errorf(bulkhead.CodeInvalid, "from.debian is %q; it must be a suite such as \"trixie\"", f.Debian)
	case f.Template != "" && !nameSyntax.MatchString(f.Template):
		return bulkhead.Errorf(bulkhead.CodeInvalid, "from.template is %q, which is not a template name", f.Template)
	}
	return nil
}
