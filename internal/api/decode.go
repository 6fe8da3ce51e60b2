package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bulkheadhq/bulkhead"
)

// decode reads the request's JSON object into v. An empty body is as good as {}
// when optional. Unknown fields are ignored, unless strict.
func decode(r *http.Request, v any, optional, strict bool) error {
	body, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return bulkhead.Errorf(bulkhead.CodeTooLarge, "the body is larger than %d bytes", MaxBody)
	}
	if err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: "the body could not be read to its end", Err: err}
	}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		if optional {
			return nil
		}
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the body is empty; it must be a JSON object")
	}
	if body[0] != '{' {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the body must be a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if strict {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(v); err != nil {
		return badJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the body goes on after its JSON object, at byte %d", dec.InputOffset())
	}
	return nil
}

// decodeValue reads a part of a body that decode has left as it was, without
// unknown fields.
func decodeValue(value json.RawMessage, v any) error {
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badJSON(err)
	}
	return nil
}

// badJSON says what is wrong in words for the client.
func badJSON(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	msg := "the body is not valid JSON"
	switch {
	case errors.As(err, &kind):
		// A map's field is named without the key.
		msg = fmt.Sprintf("%s: got %s, want %s", kind.Field, kind.Value, typeName(kind.Type.Kind().String()))
	case errors.As(err, &syntax):
		msg += fmt.Sprintf(": %v, at byte %d", syntax, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		msg += ": it ends in the middle"
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		msg = strings.TrimPrefix(err.Error(), "json: ")
	}
	return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: msg, Err: err}
}

// typeName is JSON's word for a kind of Go type.
func typeName(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return "integer"
	case strings.HasPrefix(kind, "float"):
		return "number"
	case kind == "bool":
		return "boolean"
	case kind == "string":
		return "string"
	case kind == "slice":
		return "array"
	default:
		return "object"
	}
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
