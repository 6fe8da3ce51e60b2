package bulkhead

import (
	"cmp"
	"regexp"
	"time"
)

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

// tenantID is what a tenant may be called.
var tenantID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$`)

// Validate checks every field. The error is an *[Error] with [CodeInvalid] that
// names the field, the value and the range.
func (t Tenant) Validate() error {
	switch {
	case !tenantID.MatchString(t.ID):
		return Errorf(CodeInvalid, "id is %q; it must be 1 to 128 letters, digits, '.', '_', '@' or '-', the first a letter or digit", t.ID)
	case len(t.Name) > 128:
		return Errorf(CodeInvalid, "name has %d bytes; it may have 128", len(t.Name))
	case t.Tier == "":
		return Errorf(CodeInvalid, "tier is empty; it must be the name of a tier")
	}
	return t.Quota.Validate()
}

// DefaultTenant is whose sandboxes and keys are those of a server that has one
// user.
const DefaultTenant = "default"

// Tier is a named quota preset.
type Tier struct {
	// Name is "free", "basic", "premium", "enterprise", "unlimited" or the
	// operator's own: 1 to 64 lower-case letters, digits, '_' or '-'.
	Name string `json:"name" yaml:"name"`
	// Multiplier scales the CPU and memory that a sandbox asks for. 0.1 to 10.
	Multiplier float64 `json:"multiplier" yaml:"multiplier"`
	// Priority orders claims that wait: higher is served first. 1 to 100.
	Priority int `json:"priority" yaml:"priority"`
	// Quota is what a tenant of the tier may use.
	Quota Quota `json:"quota" yaml:"quota"`
}

// TierUnlimited is the tier of [DefaultTenant]: what is asked is what is given, as
// far as the host has it.
const TierUnlimited = "unlimited"

// tierName is what a tier may be called.
var tierName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// Validate checks every field. The error is an *[Error] with [CodeInvalid] that
// names the field, the value and the range.
func (t Tier) Validate() error {
	switch {
	case !tierName.MatchString(t.Name):
		return Errorf(CodeInvalid, "name is %q; it must be 1 to 64 lower-case letters, digits, '_' or '-'", t.Name)
	case !(t.Multiplier >= 0.1 && t.Multiplier <= 10):
		return Errorf(CodeInvalid, "multiplier is %v; it must be between 0.1 and 10", t.Multiplier)
	case t.Priority < 1 || t.Priority > 100:
		return Errorf(CodeInvalid, "priority is %d; it must be between 1 and 100", t.Priority)
	}
	return t.Quota.Validate()
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

// Or returns q with each zero field taken from d: a tenant's overrides over what
// its tier has.
func (q Quota) Or(d Quota) Quota {
	q.Sandboxes = cmp.Or(q.Sandboxes, d.Sandboxes)
	q.CPU = cmp.Or(q.CPU, d.CPU)
	q.MemoryMB = cmp.Or(q.MemoryMB, d.MemoryMB)
	q.DiskMB = cmp.Or(q.DiskMB, d.DiskMB)
	q.TTLSeconds = cmp.Or(q.TTLSeconds, d.TTLSeconds)
	q.CreatesPerSecond = cmp.Or(q.CreatesPerSecond, d.CreatesPerSecond)
	q.CPUSecondsPerDay = cmp.Or(q.CPUSecondsPerDay, d.CPUSecondsPerDay)
	q.GBHoursPerDay = cmp.Or(q.GBHoursPerDay, d.GBHoursPerDay)
	q.Sandbox = q.Sandbox.Or(d.Sandbox)
	return q
}

// Validate checks every field. The error is an *[Error] with [CodeInvalid] that
// names the field, the value and the range.
func (q Quota) Validate() error {
	for _, f := range []struct {
		name  string
		value float64
		max   float64
		unit  string
	}{
		{"sandboxes", float64(q.Sandboxes), 1e6, "sandboxes"},
		{"cpu", q.CPU, 1e6, "cores"},
		{"memoryMB", float64(q.MemoryMB), 1 << 40, "MiB"},
		{"diskMB", float64(q.DiskMB), 1 << 40, "MiB"},
		{"ttlSeconds", float64(q.TTLSeconds), 365 * 24 * 3600, "seconds"},
		{"createsPerSecond", q.CreatesPerSecond, 1e6, "a second"},
		{"cpuSecondsPerDay", q.CPUSecondsPerDay, 1e12, "seconds"},
		{"gbHoursPerDay", q.GBHoursPerDay, 1e12, "GiB hours"},
	} {
		if !(f.value >= 0 && f.value <= f.max) { // false for NaN, too
			return Errorf(CodeInvalid, "quota.%s is %v; it must be between 0 and %.0f %s", f.name, f.value, f.max, f.unit)
		}
	}
	if err := q.Sandbox.Validate(); err != nil {
		return Errorf(CodeInvalid, "quota.sandbox.%s", Message(err))
	}
	return nil
}

// Priority is a request's wish for its place among those that wait.
type Priority string

// The priorities. The empty one is normal.
const (
	PriorityLow    Priority = "low"
	PriorityNormal Priority = "normal"
	PriorityHigh   Priority = "high"
)

// Validate checks that p is one of the priorities. The error is an *[Error] with
// [CodeInvalid].
func (p Priority) Validate() error {
	switch p {
	case "", PriorityLow, PriorityNormal, PriorityHigh:
		return nil
	}
	return Errorf(CodeInvalid, "priority is %.40q; it must be low, normal or high", string(p))
}

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
