package template

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagename "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/bulkheadhq/bulkhead/internal/template/jail"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

func TestMain(m *testing.M) {
	if jail.Is(os.Args) {
		os.Exit(jail.Main(os.Stdin, os.Stderr))
	}
	if len(os.Args) == 4 && os.Args[1] == "build-until-killed" {
		os.Exit(buildUntilKilled(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// entry is a file of a layer: a directory when the name ends in a slash, a
// symbolic link when link is set.
type entry struct {
	name, content, link string
	mode                int64
}

// layerTar packs entries, owned by root, into a layer.
func layerTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: tar.TypeReg, Size: int64(len(e.content))}
		if e.mode == 0 {
			h.Mode = 0o755
		}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.name[len(e.name)-1] == '/':
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// image makes an OCI image of layers.
func image(t testing.TB, config v1.Config, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.Config, file.OS, file.Architecture = config, platform().OS, platform().Architecture
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// archive writes an image as "docker save" does.
func archive(t testing.TB, img v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, imagename.MustParseReference("test:latest"), img); err != nil {
		t.Fatal(err)
	}
	return path
}

var library = regexp.MustCompile(`/[^ ]*\.so[^ ]*`)

// shellEntries are the host's shell and a few tools with their libraries: the
// smallest tree that runs scripts.
var shellEntries = sync.OnceValues(func() ([]entry, error) {
	files := map[string]bool{}
	for _, tool := range []string{"sh", "cat", "sleep", "id", "ls", "touch"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			return nil, err
		}
		files[path] = true
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			return nil, err
		}
		for _, lib := range library.FindAllString(string(out), -1) {
			files[lib] = true
		}
	}
	entries := []entry{{name: "bin", link: "usr/bin"}, {name: "lib", link: "usr/lib"}, {name: "lib64", link: "usr/lib64"}}
	for file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if filepath.Dir(file) == "/lib64" || filepath.Dir(filepath.Dir(file)) == "/lib" || filepath.Dir(file) == "/bin" {
			file = "/usr" + file
		}
		entries = append(entries, entry{name: file[1:], content: string(b)})
	}
	return entries, nil
})

// shellLayer is a layer that can run scripts.
func shellLayer(t testing.TB) []byte {
	t.Helper()
	entries, err := shellEntries()
	testenv.Have(t, "shell", err == nil, "no shell to copy")
	return layerTar(t, entries...)
}

// testStore opens a store for builds that need neither the network nor a
// package manager.
func testStore(t testing.TB) *Store {
	t.Helper()
	testenv.Need(t, "root")
	testenv.Need(t, "mkfs.erofs")
	s, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inspect runs a script of the host in the directory that the kernel has
// mounted the image on.
func inspect(t testing.TB, image, script string) string {
	t.Helper()
	var b bytes.Buffer
	err := jail.Run(t.Context(), jail.Spec{
		Argv: []string{"/bin/sh", "-ec", `mount -t erofs -o loop,ro "$1" "$2"; cd "$2"; ` + script, "sh", image, t.TempDir()},
		Env:  []string{"PATH=" + hostPath, "LC_ALL=C.UTF-8"},
	}, &b)
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("inspect: %v: %s", err, b.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// noResidue checks that no build has left anything.
func noResidue(t testing.TB, s *Store) {
	t.Helper()
	left, err := os.ReadDir(s.dir("build"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(s.cfg.Dir)) {
		t.Errorf("mounts left: %s, %v", mounts, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // the thread that mounted ends a little later
		loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			t.Fatal(err)
		}
		left := slices.ContainsFunc(loops, func(file string) bool {
			b, err := os.ReadFile(file)
			return err == nil && strings.HasPrefix(string(b), s.cfg.Dir)
		})
		if !left {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a loop device is still there")
		}
	}
}
