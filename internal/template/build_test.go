package template

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	imagename "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func TestBuildFromArchive(t *testing.T) {
	s := testStore(t)
	extra := filepath.Join(t.TempDir(), "extra.tar")
	if err := os.WriteFile(extra, layerTar(t, entry{name: "srv/extra", content: "x"}), 0o600); err != nil {
		t.Fatal(err)
	}
	img := image(t, v1.Config{Env: []string{"A=image", "B=image", "bad name=x"}, WorkingDir: "/srv/"},
		shellLayer(t),
		layerTar(t, entry{name: "etc/resolv.conf", link: "/host/secret"}, entry{name: "proc", link: "etc"}, entry{name: "srv/gone", content: "x"},
			entry{name: "usr/bin/su", content: "x", mode: 0o4755}, entry{name: "tmp/junk", content: "x"}),
		layerTar(t, entry{name: "srv/.wh.gone"}))
	got, err := s.Build(t.Context(), Recipe{
		Name: "tiny", From: From{Archive: archive(t, img)}, Layers: []string{extra},
		Run: []string{`echo $B $HOME > /srv/out; id -u >> /srv/out; cat /run/bulkhead/apt.conf > /tmp/leak; echo kept > /home/user/f`},
		Env: map[string]string{"B": "recipe"}, Limits: bulkhead.Limits{MemoryMB: 100}, Preload: []string{"pass"},
	}, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	limits := bulkhead.DefaultLimits()
	limits.MemoryMB = 100
	want := bulkhead.Template{
		ID: ID("tiny"), Name: "tiny", Defaults: limits, Env: map[string]string{"A": "image", "B": "recipe"},
		User: "user", Workdir: "/srv", Preload: []string{"pass"}, Image: filepath.Join(s.dir(hexOf(got.Digest)), imageFile),
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(want, "Digest", "SizeBytes", "CreatedAt")); d != "" {
		t.Errorf("template (-want +got):\n%s", d)
	}
	if fi, err := os.Stat(got.Image); err != nil || fi.Size() != got.SizeBytes || got.CreatedAt.IsZero() {
		t.Errorf("size %d, created %v, file %v, %v", got.SizeBytes, got.CreatedAt, fi, err)
	}
	tree := inspect(t, got.Image, `find . -path ./usr -prune -o -printf '%P %y%m %U:%G %s\n' | sort; stat -c %a usr/bin/su; cat srv/out etc/passwd`)
	wantTree := ` d755 0:0 
bin l777 0:0 7
dev d755 0:0 
etc d755 0:0 
etc/group f644 0:0 23
etc/hostname f644 0:0 10
etc/hosts f644 0:0 61
etc/machine-id f644 0:0 0
etc/passwd f644 0:0 67
etc/resolv.conf f644 0:0 0
home d755 0:0 
home/user d755 1000:1000 
home/user/f f644 0:0 5
lib l777 0:0 7
lib64 l777 0:0 9
opt d755 0:0 
opt/bulkhead d755 0:0 
proc d555 0:0 
root d700 0:0 
run d755 0:0 
srv d755 0:0 
srv/extra f755 0:0 1
srv/out f644 0:0 15
sys d555 0:0 
tmp d1777 0:0 
var d755 0:0 
var/tmp d1777 0:0 
4755
recipe /root
0
root:*:0:0:root:/root:/bin/sh
user:*:1000:1000::/home/user:/bin/sh
`
	if d := cmp.Diff(wantTree, dirSize.ReplaceAllString(tree, "$1")); d != "" {
		t.Errorf("tree (-want +got):\n%s", d)
	}
	noResidue(t, s)

	again, err := s.Get(got.ID)
	if d := cmp.Diff(got, again); d != "" || err != nil {
		t.Errorf("Get (-want +got):\n%s%v", d, err)
	}
}

