package bulkhead

import (
	"slices"
	"time"
)

// State is where a sandbox is in its life.
type State string

// The states. A sandbox goes starting → running → ending → ended, and may skip
// running when its start fails. See [State.May].
const (
	// StateStarting: booked and being made; not yet visible to its tenant.
	StateStarting State = "starting"
	// StateRunning: its box serves requests.
	StateRunning State = "running"
	// StateEnding: its end is decided and its box is being torn down.
	StateEnding State = "ending"
	// StateEnded: nothing of it is left on the host; its End says why.
	StateEnded State = "ended"
)

// transitions is the one table of legal changes.
var transitions = map[State][]State{
	StateStarting: {StateRunning, StateEnding},
	StateRunning:  {StateEnding},
	StateEnding:   {StateEnded},
}

// May reports whether a sandbox in state s may change to next.
func (s State) May(next State) bool {
	return slices.Contains(transitions[s], next)
}

// Sandbox is what a tenant sees: a leased box with an identity and an end.
type Sandbox struct {
	// ID is "i" and 20 characters of [a-z0-9], unguessable.
	ID string `json:"sandboxID"`
	// Tenant owns the sandbox.
	Tenant string `json:"tenant"`
	// TemplateID, Template and TemplateDigest say what it was made from.
	TemplateID     string `json:"templateID"`
	Template       string `json:"template"`
	TemplateDigest string `json:"templateDigest"`
	// State is where it is in its life.
	State State `json:"state"`
	// StartedAt is when it was created, EndAt when it will expire.
	StartedAt time.Time `json:"startedAt"`
	EndAt     time.Time `json:"endAt"`
	// Limits are those in force. No field is zero.
	Limits Limits `json:"limits"`
	// Allocation says how the limits came about; nil for a sandbox that was made
	// before there were any. It must not be changed in place.
	Allocation *Allocation `json:"allocation,omitempty"`
	// Metadata is the tenant's own; Env is set in every process.
	Metadata map[string]string `json:"metadata,omitempty"`
	Env      map[string]string `json:"env,omitempty"`
	// EnvdToken guards the box's envd; empty for an unsecured sandbox.
	EnvdToken string `json:"-"`
	// TrafficToken guards the user's ports; empty when they are public.
	TrafficToken string `json:"-"`
	// AllowInternet says whether the box reaches public addresses.
	AllowInternet bool `json:"allowInternet"`
	// Network says what else it reaches, and what not.
	Network Network `json:"network,omitzero"`
	// MaskHost, when set, replaces the Host header of requests to user ports;
	// "${PORT}" in it stands for the port.
	MaskHost string `json:"maskHost,omitempty"`
	// EnvdVersion is the protocol version that the box's envd implements.
	EnvdVersion string `json:"envdVersion"`
	// Address is the box's IP address as this node reaches it.
	Address string `json:"-"`
	// Box is the driver's name of its box on this node.
	Box string `json:"-"`
	// End says how it ended; nil while it has not.
	End *End `json:"end,omitempty"`
}

// CreateRequest asks for a sandbox.
type CreateRequest struct {
	// Tenant pays for it.
	Tenant string
	// Template is a template's name or ID.
	Template string
	// TTL is how long it may live, from now.
	TTL time.Duration
	// Limits may be zero in any field: the template's default then.
	Limits Limits
	// Metadata and Env are kept as given.
	Metadata map[string]string
	Env      map[string]string
	// Secure asks for an envd token.
	Secure bool
	// PrivateTraffic asks for a traffic token on user ports. Needs Secure.
	PrivateTraffic bool
	// AllowInternet opens public addresses to the box.
	AllowInternet bool
	// Network says what else it reaches, and what not.
	Network Network
	// MaskHost is as in [Sandbox].
	MaskHost string
	// Priority is its place among those that wait; empty is normal.
	Priority Priority
	// Wait is how long it may wait for a place, its own quota or the host being
	// full: 0 is the server's default, negative is not at all.
	Wait time.Duration
}

// Filter selects sandboxes in a list. Zero fields select all.
type Filter struct {
	// Tenant, when set, selects only its sandboxes.
	Tenant string
	// States selects any of the given states.
	States []State
	// Metadata selects sandboxes that have every given pair.
	Metadata map[string]string
	// Template selects by template name or ID.
	Template string
	// StartedAfter selects sandboxes created after it.
	StartedAfter time.Time
}

// Sample is one measurement of a running sandbox.
type Sample struct {
	// At is when it was taken.
	At time.Time `json:"timestamp"`
	// CPUPercent is the use since the sample before, 100 is one core.
	CPUPercent float64 `json:"cpuUsedPct"`
	// CPUCount is the number of cores in its limit, rounded up.
	CPUCount int `json:"cpuCount"`
	// The rest is in bytes.
	MemUsed   int64 `json:"memUsed"`
	MemTotal  int64 `json:"memTotal"`
	MemCache  int64 `json:"memCache"`
	DiskUsed  int64 `json:"diskUsed"`
	DiskTotal int64 `json:"diskTotal"`
}

// LogLine is one line of a sandbox's own log: what happened to it and what its
// envd said.
type LogLine struct {
	// At is when it was written.
	At time.Time `json:"timestamp"`
	// Level is debug, info, warn or error.
	Level string `json:"level"`
	// Message is the line, at most 16 KiB.
	Message string `json:"message"`
	// Fields are the line's attributes.
	Fields map[string]string `json:"fields,omitempty"`
}
