package client

import (
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// wireSandbox is a sandbox as the server writes it: E2B's fields, of which a
// created, a listed and a detailed sandbox carry different ones, and Bulkhead's
// own (limits, end, template, tenant, templateDigest).
type wireSandbox struct {
	SandboxID          string            `json:"sandboxID"`
	TemplateID         string            `json:"templateID"`
	Alias              string            `json:"alias"`
	EnvdVersion        string            `json:"envdVersion"`
	EnvdAccessToken    string            `json:"envdAccessToken"`
	TrafficAccessToken string            `json:"trafficAccessToken"`
	Domain             string            `json:"domain"`
	State              bulkhead.State    `json:"state"`
	StartedAt          time.Time         `json:"startedAt"`
	EndAt              time.Time         `json:"endAt"`
	CPUCount           float64           `json:"cpuCount"`
	MemoryMB           int64             `json:"memoryMB"`
	DiskSizeMB         int64             `json:"diskSizeMB"`
	Metadata           map[string]string `json:"metadata"`
	AllowInternet      *bool             `json:"allowInternetAccess"`

	Tenant         string           `json:"tenant"`
	Template       string           `json:"template"`
	TemplateDigest string           `json:"templateDigest"`
	Limits         *bulkhead.Limits `json:"limits"`
	End            *bulkhead.End    `json:"end"`
}

// sandbox is w in the vocabulary. Fields the server did not send are zero.
func (w wireSandbox) sandbox() bulkhead.Sandbox {
	s := bulkhead.Sandbox{
		ID: w.SandboxID, Tenant: w.Tenant, TemplateID: w.TemplateID, Template: w.Template,
		TemplateDigest: w.TemplateDigest, State: w.State, StartedAt: w.StartedAt, EndAt: w.EndAt,
		Limits:   bulkhead.Limits{CPU: w.CPUCount, MemoryMB: w.MemoryMB, DiskMB: w.DiskSizeMB},
		Metadata: w.Metadata, EnvdToken: w.EnvdAccessToken, TrafficToken: w.TrafficAccessToken,
		EnvdVersion: w.EnvdVersion, End: w.End,
	}
	if s.Template == "" {
		s.Template = w.Alias
	}
	if w.Limits != nil {
		s.Limits = w.Limits.Or(s.Limits)
	}
	if w.AllowInternet != nil {
		s.AllowInternet = *w.AllowInternet
	}
	if s.State == "" { // E2B's answer to a create has none: it runs
		s.State = bulkhead.StateRunning
	}
	return s
}

// wireCreate asks for a sandbox.
type wireCreate struct {
	TemplateID    string            `json:"templateID"`
	Timeout       int64             `json:"timeout,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	EnvVars       map[string]string `json:"envVars,omitempty"`
	AllowInternet bool              `json:"allow_internet_access"`
	Secure        bool              `json:"secure"`
	Network       *wireNetwork      `json:"network,omitempty"`
	Limits        *bulkhead.Limits  `json:"limits,omitempty"`
}

// wireNetwork is how a sandbox is reached.
type wireNetwork struct {
	AllowPublicTraffic bool   `json:"allowPublicTraffic"`
	MaskRequestHost    string `json:"maskRequestHost,omitempty"`
}

// wireTTL sets a time to live in seconds.
type wireTTL struct {
	Timeout int64 `json:"timeout"`
}

// seconds rounds d up, so that a time to live is never shorter than asked for.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}