func TestBuildFromRegistry(t *testing.T) {
	s := testStore(t)
	srv := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	defer srv.Close()
	ref, err := imagename.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	push := func(content string) {
		t.Helper()
		img := image(t, v1.Config{User: "7:7"}, layerTar(t, entry{name: "f", content: content}))
		if err := remote.Write(ref, img, remote.WithTransport(http.DefaultTransport)); err != nil {
			t.Fatal(err)
		}
	}
	r := Recipe{Name: "app", From: From{Image: ref.String()}}
	push("one")
	first, err := s.Build(t.Context(), r, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := inspect(t, first.Image, "cat f; grep 7 etc/passwd"); got != "oneuid7:*:7:7::/:/bin/sh\n" || first.User != "uid7" {
		t.Errorf("content %q, user %q", got, first.User)
	}
	if again, err := s.Build(t.Context(), r, BuildOptions{}); err != nil || again.Digest != first.Digest {
		t.Errorf("built again: %v, %v", again, err)
	}
	push("two")
	moved, err := s.Build(t.Context(), r, BuildOptions{})
	if err != nil || moved.Digest == first.Digest {
		t.Fatalf("after the tag moved: %v, %v", moved, err)
	}
	r.From.Image += "-missing"
	if _, err := s.Build(t.Context(), r, BuildOptions{}); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("missing image: %v", err)
	}
	if got, err := s.Get("app"); err != nil || got.Digest != moved.Digest {
		t.Errorf("after a failed build: %v, %v", got, err)
	}
	noResidue(t, s)
}

func TestBuildOnAnotherTemplate(t *testing.T) {
	s := testStore(t)
	s.cfg.Recipes = map[string]Recipe{
		"parent": {Name: "parent", From: From{Archive: archive(t, image(t, v1.Config{}, shellLayer(t)))}, Run: []string{"echo 1 > /v; touch -d @1000000000 /old"}, Workdir: "/srv", Env: map[string]string{"P": "1"}},
		"loop":   {Name: "loop", From: From{Template: "loop"}},
	}
	child := Recipe{Name: "child", From: From{Template: "parent"}, Run: []string{"cat /v /v > /w"}}
	var built []string
	opts := BuildOptions{Progress: func(e Event) {
		if e.Action == "write the image" && (len(built) == 0 || built[len(built)-1] != e.Template) {
			built = append(built, e.Template)
		}
	}}
	first, err := s.Build(t.Context(), child, opts)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"parent", "child"}, built); d != "" {
		t.Errorf("built (-want +got):\n%s", d)
	}
	if got := inspect(t, first.Image, "cat w; stat -c %Y old; stat -c %a tmp"); got != "1\n1\n1000000000\n1777\n" || first.Workdir != "/srv" || first.Env["P"] != "1" {
		t.Errorf("content %q, template %+v", got, first)
	}
	parent := s.cfg.Recipes["parent"]
	parent.Run = []string{"echo 2 > /v"}
	s.cfg.Recipes["parent"] = parent
	second, err := s.Build(t.Context(), child, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got := inspect(t, second.Image, "cat w"); got != "2\n2\n" || second.Digest == first.Digest {
		t.Errorf("the child did not follow its parent: %q", got)
	}
	for name, want := range map[string]string{"loop": "more than 16", "nobody": "no such template"} {
		_, err := s.Build(t.Context(), Recipe{Name: "x", From: From{Template: name}}, BuildOptions{})
		if bulkhead.CodeOf(err) != bulkhead.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("from %s: %v", name, err)
		}
	}
	noResidue(t, s)
}

