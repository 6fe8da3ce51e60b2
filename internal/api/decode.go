package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
	"github.com/bulkheadhq/bulkhead/internal/openapi"
)

// wantedLimits are those that a body names. A field that is left out, or null, is
// the template's, or stays. There is no limit of 0: it is refused, so that nobody
// takes it for "none" or "unlimited".
type wantedLimits struct{ bulkhead.Limits }

// Ranges implements [openapi.Ranged].
func (wantedLimits) Ranges() []openapi.Range {
	var out []openapi.Range
	for _, r := range bulkhead.LimitRanges() {
		out = append(out, openapi.Range(r))
	}
	return out
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *wantedLimits) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l.Limits); err != nil {
		return err
	}
	return l.ValidateNamed(jsonbody.Named(b))
}

// checkMetadata bounds what a tenant may attach to a sandbox.
func checkMetadata(m map[string]string) error {
	return checkPairs("metadata", m, maxPairs, maxPairBytes)
}

// checkEnv bounds the environment, and refuses what no process can have.
func checkEnv(field string, env map[string]string) error {
	if err := checkPairs(field, env, maxEnv, maxEnvBytes); err != nil {
		return err
	}
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has the name %q; a name is not empty and has neither = nor NUL", field, name)
		}
		if strings.Contains(value, "\x00") {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s.%s has a NUL byte in its value", field, name)
		}
	}
	return nil
}

func checkPairs(field string, m map[string]string, most, mostBytes int) error {
	if len(m) > most {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has %d entries; it may have %d", field, len(m), most)
	}
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has an entry that is not UTF-8", field)
		}
	}
	if size > mostBytes {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "%s has %d bytes of names and values; it may have %d", field, size, mostBytes)
	}
	return nil
}

// intQuery returns a query parameter that is an integer of least to most, or
// fallback when it is not given.
func intQuery(r *http.Request, name string, fallback, least, most int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %q; it must be an integer from %d to %d", name, text, least, most)
	}
	return n, nil
}

// oneOf returns a query parameter that is one of the values, or the first of them
// when it is not given.
func oneOf(r *http.Request, name string, values ...string) (string, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return values[0], nil
	}
	if !slices.Contains(values, text) {
		return "", bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %q; it must be one of %s", name, text, strings.Join(values, ", "))
	}
	return text, nil
}
