package template

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/template/jail"
)

// work is a build that is going on: a tree that grows step by step.
type work struct {
	build  *build
	recipe Recipe
	src    source
	// dir is the build's own directory: root is the tree, out what will stay.
	dir, root, out string
	// env, user and workdir come from the source and then from the recipe.
	env           map[string]string
	user, workdir string
}

// step is one part of a build.
type step struct {
	action string
	do     func(context.Context) error
}

func newWork(b *build, r Recipe, src source, dir string) (*work, error) {
	w := &work{
		build: b, recipe: r, src: src, dir: dir,
		root: filepath.Join(dir, "root"), out: filepath.Join(dir, "out"), env: map[string]string{},
	}
	for _, d := range []string{w.root, w.out, w.cache("apt", "archives", "partial"), w.cache("apt", "lists", "partial"), w.cache("pip"), w.cache("npm")} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // a root directory is readable
			return nil, fmt.Errorf("make build directory: %w", err)
		}
	}
	if err := w.writeAptConf(); err != nil {
		return nil, err
	}
	return w, nil
}

// steps lists what the build has to do.
func (w *work) steps() []step {
	r := w.recipe
	var s []step
	switch {
	case w.src.parent != nil:
		s = append(s, step{"open template " + r.From.Template, w.openParent})
	case w.src.image != nil:
		s = append(s, step{"unpack image", w.unpackImage})
	default:
		s = append(s, step{"install Debian " + r.From.Debian, w.bootstrap})
	}
	s = append(s, step{"adopt settings", w.adopt})
	if len(r.Apt) > 0 {
		s = append(s, step{fmt.Sprintf("apt-get install %d packages", len(r.Apt)), w.apt})
	}
	if len(r.Pip) > 0 {
		s = append(s, step{fmt.Sprintf("pip install %d packages", len(r.Pip)), w.pip})
	}
	if len(r.NPM) > 0 {
		s = append(s, step{fmt.Sprintf("npm install %d packages", len(r.NPM)), w.npm})
	}
	for _, path := range r.Layers {
		s = append(s, step{"unpack layer " + filepath.Base(path), func(ctx context.Context) error { return w.unpackFile(ctx, path) }})
	}
	for i, script := range r.Run {
		s = append(s, step{fmt.Sprintf("run script %d", i+1), func(ctx context.Context) error { return w.shell(ctx, program{script: script}) }})
	}
	if w.interpreter() {
		s = append(s, step{"check the interpreter", w.checkInterpreter})
	}
	return append(s, step{"finish the tree", w.finish}, step{"write the image", w.writeImage})
}

// adopt takes the recipe's settings over the source's.
func (w *work) adopt(context.Context) error {
	maps.Copy(w.env, w.recipe.Env)
	if w.recipe.User != "" {
		w.user = w.recipe.User
	}
	if w.recipe.Workdir != "" {
		w.workdir = w.recipe.Workdir
	}
	if err := w.prepare(); err != nil {
		return err
	}
	root, err := os.OpenRoot(w.root)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	return errors.Join(addUser(root), root.Close())
}

func (w *work) interpreter() bool {
	return w.recipe.Interpreter || w.src.parent != nil && w.src.parent.Interpreter
}

// record describes the finished image.
func (w *work) record(digest string) record {
	r := w.recipe
	rec := record{Key: w.src.key, Recipe: r}
	limits, preload, warmup := bulkhead.DefaultLimits(), r.Preload, r.Warmup
	if p := w.src.parent; p != nil {
		limits = p.Defaults
		if preload == nil {
			preload = p.Preload
		}
		if warmup == "" {
			warmup = p.Warmup
		}
	}
	rec.Template = bulkhead.Template{
		ID: ID(r.Name), Name: r.Name, Digest: digest, CreatedAt: time.Now().UTC(),
		Defaults: r.Limits.Or(limits), Env: w.env, User: w.user, Workdir: w.workdir,
		Interpreter: w.interpreter(), Preload: preload, Warmup: warmup,
	}
	return rec
}

// program is a script that runs as root in the tree.
type program struct {
	script string
	args   []string
	env    map[string]string
	// cache, if any, names the downloads that it may use and add to. Only
	// package managers have one: what a recipe's own scripts could write would
	// be installed by other builds.
	cache string
}

