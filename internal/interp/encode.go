package interp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/bulkheadhq/bulkhead"
)

// line is one line of E2B's stream. Fields that are not set are left out.
type line struct {
	Type      string  `json:"type"`
	Count     *int    `json:"execution_count,omitempty"`
	Output    *string `json:"text,omitempty"`
	Timestamp string  `json:"timestamp,omitempty"`
	Name      *string `json:"name,omitempty"`
	Value     *string `json:"value,omitempty"`
	Traceback *string `json:"traceback,omitempty"`
	// End is Bulkhead's own; E2B's SDKs skip it.
	End *bulkhead.End `json:"end,omitempty"`
}

// resultLine is the line of a result: one field per representation.
type resultLine struct {
	Type       string                     `json:"type"`
	Main       bool                       `json:"is_main_result"`
	Text       json.RawMessage            `json:"text,omitempty"`
	HTML       json.RawMessage            `json:"html,omitempty"`
	Markdown   json.RawMessage            `json:"markdown,omitempty"`
	SVG        json.RawMessage            `json:"svg,omitempty"`
	PNG        json.RawMessage            `json:"png,omitempty"`
	JPEG       json.RawMessage            `json:"jpeg,omitempty"`
	PDF        json.RawMessage            `json:"pdf,omitempty"`
	Latex      json.RawMessage            `json:"latex,omitempty"`
	JSON       json.RawMessage            `json:"json,omitempty"`
	Javascript json.RawMessage            `json:"javascript,omitempty"`
	Data       json.RawMessage            `json:"data,omitempty"`
	Chart      json.RawMessage            `json:"chart,omitempty"`
	Extra      map[string]json.RawMessage `json:"extra,omitempty"`
}

// field returns where a MIME type belongs in the line, nil for one without a field.
func (r *resultLine) field(mime string) *json.RawMessage {
	switch mime {
	case "text/plain":
		return &r.Text
	case "text/html":
		return &r.HTML
	case "text/markdown":
		return &r.Markdown
	case "image/svg+xml":
		return &r.SVG
	case "image/png":
		return &r.PNG
	case "image/jpeg":
		return &r.JPEG
	case "application/pdf":
		return &r.PDF
	case "text/latex":
		return &r.Latex
	case "application/json":
		return &r.JSON
	case "application/javascript":
		return &r.Javascript
	case "e2b/data":
		return &r.Data
	case "e2b/chart":
		return &r.Chart
	default:
		return nil
	}
}

// appendEvent appends the line that stands for e to dst.
func appendEvent(dst []byte, e Event, now time.Time) ([]byte, error) {
	stamp := now.UTC().Format("2006-01-02T15:04:05.000000Z")
	switch e.Kind {
	case EventCount:
		return appendLine(dst, line{Type: "number_of_executions", Count: &e.Count})
	case EventStdout:
		return appendLine(dst, line{Type: "stdout", Output: &e.Text, Timestamp: stamp})
	case EventStderr:
		return appendLine(dst, line{Type: "stderr", Output: &e.Text, Timestamp: stamp})
	case EventResult, EventDisplay:
		return appendResult(dst, e)
	case EventError:
		return appendLine(dst, line{Type: "error", Name: &e.Name, Value: &e.Value, Traceback: &e.Traceback, End: e.End})
	case EventOversize:
		return dst, nil // the meter has made an error of it
	default:
		return dst, fmt.Errorf("encode event: unknown kind %d", e.Kind)
	}
}

func appendResult(dst []byte, e Event) ([]byte, error) {
	r := resultLine{Type: "result", Main: e.Kind == EventResult}
	for mime, data := range e.Data {
		if bytes.Equal(data, []byte("null")) {
			continue
		}
		if field := r.field(mime); field != nil {
			*field = data
			continue
		}
		if r.Extra == nil {
			r.Extra = map[string]json.RawMessage{}
		}
		r.Extra[mime] = data
	}
	r.Text = unquote(r.Text)
	return appendLine(dst, r)
}

// unquote takes the quotes off a text that Python shows in single quotes, as E2B
// does, so that the value of a string is the string.
func unquote(text json.RawMessage) json.RawMessage {
	var s string
	if len(text) < 4 || text[1] != '\'' || json.Unmarshal(text, &s) != nil ||
		len(s) < 2 || !strings.HasPrefix(s, "'") || !strings.HasSuffix(s, "'") {
		return text
	}
	short, err := json.Marshal(s[1 : len(s)-1])
	if err != nil {
		return text
	}
	return short
}

// appendLine appends v as one line of JSON. All of it is ASCII: the JavaScript SDK
// decodes each piece of the stream by itself, wherever it was cut.
func appendLine(dst []byte, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf) // ends with a newline, and compacts what is raw
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, fmt.Errorf("encode line: %w", err)
	}
	return appendASCII(dst, buf.Bytes()), nil
}

// appendASCII appends JSON text with every rune beyond ASCII escaped. Such runes
// stand in strings only.
func appendASCII(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	unit := func(u rune) {
		dst = append(dst, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	for len(text) > 0 {
		n := 0
		for n < len(text) && text[n] < utf8.RuneSelf {
			n++
		}
		dst = append(dst, text[:n]...)
		text = text[n:]
		if len(text) == 0 {
			break
		}
		r, size := utf8.DecodeRune(text)
		text = text[size:]
		if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			unit(high)
			unit(low)
		} else {
			unit(r)
		}
	}
	return dst
}
