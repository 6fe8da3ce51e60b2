// Package jsonbody reads the JSON bodies of requests. What is wrong with one is said in
// words for the client, which name the field, its value and what it must be.
//
// It keeps nothing; its functions may be called by any number of goroutines.
package jsonbody

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// Decode reads the request's JSON object into v. An empty body is as good as {}
// when optional. Unknown fields are ignored, unless strict. Codes: invalid,
// too_large where the body is an [http.MaxBytesReader].
func Decode(r *http.Request, v any, optional, strict bool) error {
	body, err := io.ReadAll(r.Body)
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return bulkhead.Errorf(bulkhead.CodeTooLarge, "the body is larger than %d bytes", large.Limit)
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
		return badJSON(err, "", body)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the body goes on after its JSON object, at byte %d", dec.InputOffset())
	}
	return nil
}

// Part reads a part of a body that Decode has left as it was, without
// unknown fields. The field is where it was. Code: invalid.
func Part(field string, value json.RawMessage, v any) error {
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badJSON(err, field, value)
	}
	return nil
}

// Named returns the names of an object's fields that have a value, as they are written,
// sorted. What is no object has none.
func Named(object json.RawMessage) []string {
	var all map[string]*json.RawMessage
	if json.Unmarshal(object, &all) != nil {
		return nil
	}
	maps.DeleteFunc(all, func(_ string, v *json.RawMessage) bool { return v == nil })
	return slices.Sorted(maps.Keys(all))
}

// badJSON says what is wrong with a value, the one of the field or a whole body, in
// words for the client.
func badJSON(err error, field string, value []byte) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	msg := "the body is not valid JSON"
	switch {
	case bulkhead.CodeOf(err) == bulkhead.CodeInvalid:
		return err // of a type that reads itself
	case errors.As(err, &kind):
		msg = mistyped(kind, field, value)
	case errors.As(err, &syntax):
		msg += fmt.Sprintf(": %v, at byte %d", syntax, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		msg += ": it ends in the middle"
	case strings.HasPrefix(err.Error(), unknownField):
		name, _ := strconv.Unquote(strings.TrimPrefix(err.Error(), unknownField)) // quoted by encoding/json
		msg = fmt.Sprintf("unknown field %q", strings.TrimPrefix(field+"."+name, "."))
	}
	return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: msg, Err: err}
}

// unknownField begins an error for which encoding/json has no type.
const unknownField = "json: unknown field "

// maxShown bounds what an error shows of a value, in bytes.
const maxShown = 80

// mistyped names the field in value that is of another type than it must be, and
// what it is. field is where value itself was.
func mistyped(err *json.UnmarshalTypeError, field string, value []byte) string {
	for name := range strings.SplitSeq(err.Field, ".") {
		inner, ok := member(value, name)
		if !ok {
			break
		}
		field, value = strings.TrimPrefix(field+"."+name, "."), inner
	}
	// Of what is in an array or a map the error has no name.
	field, value = culprit(err.Type, field, value)
	shown := string(value)
	if len(shown) > maxShown {
		shown = strings.ToValidUTF8(shown[:maxShown], "") + "…"
	}
	return fmt.Sprintf("%s is %s; it must be %s", cmp.Or(field, "the body"), shown, wanted(err.Type, string(value)))
}

// member is the value of an object's field.
func member(object []byte, name string) (json.RawMessage, bool) {
	var all map[string]json.RawMessage
	if json.Unmarshal(object, &all) != nil {
		return nil, false
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if strings.EqualFold(key, name) { // as encoding/json takes it
			return all[key], true
		}
	}
	return nil, false
}

// culprit is the first element of an array, or field of an object, that is not of
// the type, if value is one of those and should be; else it is value.
func culprit(want reflect.Type, field string, value json.RawMessage) (string, json.RawMessage) {
	wrong := func(v json.RawMessage) bool { return json.Unmarshal(v, reflect.New(want).Interface()) != nil }
	var array []json.RawMessage
	if json.Unmarshal(value, &array) == nil && want.Kind() != reflect.Slice {
		if i := slices.IndexFunc(array, wrong); i >= 0 {
			return fmt.Sprintf("%s[%d]", field, i), array[i]
		}
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(value, &object) == nil && want.Kind() != reflect.Struct && want.Kind() != reflect.Map {
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if wrong(object[name]) {
				return strings.TrimPrefix(field+"."+name, "."), object[name]
			}
		}
	}
	return field, value
}

// wanted says what a value of the type is, where text is none.
func wanted(t reflect.Type, text string) string {
	number := json.Valid([]byte(text)) && strings.ContainsAny(text[:1], "-0123456789")
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		switch {
		case !number:
			return "an integer"
		case strings.ContainsAny(text, ".eE"):
			return "an integer, without fraction or exponent"
		}
		return fmt.Sprintf("an integer between %d and %d", math.MinInt64, math.MaxInt64)
	case reflect.Float64:
		if number {
			return fmt.Sprintf("a number between %g and %g", -math.MaxFloat64, math.MaxFloat64)
		}
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "an array"
	default:
		return "an object"
	}
}
