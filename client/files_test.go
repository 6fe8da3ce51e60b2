package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// content reads a file of the sandbox.
func content(t *testing.T, f client.Files, path string) []byte {
	t.Helper()
	r, err := f.Read(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFiles(t *testing.T) {
	sb, _, home := boxed(t)
	ctx, f := t.Context(), sb.Files()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	for _, tc := range []struct {
		path string
		data []byte
	}{
		{"hello.txt", []byte("hello")},
		{"empty", nil},
		{"deep/er/ö & ?#%.bin", big},
		{filepath.Join(home, "hello.txt"), []byte("again")},
	} {
		at, err := f.Write(ctx, tc.path, bytes.NewReader(tc.data))
		if err != nil {
			t.Fatal(err)
		}
		want := tc.path
		if !filepath.IsAbs(want) {
			want = filepath.Join(home, want)
		}
		if at != want {
			t.Errorf("written to %q, want %q", at, want)
		}
		if got := content(t, f, tc.path); !bytes.Equal(got, tc.data) {
			t.Errorf("%s holds %d bytes, want %d", tc.path, len(got), len(tc.data))
		}
	}
	if err := os.Symlink("hello.txt", filepath.Join(home, "link")); err != nil {
		t.Fatal(err)
	}
	e, err := f.Stat(ctx, "hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := client.Entry{Name: "hello.txt", Path: filepath.Join(home, "hello.txt"), Size: 5, Mode: 0o644}
	if diff := cmp.Diff(want, e, cmpopts.IgnoreFields(client.Entry{}, "Owner", "Group", "ModifiedAt")); diff != "" {
		t.Errorf("Stat (-want +got):\n%s", diff)
	}
	if e.Owner == "" || time.Since(e.ModifiedAt) > time.Minute {
		t.Errorf("Stat gave owner %q, modified at %v", e.Owner, e.ModifiedAt)
	}
	names := func(path string, depth int) []string {
		t.Helper()
		entries, err := f.List(ctx, path, depth)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]string, len(entries))
		for i, e := range entries {
			out[i] = strings.TrimPrefix(e.Path, home+"/")
			if e.Link != (e.Name == "link") || e.Dir != (e.Name == "deep" || e.Name == "er") {
				t.Errorf("entry %+v", e)
			}
		}
		slices.Sort(out)
		return out
	}
	if diff := cmp.Diff([]string{"deep", "empty", "hello.txt", "link"}, names("", 1)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"deep/er", "deep/er/ö & ?#%.bin"}, names("deep", 3)); diff != "" {
		t.Errorf("List in depth (-want +got):\n%s", diff)
	}
	if err := f.Move(ctx, "hello.txt", "new/place.txt"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, f, "new/place.txt"); string(got) != "again" {
		t.Errorf("after Move it holds %q", got)
	}
	if err := f.MakeDir(ctx, "made/dir"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.MakeDir(ctx, "made/dir"), bulkhead.CodeConflict)
	if err := f.Remove(ctx, "new"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(ctx, "new"); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

func TestFilesRefuse(t *testing.T) {
	sb, srv, home := boxed(t)
	ctx, f := t.Context(), sb.Files()
	if err := os.Mkdir(filepath.Join(home, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	read := func(f client.Files, path string) error {
		r, err := f.Read(ctx, path)
		if err == nil {
			_ = r.Close()
		}
		return err
	}
	for _, tc := range []struct {
		name string
		err  func() error
		code bulkhead.Code
		op   string
	}{
		{"read what is not there", func() error { return read(f, "none") }, bulkhead.CodeNotFound, "read file"},
		{"read a directory", func() error { return read(f, "dir") }, bulkhead.CodeInvalid, "read file"},
		{"read as nobody", func() error { return read(f.As("nobody-here"), "dir") }, bulkhead.CodeUnauthenticated, "read file"},
		{"write over a directory", func() error { _, err := f.Write(ctx, "dir", strings.NewReader("x")); return err }, bulkhead.CodeInvalid, "write file"},
		{"stat what is not there", func() error { _, err := f.Stat(ctx, "none"); return err }, bulkhead.CodeNotFound, "stat"},
		{"list what is not there", func() error { _, err := f.List(ctx, "none", 1); return err }, bulkhead.CodeNotFound, "list directory"},
		{"list nothing deep", func() error { _, err := f.List(ctx, "dir", 0); return err }, bulkhead.CodeInvalid, ""},
		{"move what is not there", func() error { return f.Move(ctx, "none", "to") }, bulkhead.CodeNotFound, "move"},
		{"remove as nobody", func() error { return f.As("nobody-here").Remove(ctx, "dir") }, bulkhead.CodeUnauthenticated, "remove"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.err()
			wantCode(t, err, tc.code)
			if !strings.HasPrefix(err.Error(), tc.op) {
				t.Errorf("error is %q, want it to begin with %q", err, tc.op)
			}
		})
	}
	srv.End(sb.ID(), bulkhead.End{Cause: bulkhead.CauseExpired})
	wantCode(t, read(f, "dir"), bulkhead.CodeNotFound)
	_, err := f.Stat(ctx, "dir")
	wantCode(t, err, bulkhead.CodeNotFound)
}

func TestWatch(t *testing.T) {
	sb, _, _ := boxed(t)
	f := sb.Files()
	if err := f.MakeDir(t.Context(), "watched"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for ctx.Err() == nil { // until the watch has begun, there is nobody to see it
			if _, err := f.Write(ctx, "watched/file", strings.NewReader("x")); err != nil {
				return
			}
		}
	}()
	var ops []string
	var last error
	for c, err := range f.Watch(ctx, "watched", false) {
		if err != nil {
			last = err
			break
		}
		if c.Path != "file" {
			t.Errorf("change of %q, want file", c.Path)
		}
		if ops = append(ops, c.Op); slices.Contains(ops, "write") {
			cancel()
		}
	}
	<-watching
	if !errors.Is(last, context.Canceled) || !slices.Contains(ops, "write") {
		t.Errorf("saw %v and then %v, want a write and context.Canceled", ops, last)
	}
	for _, err := range f.Watch(t.Context(), "none", false) {
		wantCode(t, err, bulkhead.CodeNotFound)
	}
}
