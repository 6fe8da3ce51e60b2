// Package openapi describes HTTP calls, in Go values that stand beside what serves
// them, and writes an OpenAPI 3.1 document from those: the schemas come from the
// very types that the server decodes and encodes.
//
// It is pure: it serves nothing and knows no call. Its values may be shared once
// they are made.
package openapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/swaggest/jsonschema-go"
	"github.com/swaggest/openapi-go"
	"github.com/swaggest/openapi-go/openapi31"
)

// Call is one call: a method and a path.
type Call struct {
	// Pattern is as [http.ServeMux] has it, such as "GET /v1/keys/{id}".
	Pattern string
	// Scope is what a key needs for it; empty if none is needed.
	Scope string
	// Summary says in a few words what it does, Detail in a sentence or two what
	// else there is to know.
	Summary, Detail string
	// Params is a struct whose fields are the parameters in the path and in the
	// query, tagged `path:"name"` or `query:"name"`, with `description:"…"`. Nil
	// if there are none.
	Params any
	// Body is a value of the type that is decoded from JSON; nil if there is none.
	Body any
	// MaxBody is the largest body in bytes; 0 is what the server takes otherwise.
	MaxBody int64
	// Answer is a value of the type that is answered as JSON; nil if nothing is.
	Answer any
	// Status is that of the answer; 0 is 200, or 204 without an Answer.
	Status int
	// Formats are content types that the answer may have beside JSON.
	Formats []string
	// NoKey says that the call is open to everyone.
	NoKey bool
}

// Method and Path are the parts of the pattern.
func (c Call) Method() string { method, _, _ := strings.Cut(c.Pattern, " "); return method }

// Path is the pattern without its method.
func (c Call) Path() string { _, path, _ := strings.Cut(c.Pattern, " "); return path }

// Info is what the document says of the whole.
type Info struct {
	// Title and Version are the program's. Description may be Markdown.
	Title, Version, Description string
	// Error is a value of the type of every error.
	Error any
	// Strip are beginnings of schemas' names, which are those of the types with
	// their packages' before them, to be left out: "Api" makes ApiKey a Key.
	Strip []string
	// Scopes says what each scope lets a key do.
	Scopes map[string]string
}

// Document returns the document of the calls as JSON. An error is a mistake in a
// call.
func Document(info Info, calls []Call) ([]byte, error) {
	r := openapi31.NewReflector()
	r.Spec.Info.WithTitle(info.Title).WithVersion(info.Version).WithDescription(info.Description)
	r.DefaultOptions = append(r.DefaultOptions, jsonschema.StripDefinitionNamePrefix(info.Strip...), jsonschema.InterceptProp(require), jsonschema.InterceptSchema(bound))
	r.Spec.SetAPIKeySecurity(keyScheme, "X-API-KEY", openapi.InHeader, "An API key.")
	r.Spec.SetHTTPBearerTokenSecurity(bearerScheme, "", "The same key, as a Bearer token.")
	for _, c := range calls {
		if err := add(r, info, c); err != nil {
			return nil, fmt.Errorf("describe %s: %w", c.Pattern, err)
		}
	}
	doc, err := json.MarshalIndent(r.Spec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return doc, nil
}

// The names of the ways to send a key.
const (
	keyScheme    = "key"
	bearerScheme = "bearer"
)

func add(r *openapi31.Reflector, info Info, c Call) error {
	op, err := r.NewOperationContext(c.Method(), c.Path())
	if err != nil {
		return err
	}
	op.SetID(operationID(c))
	op.SetSummary(c.Summary)
	detail := c.Detail
	if c.MaxBody > 0 {
		detail = strings.TrimSpace(detail + fmt.Sprintf(" The body may have %d bytes.", c.MaxBody))
	}
	if c.Scope != "" {
		detail = strings.TrimSpace(detail + "\n\nNeeds the scope `" + c.Scope + "`: " + info.Scopes[c.Scope])
	}
	op.SetDescription(detail)
	if parts := strings.Split(c.Path(), "/"); len(parts) > 2 {
		op.SetTags(parts[2])
	}
	if !c.NoKey {
		op.AddSecurity(keyScheme)
		op.AddSecurity(bearerScheme)
	}
	if c.Params != nil {
		op.AddReqStructure(c.Params)
	}
	if c.Body != nil {
		op.AddReqStructure(c.Body, openapi.WithContentType("application/json"))
	}
	status := c.Status
	switch {
	case status == 0 && c.Answer == nil:
		status = http.StatusNoContent
	case status == 0:
		status = http.StatusOK
	}
	describe := func(cu *openapi.ContentUnit) { cu.Description = http.StatusText(status) }
	op.AddRespStructure(c.Answer, openapi.WithHTTPStatus(status), describe)
	for _, format := range c.Formats {
		op.AddRespStructure("", openapi.WithHTTPStatus(status), openapi.WithContentType(format), describe)
	}
	op.AddRespStructure(info.Error, func(cu *openapi.ContentUnit) {
		cu.IsDefault, cu.Description = true, "An error."
	})
	return r.AddOperation(op)
}

// operationID is a name for the call in generated clients, such as "getKeysById".
func operationID(c Call) string {
	var id strings.Builder
	id.WriteString(strings.ToLower(c.Method()))
	for part := range strings.SplitSeq(strings.TrimPrefix(c.Path(), "/v1/"), "/") {
		name, param := strings.CutPrefix(part, "{")
		name = strings.TrimRight(name, "}.")
		if param {
			id.WriteString("By")
		}
		for _, word := range strings.FieldsFunc(name, func(r rune) bool { return r == '-' || r == '_' || r == '.' }) {
			id.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return id.String()
}

// require marks the fields that an answer always has: those without omitempty.
func require(p jsonschema.InterceptPropParams) error {
	if p.Processed || p.ParentSchema == nil || p.Name == "" {
		return nil
	}
	op, ok := openapi.OperationCtx(p.Context)
	if !ok || !op.IsProcessingResponse() {
		return nil
	}
	tag := p.Field.Tag.Get("json")
	if tag != "" && !strings.Contains(tag, ",omit") {
		p.ParentSchema.Required = append(p.ParentSchema.Required, p.Name)
	}
	return nil
}

// Range is what a number may be.
type Range struct {
	// Field is its name in JSON.
	Field string
	// Least and Most are its bounds, Unit is theirs.
	Least, Most float64
	Unit        string
}

// Ranged is a type of a body whose numbers have bounds that are not in its tags.
type Ranged interface {
	Ranges() []Range
}

// bound writes the bounds of a Ranged type.
func bound(p jsonschema.InterceptSchemaParams) (stop bool, err error) {
	ranged, ok := reflect.TypeAssert[Ranged](p.Value)
	if !ok || !p.Processed {
		return false, nil
	}
	for _, r := range ranged.Ranges() {
		if field := p.Schema.Properties[r.Field].TypeObject; field != nil { // nil in a pass for parameters
			field.WithMinimum(r.Least).WithMaximum(r.Most).WithDescription("In " + r.Unit + ".")
		}
	}
	return false, nil
}
