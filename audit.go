package bulkhead

import "time"

// Act is a privileged act, as the audit log keeps it.
type Act struct {
	// ID names the entry; later ones compare greater.
	ID string `json:"id"`
	// At is when it was done.
	At time.Time `json:"at"`
	// Tenant and Key say whose key it was done with.
	Tenant string `json:"tenant"`
	Key    string `json:"key"`
	// Action is what was done, such as "tenant.update".
	Action string `json:"action"`
	// Target is the ID of what it was done to, and TargetTenant whose that is.
	Target       string `json:"target,omitempty"`
	TargetTenant string `json:"targetTenant,omitempty"`
	// Source is the address that it was asked from, Request the request's ID.
	Source  string `json:"source"`
	Request string `json:"request"`
	// Outcome is "ok", or the code of the error.
	Outcome string `json:"outcome"`
	// Detail says more: what was changed, or the error.
	Detail string `json:"detail,omitempty"`
}
