package api

import "net/http"

// unsupported are E2B's routes that are known and not served, with what is
// missing. They answer 501, so that a client learns more than "no such route".
var unsupported = map[string]string{
	"POST /sandboxes/{id}/pause":     "pausing sandboxes",
	"POST /sandboxes/{id}/snapshots": "snapshots of sandboxes",
	"GET /snapshots":                 "snapshots of sandboxes",
	"POST /sandboxes/{id}/fork":      "forks of sandboxes",

	"POST /v3/templates":                        "template builds through the API",
	"POST /v2/templates":                        "template builds through the API",
	"POST /templates":                           "template builds through the API",
	"POST /templates/{id}":                      "template builds through the API",
	"DELETE /templates/{id}":                    "deletion of templates through the API",
	"PATCH /templates/{id}":                     "changes to templates through the API",
	"PATCH /v2/templates/{id}":                  "changes to templates through the API",
	"POST /v2/templates/{id}/builds/{build}":    "template builds through the API",
	"POST /templates/{id}/builds/{build}":       "template builds through the API",
	"GET /templates/{id}/builds/{build}/status": "template builds through the API",
	"GET /templates/{id}/builds/{build}/logs":   "template builds through the API",
	"GET /templates/{id}/files/{hash}":          "template builds through the API",
	"POST /templates/tags":                      "template tags",
	"DELETE /templates/tags":                    "template tags",

	"GET /volumes":               "volumes",
	"POST /volumes":              "volumes",
	"GET /volumes/{id}":          "volumes",
	"DELETE /volumes/{id}":       "volumes",
	"/volumecontent/{path...}":   "volumes",
	"GET /secrets":               "secrets",
	"POST /secrets":              "secrets",
	"GET /secrets/{id}":          "secrets",
	"POST /secrets/{id}":         "secrets",
	"DELETE /secrets/{id}":       "secrets",
	"GET /teams/{id}/{what...}":  "team metrics",
	"/api-keys/{path...}":        "E2B's own key management (use /v1/keys)",
	"/access-tokens/{path...}":   "access tokens (use /v1/keys)",
	"GET /templates/{id}/{tags}": "template tags",

	"GET /templates/{id}/tags/{what...}": "template tags",
}

// refuse answers that something is missing.
func refuse(what string) endpoint {
	return func(http.ResponseWriter, *http.Request, caller) error {
		return missing("the call is known", what)
	}
}
