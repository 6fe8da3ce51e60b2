package files

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// The bounds of one call that writes.
const (
	// maxParts is how many files one form may hold.
	maxParts = 10_000
	// maxComposeBytes bounds the JSON of a compose call.
	maxComposeBytes = 1 << 20
)

// writeInfo is what a client learns of a file it wrote.
type writeInfo struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// writer writes the files of one call.
type writer struct {
	service  *Service
	user     string
	metadata map[string]string
	length   int64 // of the body; -1 when not known
	wrote    []writeInfo
}

// upload answers POST /files.
func (s *Service) upload(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if err := s.authorize(r, query, "write"); err != nil {
		return err
	}
	// An unknown user is an error even when no file follows.
	if _, _, err := s.target(query.Get("username"), query.Get("path")); err != nil {
		return err
	}
	metadata, err := parseMetadata(r.Header)
	if err != nil {
		return err
	}
	body, err := decoded(r)
	if err != nil {
		return err
	}
	to := &writer{service: s, user: query.Get("username"), metadata: metadata, length: r.ContentLength}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && kind == "application/octet-stream":
		if query.Get("path") == "" {
			return httpErrorf(http.StatusBadRequest, "the query parameter path is required with Content-Type application/octet-stream")
		}
		err = to.write(query.Get("path"), body)
	case err == nil && kind == "multipart/form-data" && params["boundary"] != "":
		err = to.writeForm(multipart.NewReader(body, params["boundary"]), query)
	default:
		return httpErrorf(http.StatusBadRequest, "Content-Type is %.80q; it must be multipart/form-data with a boundary, or application/octet-stream", r.Header.Get("Content-Type"))
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(to.wrote) // the client may be gone
	return nil
}

// decoded is the body of r without its content encoding.
func decoded(r *http.Request) (io.Reader, error) {
	switch encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
		return bodyReader{r.Body}, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bodyReader{r.Body})
		if err != nil {
			return nil, httpErrorf(http.StatusBadRequest, "the body is not gzip: %v", err)
		}
		return bodyReader{z}, nil
	default:
		return nil, httpErrorf(http.StatusBadRequest, "unsupported Content-Encoding: %.80s, supported: [gzip]", encoding)
	}
}

// bodyReader makes an error in reading a body the client's.
type bodyReader struct{ io.Reader }

// Read implements [io.Reader].
func (b bodyReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	var known *httpError
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &known) {
		err = httpErrorf(http.StatusBadRequest, "the body cannot be read: %v", err)
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		err = httpErrorf(http.StatusBadRequest, "the body ends too early")
	}
	return n, err
}

// writeForm writes the parts named "file" of a form. A file's path is the query's,
// else the name it has in the form.
func (w *writer) writeForm(form *multipart.Reader, query url.Values) error {
	for range maxParts {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			if len(w.wrote) == 0 {
				return httpErrorf(http.StatusBadRequest, "the form has no part named 'file'")
			}
			return nil
		}
		if err != nil {
			return badForm(err)
		}
		// FormName and FileName would leave out the directories.
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		if err != nil || params["name"] != "file" {
			continue
		}
		path := params["filename"]
		if query.Has("path") {
			path = query.Get("path")
		}
		if path == "" {
			return httpErrorf(http.StatusBadRequest, "a file of the form has no name, and there is no query parameter path")
		}
		if err := w.write(path, part); err != nil {
			return badForm(err)
		}
	}
	return httpErrorf(http.StatusBadRequest, "the form has more than %d parts", maxParts)
}

// badForm makes an error in the form itself the client's, since only those of
// the operating system are not.
func badForm(err error) error {
	var known *httpError
	var system syscall.Errno
	if errors.As(err, &known) || errors.As(err, &system) {
		return err
	}
	return httpErrorf(http.StatusBadRequest, "error reading form: %v", err)
}

