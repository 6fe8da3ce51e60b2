package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// Quotas says what tenants may use, and changes what their sandboxes may.
type Quotas interface {
	// Quota returns what the tenant may use, and does. Code: not_found.
	Quota(ctx context.Context, tenant string) (bulkhead.QuotaState, error)
	// WhatIf says whether count more sandboxes like this would fit. Codes:
	// not_found, invalid.
	WhatIf(ctx context.Context, req bulkhead.CreateRequest, count int) (bulkhead.WhatIf, error)
	// Resize changes limits of a running sandbox. An empty tenant means any.
	Resize(ctx context.Context, tenant, id string, l bulkhead.Limits) (bulkhead.Sandbox, error)
}

const (
	// maxWait bounds how long a request may wait for a place, in seconds.
	maxWait = 300
	// priorityHeader and waitHeader say in E2B's calls, whose bodies are E2B's, what
	// priority and waitSeconds say in our own.
	priorityHeader = "Bulkhead-Priority"
	waitHeader     = "Bulkhead-Wait-Seconds"
)

// queueing reads what a request says of its place among those that wait.
func queueing(req *bulkhead.CreateRequest, priority bulkhead.Priority, seconds *float64) error {
	if err := priority.Validate(); err != nil {
		return err //nolint:wrapcheck // it names the field
	}
	req.Priority = priority
	if seconds == nil {
		return nil
	}
	if !(*seconds >= 0 && *seconds <= maxWait) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "waitSeconds is %v; it must be between 0 and %d", *seconds, maxWait)
	}
	req.Wait = time.Duration(*seconds * float64(time.Second))
	if req.Wait == 0 {
		req.Wait = -1 // not the default: none at all
	}
	return nil
}

// queueingHeaders is queueing for calls whose bodies are not ours.
func queueingHeaders(req *bulkhead.CreateRequest, h http.Header) error {
	var seconds *float64
	if text := h.Get(waitHeader); text != "" {
		s, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "the header %s is %.40q; it must be a number of seconds between 0 and %d", waitHeader, text, maxWait)
		}
		seconds = &s
	}
	return queueing(req, bulkhead.Priority(h.Get(priorityHeader)), seconds)
}

// quotaAnswer is the body of GET /v1/quota. Host is for operators.
type quotaAnswer struct {
	bulkhead.QuotaState
	Host *bulkhead.HostState `json:"host,omitempty"`
}

// quota serves GET /v1/quota: what the caller's tenant may use, and does. A key
// with the scope admin may name another tenant, and sees the host's side.
func (s *Server) quota(w http.ResponseWriter, r *http.Request, c caller) error {
	tenant, err := tenantOf(c, r.URL.Query().Get("tenant"))
	if err != nil {
		return err
	}
	state, err := s.cfg.Quotas.Quota(r.Context(), tenant)
	if err != nil {
		return err
	}
	out := quotaAnswer{QuotaState: state}
	if c.May(store.ScopeAdmin) && s.cfg.Host != nil {
		h := s.cfg.Host()
		out.Host = &h
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// tenantOf is the tenant that a request is about: the caller's own, or the one that
// an operator names.
func tenantOf(c caller, named string) (string, error) {
	if named == "" || named == c.Tenant {
		return c.Tenant, nil
	}
	if !c.May(store.ScopeAdmin) {
		return "", bulkhead.Errorf(bulkhead.CodeForbidden, "tenant is %.128q; only a key with the scope %q may ask about others", named, store.ScopeAdmin)
	}
	return named, nil
}

// whatIfRequest is the body of POST /v1/quota/whatif.
type whatIfRequest struct {
	Template string            `json:"template"`
	Limits   wantedLimits      `json:"limits"`
	Priority bulkhead.Priority `json:"priority"`
	Count    *int              `json:"count"`  // 1 unless given
	Tenant   string            `json:"tenant"` // the caller's own unless given
}

// whatIf serves POST /v1/quota/whatif: would so many more fit, and what is in the
// way. It changes nothing.
func (s *Server) whatIf(w http.ResponseWriter, r *http.Request, c caller) error {
	var body whatIfRequest
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	if body.Template == "" {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "template is missing")
	}
	tenant, err := tenantOf(c, body.Tenant)
	if err != nil {
		return err
	}
	if err := body.Priority.Validate(); err != nil {
		return err
	}
	count := 1
	if body.Count != nil {
		count = *body.Count
	}
	answer, err := s.cfg.Quotas.WhatIf(r.Context(), bulkhead.CreateRequest{
		Tenant: tenant, Template: body.Template, Limits: body.Limits.Limits, Priority: body.Priority, TTL: time.Second,
	}, count)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// resize serves PATCH /v1/sandboxes/{id}/resources: fields that are not named stay.
// A key with the scope admin may change any tenant's, of which another's is recorded.
func (s *Server) resize(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	var body wantedLimits
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	if !c.May(store.ScopeAdmin) {
		return s.resizeOf(w, r, c.Tenant, id, body.Limits)
	}
	of, err := s.cfg.Lookup.Get(r.Context(), "", id)
	if err != nil {
		return err
	}
	if of.Tenant == c.Tenant {
		return s.resizeOf(w, r, of.Tenant, id, body.Limits)
	}
	c = c.acting(r, "sandbox.resize")
	asked, _ := json.Marshal(body.Limits) // numbers
	c.about(id, of.Tenant, string(asked))
	s.serveAct(w, r, c, func(w http.ResponseWriter, r *http.Request, _ caller) error {
		return s.resizeOf(w, r, of.Tenant, id, body.Limits)
	})
	return nil
}

func (s *Server) resizeOf(w http.ResponseWriter, r *http.Request, tenant, id string, l bulkhead.Limits) error {
	sb, err := s.cfg.Quotas.Resize(r.Context(), tenant, id, l)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, sb.Allocation)
	return nil
}
