package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
)

// tenantRequest is the body of POST /v1/tenants.
type tenantRequest struct {
	ID    string         `json:"id" required:"true" maxLength:"128" description:"Letters, digits, '.', '_', '@' and '-'; it cannot be changed."`
	Name  string         `json:"name" maxLength:"128" description:"For people."`
	Tier  string         `json:"tier" default:"basic" description:"The name of a tier."`
	Quota bulkhead.Quota `json:"quota" description:"Overrides of single fields of the tier's quota."`
}

// tenantPatch is the body of PATCH /v1/tenants/{id}.
type tenantPatch struct {
	Name  *string         `json:"name"`
	Tier  *string         `json:"tier"`
	Quota *bulkhead.Quota `json:"quota" description:"Fields that are given replace those of the overrides; 0 removes one."`
}

// tierRequest is the body of PUT /v1/tiers/{name}.
type tierRequest struct {
	Multiplier float64        `json:"multiplier" minimum:"0.1" maximum:"10" description:"Scales the CPU and memory that a sandbox asks for."`
	Priority   int            `json:"priority" minimum:"1" maximum:"100" description:"Higher is served first when claims wait."`
	Quota      bulkhead.Quota `json:"quota"`
}

// tenantView is a tenant with what holds for it: its overrides over its tier's.
type tenantView struct {
	bulkhead.Tenant

	Effective bulkhead.Quota `json:"effective"`
}

// deleteTenantParams are those of DELETE /v1/tenants/{id}.
type deleteTenantParams struct {
	idParam

	Force bool `query:"force" description:"End the tenant's live sandboxes."`
}

// defaultTier is that of a tenant for which none is named.
const defaultTier = "basic"

// createTenant serves POST /v1/tenants.
func (s *Server) createTenant(w http.ResponseWriter, r *http.Request, c caller) error {
	body := tenantRequest{Tier: defaultTier}
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	c.about(body.ID, body.ID, "tier "+body.Tier)
	t, err := s.cfg.Tenants.CreateTenant(r.Context(), bulkhead.Tenant{ID: body.ID, Name: body.Name, Tier: body.Tier, Quota: body.Quota})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, t)
	return nil
}

// listTenants serves GET /v1/tenants.
func (s *Server) listTenants(w http.ResponseWriter, r *http.Request, _ caller) error {
	all, err := s.cfg.Tenants.Tenants(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append([]bulkhead.Tenant{}, all...))
	return nil
}

// getTenant serves GET /v1/tenants/{id}.
func (s *Server) getTenant(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := c.choose(r.PathValue("id"))
	if err != nil {
		return err
	}
	t, err := s.cfg.Tenants.Tenant(r.Context(), id)
	if err != nil {
		return err
	}
	tier, err := s.cfg.Tiers.Tier(r.Context(), t.Tier)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, tenantView{t, t.Quota.Or(tier.Quota)})
	return nil
}

// updateTenant serves PATCH /v1/tenants/{id}.
func (s *Server) updateTenant(w http.ResponseWriter, r *http.Request, c caller) error {
	id := r.PathValue("id")
	var body struct {
		Name  *string         `json:"name"`
		Tier  *string         `json:"tier"`
		Quota json.RawMessage `json:"quota"`
	}
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	if string(body.Quota) == "null" { // as if it were left out, like the others
		body.Quota = nil
	}
	detail, _ := json.Marshal(body) // strings and JSON that was decoded
	c.about(id, id, string(detail))
	if body.Name == nil && body.Tier == nil && body.Quota == nil {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "nothing is to be changed; give name, tier or quota")
	}
	t, err := s.cfg.Tenants.UpdateTenant(r.Context(), id, func(t *bulkhead.Tenant) error {
		if body.Name != nil {
			t.Name = *body.Name
		}
		if body.Tier != nil {
			t.Tier = *body.Tier
		}
		if body.Quota == nil {
			return nil
		}
		return jsonbody.Part("quota", body.Quota, &t.Quota) // into what is there: the rest stays
	})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, t)
	return nil
}

// deleteTenant serves DELETE /v1/tenants/{id}.
func (s *Server) deleteTenant(w http.ResponseWriter, r *http.Request, c caller) error {
	id := r.PathValue("id")
	text, err := oneOf(r, "force", "false", "true")
	if err != nil {
		return err
	}
	force := text == "true"
	detail := ""
	if force {
		detail = "forced"
	}
	c.about(id, id, detail)
	if id == c.Tenant {
		return bulkhead.Errorf(bulkhead.CodeConflict, "tenant %q is that of the key that asks; use another tenant's", id)
	}
	if err := s.cfg.Tenants.DeleteTenant(r.Context(), id, force); err != nil {
		return err
	}
	if err := s.endAll(context.WithoutCancel(r.Context()), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// endAll ends the live sandboxes of a tenant of which no new ones can come.
func (s *Server) endAll(ctx context.Context, tenant string) error {
	live, err := s.cfg.Lookup.List(ctx, bulkhead.Filter{Tenant: tenant, States: []bulkhead.State{bulkhead.StateStarting, bulkhead.StateRunning}})
	if err != nil {
		return err
	}
	var errs []error
	for _, sb := range live {
		if err := s.cfg.Lifecycle.Kill(ctx, tenant, sb.ID); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listTiers serves GET /v1/tiers.
func (s *Server) listTiers(w http.ResponseWriter, r *http.Request, _ caller) error {
	all, err := s.cfg.Tiers.Tiers(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append([]bulkhead.Tier{}, all...))
	return nil
}

// getTier serves GET /v1/tiers/{name}.
func (s *Server) getTier(w http.ResponseWriter, r *http.Request, _ caller) error {
	t, err := s.cfg.Tiers.Tier(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, t)
	return nil
}

// putTier serves PUT /v1/tiers/{name}.
func (s *Server) putTier(w http.ResponseWriter, r *http.Request, c caller) error {
	var body tierRequest
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	t := bulkhead.Tier{Name: r.PathValue("name"), Multiplier: body.Multiplier, Priority: body.Priority, Quota: body.Quota}
	detail, _ := json.Marshal(body) // it was decoded
	c.about(t.Name, "", string(detail))
	if err := s.cfg.Tiers.PutTier(r.Context(), t); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, t)
	return nil
}

// deleteTier serves DELETE /v1/tiers/{name}.
func (s *Server) deleteTier(w http.ResponseWriter, r *http.Request, c caller) error {
	name := r.PathValue("name")
	c.about(name, "", "")
	if err := s.cfg.Tiers.DeleteTier(r.Context(), name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
