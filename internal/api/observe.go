package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// maxLogs is the default and the largest number of log lines in an answer.
	maxLogs = 1000
	// logWindow bounds the lines that are read to be filtered into an answer.
	logWindow = 10_000
	// latest is how far back the newest sample of a sandbox may lie to be shown
	// in a list of many.
	latest = time.Minute
	// maxUnix bounds times in a query, in seconds: the year 9999.
	maxUnix = 253402300799
)

// wireSample is E2B's SandboxMetric.
type wireSample struct {
	bulkhead.Sample
	TimestampUnix int64 `json:"timestampUnix"`
}

// metricsOfOne serves GET /sandboxes/{id}/metrics.
func (s *Server) metricsOfOne(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	var span [2]time.Time
	for i, name := range []string{"start", "end"} {
		seconds, err := intQuery(r, name, -1, 0, maxUnix)
		if err != nil {
			return err
		}
		if seconds >= 0 {
			span[i] = time.Unix(seconds, 0)
		}
	}
	if span[1].IsZero() {
		span[1] = s.cfg.Now()
	}
	if span[0].After(span[1]) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "start is after end")
	}
	samples, err := s.cfg.Telemetry.Metrics(r.Context(), c.Tenant, id, span[0], span[1])
	if err != nil {
		return err
	}
	out := make([]wireSample, 0, len(samples))
	for _, sample := range samples {
		out = append(out, wireSample{sample, sample.At.Unix()})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// metricsOfMany serves GET /sandboxes/metrics: the newest sample of each.
func (s *Server) metricsOfMany(w http.ResponseWriter, r *http.Request, c caller) error {
	var ids []string
	for _, list := range r.URL.Query()["sandbox_ids"] {
		ids = append(ids, strings.FieldsFunc(list, func(c rune) bool { return c == ',' })...)
	}
	if len(ids) == 0 || len(ids) > pageSize {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "sandbox_ids has %d ids; it must have 1 to %d", len(ids), pageSize)
	}
	out := map[string]wireSample{}
	now := s.cfg.Now()
	for _, id := range ids {
		samples, err := s.cfg.Telemetry.Metrics(r.Context(), c.Tenant, id, now.Add(-latest), now)
		if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if len(samples) > 0 {
			last := samples[len(samples)-1]
			out[id] = wireSample{last, last.At.Unix()}
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"sandboxes": out})
	return nil
}

// logEntry is E2B's SandboxLogEntry.
type logEntry struct {
	Timestamp time.Time         `json:"timestamp"`
	Level     string            `json:"level"`
	Message   string            `json:"message"`
	Fields    map[string]string `json:"fields"`
}

// logLine is E2B's older form: the entry as a line of JSON.
type logLine struct {
	Timestamp time.Time `json:"timestamp"`
	Line      string    `json:"line"`
}

func entry(l bulkhead.LogLine) logEntry {
	e := logEntry{Timestamp: l.At.UTC(), Level: l.Level, Message: l.Message, Fields: l.Fields}
	if e.Fields == nil {
		e.Fields = map[string]string{}
	}
	return e
}

// logsV1 serves GET /sandboxes/{id}/logs: from start on, in milliseconds.
func (s *Server) logsV1(w http.ResponseWriter, r *http.Request, c caller) error {
	since, limit, err := logRange(r, "start")
	if err != nil {
		return err
	}
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	found, err := s.cfg.Telemetry.Logs(r.Context(), c.Tenant, id, since, limit)
	if err != nil {
		return err
	}
	lines, entries := make([]logLine, 0, len(found)), make([]logEntry, 0, len(found))
	for _, l := range found {
		e := entry(l)
		doc := map[string]string{"level": e.Level, "message": e.Message}
		maps.Copy(doc, e.Fields)
		b, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		lines, entries = append(lines, logLine{e.Timestamp, string(b)}), append(entries, e)
	}
	writeJSON(w, http.StatusOK, map[string]any{"logs": lines, "logEntries": entries})
	return nil
}

// logsV2 serves GET /v2/sandboxes/{id}/logs: from cursor on, or before it when
// the direction is backward, newest first then.
func (s *Server) logsV2(w http.ResponseWriter, r *http.Request, c caller) error {
	cursor, limit, err := logRange(r, "cursor")
	if err != nil {
		return err
	}
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	direction, err := oneOf(r, "direction", "forward", "backward")
	if err != nil {
		return err
	}
	levels := []string{"debug", "info", "warn", "error"}
	level, err := oneOf(r, "level", levels...)
	if err != nil {
		return err
	}
	backward := direction == "backward"
	since := cursor
	if backward {
		since = time.Time{}
	}
	found, err := s.cfg.Telemetry.Logs(r.Context(), c.Tenant, id, since, logWindow)
	if err != nil {
		return err
	}
	if backward {
		slices.Reverse(found)
	}
	search := r.URL.Query().Get("search")
	out := make([]logEntry, 0, min(limit, len(found)))
	for _, l := range found {
		switch {
		case len(out) == limit:
		case backward && !cursor.IsZero() && l.At.After(cursor):
		case slices.Index(levels, l.Level) < slices.Index(levels, level):
		case !strings.Contains(l.Message, search):
		default:
			out = append(out, entry(l))
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"logs": out})
	return nil
}

// logRange reads a time in milliseconds, zero when not given, and a limit.
func logRange(r *http.Request, name string) (time.Time, int, error) {
	millis, err := intQuery(r, name, -1, 0, maxUnix*1000)
	if err != nil {
		return time.Time{}, 0, err
	}
	limit, err := intQuery(r, "limit", maxLogs, 0, maxLogs)
	if err != nil {
		return time.Time{}, 0, err
	}
	if millis < 0 {
		return time.Time{}, int(limit), nil
	}
	return time.UnixMilli(millis), int(limit), nil
}
