package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// keyRequest is the body of POST /v1/keys.
type keyRequest struct {
	Tenant            string   `json:"tenant" description:"Who it acts for; the caller's own tenant unless given. Another one needs the scope admin."`
	Name              string   `json:"name" maxLength:"128" description:"For people."`
	Scopes            []string `json:"scopes" description:"run, manage or admin; run unless given. Admin can only be given by a key that has it."`
	RequestsPerSecond float64  `json:"requestsPerSecond" minimum:"0" description:"How fast it may ask, with a burst of ten seconds' worth; 0 is unlimited."`
	CreatesPerSecond  float64  `json:"createsPerSecond" minimum:"0" description:"How fast it may create sandboxes, likewise."`
}

// rotateRequest is the body of POST /v1/keys/{id}/rotate.
type rotateRequest struct {
	GraceSeconds *int64 `json:"graceSeconds" minimum:"0" maximum:"2592000" default:"86400" description:"How long the old secret stays good."`
}

// keyPatch is the body of PATCH /v1/keys/{id}.
type keyPatch struct {
	Name              *string  `json:"name" maxLength:"128" description:"For people."`
	RequestsPerSecond *float64 `json:"requestsPerSecond" minimum:"0" description:"How fast it may ask, with a burst of ten seconds' worth; 0 is unlimited."`
	CreatesPerSecond  *float64 `json:"createsPerSecond" minimum:"0" description:"How fast it may create sandboxes, likewise."`
}

// newKey is a key with its secret, shown once.
type newKey struct {
	store.Key

	Secret string `json:"secret"`
}

// scopeOf returns whose things the caller may see and change: "" for all.
func (c caller) scopeOf() string {
	if c.May(store.ScopeAdmin) {
		return ""
	}
	return c.Tenant
}

// choose returns the tenant that the caller names, or may name no other than:
// one that is not the caller's to see does not exist.
func (c caller) choose(tenant string) (string, error) {
	own := c.scopeOf()
	if own == "" || tenant == "" || tenant == own {
		if tenant == "" {
			return own, nil
		}
		return tenant, nil
	}
	return "", bulkhead.Errorf(bulkhead.CodeNotFound, "tenant %q was not found", tenant)
}

// createKey serves POST /v1/keys.
func (s *Server) createKey(w http.ResponseWriter, r *http.Request, c caller) error {
	var body keyRequest
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	if body.Tenant == "" {
		body.Tenant = c.Tenant
	}
	tenant, err := c.choose(body.Tenant)
	if err != nil {
		return err
	}
	if slices.Contains(body.Scopes, store.ScopeAdmin) && !c.May(store.ScopeAdmin) {
		return bulkhead.Errorf(bulkhead.CodeForbidden, "scopes has %q, which only a key that has it can give", store.ScopeAdmin)
	}
	c.about("", tenant, strings.Join(body.Scopes, ","))
	secret, k, err := s.cfg.Keys.CreateKey(r.Context(), store.KeyRequest{
		Tenant: tenant, Name: body.Name, Scopes: body.Scopes,
		RequestsPerSecond: body.RequestsPerSecond, CreatesPerSecond: body.CreatesPerSecond,
	})
	if err != nil {
		return err
	}
	c.about(k.ID, k.Tenant, strings.Join(k.Scopes, ","))
	writeJSON(w, http.StatusCreated, newKey{k, secret})
	return nil
}

// listKeys serves GET /v1/keys.
func (s *Server) listKeys(w http.ResponseWriter, r *http.Request, c caller) error {
	tenant, err := c.choose(r.URL.Query().Get("tenant"))
	if err != nil {
		return err
	}
	all, err := s.cfg.Keys.ListKeys(r.Context(), tenant)
	if err != nil {
		return err
	}
	if all == nil {
		all = []store.Key{}
	}
	writeJSON(w, http.StatusOK, all)
	return nil
}

// own returns the key of the path, if the caller may act on it: a key with the
// scope admin is not for one without it, as what it can do is not.
func (s *Server) ownKey(r *http.Request, c caller) (store.Key, error) {
	k, err := s.cfg.Keys.Key(r.Context(), c.scopeOf(), r.PathValue("id"))
	if err != nil {
		return k, err
	}
	c.about(k.ID, k.Tenant, "")
	if k.May(store.ScopeAdmin) && !c.May(store.ScopeAdmin) {
		return k, bulkhead.Errorf(bulkhead.CodeForbidden, "key %q has the scope %q, and the API key %s… has not", k.ID, store.ScopeAdmin, c.Prefix)
	}
	return k, nil
}

// rotateKey serves POST /v1/keys/{id}/rotate.
func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request, c caller) error {
	var body rotateRequest
	if err := jsonbody.Decode(r, &body, true, true); err != nil {
		return err
	}
	grace := store.Grace
	if g := body.GraceSeconds; g != nil {
		if *g < 0 || *g > int64(store.MaxGrace/time.Second) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "graceSeconds is %d; it must be between 0 and %d", *g, int64(store.MaxGrace/time.Second))
		}
		grace = time.Duration(*g) * time.Second
	}
	k, err := s.ownKey(r, c)
	if err != nil {
		return err
	}
	secret, k, err := s.cfg.Keys.RotateKey(r.Context(), k.Tenant, k.ID, grace)
	if err != nil {
		return err
	}
	c.about(k.ID, k.Tenant, "grace "+grace.String())
	writeJSON(w, http.StatusOK, newKey{k, secret})
	return nil
}

// changeKey serves PATCH /v1/keys/{id}.
func (s *Server) changeKey(w http.ResponseWriter, r *http.Request, c caller) error {
	var body keyPatch
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	if body == (keyPatch{}) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "nothing to change: name name, requestsPerSecond or createsPerSecond")
	}
	k, err := s.ownKey(r, c)
	if err != nil {
		return err
	}
	k, err = s.cfg.Keys.ChangeKey(r.Context(), k.Tenant, k.ID, store.KeyChange(body))
	if err != nil {
		return err
	}
	c.about(k.ID, k.Tenant, fmt.Sprintf("%v requests/s, %v creates/s", k.RequestsPerSecond, k.CreatesPerSecond))
	writeJSON(w, http.StatusOK, k)
	return nil
}

// revokeKey serves DELETE /v1/keys/{id}.
func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request, c caller) error {
	k, err := s.ownKey(r, c)
	if err != nil {
		return err
	}
	if err := s.cfg.Keys.RevokeKey(r.Context(), k.Tenant, k.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
