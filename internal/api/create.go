package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
)

// Defaults of E2B's calls, in seconds, when the client names no timeout.
const (
	defaultTimeoutV1 = 15
	defaultTimeoutV2 = 300
)

// newSandbox is the body of both generations of create.
type newSandbox struct {
	TemplateID    string            `json:"templateID"`
	Timeout       *int64            `json:"timeout"`
	Metadata      map[string]string `json:"metadata"`
	EnvVars       map[string]string `json:"envVars"`
	Secure        bool              `json:"secure"` // the first generation's only; the second is always secure
	AllowInternet *bool             `json:"allow_internet_access"`
	Network       network           `json:"network"`
	AutoPause     bool              `json:"autoPause"`
	// What follows is read to be refused.
	AutoResume struct {
		Enabled bool `json:"enabled"`
	} `json:"autoResume"`
	VolumeMounts []json.RawMessage          `json:"volumeMounts"`
	MCP          map[string]json.RawMessage `json:"mcp"`
	IAM          struct {
		Tokens map[string]json.RawMessage `json:"tokens"`
	} `json:"iam"`
}

// createV1 serves POST /sandboxes.
func (s *Server) createV1(w http.ResponseWriter, r *http.Request, c caller) error {
	var body newSandbox
	if err := jsonbody.Decode(r, &body, false, false); err != nil {
		return err
	}
	return s.create(w, r, c, body, defaultTimeoutV1)
}

// createV2 serves POST /v2/sandboxes.
func (s *Server) createV2(w http.ResponseWriter, r *http.Request, c caller) error {
	var body newSandbox
	if err := jsonbody.Decode(r, &body, false, false); err != nil {
		return err
	}
	body.Secure = true
	return s.create(w, r, c, body, defaultTimeoutV2)
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, c caller, body newSandbox, timeout int64) error {
	req, err := s.createRequest(body, timeout)
	if err != nil {
		return err
	}
	req.Tenant = c.Tenant
	if err := queueingHeaders(&req, r.Header); err != nil {
		return err
	}
	sb, err := s.cfg.Lifecycle.Create(r.Context(), req)
	if err != nil {
		return placement(err)
	}
	return s.hand(w, r, sb, s.wire(sb))
}

// hand gives a new sandbox to its client. One that has left does not know of it, and
// nobody else would end it: it is ended.
func (s *Server) hand(w http.ResponseWriter, r *http.Request, sb bulkhead.Sandbox, answer any) error {
	if err := r.Context().Err(); err != nil {
		return errors.Join(err, s.cfg.Lifecycle.Kill(context.WithoutCancel(r.Context()), sb.Tenant, sb.ID))
	}
	writeJSON(w, http.StatusCreated, answer)
	return nil
}

// createRequest translates a body, and refuses what it asks that cannot be had.
func (s *Server) createRequest(b newSandbox, timeout int64) (bulkhead.CreateRequest, error) {
	var none bulkhead.CreateRequest
	if b.TemplateID == "" {
		return none, bulkhead.Errorf(bulkhead.CodeInvalid, "templateID is missing")
	}
	if err := b.refuse(); err != nil {
		return none, err
	}
	if b.Timeout != nil {
		timeout = *b.Timeout
	}
	ttl, err := s.ttl("timeout", timeout)
	if err != nil {
		return none, err
	}
	if err := checkMetadata(b.Metadata); err != nil {
		return none, err
	}
	if err := checkEnv("envVars", b.EnvVars); err != nil {
		return none, err
	}
	if err := checkMask("network.maskRequestHost", b.Network.MaskRequestHost); err != nil {
		return none, err
	}
	private := b.Network.AllowPublicTraffic != nil && !*b.Network.AllowPublicTraffic
	if private && !b.Secure {
		return none, bulkhead.Errorf(bulkhead.CodeInvalid, "network.allowPublicTraffic is false, which needs secure to be true")
	}
	internet, outbound, err := b.Network.outbound(b.AllowInternet)
	if err != nil {
		return none, err
	}
	return bulkhead.CreateRequest{
		Template: b.TemplateID, TTL: ttl, Metadata: b.Metadata, Env: b.EnvVars,
		Secure: b.Secure, PrivateTraffic: private, MaskHost: b.Network.MaskRequestHost,
		AllowInternet: internet, Network: outbound,
	}, nil
}

