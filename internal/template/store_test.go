package template

import (
	"log/slog"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bulkheadhq/bulkhead"
)

var (
	discard = slog.New(slog.DiscardHandler)
	// dirSize matches the size of a directory, which depends on the file system.
	dirSize = regexp.MustCompile(`(?m)( d[0-7]+ [0-9:]+ )[0-9]+$`)
)

// buildSmall makes a small template with the content.
func buildSmall(t *testing.T, s *Store, name, content string) bulkhead.Template {
	t.Helper()
	from := From{Archive: archive(t, image(t, v1.Config{}, layerTar(t, entry{name: "f", content: content})))}
	got, err := s.Build(t.Context(), Recipe{Name: name, From: from}, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func names(t *testing.T, s *Store) []string {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, x := range list {
		if x.ID != ID(x.Name) || x.Image == "" {
			t.Errorf("%s: ID %s, image %q", x.Name, x.ID, x.Image)
		}
		out = append(out, x.Name)
	}
	return out
}

func TestStoreNames(t *testing.T) {
	s := testStore(t)
	a := buildSmall(t, s, "a", "1")
	b := buildSmall(t, s, "ns/b:v1", "1")
	if a.Digest != b.Digest || a.ID == b.ID {
		t.Errorf("one recipe under two names: %v, %v", a, b)
	}
	c, err := s.Alias(t.Context(), "c", "ns/b:v1")
	if err != nil || c.Name != "c" || c.Digest != a.Digest {
		t.Errorf("Alias = %v, %v", c, err)
	}
	if d := cmp.Diff([]string{"a", "c", "ns/b:v1"}, names(t, s)); d != "" {
		t.Errorf("List (-want +got):\n%s", d)
	}
	for _, key := range []string{"ns/b:v1", b.ID} {
		if got, err := s.Get(key); err != nil || got.Name != "ns/b:v1" {
			t.Errorf("Get(%q) = %v, %v", key, got, err)
		}
	}
	for _, key := range []string{"nobody", "../a", "", ID("nobody"), "sha256:" + hexOf(a.Digest)[1:] + "0"} {
		if _, err := s.Get(key); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			t.Errorf("Get(%q): %v", key, err)
		}
	}
	if _, err := s.Alias(t.Context(), "../x", "a"); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
		t.Errorf("Alias of a bad name: %v", err)
	}
	if _, err := s.Alias(t.Context(), "x", "nobody"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("Alias of nothing: %v", err)
	}
}

func TestRemove(t *testing.T) {
	s := testStore(t)
	a := buildSmall(t, s, "a", "1")
	if _, err := s.Alias(t.Context(), "b", "a"); err != nil {
		t.Fatal(err)
	}
	busy := func(digest string) bool { return digest == a.Digest }
	if err := s.Remove(t.Context(), "a", busy); err != nil {
		t.Errorf("a name of two may go while the image is in use: %v", err)
	}
	if err := s.Remove(t.Context(), "b", busy); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("Remove in use: %v", err)
	}
	if _, err := s.Get("b"); err != nil {
		t.Errorf("refused, but gone: %v", err)
	}
	if err := s.Remove(t.Context(), "b", nil); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "b", nil); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("Remove twice: %v", err)
	}
	if _, err := os.Stat(a.Image); !os.IsNotExist(err) {
		t.Errorf("the image is still there: %v", err)
	}
	noResidue(t, s)
}

func TestReap(t *testing.T) {
	s := testStore(t)
	old, used := buildSmall(t, s, "a", "1"), buildSmall(t, s, "a", "2")
	now := buildSmall(t, s, "a", "3")
	if err := os.MkdirAll(s.dir("build", "build-dead", "root", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Reap(t.Context(), func(digest string) bool { return digest == used.Digest }); err != nil {
		t.Fatal(err)
	}
	noResidue(t, s)
	for _, tc := range []struct {
		x     bulkhead.Template
		there bool
	}{{old, false}, {used, true}, {now, true}} {
		if _, err := os.Stat(tc.x.Image); (err == nil) != tc.there {
			t.Errorf("%s: %v, want it there: %v", tc.x.Digest, err, tc.there)
		}
		if _, err := s.Get(tc.x.Digest); (err == nil) != tc.there {
			t.Errorf("Get(%s): %v, want it there: %v", tc.x.Digest, err, tc.there)
		}
	}
}

func TestTrimCache(t *testing.T) {
	s, err := New(Config{Dir: t.TempDir(), CacheMB: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "new"} {
		if err := os.WriteFile(s.cache(name), make([]byte, 700<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.cache("old"), past, past); err != nil {
		t.Fatal(err)
	}
	if err := s.trimCache(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(s.cache())
	if err != nil || len(left) != 1 || left[0].Name() != "new" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestNewNeedsADirectory(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New without Dir succeeds")
	}
}
