package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
)

// What is read as a cursor is a position, and every position survives the way.
func FuzzCursor(f *testing.F) {
	at := time.Date(2026, 11, 22, 3, 0, 0, 1, time.UTC)
	f.Add(formatCursor(position{at, "iabc"}, true), true, int64(1), "iabc")
	f.Add(formatCursor(position{at, "iabc"}, false), false, int64(-1), "i_b")
	f.Add("bm9uc2Vuc2U=", true, int64(1<<62), "")
	f.Fuzz(func(t *testing.T, text string, ascending bool, nanos int64, id string) {
		if p, err := parseCursor(text, ascending); err == nil && p != nil {
			if !idPattern.MatchString(p.id) {
				t.Errorf("%q gave the id %q", text, p.id)
			}
			if _, err := parseCursor(text, !ascending); err == nil {
				t.Errorf("%q is good for both orders", text)
			}
		}
		if !idPattern.MatchString(id) {
			return
		}
		want := position{time.Unix(0, nanos).UTC(), id}
		got, err := parseCursor(formatCursor(want, ascending), ascending)
		if err != nil || got.id != want.id || !got.startedAt.Equal(want.startedAt) {
			t.Errorf("%v came back as %v, %v", want, got, err)
		}
	})
}

// encodeMetadata writes a filter as the SDKs do, up to the query's own encoding.
func encodeMetadata(m map[string]string) string {
	q := url.Values{}
	for k, v := range m {
		q.Set(url.PathEscape(k), url.PathEscape(v))
	}
	return q.Encode()
}

// What the SDKs write is what is read, and nothing panics.
func FuzzMetadata(f *testing.F) {
	f.Add("a%2520b=c%2526d", "a b", "c&d")
	f.Add("x=%zz", "%", "+")
	f.Add("&&==;", "", "=\x00")
	f.Fuzz(func(t *testing.T, text, key, value string) {
		if m, err := parseMetadata(text); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%q: %v", text, err)
		} else if len(m) > maxPairs {
			t.Errorf("%q gave %d pairs", text, len(m))
		}
		if len(key)+len(value) > maxPairBytes/4 {
			return
		}
		want := map[string]string{key: value}
		got, err := parseMetadata(encodeMetadata(want))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// A body gives a request within the bounds or an error for the client, never a panic.
func FuzzCreateBody(f *testing.F) {
	f.Add(`{"templateID":"base","timeout":60,"metadata":{"a":"b"}}`)
	f.Add(`{"templateID":"base","network":{"egressProxy":null,"maskRequestHost":"${PORT}"}}`)
	f.Add(`{"templateID":"\ud800","envVars":{"a":"\u0000"},"iam":{"tokens":null}} x`)
	s := &Server{cfg: Config{MaxTTL: DefaultMaxTTL}}
	f.Fuzz(func(t *testing.T, text string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(text))
		var body newSandbox
		err := jsonbody.Decode(r, &body, false, false)
		if err == nil {
			var req bulkhead.CreateRequest
			req, err = s.createRequest(body, defaultTimeoutV1)
			if err == nil && (req.TTL <= 0 || req.TTL > DefaultMaxTTL || req.Template == "" || len(req.Metadata) > maxPairs) {
				t.Errorf("%q gave %+v", text, req)
			}
		}
		if err != nil {
			if code := bulkhead.CodeOf(err); code != bulkhead.CodeInvalid && code != bulkhead.CodeUnsupported {
				t.Errorf("%q: %v", text, err)
			}
			if msg := bulkhead.Message(err); !utf8.ValidString(msg) && json.Valid([]byte(text)) {
				t.Errorf("%q: message %q", text, msg)
			}
		}
	})
}

func TestMask(t *testing.T) {
	for mask, ok := range map[string]bool{
		"": true, "localhost": true, "localhost:${PORT}": true, "${PORT}.example.com": true, "[::1]:8080": true, "a-b.c:80": true,
		":80": false, "a:0": false, "a:b": false, "a/b": false, "a b": false, "a@b": false, "a\n": false, "ü": false,
		strings.Repeat("a", 256): false,
	} {
		if err := checkMask("mask", mask); (err == nil) != ok {
			t.Errorf("%q: %v, want good: %v", mask, err, ok)
		}
	}
}
