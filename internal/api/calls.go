package api

import (
	"context"
	"net/http"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/openapi"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply"
)

// call is one of Bulkhead's own calls: what the document says of it, and what
// serves it.
type call struct {
	openapi.Call

	// act, if set, says that the call is privileged: who makes it is recorded in
	// the audit log under this name, whatever comes of it.
	act   string
	serve endpoint
}

// Parameters in paths and queries, for the document.
type (
	idParam struct {
		ID string `path:"id" description:"The ID."`
	}
	nameParam struct {
		Name string `path:"name" description:"The name."`
	}
	templateParam struct {
		Template string `path:"template" description:"The template, by name or ID."`
	}
	forecastParams struct {
		templateParam

		Horizon string `query:"horizon" default:"1h" description:"How far to look ahead, such as 90m."`
	}
	tenantQuery struct {
		Tenant string `query:"tenant" description:"Only this tenant's. A key without the scope admin sees its own tenant's only."`
	}
)

// ownCalls is the one list of Bulkhead's own calls: all of it is served, all of it
// is in the document.
func (s *Server) ownCalls() []call {
	const run, manage, admin = store.ScopeRun, store.ScopeManage, store.ScopeAdmin
	type doc = openapi.Call
	calls := []call{
		{doc{
			Pattern: "POST /v1/sandboxes", Scope: run, Summary: "Create a sandbox", Status: http.StatusCreated,
			Body: ownRequest{}, Answer: ownSandbox{}, Detail: "Returns once it runs and its record is durable.",
		}, "", s.ownCreate},
		{doc{
			Pattern: "GET /v1/sandboxes", Scope: run, Summary: "List sandboxes, the newest first", Answer: []bulkhead.Sandbox{},
			Params: listQuery{}, Detail: "X-Next-Token, if there are more, is the nextToken of the next page.",
		}, "", s.ownList},
		{doc{
			Pattern: "GET /v1/sandboxes/{id}", Scope: run, Summary: "How a sandbox is, or how and why it ended",
			Params: idParam{}, Answer: ownSandbox{},
		}, "", s.ownGet},
		{doc{
			Pattern: "PATCH /v1/sandboxes/{id}/resources", Scope: run, Summary: "Change a running sandbox's limits", Params: idParam{},
			Body: wantedLimits{}, Answer: bulkhead.Allocation{}, Detail: "Fields that are left out stay; 0 is none of them.",
		}, "", s.resize},
		{doc{Pattern: "GET /v1/quota", Scope: run, Summary: "What a tenant may use, and does", Params: tenantQuery{}, Answer: quotaAnswer{}}, "", s.quota},
		{doc{Pattern: "POST /v1/quota/whatif", Scope: run, Summary: "Would more sandboxes fit, and what is in the way", Body: whatIfRequest{}, Answer: bulkhead.WhatIf{}}, "", s.whatIf},
		{doc{Pattern: "GET /v1/templates", Scope: run, Summary: "List templates", Answer: []bulkhead.Template{}}, "", s.ownTemplates},

		{doc{
			Pattern: "POST /v1/keys", Scope: manage, Summary: "Make an API key", Status: http.StatusCreated,
			Body: keyRequest{}, Answer: newKey{}, Detail: "The secret is in this answer and nowhere else.",
		}, "key.create", s.createKey},
		{doc{Pattern: "GET /v1/keys", Scope: manage, Summary: "List API keys", Params: tenantQuery{}, Answer: []store.Key{}}, "", s.listKeys},
		{doc{
			Pattern: "POST /v1/keys/{id}/rotate", Scope: manage, Summary: "Give an API key a new secret", Params: idParam{},
			Body: rotateRequest{}, Answer: newKey{}, Detail: "The secret that it replaces is good for the time of grace.",
		}, "key.rotate", s.rotateKey},
		{doc{
			Pattern: "PATCH /v1/keys/{id}", Scope: manage, Summary: "Change an API key's name or rates", Params: idParam{},
			Body: keyPatch{}, Answer: store.Key{}, Detail: "What is left out stays; a rate of 0 is unlimited. It holds for the next request.",
		}, "key.update", s.changeKey},
		{doc{Pattern: "DELETE /v1/keys/{id}", Scope: manage, Summary: "Revoke an API key", Params: idParam{}}, "key.revoke", s.revokeKey},

		{doc{Pattern: "POST /v1/tenants", Scope: admin, Summary: "Make a tenant", Status: http.StatusCreated, Body: tenantRequest{}, Answer: bulkhead.Tenant{}}, "tenant.create", s.createTenant},
		{doc{Pattern: "GET /v1/tenants", Scope: admin, Summary: "List tenants", Answer: []bulkhead.Tenant{}}, "", s.listTenants},
		{doc{Pattern: "GET /v1/tenants/{id}", Scope: manage, Summary: "A tenant, with the quota that it has", Params: idParam{}, Answer: tenantView{}}, "", s.getTenant},
		{doc{
			Pattern: "PATCH /v1/tenants/{id}", Scope: admin, Summary: "Change a tenant's name, tier or overrides", Params: idParam{},
			Body: tenantPatch{}, Answer: bulkhead.Tenant{}, Detail: "What is left out stays; an override of 0 goes, so that the tier's holds.",
		}, "tenant.update", s.updateTenant},
		{doc{
			Pattern: "DELETE /v1/tenants/{id}", Scope: admin, Summary: "Remove a tenant and revoke its keys", Params: deleteTenantParams{},
			Detail: "Refused while it has live sandboxes, unless force is true: then they are ended.",
		}, "tenant.delete", s.deleteTenant},

		{doc{Pattern: "GET /v1/tiers", Scope: manage, Summary: "List tiers", Answer: []bulkhead.Tier{}}, "", s.listTiers},
		{doc{Pattern: "GET /v1/tiers/{name}", Scope: manage, Summary: "A tier", Params: nameParam{}, Answer: bulkhead.Tier{}}, "", s.getTier},
		{doc{
			Pattern: "PUT /v1/tiers/{name}", Scope: admin, Summary: "Make or change a tier", Params: nameParam{}, Body: tierRequest{}, Answer: bulkhead.Tier{},
			Detail: "It holds at once for all of the tier's tenants. A field of the quota that is left out is unlimited.",
		}, "tier.put", s.putTier},
		{doc{Pattern: "DELETE /v1/tiers/{name}", Scope: admin, Summary: "Remove a tier that no tenant has", Params: nameParam{}}, "tier.delete", s.deleteTier},

		{doc{
			Pattern: "GET /v1/usage", Scope: manage, Summary: "What was used, and what it costs", Params: usageParams{}, Answer: usageAnswer{},
			Formats: []string{csvType}, Detail: "Measured up to the last sample. As CSV with format=csv or Accept: text/csv.",
		}, "", s.usage},
		{doc{
			Pattern: "GET /v1/audit", Scope: manage, Summary: "Who did what, the newest first", Params: auditParams{}, Answer: []bulkhead.Act{},
			Detail: "A key without the scope admin sees what its own tenant did and what was done to it.",
		}, "", s.audit},
		{doc{Pattern: "GET /v1/openapi.json", Summary: "This document", Answer: map[string]any{}, NoKey: true}, "", nil},
	}
	if s.cfg.Pools != nil {
		calls = append(calls,
			call{doc{Pattern: "GET /v1/pools", Scope: admin, Summary: "The pools of boxes, and why they are as they are", Answer: supply.Report{}}, "", s.listPools},
			call{doc{
				Pattern: "PATCH /v1/pools/{template}", Scope: admin, Summary: "Pin the size of a pool, or let the forecast decide", Params: templateParam{},
				Body: struct {
					Pin *poolPin `json:"pin" description:"null lets the forecast decide."`
				}{}, Answer: supply.Status{},
			}, "pool.pin", s.patchPool},
			call{doc{
				Pattern: "GET /v1/pools/{template}/forecast", Scope: admin, Summary: "A forecast of the requests for a template", Params: forecastParams{}, Answer: supply.Prediction{},
			}, "", s.predictPool})
	}
	for _, m := range s.cfg.Mounts {
		for _, c := range m.Calls {
			calls = append(calls, call{Call: c, serve: func(w http.ResponseWriter, r *http.Request, c caller) error {
				m.Handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenantKey{}, c.Tenant)))
				return nil
			}})
		}
	}
	return calls
}

