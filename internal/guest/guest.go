// Package guest carries the program that runs inside every box, envd, in this
// binary, and lays it out on the host for boxes to mount.
//
// `make build` puts envd into bin/ before it builds bulkhead. The folder is
// there without it, so that the rest of the module always compiles.
package guest

import (
	"crypto/sha256"
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

// ErrMissing says that this binary was built without envd.
var ErrMissing = errors.New("this binary carries no envd; build it with `make build`")

// Install writes envd to a folder under dir that is named after its content, and
// returns the folder and the name. It may be repeated; an installed envd is never
// changed, since boxes may have it mounted.
func Install(dir string) (path, digest string, err error) {
	data, err := bin.ReadFile("bin/envd")
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", ErrMissing
	}
	if err != nil {
		return "", "", fmt.Errorf("read envd: %w", err)
	}
	sum := sha256.Sum256(data)
	digest = hex.EncodeToString(sum[:12])
	path = filepath.Join(dir, digest)
	if _, err := os.Stat(filepath.Join(path, "envd")); err == nil {
		return path, digest, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // boxes' users enter it
		return "", "", fmt.Errorf("make guest folder: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", "", fmt.Errorf("make guest folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := errors.Join(
		os.WriteFile(filepath.Join(tmp, "envd"), data, 0o755), //nolint:gosec // a program, for boxes' users
		os.Chmod(tmp, 0o755), //nolint:gosec // as above
	); err != nil {
		return "", "", fmt.Errorf("write envd: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", fmt.Errorf("install envd: %w", err)
	}
	return path, digest, nil
}