// write writes content to path, which becomes the user's.
func (w *writer) write(path string, content io.Reader) error {
	u, path, err := w.service.target(w.user, path)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(w.wrote, func(i writeInfo) bool { return i.Path == text(path) }) {
		return httpErrorf(http.StatusBadRequest,
			"you cannot upload multiple files to the same path '%s' in one upload request, only the first specified file was uploaded", path)
	}
	if err := replace(path, u, content, w.metadata); err != nil {
		if statusOf(err) == http.StatusInsufficientStorage && w.length > 0 {
			err = fmt.Errorf("attempted to write %d bytes: %w", w.length, err)
		}
		return err
	}
	w.wrote = append(w.wrote, writeInfo{Path: text(path), Name: text(filepath.Base(path)), Type: "file", Metadata: w.metadata})
	return nil
}

// replace makes content the contents of the file at path, in place, so that who
// watches the file sees a write. A new file whose contents do not fit is removed.
func replace(path string, u ident.User, content io.Reader, metadata map[string]string) error {
	if err := parents(path, u); err != nil {
		return err
	}
	_, err := os.Lstat(path) //nolint:gosec // all of it is in the client's box
	fresh := errors.Is(err, os.ErrNotExist)
	f, _, err := openRegular(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		err = f.Chown(int(u.UID), int(u.GID))
	}
	if err == nil {
		_, err = f.ReadFrom(content)
	}
	if err == nil {
		err = writeMetadata(f, metadata)
	}
	if err = errors.Join(err, f.Close()); err != nil && fresh {
		_ = os.Remove(path) //nolint:gosec // as above; half a file helps nobody
	}
	return err
}

// parents makes the directories that path needs.
func parents(path string, u ident.User) error {
	err := makeDirs(filepath.Dir(path), u)
	if errors.Is(err, syscall.ENOTDIR) {
		return httpErrorf(http.StatusBadRequest, "a parent of '%s' is not a directory", path)
	}
	return err
}

// compose answers POST /files/compose: it joins files into one and removes them.
func (s *Service) compose(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		SourcePaths []string `json:"source_paths"`
		Destination string   `json:"destination"`
		Username    string   `json:"username"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxComposeBytes)).Decode(&req); err != nil {
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return httpErrorf(http.StatusRequestEntityTooLarge, "the request body has more than %d bytes", large.Limit)
		}
		return httpErrorf(http.StatusBadRequest, "invalid request body: %v", err)
	}
	switch {
	case len(req.SourcePaths) == 0:
		return httpErrorf(http.StatusBadRequest, "source_paths must not be empty")
	case len(req.SourcePaths) > maxParts:
		return httpErrorf(http.StatusBadRequest, "source_paths has %d paths; at most %d are allowed", len(req.SourcePaths), maxParts)
	case req.Destination == "":
		return httpErrorf(http.StatusBadRequest, "destination is required")
	}
	u, destination, err := s.target(req.Username, req.Destination)
	if err != nil {
		return err
	}
	if st, err := os.Stat(destination); err == nil && st.IsDir() {
		return httpErrorf(http.StatusBadRequest, "path '%s' is a directory", destination)
	}
	sources := make([]string, len(req.SourcePaths))
	for i, source := range req.SourcePaths {
		if _, sources[i], err = s.target(req.Username, source); err != nil {
			return err
		}
		if sources[i] == destination {
			return httpErrorf(http.StatusBadRequest, "source path %q cannot be the same as destination", source)
		}
		switch st, err := os.Stat(sources[i]); {
		case err != nil:
			return httpErrorf(http.StatusNotFound, "source file not found: %s", source)
		case !st.Mode().IsRegular():
			return httpErrorf(http.StatusBadRequest, "source path is not a regular file: %s", source)
		}
	}
	if err := join(destination, u, sources); err != nil {
		return err
	}
	for _, source := range sources {
		_ = os.Remove(source) // the result is there; a source named twice is gone
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(writeInfo{Path: text(destination), Name: text(filepath.Base(destination)), Type: "file"}) // the client may be gone
	return nil
}

// join writes the contents of sources, one after the other, beside destination
// and then puts the result in its place.
func join(destination string, u ident.User, sources []string) error {
	if err := parents(destination, u); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(destination), ".bulkhead-compose-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // nothing is there after a success
	for _, source := range sources {
		if err = appendFile(f, source); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil && os.Geteuid() == 0 {
		err = f.Chown(int(u.UID), int(u.GID))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), destination)
}

// appendFile writes the contents of the file at path to f.
func appendFile(f *os.File, path string) error {
	src, _, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read
	_, err = f.ReadFrom(src)
	return err
}
