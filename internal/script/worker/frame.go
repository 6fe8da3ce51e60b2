package worker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// kind says what a frame carries.
type kind byte

const (
	// To the worker.
	kindRun    kind = 'R' // runRequest
	kindAnswer kind = 'A' // answer to a call
	kindBuild  kind = 'B' // a TypeScript source, as it is
	kindVet    kind = 'V' // a JavaScript source, as it is
	// From the worker.
	kindReady   kind = 'Y' // ready
	kindLog     kind = 'L' // engine.LogLine
	kindCall    kind = 'C' // call
	kindOutcome kind = 'O' // engine.Outcome
	kindBuilt   kind = 'J' // built
	kindVerdict kind = 'D' // engine.Verdict
)

// maxFrame bounds every frame, in bytes: the largest result, and what stands
// around it.
const maxFrame = 80 << 20

// runRequest is one run.
type runRequest struct {
	Source   string          `json:"source"`
	Input    json.RawMessage `json:"input,omitempty"`
	Limits   engine.Limits   `json:"limits"`
	Journal  *engine.Journal `json:"journal"`
	HasFetch bool            `json:"hasFetch,omitempty"`
}

// ready is the worker's first frame: it is confined and warm.
type ready struct {
	// Confined says whether user, root and filter are in place.
	Confined bool `json:"confined"`
}

// call asks the host, answer is what it says.
type call struct {
	Op      string          `json:"op"`
	Payload json.RawMessage `json:"payload"`
}

type answer struct {
	Data  []byte `json:"data,omitempty"`
	Error string `json:"error,omitempty"`
	Over  bool   `json:"over,omitempty"` // the run has no time left
}

// built is the JavaScript of a TypeScript source, or what is wrong with it.
type built struct {
	Built
	Failure *engine.Failure `json:"failure,omitempty"`
}

// Built is TypeScript as JavaScript.
type Built struct {
	// Code is the JavaScript.
	Code string `json:"code,omitempty"`
	// Map is its source map, as JSON.
	Map string `json:"map,omitempty"`
	// Head is how many bytes were put before the first line of the source.
	Head int `json:"head,omitempty"`
}

// writeFrame writes one frame: length, kind, payload.
func writeFrame(w io.Writer, k kind, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("write frame %c: %d bytes are more than %d", k, len(payload), maxFrame)
	}
	b := make([]byte, 5, 5+len(payload))
	binary.BigEndian.PutUint32(b, uint32(len(payload))) //nolint:gosec // bounded above
	b[4] = byte(k)
	if _, err := w.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("write frame %c: %w", k, err)
	}
	return nil
}

// send writes v as a frame.
func send(w io.Writer, k kind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame %c: %w", k, err)
	}
	return writeFrame(w, k, payload)
}

// readFrame reads one frame of at most limit bytes. It allocates as the bytes
// arrive, not as the length promises.
func readFrame(r io.Reader, limit int64) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > limit {
		return 0, nil, fmt.Errorf("read frame: %d bytes are more than %d", n, limit)
	}
	if n <= 64<<10 {
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, nil, fmt.Errorf("read frame: %w", err)
		}
		return kind(head[4]), b, nil
	}
	b, err := io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	return kind(head[4]), b, nil
}