// apt installs Debian packages.
func (w *work) apt(ctx context.Context) error {
	return w.shell(ctx, program{
		cache: "apt", args: w.recipe.Apt,
		script: `
cache="-o Dir::Cache::archives=/run/bulkhead/cache/archives/ -o Dir::State::lists=/run/bulkhead/cache/lists/"
apt-get $cache update -q
apt-get $cache install -y -q --no-install-recommends "$@"`,
	})
}

// pip installs Python packages and compiles them: a box never does.
func (w *work) pip(ctx context.Context) error {
	return w.shell(ctx, program{
		cache: "pip", args: w.recipe.Pip,
		env: map[string]string{"PIP_CACHE_DIR": "/run/bulkhead/cache", "PYTHONWARNINGS": "ignore"},
		script: `
python3 -m pip install --no-compile --progress-bar off "$@"
echo compiling
python3 -c '
import compileall, os, re, site
for d in site.getsitepackages():
    if os.path.isdir(d):
        compileall.compile_dir(d, quiet=2, workers=0, rx=re.compile("/tests?/"))
'`,
	})
}

func (w *work) npm(ctx context.Context) error {
	return w.shell(ctx, program{
		cache: "npm", args: w.recipe.NPM,
		env:    map[string]string{"NPM_CONFIG_CACHE": "/run/bulkhead/cache"},
		script: `npm install --global --no-fund --no-audit "$@"`,
	})
}

func (w *work) checkInterpreter(ctx context.Context) error {
	return w.shell(ctx, program{script: `python3 -c "import IPython; print(\"IPython\", IPython.__version__)"`})
}

// cache returns a path below the cache of the builds that start where this one
// does: nobody else trusts what that source may have put there.
func (w *work) cache(parts ...string) string {
	key := "debian-" + w.recipe.From.Debian
	if w.src.id.Base != "" {
		key = hexOf(w.src.id.Base)[:16]
	}
	return w.build.cache(append([]string{key}, parts...)...)
}

func (w *work) shell(ctx context.Context, p program) error {
	if err := w.prepare(); err != nil {
		return err
	}
	spec := jail.Spec{
		Root:  w.root,
		Binds: []jail.Bind{{Source: w.aptConf(), Target: "run/bulkhead/apt.conf"}},
		Argv:  append([]string{"/bin/sh", "-ec", p.script, "sh"}, p.args...),
		Env:   w.environ(p.env),
	}
	for _, file := range []string{"etc/resolv.conf", "etc/hosts"} {
		if _, err := os.Stat("/" + file); err == nil {
			spec.Binds = append(spec.Binds, jail.Bind{Source: "/" + file, Target: file})
		}
	}
	if ca := w.build.cfg.CABundle; ca != "" {
		spec.Binds = append(spec.Binds, jail.Bind{Source: ca, Target: "run/bulkhead/ca.crt"})
	}
	if p.cache != "" {
		spec.Binds = append(spec.Binds, jail.Bind{Source: w.cache(p.cache), Target: "run/bulkhead/cache", Writable: true})
	}
	if err := jail.Run(ctx, spec, w.build); err != nil {
		return fmt.Errorf("run script: %w", err)
	}
	return nil
}

// host runs a trusted program of the host, which may mount what it likes: it
// and its mounts end with it.
func (w *work) host(ctx context.Context, argv ...string) error {
	path, err := lookPath(argv[0])
	if err != nil {
		return err
	}
	spec := jail.Spec{
		Argv: append([]string{path}, argv[1:]...),
		Env:  append(slices.Clone(w.build.cfg.Env), "PATH="+hostPath, "LC_ALL=C.UTF-8", "TMPDIR="+w.dir, "HOME=/root"),
		Dir:  w.dir,
	}
	if err := jail.Run(ctx, spec, w.build); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}

// environ is the environment of a script; more has the last word.
func (w *work) environ(more map[string]string) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1",
	}
	maps.Copy(env, w.env)
	for _, kv := range w.build.cfg.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	maps.Copy(env, map[string]string{
		"DEBIAN_FRONTEND": "noninteractive", "APT_CONFIG": "/run/bulkhead/apt.conf",
		"PIP_CACHE_DIR": "/tmp/pip", "PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_ROOT_USER_ACTION": "ignore",
		"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_WARN_SCRIPT_LOCATION": "1",
		"NPM_CONFIG_CACHE": "/tmp/npm", "NPM_CONFIG_UPDATE_NOTIFIER": "false",
	})
	if w.build.cfg.CABundle != "" {
		for _, name := range caVariables {
			env[name] = "/run/bulkhead/ca.crt"
		}
	}
	maps.Copy(env, more)
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}
