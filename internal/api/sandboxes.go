package api

import (
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
)

const (
	// defaultRefresh is how far POST …/refreshes extends a life unless told, in seconds.
	defaultRefresh = 15
	// defaultConnect is the same for connect, in seconds.
	defaultConnect = 300
)

// idPattern is a sandbox id. E2B's first SDKs append "-" and the client id.
var idPattern = regexp.MustCompile(`^([a-z0-9]{1,64})(?:-[A-Za-z0-9]*)?$`)

// sandboxID returns the sandbox that the path names.
func sandboxID(r *http.Request) (string, error) {
	m := idPattern.FindStringSubmatch(r.PathValue("id"))
	if m == nil {
		return "", notFound(r.PathValue("id"))
	}
	return m[1], nil
}

func notFound(id string) error {
	if len(id) > 80 {
		id = id[:80] + "…"
	}
	return bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q was not found", id)
}

// timeoutBody is the body of the calls that move a sandbox's end.
type timeoutBody struct {
	Timeout   *int64 `json:"timeout"`
	Duration  *int64 `json:"duration"`
	Memory    *bool  `json:"memory"`
	AutoPause bool   `json:"autoPause"`
}

// refuse names what asks for pausing.
func (b timeoutBody) refuse() error {
	switch {
	case b.Memory != nil && !*b.Memory:
		return missing("memory is false", "restarts from disk")
	case b.AutoPause:
		return missing("autoPause is set", "pausing sandboxes")
	default:
		return nil
	}
}

// connectV1 serves POST /sandboxes/{id}/connect, whose timeout is required.
func (s *Server) connectV1(w http.ResponseWriter, r *http.Request, c caller) error {
	var body timeoutBody
	if err := jsonbody.Decode(r, &body, false, false); err != nil {
		return err
	}
	if body.Timeout == nil {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "timeout is missing")
	}
	return s.connect(w, r, c, body)
}

// connectV2 serves POST /v2/sandboxes/{id}/connect, whose body may be absent.
func (s *Server) connectV2(w http.ResponseWriter, r *http.Request, c caller) error {
	var body timeoutBody
	if err := jsonbody.Decode(r, &body, true, false); err != nil {
		return err
	}
	return s.connect(w, r, c, body)
}

// connect extends the life of a running sandbox and returns what is needed to
// talk to it.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, c caller, body timeoutBody) error {
	sb, err := s.extend(r, c, body, defaultConnect)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.wire(sb))
	return nil
}

// resume serves POST /sandboxes/{id}/resume of the 1.x SDKs. Nothing is ever
// paused here, so a sandbox that is there is running, which E2B calls a conflict.
func (s *Server) resume(w http.ResponseWriter, r *http.Request, c caller) error {
	var body timeoutBody
	if err := jsonbody.Decode(r, &body, true, false); err != nil {
		return err
	}
	if err := body.refuse(); err != nil {
		return err
	}
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	if _, err := s.visible(r, c, id); err != nil {
		return err
	}
	return bulkhead.Errorf(bulkhead.CodeConflict, "sandbox %q is running; there is nothing to resume", id)
}

// extend moves the end of the sandbox's life to later, if that is later.
func (s *Server) extend(r *http.Request, c caller, body timeoutBody, seconds int64) (bulkhead.Sandbox, error) {
	id, err := sandboxID(r)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	if err := body.refuse(); err != nil {
		return bulkhead.Sandbox{}, err
	}
	for _, given := range []*int64{body.Timeout, body.Duration} {
		if given != nil {
			seconds = *given
		}
	}
	ttl, err := s.ttl("timeout", seconds)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	return s.cfg.Lifecycle.SetDeadline(r.Context(), c.Tenant, id, s.cfg.Now().Add(ttl), true)
}

