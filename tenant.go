package bulkhead

import "time"

// Tenant owns keys and sandboxes. A server that nobody configured has one,
// [DefaultTenant].
type Tenant struct {
	// ID names it: 1 to 128 bytes.
	ID string `json:"id"`
	// Name is for people. It may be empty.
	Name string `json:"name,omitempty"`
	// Tier is the name of its [Tier].
	Tier string `json:"tier"`
	// Quota overrides single fields of the tier's.
	Quota Quota `json:"quota,omitzero"`
	// CreatedAt is when it was made.
	CreatedAt time.Time `json:"createdAt"`
}

// DefaultTenant is whose sandboxes and keys are those of a server that has one
// user.
const DefaultTenant = "default"

// Tier is a named quota preset.
type Tier struct {
	// Name is "free", "basic", "premium", "enterprise" or the operator's own.
	Name string `json:"name" yaml:"name"`
	// Multiplier scales the CPU and memory that a sandbox asks for. 0.1 to 10.
	Multiplier float64 `json:"multiplier" yaml:"multiplier"`
	// Priority orders claims that wait: higher is served first. 1 to 100.
	Priority int `json:"priority" yaml:"priority"`
	// Quota is what a tenant of the tier may use.
	Quota Quota `json:"quota" yaml:"quota"`
}

// Quota is what a tenant may use. A zero field is unlimited in a tier; in a
// tenant's overrides it means "as the tier has it".
type Quota struct {
	// Sandboxes is how many may live at once.
	Sandboxes int `json:"sandboxes,omitempty" yaml:"sandboxes"`
	// CPU (cores), MemoryMB and DiskMB (MiB) bound the sums over all of them.
	CPU      float64 `json:"cpu,omitempty" yaml:"cpu"`
	MemoryMB int64   `json:"memoryMB,omitempty" yaml:"memoryMB"`
	DiskMB   int64   `json:"diskMB,omitempty" yaml:"diskMB"`
	// Sandbox bounds each one of them, field by field.
	Sandbox Limits `json:"sandbox,omitzero" yaml:"sandbox"`
	// TTLSeconds is the longest time to live of one.
	TTLSeconds int64 `json:"ttlSeconds,omitempty" yaml:"ttlSeconds"`
	// CreatesPerSecond bounds how fast they are made, with a burst of ten seconds' worth.
	CreatesPerSecond float64 `json:"createsPerSecond,omitempty" yaml:"createsPerSecond"`
	// CPUSecondsPerDay and GBHoursPerDay bound what all of them use in a UTC day.
	CPUSecondsPerDay float64 `json:"cpuSecondsPerDay,omitempty" yaml:"cpuSecondsPerDay"`
	GBHoursPerDay    float64 `json:"gbHoursPerDay,omitempty" yaml:"gbHoursPerDay"`
}

// Priority is a request's wish for its place among those that wait.
type Priority string

// The priorities. The empty one is normal.
const (
	PriorityLow    Priority = "low"
	PriorityNormal Priority = "normal"
	PriorityHigh   Priority = "high"
)

// Allocation is what was booked for a sandbox, and why.
type Allocation struct {
	// Sandbox and Tenant say whose it is.
	Sandbox string `json:"sandboxID"`
	Tenant  string `json:"tenant"`
	// Limits are those granted. No field is zero.
	Limits Limits `json:"limits"`
	// TTLSeconds is the time to live that was granted.
	TTLSeconds int64 `json:"ttlSeconds"`
	// Priority is the place among those that waited: the tier's and the request's.
	Priority int `json:"priority"`
	// Reasons say how each number came about, one for each field that is not
	// simply what was asked.
	Reasons []Reason `json:"reasons,omitempty"`
	// At is when it was booked or last changed.
	At time.Time `json:"at"`
}

// Reason explains one number of an allocation.
type Reason struct {
	// Field is the number's name in JSON, such as "cpu".
	Field string `json:"field"`
	// Asked and Granted are its values, in the field's unit.
	Asked   float64 `json:"asked"`
	Granted float64 `json:"granted"`
	// Detail is one sentence for a person, safe for a tenant to read.
	Detail string `json:"detail"`
}
