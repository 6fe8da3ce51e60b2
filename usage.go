package bulkhead

import (
	"math"
	"time"
)

// Meter is what a box's counters show at a moment. They only ever grow while the
// box lives.
type Meter struct {
	// At is when they were read.
	At time.Time
	// CPU is processor time.
	CPU time.Duration
	// Egress and Ingress are bytes that left and entered the box by its link.
	Egress, Ingress int64
}

// Metered is what a sandbox used between two readings of its meter.
type Metered struct {
	// Sandbox and Tenant say whose it is.
	Sandbox, Tenant string
	// First says that nothing of the sandbox was metered before.
	First bool
	// From is when it begins; To is the reading that it ends with.
	From time.Time
	To   Meter
	// CPU, Egress and Ingress are what the counters grew by.
	CPU             time.Duration
	Egress, Ingress int64
	// MemoryMiBMillis is memory in use times how long it was, in MiB·ms.
	MemoryMiBMillis int64
}

// Add returns m and what was metered right after it as one.
func (m Metered) Add(next Metered) Metered {
	next.First = next.First || m.First
	next.From = m.From
	next.CPU += m.CPU
	next.Egress += m.Egress
	next.Ingress += m.Ingress
	next.MemoryMiBMillis += m.MemoryMiBMillis
	return next
}

// Usage is what was used, and what it costs.
type Usage struct {
	// Sandboxes is how many were started.
	Sandboxes int64 `json:"sandboxes"`
	// Seconds is the time that they lived.
	Seconds float64 `json:"seconds"`
	// CPUSeconds is processor time.
	CPUSeconds float64 `json:"cpuSeconds"`
	// GBSeconds is memory in use times how long; 1 GB is 2^30 bytes.
	GBSeconds float64 `json:"gbSeconds"`
	// EgressBytes and IngressBytes crossed the sandboxes' links, answers to their
	// callers and uploads included.
	EgressBytes  int64 `json:"egressBytes"`
	IngressBytes int64 `json:"ingressBytes"`
	// Cost is what all of it costs by the server's price table.
	Cost float64 `json:"cost"`
}

// GBHours is GBSeconds in hours.
func (u Usage) GBHours() float64 { return u.GBSeconds / 3600 }

// Prices say what usage costs, in the operator's currency. Zero is free.
type Prices struct {
	// SandboxSecond is for each second that a sandbox lives.
	SandboxSecond float64 `json:"sandboxSecond"`
	// CPUSecond is for each second of processor time.
	CPUSecond float64 `json:"cpuSecond"`
	// GBSecond is for 2^30 bytes of memory in use for a second.
	GBSecond float64 `json:"gbSecond"`
	// EgressGB is for 2^30 bytes that leave a sandbox.
	EgressGB float64 `json:"egressGB"`
}

// Cost returns what u costs, to the millionth.
func (p Prices) Cost(u Usage) float64 {
	cost := p.SandboxSecond*u.Seconds + p.CPUSecond*u.CPUSeconds + p.GBSecond*u.GBSeconds +
		p.EgressGB*float64(u.EgressBytes)/(1<<30)
	return math.Round(cost*1e6) / 1e6
}
