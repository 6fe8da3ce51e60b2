package sysfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

func TestReadAndWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{100_000, 0, 1, 4095, 4096, 4097} { // each shorter one replaces the one before
		content := bytes.Repeat([]byte("x"), size)
		if err := sysfile.Write(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int{1 << 20, size + 1, max(1, size), max(1, size/2)} {
			got, err := sysfile.Read(path, limit)
			if err != nil || !bytes.Equal(got, content[:min(size, limit)]) {
				t.Errorf("Read of %d bytes with limit %d: %d bytes, %v", size, limit, len(got), err)
			}
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v, %v", st, err)
	}
	f, err := sysfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != 4097 || f.Name() != path {
		t.Errorf("Open: %v, %v", st, err)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := sysfile.Read(filepath.Join(dir, "none"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a missing file: %v", err)
	}
	if _, err := sysfile.Read(dir, 1); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("Read of a directory: %v", err)
	}
	if err := sysfile.Write(dir, nil, 0o600); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("Write of a directory: %v", err)
	}
	if err := sysfile.Write("/dev/full", []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write to a full device: %v", err)
	}
	if _, err := sysfile.Open(filepath.Join(dir, "none"), os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a missing file: %v", err)
	}
}
