package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

var modTime = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

// The entries of a layer, in short.
func dir(name string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: modTime}
}

func file(name, content string) *tar.Header {
	return &tar.Header{
		Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), ModTime: modTime,
		PAXRecords: map[string]string{"TEST.content": content},
	}
}

func symlink(name, target string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}
}

func link(name, target string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}
}

func device(name string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}
}

func pack(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, h.PAXRecords["TEST.content"]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// apply unpacks the layers into outer/root; outer holds a canary.
func apply(t testing.TB, limits Limits, layers ...[]byte) (outer string, err error) {
	t.Helper()
	outer = t.TempDir()
	if err := os.WriteFile(filepath.Join(outer, "canary"), []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(outer, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(root, limits)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if err = tree.Apply(t.Context(), bytes.NewReader(l)); err != nil {
			break
		}
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	return outer, err
}

// show lists a directory: "d name", "f name=content", "l name>target".
func show(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out = append(out, "d "+name)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			out = append(out, "l "+name+">"+target)
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			out = append(out, "f "+name+"="+string(b))
			return err
		default:
			out = append(out, d.Type().String()+" "+name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type layers = [][]*tar.Header

func TestApply(t *testing.T) {
	for _, tc := range []struct {
		name   string
		layers layers
		want   []string
	}{
		{"plain", layers{{dir("a"), file("a/f", "1"), link("a/g", "a/f"), symlink("s", "a/f")}}, []string{"d a", "f a/f=1", "f a/g=1", "l s>a/f"}},
		{"missing parents", layers{{file("./x/y/z", "1")}}, []string{"d x", "d x/y", "f x/y/z=1"}},
		{"replace", layers{{file("a", "1"), dir("b"), file("b/c", "1"), symlink("s", "a")}, {file("a", "2"), file("b", "2"), file("s", "3")}}, []string{"f a=2", "f b=2", "f s=3"}},
		{"merge directories", layers{{dir("a"), file("a/x", "1")}, {dir("a"), file("a/y", "2")}}, []string{"d a", "f a/x=1", "f a/y=2"}},
		{"whiteout", layers{{dir("a"), file("a/x", "1"), dir("a/d"), file("a/d/y", "1")}, {file("a/.wh.x", ""), file("a/.wh.d", ""), file("a/.wh.none", "")}}, []string{"d a"}},
		{
			"opaque after its siblings",
			layers{
				{file("a/old", "1"), file("a/d/old", "1"), file("a/e/old", "1")},
				{file("a/new", "2"), file("a/d/new", "2"), file("a/.wh..wh..opq", "")},
			},
			[]string{"d a", "d a/d", "f a/d/new=2", "f a/new=2"},
		},
		{"through a link inside", layers{{dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/f", "1")}}, []string{"l lib>usr/lib", "d usr", "d usr/lib", "f usr/lib/f=1"}},
		{"through an absolute link", layers{{dir("run"), dir("var"), symlink("var/run", "/run")}, {file("var/run/f", "1")}}, []string{"d run", "f run/f=1", "d var", "l var/run>/run"}},
		{"devices are left out", layers{{device("dev/sda"), {Name: "p", Typeflag: tar.TypeFifo, Mode: 0o644}}}, []string{"d dev", "p--------- p"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var packed [][]byte
			for _, l := range tc.layers {
				packed = append(packed, pack(t, l...))
			}
			outer, err := apply(t, Limits{}, packed...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, show(t, filepath.Join(outer, "root"))); d != "" {
				t.Errorf("tree (-want +got):\n%s", d)
			}
		})
	}
}

// TestApplyStaysInside: whatever a hostile layer says, the outside is untouched.
func TestApplyStaysInside(t *testing.T) {
	for _, tc := range []struct {
		name   string
		layers layers
		want   []string
	}{
		{"dot dot", layers{{file("../canary", "x"), file("../../../canary2", "x")}}, []string{"f canary=x", "f canary2=x"}},
		{"absolute", layers{{file("/etc/x", "x")}}, []string{"d etc", "f etc/x=x"}},
		{"write through a link", layers{{symlink("out", ".."), file("out/canary", "x")}}, []string{"f canary=x", "l out>.."}},
		{"write through a deep link", layers{{dir("a/b"), symlink("a/b/out", "../../../.."), file("a/b/out/canary", "x")}}, []string{"d a", "d a/b", "l a/b/out>../../../..", "f canary=x"}},
		{"write to a link", layers{{symlink("f", "../canary")}, {file("f", "x")}}, []string{"f f=x"}},
		{"whiteout through a link", layers{{symlink("out", "..")}, {file("out/.wh.canary", "")}}, []string{"l out>.."}},
		{"opaque through a link", layers{{symlink("out", ".."), file("x", "1")}, {file("out/.wh..wh..opq", "")}}, []string{}},
		{"directory over a link", layers{{symlink("d", "..")}, {dir("d"), file("d/canary", "x")}}, []string{"d d", "f d/canary=x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var packed [][]byte
			for _, l := range tc.layers {
				packed = append(packed, pack(t, l...))
			}
			outer, err := apply(t, Limits{}, packed...)
			if err != nil {
				t.Fatal(err)
			}
			untouched(t, outer)
			got := append([]string{}, show(t, filepath.Join(outer, "root"))...)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("tree (-want +got):\n%s", d)
			}
		})
	}
}

func untouched(t testing.TB, outer string) {
	t.Helper()
	entries, err := os.ReadDir(outer)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if b, err := os.ReadFile(filepath.Join(outer, "canary")); err != nil || string(b) != "alive" {
		t.Errorf("canary = %q, %v", b, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	sparse := "\x00" + strings.Repeat("x", 100)
	for _, tc := range []struct {
		name    string
		limits  Limits
		code    bulkhead.Code
		headers []*tar.Header
	}{
		{"link to outside", Limits{}, bulkhead.CodeInvalid, []*tar.Header{link("l", "../canary")}},
		{"link through a link", Limits{}, bulkhead.CodeInvalid, []*tar.Header{symlink("o", ".."), link("l", "o/canary")}},
		{"link to the root", Limits{}, bulkhead.CodeInvalid, []*tar.Header{link("l", "..")}},
		{"link to a directory", Limits{}, bulkhead.CodeInvalid, []*tar.Header{dir("d"), link("l", "d")}},
		{"whiteout of dot dot", Limits{}, bulkhead.CodeInvalid, []*tar.Header{file("a/.wh...", "")}},
		{"whiteout of nothing", Limits{}, bulkhead.CodeInvalid, []*tar.Header{file("a/.wh.", "")}},
		{"parent is a file", Limits{}, bulkhead.CodeInvalid, []*tar.Header{file("a", ""), file("a/b", "")}},
		{"link loop", Limits{}, bulkhead.CodeInvalid, []*tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}},
		{"deep", Limits{}, bulkhead.CodeInvalid, []*tar.Header{dir(strings.Repeat("d/", 1800) + "d")}},
		{"long", Limits{}, bulkhead.CodeInvalid, []*tar.Header{file(strings.Repeat("n", 300), "")}},
		{"bytes", Limits{Bytes: 10}, bulkhead.CodeTooLarge, []*tar.Header{file("a", "123456"), file("b", "12345")}},
		{"entries", Limits{Entries: 2}, bulkhead.CodeTooLarge, []*tar.Header{dir("a"), dir("b"), dir("c")}},
		{"stream", Limits{Bytes: 1, Entries: 2}, bulkhead.CodeTooLarge, []*tar.Header{{Name: "x", Typeflag: '9', Size: 60000, PAXRecords: map[string]string{"TEST.content": strings.Repeat(sparse, 60000)[:60000]}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			outer, err := apply(t, tc.limits, pack(t, tc.headers...))
			if got := bulkhead.CodeOf(err); got != tc.code {
				t.Errorf("code = %q (%v), want %q", got, err, tc.code)
			}
			untouched(t, outer)
		})
	}
	t.Run("not a tar", func(t *testing.T) {
		if _, err := apply(t, Limits{}, bytes.Repeat([]byte("x"), 2048)); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("err = %v", err)
		}
	})
}

func TestApplyKeepsOwnerModeAndTime(t *testing.T) {
	h := file("d/f", "x")
	h.Mode = 0o4711
	d := dir("d")
	d.Mode = 0o1770
	outer, err := apply(t, Limits{}, pack(t, d, h))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"d/f": unix.S_IFREG | 0o4711, "d": unix.S_IFDIR | 0o1770} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(outer, "root", name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != mode || st.Mtim.Sec != modTime.Unix() || int(st.Uid) != os.Getuid() {
			t.Errorf("%s: mode %o, time %v, uid %d", name, st.Mode, time.Unix(st.Mtim.Unix()).UTC(), st.Uid)
		}
	}
}

func TestApplyEndsWithItsContext(t *testing.T) {
	tree, err := Open(t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.Apply(ctx, bytes.NewReader(pack(t, file("a", "b")))); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func FuzzApply(f *testing.F) {
	f.Add(pack(f, dir("a"), file("a/f", "1"), symlink("s", "../.."), file("s/x", "1")))
	f.Add(pack(f, file("../canary", "1"), link("l", "../canary"), file("a/.wh..wh..opq", "")))
	f.Add(pack(f, symlink("a", "/"), symlink("a/b", "/.."), file("a/b/.wh.canary", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer, err := apply(t, Limits{Bytes: 1 << 20, Entries: 1000}, data)
		untouched(t, outer)
		if code := bulkhead.CodeOf(err); code == bulkhead.CodeInternal {
			t.Errorf("a hostile layer is not our fault: %v", err)
		}
	})
}
