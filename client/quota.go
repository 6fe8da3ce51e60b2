package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/bulkheadhq/bulkhead"
)

// Quota is what a tenant may use, and does.
type Quota struct {
	bulkhead.QuotaState
	// Host is what the server's host promises; nil unless the key is an operator's.
	Host *bulkhead.HostState `json:"host,omitempty"`
}

// Quota returns what a tenant may use, and does. An empty tenant is the caller's
// own; another one needs a key with the scope admin.
func (c *Client) Quota(ctx context.Context, tenant string) (Quota, error) {
	var q Quota
	path := "/v1/quota"
	if tenant != "" {
		path += "?" + url.Values{"tenant": {tenant}}.Encode()
	}
	_, err := c.call(ctx, request{op: "get quota", method: http.MethodGet, path: path}, &q)
	return q, err
}

// wireWhatIf asks whether more sandboxes would fit.
type wireWhatIf struct {
	Template string            `json:"template"`
	Limits   bulkhead.Limits   `json:"limits,omitzero"`
	Priority bulkhead.Priority `json:"priority,omitempty"`
	Count    int               `json:"count"`
	Tenant   string            `json:"tenant,omitempty"`
}

// WhatIf says whether count more sandboxes like this would fit now, and what is in
// the way. Of the request its Template, Limits, Priority and Tenant count; a tenant
// other than the caller's own needs a key with the scope admin.
func (c *Client) WhatIf(ctx context.Context, req bulkhead.CreateRequest, count int) (bulkhead.WhatIf, error) {
	var out bulkhead.WhatIf
	body := wireWhatIf{Template: req.Template, Limits: req.Limits, Priority: req.Priority, Count: count, Tenant: req.Tenant}
	_, err := c.call(ctx, request{op: "ask what if", method: http.MethodPost, path: "/v1/quota/whatif", body: body}, &out)
	return out, err
}

// Resize changes CPU, memory, processes or bandwidth of a running sandbox, up or
// down; zero fields stay. Memory does not go below what is in use. It returns when
// the change is in force. CodeConflict for memory that is in use,
// CodeQuotaExceeded and CodeUnavailable when there is no room for more.
func (c *Client) Resize(ctx context.Context, id string, l bulkhead.Limits) (bulkhead.Allocation, error) {
	const op = "resize sandbox"
	var out bulkhead.Allocation
	if err := checkID(op, id); err != nil {
		return out, err
	}
	_, err := c.call(ctx, request{op: op, method: http.MethodPatch, path: "/v1/sandboxes/" + id + "/resources", body: l}, &out)
	return out, err
}