// Mount is a part of the API that another package serves: it gets the requests of
// its calls, with their scope checked. [TenantOf] tells it for whom.
type Mount struct {
	// Calls are its calls, each below /v1/.
	Calls []openapi.Call
	// Handler answers them.
	Handler http.Handler
}

// info is what the document says of the whole API.
func (s *Server) info() openapi.Info {
	return openapi.Info{
		Title: "Bulkhead", Version: "1", Error: errorBody{}, Strip: []string{"Bulkhead", "Api", "Store"},
		Description: "Bulkhead's own calls. E2B's calls, which the same server answers, are described by E2B.",
		Scopes: map[string]string{
			store.ScopeRun:    "use the tenant's sandboxes and scripts.",
			store.ScopeManage: "the tenant's own keys, limits and usage.",
			store.ScopeAdmin:  "everything of all tenants.",
		},
	}
}

// serveOwn registers Bulkhead's own calls and the document of them.
func (s *Server) serveOwn() error {
	calls := s.ownCalls()
	docs := make([]openapi.Call, len(calls))
	for i, c := range calls {
		docs[i] = c.Call
	}
	document, err := openapi.Document(s.info(), docs)
	if err != nil {
		return err //nolint:wrapcheck // names the call
	}
	for _, c := range calls {
		if c.serve == nil {
			s.mux.HandleFunc(c.Pattern, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(document) // the client may be gone
			})
			continue
		}
		s.handleCall(c)
	}
	return nil
}