// refuse names the first option that asks for something this server has not.
// Values that ask for nothing pass: false, null, empty.
func (b newSandbox) refuse() error {
	for _, o := range []struct {
		field string
		asked bool
		why   string
	}{
		{"autoPause", b.AutoPause, "pausing sandboxes"},
		{"autoResume.enabled", b.AutoResume.Enabled, "pausing sandboxes"},
		{"volumeMounts", len(b.VolumeMounts) > 0, "volumes"},
		{"mcp", len(b.MCP) > 0, "MCP servers in the sandbox"},
		{"iam.tokens", len(b.IAM.Tokens) > 0, "workload identity"},
		{"network.httpsPorts", len(b.Network.HTTPSPorts) > 0, "TLS between the proxy and the sandbox"},
	} {
		if o.asked {
			return missing(o.field+" is set", o.why)
		}
	}
	return b.Network.refuse()
}

// missing is the answer to a request for what is not there.
func missing(subject, what string) error {
	return bulkhead.Errorf(bulkhead.CodeUnsupported, "%s; this server does not implement %s", subject, what)
}

// ttl turns a field that is a timeout in seconds into a time to live within the
// bounds. The errors begin with E2B's words.
func (s *Server) ttl(field string, seconds int64) (time.Duration, error) {
	if seconds <= 0 {
		return 0, bulkhead.Errorf(bulkhead.CodeInvalid, "Timeout must be greater than 0; %s is %d", field, seconds)
	}
	if seconds > int64(s.cfg.MaxTTL/time.Second) {
		return 0, bulkhead.Errorf(bulkhead.CodeInvalid, "Timeout cannot be greater than %s hours; %s is %d seconds",
			strconv.FormatFloat(s.cfg.MaxTTL.Hours(), 'g', 6, 64), field, seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// maskPattern is a host with an optional port, either of which may have ${PORT} in it.
var maskPattern = regexp.MustCompile(`^[A-Za-z0-9._\[\]:-]{1,255}$`)

// checkMask checks what is to replace the Host header.
func checkMask(field, mask string) error {
	if mask == "" {
		return nil
	}
	plain := strings.ReplaceAll(mask, "${PORT}", "65535")
	host, port, err := net.SplitHostPort(plain)
	if err != nil {
		host, port = plain, "1"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || !maskPattern.MatchString(plain) {
		return bulkhead.Errorf(bulkhead.CodeInvalid,
			"%s is %q; it must be a host with an optional port, at most 255 bytes", field, mask)
	}
	return nil
}

// placement words a failure to make a sandbox as E2B does.
func placement(err error) error {
	switch bulkhead.CodeOf(err) {
	case bulkhead.CodeUnavailable, bulkhead.CodeTimeout:
		return reworded(err, "Failed to place sandbox: "+bulkhead.Message(err))
	default:
		return err
	}
}

// reworded is err with another message for the client.
func reworded(err error, msg string) error {
	out := bulkhead.Error{Code: bulkhead.CodeOf(err), Msg: msg, Err: err}
	if typed, ok := errors.AsType[*bulkhead.Error](err); ok {
		out.RetryAfter, out.Limit, out.Err = typed.RetryAfter, typed.Limit, typed.Err // its text is in msg
	}
	return &out
}

// wireSandbox is E2B's Sandbox.
type wireSandbox struct {
	TemplateID         string  `json:"templateID"`
	SandboxID          string  `json:"sandboxID"`
	ClientID           string  `json:"clientID"`
	Alias              string  `json:"alias,omitempty"`
	EnvdVersion        string  `json:"envdVersion"`
	EnvdAccessToken    string  `json:"envdAccessToken,omitempty"`
	TrafficAccessToken *string `json:"trafficAccessToken"`
	Domain             *string `json:"domain"`
}

// clientID is a field that E2B keeps for its first SDKs, which append it to the
// sandbox's id with a "-". It means nothing.
const clientID = "bulkhead"

// wire is sb as E2B shows it to its owner.
func (s *Server) wire(sb bulkhead.Sandbox) wireSandbox {
	return wireSandbox{
		TemplateID: sb.TemplateID, SandboxID: sb.ID, ClientID: clientID, Alias: sb.Template,
		EnvdVersion: sb.EnvdVersion, EnvdAccessToken: sb.EnvdToken,
		TrafficAccessToken: orNull(sb.TrafficToken), Domain: orNull(s.cfg.Domain),
	}
}

// orNull is nil for the empty string.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// cores is a CPU limit as E2B counts it, in whole cores.
func cores(limit float64) int { return int(math.Ceil(limit)) }
