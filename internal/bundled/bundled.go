// Package bundled carries the programs that boxes need in this binary, and lays
// them out on the host: envd, which is process 1 in every box, and runsc,
// gVisor's runtime.
//
// Both are programs of their own so that each is as small as what it does: a
// box costs half a dozen starts of runsc, and a sentry's memory is a box's.
// `make build` puts them into bin/ before it builds bulkhead. The folder is
// there without them, so that the rest of the module always compiles.
package bundled

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed all:bin
var bin embed.FS

// The programs.
const (
	Envd  = "envd"
	Runsc = "runsc"
)

// ErrMissing says that this binary was built without the program.
var ErrMissing = errors.New("this binary was not built with `make build`, and carries no")

// Install writes a program to a folder under dir that is named after its content,
// and returns the folder and the name. It may be repeated; an installed program
// is never changed, since boxes may run it.
func Install(dir, program string) (path, digest string, err error) {
	data, err := read(program)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(data)
	digest = hex.EncodeToString(sum[:12])
	path = filepath.Join(dir, digest)
	if st, err := os.Stat(filepath.Join(path, program)); err == nil && st.Size() == int64(len(data)) {
		return path, digest, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // boxes' users enter it
		return "", "", fmt.Errorf("make folder for %s: %w", program, err)
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", "", fmt.Errorf("make folder for %s: %w", program, err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone by then, or swept with the cache
	if err := errors.Join(
		os.WriteFile(filepath.Join(tmp, program), data, 0o755), //nolint:gosec // a program, for boxes' users
		os.Chmod(tmp, 0o755), //nolint:gosec // as above
		os.RemoveAll(path),   // one that the disk lost a part of
	); err != nil {
		return "", "", fmt.Errorf("write %s: %w", program, err)
	}
	if err := os.Rename(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", fmt.Errorf("install %s: %w", program, err)
	}
	return path, digest, nil
}

// Prune removes what earlier versions installed in dir, and what they left half
// done; current is the folder that stays. Programs that run go on.
func Prune(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list programs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); path != current {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

func read(program string) ([]byte, error) {
	data, err := bin.ReadFile("bin/" + program)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %s", ErrMissing, program)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", program, err)
	}
	return data, nil
}

// Version is the version of a module that a program is made of, "unknown" when it
// does not say.
func Version(program, module string) string {
	data, err := read(program)
	if err != nil {
		return "unknown"
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	return "unknown"
}
