package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// defaultTTL is the time to live of a sandbox made by POST /v1/sandboxes, in
// seconds, when the client names none.
const defaultTTL = 300

// ownRequest is the body of POST /v1/sandboxes.
type ownRequest struct {
	Template       string            `json:"template"`
	TimeoutSeconds *int64            `json:"timeoutSeconds"`
	Limits         wantedLimits      `json:"limits"`
	Metadata       map[string]string `json:"metadata"`
	Env            map[string]string `json:"env"`
	Secure         *bool             `json:"secure"`         // true unless false
	PrivateTraffic bool              `json:"privateTraffic"` // needs secure
	AllowInternet  *bool             `json:"allowInternet"`  // true unless false
	Network        bulkhead.Network  `json:"network"`
	MaskHost       string            `json:"maskHost"`
	Priority       bulkhead.Priority `json:"priority"`
	WaitSeconds    *float64          `json:"waitSeconds"` // for a place; the server's default unless given
}

// listQuery are the parameters of GET /v1/sandboxes.
type listQuery struct {
	State        string `query:"state" default:"running" description:"running, ending or ended; several are separated by commas."`
	Template     string `query:"template" description:"Only those of this template, by name or ID."`
	Metadata     string `query:"metadata" description:"Only those with all of these pairs: key=value joined with &, percent-encoded."`
	StartedAfter string `query:"startedAfter" format:"date-time" description:"Only those that started at this time or later."`
	Limit        int64  `query:"limit" minimum:"1" maximum:"100" default:"100"`
	NextToken    string `query:"nextToken" description:"X-Next-Token of the page before."`
}

// ownSandbox is a sandbox as its owner sees it.
type ownSandbox struct {
	bulkhead.Sandbox
	EnvdToken    string `json:"envdToken,omitempty"`
	TrafficToken string `json:"trafficToken,omitempty"`
	Domain       string `json:"domain,omitempty"`
}

func (s *Server) own(sb bulkhead.Sandbox) ownSandbox {
	out := ownSandbox{Sandbox: sb, Domain: s.cfg.Domain}
	if sb.State != bulkhead.StateEnded {
		out.EnvdToken, out.TrafficToken = sb.EnvdToken, sb.TrafficToken
	}
	return out
}

// ownCreate serves POST /v1/sandboxes.
func (s *Server) ownCreate(w http.ResponseWriter, r *http.Request, c caller) error {
	var body ownRequest
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	if body.Template == "" {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "template is missing")
	}
	seconds := int64(defaultTTL)
	if body.TimeoutSeconds != nil {
		seconds = *body.TimeoutSeconds
	}
	ttl, err := s.ttl("timeoutSeconds", seconds)
	if err != nil {
		return err
	}
	for _, check := range []error{
		checkMetadata(body.Metadata), checkEnv("env", body.Env), checkMask("maskHost", body.MaskHost),
	} {
		if check != nil {
			return check
		}
	}
	internet, outbound, err := network{networkFields: networkFields{
		AllowOut: body.Network.AllowOut, DenyOut: body.Network.DenyOut,
	}}.outbound(body.AllowInternet)
	if err != nil {
		return err
	}
	secure := body.Secure == nil || *body.Secure
	if body.PrivateTraffic && !secure {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "privateTraffic is true, which needs secure to be true")
	}
	req := bulkhead.CreateRequest{
		Tenant: c.Tenant, Template: body.Template, TTL: ttl, Limits: body.Limits.Limits, Metadata: body.Metadata,
		Env: body.Env, Secure: secure, PrivateTraffic: body.PrivateTraffic,
		AllowInternet: internet, Network: outbound, MaskHost: body.MaskHost,
	}
	if err := queueing(&req, body.Priority, body.WaitSeconds); err != nil {
		return err
	}
	sb, err := s.cfg.Lifecycle.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return s.hand(w, r, sb, s.own(sb))
}

// ownGet serves GET /v1/sandboxes/{id}: how it is, or how and why it ended. A key
// with the scope admin may ask about any tenant's.
func (s *Server) ownGet(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	tenant := c.Tenant
	if c.May(store.ScopeAdmin) {
		tenant = ""
	}
	sb, err := s.cfg.Lookup.Get(r.Context(), tenant, id)
	if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
		sb, err = s.cfg.History.Sandbox(r.Context(), tenant, id)
	}
	if err != nil {
		return err
	}
	out := s.own(sb)
	if sb.Tenant != c.Tenant { // an operator is told why, not given the means
		out.EnvdToken, out.TrafficToken, out.Env = "", "", nil
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// ownList serves GET /v1/sandboxes, page by page, newest first: those in the
// states that the query names, running ones unless it names any.
func (s *Server) ownList(w http.ResponseWriter, r *http.Request, c caller) error {
	limit, err := intQuery(r, "limit", pageSize, 1, pageSize)
	if err != nil {
		return err
	}
	after, err := parseCursor(r.URL.Query().Get("nextToken"), false)
	if err != nil {
		return err
	}
	live, ended, err := ownStates(r.URL.Query()["state"])
	if err != nil {
		return err
	}
	f, err := filter(r, c)
	if err != nil {
		return err
	}
	var found []bulkhead.Sandbox
	if len(live) > 0 {
		f.States = live
		if found, err = s.cfg.Lookup.List(r.Context(), f); err != nil {
			return err
		}
	}
	if ended {
		latest := time.Time{}
		if after != nil {
			latest = after.startedAt
		}
		// One more than fits tells that there is a next page; another one may be
		// the last of the page before.
		past, err := s.cfg.History.Ended(r.Context(), f, latest, int(limit)+2)
		if err != nil {
			return err
		}
		found = append(found, past...)
	}
	sortByStart(found, false)
	out := make([]bulkhead.Sandbox, 0, min(int(limit), len(found)))
	for _, sb := range found {
		at := position{sb.StartedAt, sb.ID}
		switch {
		case after != nil && compare(at, *after, false) <= 0:
			continue
		case len(out) > 0 && out[len(out)-1].ID == sb.ID: // it ended between the two look-ups
			out[len(out)-1] = sb
			continue
		}
		if len(out) == int(limit) {
			last := out[len(out)-1]
			w.Header().Set("X-Next-Token", formatCursor(position{last.StartedAt, last.ID}, false))
			break
		}
		out = append(out, sb)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// ownStates reads a state filter, comma separated or repeated: the live states
// that it names, and whether it names the ended one.
func ownStates(states []string) (live []bulkhead.State, ended bool, err error) {
	if len(states) == 0 {
		return []bulkhead.State{bulkhead.StateRunning}, false, nil
	}
	for state := range strings.SplitSeq(strings.Join(states, ","), ",") {
		switch st := bulkhead.State(state); st {
		case bulkhead.StateRunning, bulkhead.StateEnding:
			live = append(live, st)
		case bulkhead.StateEnded:
			ended = true
		default:
			return nil, false, bulkhead.Errorf(bulkhead.CodeInvalid, "state is %q; it must be running, ending or ended", state)
		}
	}
	return live, ended, nil
}

// ownTemplates serves GET /v1/templates.
func (s *Server) ownTemplates(w http.ResponseWriter, r *http.Request, _ caller) error {
	all, err := s.sortedTemplates(r)
	if err != nil {
		return err
	}
	if all == nil {
		all = []bulkhead.Template{}
	}
	writeJSON(w, http.StatusOK, all)
	return nil
}
