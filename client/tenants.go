package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/bulkheadhq/bulkhead"
)

// Tenant is a tenant with the quota that holds for it.
type Tenant struct {
	bulkhead.Tenant

	// Effective is the tier's quota under the tenant's overrides. Only
	// [Client.Tenant] fills it.
	Effective bulkhead.Quota `json:"effective,omitzero"`
}

// TenantPatch changes a tenant. What is nil stays.
type TenantPatch struct {
	Name *string `json:"name,omitempty"`
	Tier *string `json:"tier,omitempty"`
	// Quota has the overrides to change, under their names in JSON; 0 removes one.
	Quota map[string]any `json:"quota,omitempty"`
}

// Tenants returns all tenants. It needs a key with the scope admin, as all that
// follows does.
func (c *Client) Tenants(ctx context.Context) ([]bulkhead.Tenant, error) {
	var out []bulkhead.Tenant
	_, err := c.call(ctx, request{op: "list tenants", method: http.MethodGet, path: "/v1/tenants"}, &out)
	return out, err
}

// Tenant returns one tenant; a key with the scope manage may ask for its own.
func (c *Client) Tenant(ctx context.Context, id string) (Tenant, error) {
	var out Tenant
	_, err := c.call(ctx, request{op: "get tenant", method: http.MethodGet, path: "/v1/tenants/" + url.PathEscape(id)}, &out)
	return out, err
}

// CreateTenant makes a tenant. Codes: CodeInvalid, CodeConflict for an ID that is
// taken.
func (c *Client) CreateTenant(ctx context.Context, t bulkhead.Tenant) (bulkhead.Tenant, error) {
	body := struct {
		ID    string         `json:"id"`
		Name  string         `json:"name,omitempty"`
		Tier  string         `json:"tier,omitempty"`
		Quota bulkhead.Quota `json:"quota,omitzero"`
	}{t.ID, t.Name, t.Tier, t.Quota}
	_, err := c.call(ctx, request{op: "create tenant", method: http.MethodPost, path: "/v1/tenants", body: body}, &t)
	return t, err
}

// UpdateTenant changes a tenant and returns it as it is then.
func (c *Client) UpdateTenant(ctx context.Context, id string, p TenantPatch) (bulkhead.Tenant, error) {
	var out bulkhead.Tenant
	_, err := c.call(ctx, request{op: "update tenant", method: http.MethodPatch, path: "/v1/tenants/" + url.PathEscape(id), body: p}, &out)
	return out, err
}

// DeleteTenant removes a tenant and revokes its keys. It is CodeConflict while the
// tenant has live sandboxes, unless force is set: then they are ended.
func (c *Client) DeleteTenant(ctx context.Context, id string, force bool) error {
	r := request{op: "delete tenant", method: http.MethodDelete, path: "/v1/tenants/" + url.PathEscape(id)}
	if force {
		r.query = only("force", "true")
	}
	_, err := c.call(ctx, r, nil)
	return err
}

// Tiers returns all tiers; a key with the scope manage may ask.
func (c *Client) Tiers(ctx context.Context) ([]bulkhead.Tier, error) {
	var out []bulkhead.Tier
	_, err := c.call(ctx, request{op: "list tiers", method: http.MethodGet, path: "/v1/tiers"}, &out)
	return out, err
}

// Tier returns a tier; a key with the scope manage may ask.
func (c *Client) Tier(ctx context.Context, name string) (bulkhead.Tier, error) {
	var out bulkhead.Tier
	_, err := c.call(ctx, request{op: "get tier", method: http.MethodGet, path: "/v1/tiers/" + url.PathEscape(name)}, &out)
	return out, err
}

// PutTier makes a tier, or replaces it for all of its tenants.
func (c *Client) PutTier(ctx context.Context, t bulkhead.Tier) (bulkhead.Tier, error) {
	body := struct {
		Multiplier float64        `json:"multiplier"`
		Priority   int            `json:"priority"`
		Quota      bulkhead.Quota `json:"quota"`
	}{t.Multiplier, t.Priority, t.Quota}
	_, err := c.call(ctx, request{op: "put tier", method: http.MethodPut, path: "/v1/tiers/" + url.PathEscape(t.Name), body: body}, &t)
	return t, err
}

// DeleteTier removes a tier that no tenant has.
func (c *Client) DeleteTier(ctx context.Context, name string) error {
	_, err := c.call(ctx, request{op: "delete tier", method: http.MethodDelete, path: "/v1/tiers/" + url.PathEscape(name)}, nil)
	return err
}
