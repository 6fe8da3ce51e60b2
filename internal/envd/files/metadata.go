package files

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/pkg/xattr"
)

// metadataPrefix begins the extended attributes that are metadata.
const metadataPrefix = "user.e2b."

// metadataHeader begins the headers that set metadata, in canonical form.
const metadataHeader = "X-Metadata-"

// The bounds of metadata.
const (
	// maxMetadata bounds the names and values of one upload, in bytes.
	maxMetadata = 4096
	// maxMetadataRead bounds what one entry shows, whoever set it.
	maxMetadataRead = 4 * maxMetadata
)

// readMetadata returns the metadata of path, without following a link. A file
// system without extended attributes has none.
func readMetadata(path string) map[string]string {
	attrs, err := xattr.LList(path)
	if err != nil {
		return nil
	}
	var m map[string]string
	total := 0
	for _, attr := range attrs {
		key, ok := strings.CutPrefix(attr, metadataPrefix)
		if !ok || key == "" {
			continue
		}
		value, err := xattr.LGet(path, attr)
		if err != nil {
			continue // it was removed meanwhile
		}
		if total += len(key) + len(value); total > maxMetadataRead {
			break
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[text(key)] = text(string(value))
	}
	return m
}

// writeMetadata makes m the metadata of the open file f, in place of any before.
func writeMetadata(f *os.File, m map[string]string) error {
	old, err := xattr.FList(f)
	if err != nil {
		old = nil
	}
	for _, attr := range old {
		key, ok := strings.CutPrefix(attr, metadataPrefix)
		if _, kept := m[key]; ok && !kept {
			if err := xattr.FRemove(f, attr); err != nil && !errors.Is(err, xattr.ENOATTR) {
				return fmt.Errorf("remove metadata: %w", err)
			}
		}
	}
	for key, value := range m {
		if err := xattr.FSet(f, metadataPrefix+key, []byte(value)); err != nil {
			if errors.Is(err, syscall.ENOTSUP) {
				return httpErrorf(http.StatusNotImplemented, "the file system of '%s' keeps no metadata", f.Name())
			}
			return fmt.Errorf("write metadata: %w", err)
		}
	}
	return nil
}

// parseMetadata returns the metadata that h sets, names in lower case. The error
// is an *[httpError].
func parseMetadata(h http.Header) (map[string]string, error) {
	var m map[string]string
	total := 0
	for name, values := range h {
		key, ok := strings.CutPrefix(name, metadataHeader)
		if !ok {
			continue
		}
		key, value := strings.ToLower(key), values[0]
		switch {
		case key == "" || len(metadataPrefix)+len(key) > 255:
			return nil, httpErrorf(http.StatusBadRequest, "the name of a metadata header must have 1 to %d characters, not %d", 255-len(metadataPrefix), len(key))
		case len(values) > 1:
			return nil, httpErrorf(http.StatusBadRequest, "the header %.80s is given %d times; once is allowed", name, len(values))
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
			return nil, httpErrorf(http.StatusBadRequest, "the header %.80s holds something else than printable ASCII", name)
		}
		total += len(key) + len(value)
		if m == nil {
			m = make(map[string]string)
		}
		m[key] = value
	}
	if total > maxMetadata {
		return nil, httpErrorf(http.StatusBadRequest, "metadata takes %d bytes; at most %d are allowed", total, maxMetadata)
	}
	return m, nil
}