func TestBuildReportsWhatFailed(t *testing.T) {
	s := testStore(t)
	from := From{Archive: archive(t, image(t, v1.Config{}, shellLayer(t)))}
	for _, tc := range []struct {
		name, want string
		recipe     Recipe
	}{
		{"script", "run script 2: exit status 3: so sorry", Recipe{Run: []string{"true", "echo so sorry >&2; exit 3"}}},
		{"no package manager", "apt-get install 1 packages: exit status 127", Recipe{Apt: []string{"x"}}},
		{"no such user", `user "bob" is not in /etc/passwd`, Recipe{User: "bob"}},
		{"no such layer", `layers: "/nowhere" cannot be read`, Recipe{Layers: []string{"/nowhere"}}},
		{"not a layer", `not a valid layer`, Recipe{Layers: []string{"/etc/passwd"}}},
		{"no interpreter", "check the interpreter: exit status 127", Recipe{Interpreter: true}},
		{"no archive", "there is no such file", Recipe{From: From{Archive: "/nowhere"}}},
		{"not an archive", "not a tarball with one image", Recipe{From: From{Archive: "/etc/passwd"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.recipe.Name = "bad"
			if tc.recipe.From == (From{}) {
				tc.recipe.From = from
			}
			_, err := s.Build(t.Context(), tc.recipe, BuildOptions{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
				t.Errorf("err = %v (%s), want %q in it", err, bulkhead.CodeOf(err), tc.want)
			}
			if _, err := s.Get("bad"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
				t.Errorf("Get after a failure: %v", err)
			}
			noResidue(t, s)
		})
	}
}

func TestBuildRefusesImages(t *testing.T) {
	s := testStore(t)
	s.cfg.MaxImageMB = 1
	large := image(t, v1.Config{}, layerTar(t, entry{name: "f", content: strings.Repeat("x", 2<<20)}))
	foreign := image(t, v1.Config{})
	config, err := foreign.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture = "pdp11"
	if foreign, err = mutate.ConfigFile(foreign, config); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		image v1.Image
		code  bulkhead.Code
		want  string
	}{
		{large, bulkhead.CodeTooLarge, "larger than 1 MiB"},
		{foreign, bulkhead.CodeInvalid, "the image is for linux/pdp11"},
	} {
		_, err := s.Build(t.Context(), Recipe{Name: "h", From: From{Archive: archive(t, tc.image)}}, BuildOptions{})
		if bulkhead.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("err = %v, want %q in it", err, tc.want)
		}
		noResidue(t, s)
	}
}

