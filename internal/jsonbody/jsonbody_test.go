package jsonbody_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
)

type inner struct {
	Cores float64        `json:"cores"`
	Count int64          `json:"count"`
	On    *bool          `json:"on"`
	Names []string       `json:"names"`
	Sizes map[string]int `json:"sizes"`
}

type outer struct {
	Name string `json:"name"`
	In   inner  `json:"in"`
}

func decode(t *testing.T, text string, strict bool) (outer, error) {
	t.Helper()
	var v outer
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(text))
	r.Body = http.MaxBytesReader(httptest.NewRecorder(), r.Body, 1000)
	return v, jsonbody.Decode(r, &v, false, strict)
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{
		``:                                      "the body is empty; it must be a JSON object",
		` [1]`:                                  "the body must be a JSON object",
		`{"name":`:                              "the body is not valid JSON: it ends in the middle",
		`{"name":"a"} {`:                        "the body goes on after its JSON object, at byte 14",
		`{"name":"a",}`:                         "the body is not valid JSON: invalid character '}' looking for beginning of object key string, at byte 13",
		`{"other":1}`:                           `unknown field "other"`,
		strings.Repeat(" ", 1001):               "the body is larger than 1000 bytes",
		`{"name":7}`:                            "name is 7; it must be a string",
		`{"NAME":null,"in":{"Cores":"x"}}`:      `in.cores is "x"; it must be a number`,
		`{"in":[]}`:                             "in is []; it must be an object",
		`{"in":{"cores":-1e999}}`:               "in.cores is -1e999; it must be a number between -1.7976931348623157e+308 and 1.7976931348623157e+308",
		`{"in":{"count":"7"}}`:                  `in.count is "7"; it must be an integer`,
		`{"in":{"count":7.0}}`:                  "in.count is 7.0; it must be an integer, without fraction or exponent",
		`{"in":{"count":-9223372036854775809}}`: "in.count is -9223372036854775809; it must be an integer between -9223372036854775808 and 9223372036854775807",
		`{"in":{"on":0}}`:                       "in.on is 0; it must be true or false",
		`{"in":{"names":{}}}`:                   "in.names is {}; it must be an array",
		`{"in":{"names":["a",["b"]]}}`:          `in.names[1] is ["b"]; it must be a string`,
		`{"in":{"sizes":{"b":1,"a":"x"}}}`:      `in.sizes.a is "x"; it must be an integer`,
		`{"name":["` + strings.Repeat("ü", 99) + `"]}`: `name is ["` + strings.Repeat("ü", 39) + `…; it must be a string`,
	} {
		v, err := decode(t, text, true)
		code := bulkhead.CodeInvalid
		if strings.Contains(want, "larger") {
			code = bulkhead.CodeTooLarge
		}
		if diff := cmp.Diff(want, bulkhead.Message(err)); diff != "" || bulkhead.CodeOf(err) != code {
			t.Errorf("%.80s gives %+v, %v (-want +got):\n%s", text, v, err, diff)
		}
	}
	if v, err := decode(t, `{"name":"a","other":1,"in":{"count":3}}`, false); err != nil || v.Name != "a" || v.In.Count != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	var v outer
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(" "))
	if err := jsonbody.Decode(r, &v, true, true); err != nil {
		t.Errorf("an empty body: %v", err)
	}
}

func TestPart(t *testing.T) {
	for text, want := range map[string]string{
		`7`: "pin is 7; it must be an object", `{"count":"x"}`: `pin.count is "x"; it must be an integer`, `{"hot":1}`: `unknown field "pin.hot"`,
	} {
		var v inner
		if err := jsonbody.Part("pin", []byte(text), &v); bulkhead.Message(err) != want || bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
}

func TestNamed(t *testing.T) {
	for text, want := range map[string][]string{`{"b":0,"A":[],"c":null}`: {"A", "b"}, `{}`: nil, `null`: nil, `[1]`: nil, `{`: nil} {
		if diff := cmp.Diff(want, jsonbody.Named([]byte(text))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// Whatever comes, it is read or refused in words.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{`{"in":{"sizes":{"":{}},"names":[1]}}`, `{"in":{"count":1e9}}`, `{"name":"\ud800"}`, `{"in":{"on":{"":1}}}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := decode(t, text, true); err != nil {
			msg := bulkhead.Message(err)
			if bulkhead.CodeOf(err) == bulkhead.CodeInternal || msg == "" || utf8.ValidString(text) && !utf8.ValidString(msg) {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
