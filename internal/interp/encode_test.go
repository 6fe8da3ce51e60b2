package interp

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// TestEvents encodes one event of each kind.
func TestEvents(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, c := range []struct {
		event Event
		want  string
	}{
		{Event{Kind: EventCount, Count: 3}, `{"type":"number_of_executions","execution_count":3}`},
		{Event{Kind: EventStdout, Text: "é<b>\n"}, `{"type":"stdout","text":"\u00e9<b>\n","timestamp":"2026-01-02T12:00:00.000000Z"}`},
		{Event{Kind: EventStderr, Text: "😀"}, `{"type":"stderr","text":"\ud83d\ude00","timestamp":"2026-01-02T12:00:00.000000Z"}`},
		{Event{Kind: EventError, Name: "E"}, `{"type":"error","name":"E","value":"","traceback":""}`},
		{
			Event{Kind: EventResult, Data: map[string]json.RawMessage{"text/plain": raw(`"'it\\'s'"`)}},
			`{"type":"result","is_main_result":true,"text":"it\\'s"}`,
		},
		{
			Event{Kind: EventResult, Data: map[string]json.RawMessage{"text/plain": raw(`"'"`), "text/html": raw("null")}},
			`{"type":"result","is_main_result":true,"text":"'"}`,
		},
		{
			Event{Kind: EventDisplay, Data: map[string]json.RawMessage{
				"text/plain": raw(`"t"`), "text/html": raw(`"h"`), "text/markdown": raw(`"m"`), "image/svg+xml": raw(`"s"`),
				"image/png": raw(`"p"`), "image/jpeg": raw(`"j"`), "application/pdf": raw(`"d"`), "text/latex": raw(`"l"`),
				"application/json": raw("[1,\n2]"), "application/javascript": raw(`"c"`), "e2b/data": raw(`{"a":[1]}`),
				"e2b/chart": raw(`{"type":"line"}`), "x/y": raw(`"z"`),
			}},
			`{"type":"result","is_main_result":false,"text":"t","html":"h","markdown":"m","svg":"s","png":"p","jpeg":"j","pdf":"d",` +
				`"latex":"l","json":[1,2],"javascript":"c","data":{"a":[1]},"chart":{"type":"line"},"extra":{"x/y":"z"}}`,
		},
		{Event{Kind: EventOversize, Size: 5}, ``},
	} {
		got, err := appendEvent(nil, c.event, noon)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, strings.TrimSuffix(string(got), "\n")); diff != "" {
			t.Errorf("line of %+v (-want +got):\n%s", c.event, diff)
		}
	}
}

// checkEvent fails t unless the event becomes one line of ASCII JSON, or none.
func checkEvent(t *testing.T, e Event) {
	t.Helper()
	line, err := appendEvent(nil, e, noon)
	if err != nil {
		return // the stream puts an error in its place
	}
	if len(line) == 0 && e.Kind == EventOversize {
		return
	}
	if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
		t.Errorf("%q is not one line", line)
	}
	if !json.Valid(line) {
		t.Errorf("%q is no JSON", line)
	}
	if i := bytes.IndexFunc(line, func(r rune) bool { return r >= 0x80 }); i >= 0 {
		t.Errorf("%q is not ASCII", line)
	}
}

// FuzzResult: whatever a kernel calls a result becomes a line or an error.
func FuzzResult(f *testing.F) {
	f.Add("text/plain", []byte(`"'a'"`))
	f.Add("e2b/chart", []byte("{\n\"a\": \"\xff\"}"))
	f.Add("é", []byte(`nope`))
	f.Fuzz(func(t *testing.T, mime string, data []byte) {
		checkEvent(t, Event{Kind: EventResult, Data: map[string]json.RawMessage{mime: data}})
	})
}

// FuzzExecute: whatever a client sends is decoded or refused.
func FuzzExecute(f *testing.F) {
	f.Add([]byte(`{"code":"1+1","context_id":null,"language":"python","env_vars":{"A":"b"}}`))
	f.Add([]byte(`{"code":null}`))
	f.Add([]byte(`{"code":"","env_vars":{"":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := decodeExecute(bytes.NewReader(data))
		if err != nil {
			return
		}
		if body.Code == nil || (body.ContextID != "" && body.Language != "") {
			t.Errorf("%q is accepted: %+v", data, body)
		}
		for name, value := range body.Env {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
				t.Errorf("%q is accepted with the variable %q=%q", data, name, value)
			}
		}
	})
}
