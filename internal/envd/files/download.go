package files

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// maxVirtual bounds the contents of a file that says it is empty and is not,
// such as those of /proc.
const maxVirtual = 4 << 20

// download answers GET /files.
func (s *Service) download(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if err := s.authorize(r, query, "read"); err != nil {
		return err
	}
	_, path, err := s.target(query.Get("username"), query.Get("path"))
	if err != nil {
		return err
	}
	compressed, err := wantsGzip(r.Header)
	if err != nil {
		return err
	}
	f, st, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	var content io.ReadSeeker = f
	size := st.Size()
	if size == 0 {
		body, err := io.ReadAll(io.LimitReader(f, maxVirtual))
		if err != nil {
			return fmt.Errorf("read '%s': %w", path, err)
		}
		content, size = bytes.NewReader(body), int64(len(body))
	}
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": text(filepath.Base(path))}))
	h.Set("Etag", fmt.Sprintf(`"%x-%x"`, st.ModTime().UnixNano(), size))
	if compressed && size > 0 && r.Method == http.MethodGet && !conditional(r.Header) {
		s.sendGzip(r.Context(), w, path, content)
		return nil
	}
	http.ServeContent(w, r, path, st.ModTime(), content)
	return nil
}

// openRegular opens the regular file at path with flag. Opening something else
// never blocks and is an error.
func openRegular(path string, flag int) (*os.File, os.FileInfo, error) {
	f, err := sysfile.Open(path, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0o666)
	switch statusOf(err) {
	case http.StatusNotFound:
		return nil, nil, httpErrorf(http.StatusNotFound, "path '%s' does not exist", path)
	case http.StatusBadRequest:
		if st, statErr := os.Stat(path); statErr == nil && st.IsDir() { //nolint:gosec // all of it is in the client's box
			return nil, nil, httpErrorf(http.StatusBadRequest, "path '%s' is a directory", path)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case st.IsDir():
		err = httpErrorf(http.StatusBadRequest, "path '%s' is a directory", path)
	case !st.Mode().IsRegular():
		err = httpErrorf(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, nil, err
	}
	return f, st, nil
}

// conditional reports whether an answer depends on what the client holds, which
// only the uncompressed form can serve.
func conditional(h http.Header) bool {
	for _, name := range []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if h.Get(name) != "" {
			return true
		}
	}
	return false
}

// sendGzip sends content compressed. An error comes after the status, so it only
// cuts the answer short.
func (s *Service) sendGzip(ctx context.Context, w http.ResponseWriter, path string, content io.Reader) {
	h := w.Header()
	h.Set("Content-Encoding", "gzip")
	h.Del("Etag") // it names the uncompressed form
	kind := mime.TypeByExtension(filepath.Ext(path))
	if kind == "" {
		kind = "application/octet-stream"
	}
	h.Set("Content-Type", kind)
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err == nil {
		if _, err = io.Copy(z, content); err == nil {
			err = z.Close()
		}
	}
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.InfoContext(ctx, "download cut short", slog.String("path", path), slog.Any("error", err))
		panic(http.ErrAbortHandler) // so that the client sees it
	}
}

// wantsGzip reports whether the client asks for gzip rather than for the plain
// form; RFC 9110, section 12.5.3. The error is an *[httpError] with 406.
func wantsGzip(h http.Header) (bool, error) {
	// The weights; -1 is not named.
	weights := map[string]float64{"gzip": -1, "identity": -1, "*": -1}
	for _, line := range h.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			name = strings.ToLower(strings.TrimSpace(name))
			if name == "x-gzip" {
				name = "gzip"
			}
			if _, known := weights[name]; !known {
				continue
			}
			weight := 1.0
			if key, value, ok := strings.Cut(params, "="); ok && strings.EqualFold(strings.TrimSpace(key), "q") {
				q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil || !(q >= 0 && q <= 1) {
					continue
				}
				weight = q
			}
			weights[name] = weight
		}
	}
	gzipWeight, plain := weights["gzip"], weights["identity"]
	if plain < 0 {
		plain = min(1, weights["*"]) // not named: acceptable unless "*;q=0"
		if plain < 0 {
			plain = 0.001
		}
	}
	if gzipWeight < 0 && plain == 0 {
		gzipWeight = weights["*"]
	}
	if gzipWeight <= 0 && plain == 0 {
		return false, httpErrorf(http.StatusNotAcceptable, "no acceptable encoding found, supported: [gzip identity]")
	}
	return gzipWeight > 0 && gzipWeight >= plain, nil
}