// refresh serves POST /sandboxes/{id}/refreshes, the keep-alive of the first SDKs.
func (s *Server) refresh(w http.ResponseWriter, r *http.Request, c caller) error {
	var body timeoutBody
	if err := jsonbody.Decode(r, &body, true, false); err != nil {
		return err
	}
	if _, err := s.extend(r, c, body, defaultRefresh); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// setTimeout serves POST /sandboxes/{id}/timeout: from now on, shorter too. As
// with E2B, 0 or less ends the sandbox's life now.
func (s *Server) setTimeout(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	var body timeoutBody
	if err := jsonbody.Decode(r, &body, false, false); err != nil {
		return err
	}
	if body.Timeout == nil {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "timeout is missing")
	}
	var ttl time.Duration
	if *body.Timeout > 0 {
		if ttl, err = s.ttl("timeout", *body.Timeout); err != nil {
			return err
		}
	}
	if _, err := s.cfg.Lifecycle.SetDeadline(r.Context(), c.Tenant, id, s.cfg.Now().Add(ttl), false); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// kill serves DELETE /sandboxes/{id}.
func (s *Server) kill(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Lifecycle.Kill(r.Context(), c.Tenant, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// visible returns a sandbox that its tenant may see: one that runs.
func (s *Server) visible(r *http.Request, c caller, id string) (bulkhead.Sandbox, error) {
	sb, err := s.cfg.Lookup.Get(r.Context(), c.Tenant, id)
	if err != nil {
		return sb, err
	}
	if sb.State != bulkhead.StateRunning {
		return bulkhead.Sandbox{}, notFound(id)
	}
	return sb, nil
}

// listedSandbox is E2B's ListedSandbox.
type listedSandbox struct {
	TemplateID  string            `json:"templateID"`
	SandboxID   string            `json:"sandboxID"`
	ClientID    string            `json:"clientID"`
	Alias       string            `json:"alias,omitempty"`
	State       string            `json:"state"`
	StartedAt   time.Time         `json:"startedAt"`
	EndAt       time.Time         `json:"endAt"`
	CPUCount    int               `json:"cpuCount"`
	MemoryMB    int64             `json:"memoryMB"`
	DiskSizeMB  int64             `json:"diskSizeMB"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	EnvdVersion string            `json:"envdVersion"`
}

// sandboxDetail is E2B's SandboxDetail.
type sandboxDetail struct {
	listedSandbox
	Domain              *string       `json:"domain"`
	EnvdAccessToken     string        `json:"envdAccessToken,omitempty"`
	AllowInternetAccess bool          `json:"allowInternetAccess"`
	Network             networkDetail `json:"network"`
	Lifecycle           lifecycle     `json:"lifecycle"`
}

// networkDetail is the part of E2B's network that is in force.
type networkDetail struct {
	AllowOut           []string `json:"allowOut,omitempty"`
	DenyOut            []string `json:"denyOut,omitempty"`
	AllowPublicTraffic bool     `json:"allowPublicTraffic"`
	MaskRequestHost    string   `json:"maskRequestHost,omitempty"`
}

// lifecycle says what happens at the end of the time to live.
type lifecycle struct {
	OnTimeout  string `json:"onTimeout"`
	AutoResume bool   `json:"autoResume"`
}

func listed(sb bulkhead.Sandbox) listedSandbox {
	return listedSandbox{
		TemplateID: sb.TemplateID, SandboxID: sb.ID, ClientID: clientID, Alias: sb.Template,
		State: string(bulkhead.StateRunning), StartedAt: sb.StartedAt.UTC(), EndAt: sb.EndAt.UTC(),
		CPUCount: cores(sb.Limits.CPU), MemoryMB: sb.Limits.MemoryMB, DiskSizeMB: sb.Limits.DiskMB,
		Metadata: sb.Metadata, EnvdVersion: sb.EnvdVersion,
	}
}

// get serves GET /sandboxes/{id}.
func (s *Server) get(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	sb, err := s.visible(r, c, id)
	if err != nil {
		return err
	}
	d := sandboxDetail{
		listedSandbox: listed(sb), Domain: orNull(s.cfg.Domain), EnvdAccessToken: sb.EnvdToken,
		AllowInternetAccess: sb.AllowInternet,
		Network: networkDetail{
			AllowOut: sb.Network.AllowOut, DenyOut: sb.Network.DenyOut,
			AllowPublicTraffic: sb.TrafficToken == "", MaskRequestHost: sb.MaskHost,
		},
		Lifecycle: lifecycle{OnTimeout: "kill"},
	}
	if !sb.AllowInternet && !slices.Contains(sb.Network.DenyOut, bulkhead.AllTraffic) {
		d.Network.DenyOut = append([]string{bulkhead.AllTraffic}, sb.Network.DenyOut...)
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

// team is E2B's Team: the caller's tenant.
type team struct {
	TeamID    string `json:"teamID"`
	Name      string `json:"name"`
	APIKey    string `json:"apiKey"`
	IsDefault bool   `json:"isDefault"`
}

// teams serves GET /teams, from which E2B's CLI learns the key to use: the one it
// called with.
func (s *Server) teams(w http.ResponseWriter, _ *http.Request, c caller) error {
	writeJSON(w, http.StatusOK, []team{{TeamID: c.Tenant, Name: c.Tenant, APIKey: c.secret, IsDefault: true}})
	return nil
}
