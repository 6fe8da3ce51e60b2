package script

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// What a run in process may have recorded, so that it can be repeated.
const (
	maxRecords     = 256
	maxRecordBytes = 1 << 20
)

// maxWritten is how much one run may write to the tenant's store, in bytes.
const maxWritten = 32 << 20

// record is one call of the host and its answer.
type record struct {
	op      string
	payload []byte
	data    []byte
	err     error
}

// session is the host of one run. It records what a run in process asked and
// was told, and when that run is moved gives the same answers again, so that
// nothing is done twice and no line is logged twice.
type session struct {
	ctx    context.Context //nolint:containedctx // a program's calls live as long as its run
	s      *Service
	tenant Tenant
	log    func(engine.LogLine)

	mu        sync.Mutex
	until     time.Time // when the run's time is over
	recording bool
	records   []record
	bytes     int
	written   int64 // bytes of keys and values for kv
	next      int   // the record that the repeated run gets next
	lines     int   // lines logged by the run in process
	skip      int   // of them, those the repeated run will log again
}

var _ engine.Host = (*session)(nil)

// begin says that the run begins now, here or in a worker.
func (h *session) begin(limit time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = time.Now().Add(limit)
}

// repeat makes the session ready for the run's second life, in a worker.
func (h *session) repeat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recording = false
	h.skip = h.lines
}

// Log implements [engine.Host].
func (h *session) Log(l engine.LogLine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recording {
		h.lines++
	} else if h.skip > 0 {
		h.skip--
		return
	}
	h.log(l)
}

// errNotRepeated is thrown into a program that takes another way when repeated;
// everything it can know is the same, so that this is a defect here.
var errNotRepeated = errors.New("the run could not be continued")

// Call implements [engine.Host].
func (h *session) Call(op string, payload []byte) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.recording && h.next < len(h.records) {
		r := h.records[h.next]
		h.next++
		if r.op != op || !bytes.Equal(r.payload, payload) {
			return nil, errNotRepeated
		}
		return r.data, r.err
	}
	if h.recording && (len(h.records) >= maxRecords || h.bytes+len(payload) > maxRecordBytes) {
		return nil, engine.ErrMove
	}
	data, err := h.do(op, payload)
	if errors.Is(err, engine.ErrOver) {
		return nil, engine.ErrOver
	}
	if err != nil {
		err = errors.New(bulkhead.Message(err))
	}
	if h.recording {
		h.records = append(h.records, record{op, bytes.Clone(payload), data, err})
		h.bytes += len(payload) + len(data)
	}
	return data, err
}

// do does an operation for good.
func (h *session) do(op string, payload []byte) ([]byte, error) {
	if op == "fetch" {
		return h.s.fetch(h.ctx, h.tenant, payload, h.until)
	}
	var req struct {
		Key    string          `json:"key"`
		Prefix string          `json:"prefix"`
		Value  json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(payload, &req); err != nil {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the request is not JSON")
	}
	kv := h.s.cfg.KeyValue
	switch op {
	case "kv.get":
		return kv.Value(h.ctx, h.tenant.ID, req.Key)
	case "kv.set":
		return nil, h.set(req.Key, req.Value)
	case "kv.delete":
		ok, err := kv.DeleteValue(h.ctx, h.tenant.ID, req.Key)
		if err != nil {
			return nil, err
		}
		return json.Marshal(ok)
	case "kv.list":
		keys, err := kv.Keys(h.ctx, h.tenant.ID, req.Prefix)
		if err != nil {
			return nil, err
		}
		if keys == nil {
			keys = []string{}
		}
		return json.Marshal(keys)
	}
	return nil, bulkhead.Errorf(bulkhead.CodeUnsupported, "there is no operation %.40q", op)
}

// set keeps a value. What one run may write is bounded, since every write has to
// reach the disk that sandboxes wait for, too.
func (h *session) set(key string, value json.RawMessage) error {
	if h.written += int64(len(key) + len(value)); h.written > maxWritten {
		return bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "the run has written %d bytes to kv; the limit of one run is %d", h.written, int64(maxWritten))
	}
	return h.s.cfg.KeyValue.SetValue(h.ctx, h.tenant.ID, key, value)
}
