package api

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// recordTime bounds the recording of an act.
const recordTime = 10 * time.Second

// refusedPerSecond is how many acts that failed are recorded of a key without the
// scope admin, so that one that may nothing cannot fill the log.
const refusedPerSecond = 1

// about says what a privileged call is about, for the audit log. The last word
// counts.
func (c caller) about(target, tenant, detail string) {
	if c.act != nil {
		c.act.Target, c.act.TargetTenant, c.act.Detail = target, tenant, detail
	}
}

// acting returns c with an act under way.
func (c caller) acting(r *http.Request, action string) caller {
	source, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		source = r.RemoteAddr
	}
	c.act = &bulkhead.Act{
		Tenant: c.Tenant, Key: c.ID, Action: action, Target: r.PathValue("id") + r.PathValue("name") + r.PathValue("template"),
		Source: source, Request: requestID(r),
	}
	return c
}

// serveAct serves a privileged call: its answer waits until the act is recorded.
func (s *Server) serveAct(w http.ResponseWriter, r *http.Request, c caller, serve endpoint) {
	answer := &held{ResponseWriter: w, status: http.StatusOK}
	err := serve(answer, r, c)
	s.acted(r, c, err)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body) // the client may be gone
}

// held keeps an answer back, but for its header.
type held struct {
	http.ResponseWriter

	status int
	body   []byte
}

// WriteHeader implements [http.ResponseWriter].
func (h *held) WriteHeader(status int) { h.status = status }

// Write implements [http.ResponseWriter].
func (h *held) Write(b []byte) (int, error) {
	h.body = append(h.body, b...)
	return len(b), nil
}

// acted records the act of c, and what came of it, unless c had none under way.
// When that fails the log has it: what was done is done.
func (s *Server) acted(r *http.Request, c caller, err error) {
	if c.act == nil {
		return
	}
	a := *c.act
	a.Outcome = "ok"
	if err != nil {
		a.Outcome = string(bulkhead.CodeOf(err))
		if a.Detail != "" {
			a.Detail += ": "
		}
		a.Detail += bulkhead.Message(err)
	}
	if err != nil && !c.May(store.ScopeAdmin) && !s.refused.Take(c.ID, refusedPerSecond, time.Now()).OK {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), recordTime)
	defer cancel()
	if err := s.cfg.Audit.Record(ctx, a); err != nil {
		s.cfg.Log.ErrorContext(ctx, "an act is not in the audit log", "act", a, "error", err)
	}
}

// auditParams are those of GET /v1/audit.
type auditParams struct {
	tenantQuery

	Action string `query:"action" description:"Only this action, such as key.create."`
	Key    string `query:"key" description:"Only what was done with this key, by its ID."`
	Target string `query:"target" description:"Only what was done to the thing with this ID."`
	From   string `query:"from" format:"date-time" description:"Not before this time."`
	To     string `query:"to" format:"date-time" description:"Not after this time."`
	Limit  int64  `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Before string `query:"before" description:"The ID of the last act of the page before; X-Next-Token has it."`
}

// audit serves GET /v1/audit.
func (s *Server) audit(w http.ResponseWriter, r *http.Request, c caller) error {
	query := r.URL.Query()
	tenant, err := c.choose(query.Get("tenant"))
	if err != nil {
		return err
	}
	limit, err := intQuery(r, "limit", 100, 1, store.MaxActs)
	if err != nil {
		return err
	}
	q := store.ActQuery{
		Tenant: tenant, Action: query.Get("action"), Key: query.Get("key"), Target: query.Get("target"),
		Before: query.Get("before"), Limit: int(limit),
	}
	for name, into := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if text := query.Get(name); text != "" {
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %q; it must be a time such as 2026-01-31T12:00:00Z", name, text)
			}
		}
	}
	acts, err := s.cfg.Audit.Acts(r.Context(), q)
	if err != nil {
		return err
	}
	if len(acts) == int(limit) {
		w.Header().Set("X-Next-Token", acts[len(acts)-1].ID)
	}
	writeJSON(w, http.StatusOK, append([]bulkhead.Act{}, acts...))
	return nil
}