// TestBuildFromHostileTree: links where a build and a runtime mount and write
// lead nowhere.
func TestBuildFromHostileTree(t *testing.T) {
	s := testStore(t)
	victim := t.TempDir()
	var links []entry
	for _, name := range []string{"etc", "tmp", "run", "dev", "sys", "home", "opt", "var", "root"} {
		links = append(links, entry{name: name, link: victim})
	}
	got, err := s.Build(t.Context(), Recipe{
		Name: "h", From: From{Archive: archive(t, image(t, v1.Config{}, shellLayer(t), layerTar(t, links...)))},
		Run: []string{"echo x > /etc/x"},
	}, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out := inspect(t, got.Image, "find etc tmp run dev sys home opt var root -maxdepth 0 -type d | wc -l; cat etc/x"); out != "9\nx\n" {
		t.Errorf("image: %q", out)
	}
	if left, err := os.ReadDir(victim); err != nil || len(left) > 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

func TestConcurrentBuildsOfOneRecipe(t *testing.T) {
	s := testStore(t)
	other, err := New(Config{Dir: s.cfg.Dir})
	if err != nil {
		t.Fatal(err)
	}
	r := Recipe{Name: "one", From: From{Archive: archive(t, image(t, v1.Config{}, shellLayer(t)))}, Run: []string{"sleep 0.3"}}
	var mu sync.Mutex
	writes, digests := 0, map[string]int{}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			step := 0
			got, err := []*Store{s, other}[i%2].Build(t.Context(), r, BuildOptions{Progress: func(e Event) {
				if e.Step != step && e.Action == "run script 1" {
					mu.Lock()
					writes++
					mu.Unlock()
				}
				step = e.Step
			}})
			mu.Lock()
			defer mu.Unlock()
			digests[got.Digest]++
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if writes != 1 || len(digests) != 1 {
		t.Errorf("%d builds, digests %v", writes, digests)
	}
	noResidue(t, s)
}

func TestBuildForced(t *testing.T) {
	s := testStore(t)
	r := Recipe{Name: "f", From: From{Archive: archive(t, image(t, v1.Config{}, layerTar(t)))}}
	var digests []string
	for _, force := range []bool{false, true, false} {
		got, err := s.Build(t.Context(), r, BuildOptions{Force: force})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, got.Digest)
	}
	if digests[0] == digests[1] || digests[1] != digests[2] {
		t.Errorf("digests %v: only a forced build is another image", digests)
	}
	if old, err := s.Get(digests[0]); err != nil || old.Image == "" {
		t.Errorf("the image before: %v", err)
	}
}

func TestBuildEndsWithItsContext(t *testing.T) {
	s := testStore(t)
	r := Recipe{Name: "slow", From: From{Archive: archive(t, image(t, v1.Config{}, shellLayer(t)))}, Run: []string{"echo ready; sleep 1000"}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := s.Build(ctx, r, BuildOptions{Progress: func(e Event) {
		if e.Line == "ready" {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	noResidue(t, s)
}

// buildUntilKilled is the process that TestBuildThatIsKilled kills.
func buildUntilKilled(dir, image string) int {
	s, err := New(Config{Dir: dir})
	if err == nil {
		_, err = s.Build(context.Background(), Recipe{
			Name: "killed", From: From{Archive: image},
			Run: []string{"echo ready; sleep 54321 & sleep 54322"},
		}, BuildOptions{Progress: func(e Event) {
			if e.Line == "ready" {
				fmt.Println(e.Line)
			}
		}})
	}
	fmt.Println(err)
	return 1
}

func TestBuildThatIsKilled(t *testing.T) {
	s := testStore(t)
	from := archive(t, image(t, v1.Config{}, shellLayer(t)))
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "build-until-killed", s.cfg.Dir, from)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("%q, %v", line[:n], err)
	}
	if err := errors.Join(cmd.Process.Kill(), ignoreExit(cmd.Wait())); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); sleepers(t) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("programs of the build are still there")
		}
	}
	if left, err := os.ReadDir(s.dir("build")); err != nil || len(left) != 1 {
		t.Errorf("before Reap: %v, %v", left, err)
	}
	if err := s.Reap(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	noResidue(t, s)
	if _, err := s.Build(t.Context(), Recipe{Name: "killed", From: From{Archive: from}}, BuildOptions{}); err != nil {
		t.Errorf("build after the crash: %v", err)
	}
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// sleepers counts the processes of the killed build.
func sleepers(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(b), "sleep\x005432") {
			n++
		}
	}
	return n
}

func TestNeedSpace(t *testing.T) {
	err := needSpace(t.TempDir(), 1<<60)
	if bulkhead.CodeOf(err) != bulkhead.CodeUnavailable || !strings.Contains(err.Error(), "needs 1099511627776 MiB") {
		t.Errorf("err = %v", err)
	}
	if err := needSpace(t.TempDir(), 1); err != nil {
		t.Error(err)
	}
}

func TestBuildDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a Debian")
	}
	s := testStore(t)
	testenv.Need(t, "mmdebstrap")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.cfg.Mirror+"/dists/"+suite+"/InRelease", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	testenv.Have(t, "debian", err == nil && resp.StatusCode == http.StatusOK, "Debian's archive cannot be reached")
	got, err := s.Build(t.Context(), Recipe{
		Name: "debian", From: From{Debian: suite}, Apt: []string{"sudo"},
		Run: []string{"apt-get update -q; su user -c 'id -un' > /out; test ! -e /usr/share/man/man1"},
	}, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := inspect(t, got.Image, `cat out; grep -c . etc/apt/apt.conf.d/90bulkhead; ls etc/apt/apt.conf.d | grep -c mmdebstrap || true
		stat -c %a usr/bin/sudo etc/sudoers.d/90-bulkhead; find var/lib/apt/lists var/cache/apt tmp run root/.cache -mindepth 1 2>/dev/null || true
		cat etc/machine-id etc/resolv.conf`)
	if d := cmp.Diff("user\n4\n0\n4755\n440\nvar/cache/apt/archives\n", out); d != "" {
		t.Errorf("image (-want +got):\n%s", d)
	}
	noResidue(t, s)
}
