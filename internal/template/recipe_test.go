package template

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

func TestParseRecipe(t *testing.T) {
	got, err := ParseRecipe(strings.NewReader(`
name: team/data:v2
from: {template: base}
apt: [ffmpeg, "libfoo1=1.2-3~deb13u1"]
pip: ["polars==1.2", "black >= 24 ; python_version > '3'"]
npm: ["@scope/pkg@1"]
layers: [a.tar.gz]
run:
  - echo one
  - |
    echo two
    echo three
caBundle: true
env: {A: "1", B: ""}
user: root
workdir: /srv
limits: {cpu: 0.5, memoryMB: 256}
interpreter: true
preload: [import polars]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Recipe{
		Name: "team/data:v2", From: From{Template: "base"},
		Apt: []string{"ffmpeg", "libfoo1=1.2-3~deb13u1"}, Pip: []string{"polars==1.2", "black >= 24 ; python_version > '3'"},
		NPM: []string{"@scope/pkg@1"}, Layers: []string{"a.tar.gz"}, Run: []string{"echo one", "echo two\necho three\n"},
		CABundle: true, Env: map[string]string{"A": "1", "B": ""}, User: "root", Workdir: "/srv",
		Limits: bulkhead.Limits{CPU: 0.5, MemoryMB: 256}, Interpreter: true, Preload: []string{"import polars"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("recipe (-want +got):\n%s", d)
	}
}

func TestParseRecipeRefuses(t *testing.T) {
	const ok = "name: a\nfrom: {debian: trixie}\n"
	for _, tc := range []struct{ name, text, want string }{
		{"unknown field", ok + "packages: [x]\n", `[3:1] unknown field "packages"`},
		{"unknown nested field", "name: a\nfrom:\n  debain: trixie\n", `[3:3] unknown field "debain"`},
		{"unknown limit", ok + "limits: {memory: 1}\n", `[3:10] unknown field "memory"`},
		{"twice", ok + "name: b\n", `[3:1] mapping key "name" already defined at [1:1]`},
		{"type", ok + "apt: ffmpeg\n", "[3:6] "},
		{"syntax", "name: [\n", "[1:7] "},
		{"empty", "", "empty"},
		{"two documents", ok + "---\n" + ok, "goes on after its end"},
		{"no name", "from: {debian: trixie}\n", `name is ""`},
		{"name up", "name: ../a\nfrom: {debian: trixie}\n", `name is "../a"`},
		{"no from", "name: a\n", "from has 0 of"},
		{"two from", "name: a\nfrom: {debian: trixie, image: x}\n", "from has 2 of"},
		{"suite", "name: a\nfrom: {debian: ../x}\n", `from.debian is "../x"`},
		{"parent", "name: a\nfrom: {template: A}\n", `from.template is "A"`},
		{"apt option", ok + "apt: [--allow]\n", `apt: "--allow"`},
		{"apt space", ok + "apt: [a b]\n", `apt: "a b"`},
		{"pip option", ok + "pip: [-e.]\n", `pip: "-e."`},
		{"pip lines", ok + "pip: [\"a\\nb\"]\n", `pip: "a\nb"`},
		{"npm option", ok + "npm: [-g]\n", `npm: "-g"`},
		{"empty entry", ok + "run: ['']\n", "run has an empty entry"},
		{"zero byte", ok + "run: [\"a\\0b\"]\n", "run has an entry with a zero byte"},
		{"env name", ok + "env: {A-B: x}\n", `env: "A-B"`},
		{"user", ok + "user: a:b\n", `user is "a:b"`},
		{"workdir", ok + "workdir: srv\n", `workdir is "srv"`},
		{"limits", ok + "limits: {cpu: 65}\n", "cpu is 65"},
		{"long entry", ok + "run: [" + strings.Repeat("x", maxItem+1) + "]\n", "run has an entry of 65537 bytes"},
		{"long list", ok + "apt: [" + strings.Repeat("x,", maxItems) + "x]\n", "apt has 1001 entries; at most 1000"},
		{"long text", ok + strings.Repeat("#", maxRecipe), "larger than 1024 KiB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseRecipe(strings.NewReader(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err = %v, want %q in it", err, tc.want)
			}
			if code := bulkhead.CodeOf(err); code != bulkhead.CodeInvalid && code != bulkhead.CodeTooLarge {
				t.Errorf("code = %q", code)
			}
		})
	}
}

func FuzzParseRecipe(f *testing.F) {
	f.Add("name: a\nfrom: {debian: trixie}\nrun: [x]\nenv: {A: b}\n")
	f.Add("a: &a [x, x]\nb: &b [*a, *a]\nname: *b\n")
	f.Add("name: a\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecipe(strings.NewReader(text))
		if err != nil {
			if code := bulkhead.CodeOf(err); code == bulkhead.CodeInternal {
				t.Errorf("internal error for %q: %v", text, err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Errorf("accepted, but not valid: %v", err)
		}
		if d := (resolved{Recipe: r}).digest(); !digestSyntax.MatchString(d) {
			t.Errorf("digest = %q", d)
		}
	})
}

func TestBuiltinRecipesAreValid(t *testing.T) {
	for name, r := range Builtin() {
		if err := r.Validate(); err != nil || r.Name != name {
			t.Errorf("%s: name %q, %v", name, r.Name, err)
		}
	}
}

// TestDigestIsStable: a digest that changes throws away everybody's images, so it
// must change only together with builderVersion.
func TestDigestIsStable(t *testing.T) {
	r := Recipe{
		Name: "a", From: From{Debian: "trixie"}, Apt: []string{"x"}, Env: map[string]string{"B": "2", "A": "1"},
		Limits: bulkhead.Limits{MemoryMB: 64},
	}
	id := resolved{Recipe: r}
	const want = "sha256:a024968e8c765b56a57bc79f672d9d6008656f76e83c7deeb37052bb085fcfa8"
	if got := id.digest(); got != want {
		t.Errorf("digest = %q, want %q", got, want)
	}
	same := id
	same.Recipe.Name, same.Recipe.From.Archive = "b", "/elsewhere"
	if same.digest() != id.digest() {
		t.Error("the digest depends on the name or on where an archive lies")
	}
	for name, change := range map[string]func(*resolved){
		"apt":    func(r *resolved) { r.Recipe.Apt = []string{"x", "y"} },
		"run":    func(r *resolved) { r.Recipe.Run = []string{"x"} },
		"env":    func(r *resolved) { r.Recipe.Env = map[string]string{"A": "1"} },
		"limits": func(r *resolved) { r.Recipe.Limits.MemoryMB = 65 },
		"base":   func(r *resolved) { r.Base = "sha256:1" },
		"layers": func(r *resolved) { r.Layers = []string{"sha256:1"} },
		"build":  func(r *resolved) { r.Build = "now" },
	} {
		other := id
		change(&other)
		if other.digest() == id.digest() {
			t.Errorf("%s is not in the digest", name)
		}
	}
}

func TestID(t *testing.T) {
	if got, want := ID(Base), "032n49m1edj8a12a3oom"; got != want {
		t.Errorf("ID(%q) = %q, want %q", Base, got, want)
	}
	if ID("a") == ID("b") {
		t.Error("two names, one ID")
	}
}

func TestBuildEnv(t *testing.T) {
	got := BuildEnv([]string{"HOME=/x", "https_proxy=p", "PIP_INDEX_URL=i", "PIP_TARGET=/t", "npm_config_registry=r", "SECRET=s"})
	if d := cmp.Diff([]string{"https_proxy=p", "PIP_INDEX_URL=i", "npm_config_registry=r"}, got); d != "" {
		t.Errorf("BuildEnv (-want +got):\n%s", d)
	}
}
