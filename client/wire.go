package client

import (
	"cmp"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// wireSandbox is a sandbox as the server writes it under /v1, and, for the calls
// that have no form there, with E2B's names for the tokens.
type wireSandbox struct {
	bulkhead.Sandbox
	EnvdToken          string `json:"envdToken"`
	TrafficToken       string `json:"trafficToken"`
	EnvdAccessToken    string `json:"envdAccessToken"`
	TrafficAccessToken string `json:"trafficAccessToken"`
	Alias              string `json:"alias"`
	Domain             string `json:"domain"`
}

// sandbox is w in the vocabulary. Fields the server did not send are zero.
func (w wireSandbox) sandbox() bulkhead.Sandbox {
	s := w.Sandbox
	s.EnvdToken = cmp.Or(w.EnvdToken, w.EnvdAccessToken)
	s.TrafficToken = cmp.Or(w.TrafficToken, w.TrafficAccessToken)
	s.Template = cmp.Or(s.Template, w.Alias)
	s.State = cmp.Or(s.State, bulkhead.StateRunning) // E2B's answers have none when it runs
	return s
}

// wireCreate asks for a sandbox.
type wireCreate struct {
	Template       string            `json:"template"`
	TimeoutSeconds int64             `json:"timeoutSeconds"`
	Limits         bulkhead.Limits   `json:"limits,omitzero"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Env            map[string]string `json:"env,omitempty"`
	Secure         bool              `json:"secure"`
	PrivateTraffic bool              `json:"privateTraffic,omitempty"`
	AllowInternet  bool              `json:"allowInternet"`
	Network        bulkhead.Network  `json:"network,omitzero"`
	MaskHost       string            `json:"maskHost,omitempty"`
	Priority       bulkhead.Priority `json:"priority,omitempty"`
	WaitSeconds    *float64          `json:"waitSeconds,omitempty"`
}

// waitSeconds is a wait as the server reads it: none for its default, 0 for no
// waiting at all.
func waitSeconds(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	s := max(d, 0).Seconds()
	return &s
}

// wireNetwork replaces what a sandbox may reach.
type wireNetwork struct {
	bulkhead.Network
	AllowInternet bool `json:"allow_internet_access"`
}

// wireTTL sets a time to live in seconds.
type wireTTL struct {
	Timeout int64 `json:"timeout"`
}

// seconds rounds d up, so that a time to live is never shorter than asked for.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}
