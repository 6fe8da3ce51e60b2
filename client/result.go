package client

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// mimeOf is the one table from the names on the wire to MIME types.
var mimeOf = map[string]string{
	"text":       "text/plain",
	"html":       "text/html",
	"markdown":   "text/markdown",
	"svg":        "image/svg+xml",
	"png":        "image/png",
	"jpeg":       "image/jpeg",
	"pdf":        "application/pdf",
	"latex":      "text/latex",
	"json":       "application/json",
	"javascript": "application/javascript",
	"data":       "e2b/data",
	"chart":      "e2b/chart",
}

// Result is a value that code showed, in every form it offers.
type Result struct {
	// Main says that it is the value of the code's last expression.
	Main bool
	// Formats holds the value by MIME type, as JSON: text as a string, images
	// and PDF as a string in base64, application/json, e2b/data (a table as an
	// object of columns) and e2b/chart as they are.
	Formats map[string]json.RawMessage
}

// UnmarshalJSON reads the interpreter's form, which names formats shortly, and
// the form that MarshalJSON writes.
func (r *Result) UnmarshalJSON(raw []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	*r = Result{Formats: map[string]json.RawMessage{}}
	for _, name := range []string{"is_main_result", "main"} {
		if v, ok := fields[name]; ok {
			if err := json.Unmarshal(v, &r.Main); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for name, mime := range mimeOf {
		if v, ok := fields[name]; ok && string(v) != "null" {
			r.Formats[mime] = v
		}
	}
	for _, name := range []string{"extra", "formats"} {
		var more map[string]json.RawMessage
		if v, ok := fields[name]; ok {
			if err := json.Unmarshal(v, &more); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		maps.Copy(r.Formats, more)
	}
	return nil
}

// MarshalJSON writes {"main": …, "formats": {MIME type: value}}.
func (r Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Main    bool                       `json:"main"`
		Formats map[string]json.RawMessage `json:"formats"`
	}{r.Main, r.Formats})
}

// MIMETypes returns the forms of the value, sorted.
func (r Result) MIMETypes() []string { return slices.Sorted(maps.Keys(r.Formats)) }

// Text returns the value as plain text, "" when it has no such form.
func (r Result) Text() string {
	b, _ := r.Bytes("text/plain")
	return string(b)
}

// Bytes returns the value in one form: text in UTF-8, images and PDF decoded from
// base64, the rest as JSON. ok is false when the value has no such form, or it
// does not decode.
func (r Result) Bytes(mime string) (b []byte, ok bool) {
	raw, ok := r.Formats[mime]
	if !ok {
		return nil, false
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return raw, true
	}
	binary := strings.HasPrefix(mime, "image/") && mime != "image/svg+xml" || mime == "application/pdf"
	if !binary {
		return []byte(s), true
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(strings.ReplaceAll(s, "\n", "")))
	return b, err == nil
}
