package quota

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Request is what is asked for one sandbox.
type Request struct {
	// Sandbox is its ID, for the allocation; Tenant pays.
	Sandbox string
	Tenant  string
	// Tier is the tenant's, with the tenant's own overrides in its Quota.
	Tier bulkhead.Tier
	// Asked are the limits that the request names, Defaults those of the template
	// for the rest; no field of Defaults is zero.
	Asked, Defaults bulkhead.Limits
	// FloorMB is the memory that the template needs to run, in MiB: neither tier nor
	// load takes a sandbox below it.
	FloorMB int64
	// TTL is the time to live that is asked for.
	TTL time.Duration
	// Priority is the request's wish.
	Priority bulkhead.Priority
	// Firm keeps the host's load from scaling it.
	Firm bool
	// Today is what the tenant's sandboxes have used since midnight, UTC; needed only
	// where its quota bounds that.
	Today bulkhead.DayUse
	// WaitOwn and WaitHost say whether it may wait for the tenant's other sandboxes
	// to end, and for a place on the host.
	WaitOwn, WaitHost bool
}

// DefaultPriority is that of a tier that names none.
const DefaultPriority = 2

// PriorityOf is a claim's place among those that wait, at least 1: the tier's,
// with 2 more for a high wish and 1 less for a low one.
func PriorityOf(tier int, wish bulkhead.Priority) int {
	if tier <= 0 {
		tier = DefaultPriority
	}
	switch wish {
	case bulkhead.PriorityHigh:
		tier += 2
	case bulkhead.PriorityLow:
		tier--
	case bulkhead.PriorityNormal:
	}
	return max(1, tier)
}

// field is one number of an allocation on its way.
type field struct {
	name, unit string
	resource   int     // its index in Amounts, -1 for none
	base       float64 // asked, else the template's
	explicit   bool    // the request names it
	scales     bool    // by tier and load
	floor      float64 // neither tier nor load takes it below
	each, all  float64 // the tenant's limits for one sandbox and for all of them; 0 is none
	host       float64 // what the host could ever promise; 0 is no bound
	granted    float64
	detail     string
}

// allocate turns a request into what it gets. The error says which limit makes
// that impossible for ever.
func (b *Book) allocate(r *Request, host *Host, now time.Time) (bulkhead.Allocation, error) {
	a := bulkhead.Allocation{
		Sandbox: r.Sandbox, Tenant: r.Tenant, At: now.UTC(),
		Priority: PriorityOf(r.Tier.Priority, r.Priority), Limits: r.Asked.Or(r.Defaults),
	}
	q := &r.Tier.Quota
	by := r.scaling(host.Load)
	bound := func(resource int) float64 {
		if host.Most[resource] == Unlimited {
			return 0
		}
		return value(resource, host.Most[resource])
	}
	d, s := r.Defaults, q.Sandbox
	for _, f := range []struct {
		field
		whole *int64
		cores *float64
	}{
		{field{name: "cpu", unit: "cores", resource: CPU, base: a.Limits.CPU, explicit: r.Asked.CPU != 0, scales: true, floor: 0.05, each: s.CPU, all: q.CPU, host: bound(CPU)}, nil, &a.Limits.CPU},
		{field{name: "memoryMB", unit: "MiB", resource: Memory, base: float64(a.Limits.MemoryMB), explicit: r.Asked.MemoryMB != 0, scales: true, floor: float64(max(r.FloorMB, 64)), each: float64(s.MemoryMB), all: float64(q.MemoryMB), host: bound(Memory)}, &a.Limits.MemoryMB, nil},
		{field{name: "diskMB", unit: "MiB", resource: Disk, base: float64(a.Limits.DiskMB), explicit: r.Asked.DiskMB != 0 && r.Asked.DiskMB != d.DiskMB, each: float64(s.DiskMB), all: float64(q.DiskMB), host: bound(Disk)}, &a.Limits.DiskMB, nil},
		{field{name: "pids", unit: "tasks", resource: -1, base: float64(a.Limits.Pids), explicit: r.Asked.Pids != 0, each: float64(s.Pids)}, &a.Limits.Pids, nil},
		{field{name: "outputMB", unit: "MiB", resource: -1, base: float64(a.Limits.OutputMB), explicit: r.Asked.OutputMB != 0, each: float64(s.OutputMB)}, &a.Limits.OutputMB, nil},
		{field{name: "openFiles", unit: "files", resource: -1, base: float64(a.Limits.OpenFiles), explicit: r.Asked.OpenFiles != 0, each: float64(s.OpenFiles)}, &a.Limits.OpenFiles, nil},
		{field{name: "packetsPerSecond", unit: "packets/s", resource: -1, base: float64(a.Limits.PacketsPerSecond), explicit: r.Asked.PacketsPerSecond != 0, each: float64(s.PacketsPerSecond)}, &a.Limits.PacketsPerSecond, nil},
		{field{name: "connections", unit: "connections", resource: -1, base: float64(a.Limits.Connections), explicit: r.Asked.Connections != 0, each: float64(s.Connections), host: float64(b.cfg.Connections)}, &a.Limits.Connections, nil},
		{field{name: "outputMBPerSecond", unit: "MiB/s", resource: -1, base: float64(a.Limits.OutputMBPerSecond), explicit: r.Asked.OutputMBPerSecond != 0, each: float64(s.OutputMBPerSecond)}, &a.Limits.OutputMBPerSecond, nil},
		{field{name: "cpuSeconds", unit: "s", resource: -1, base: float64(a.Limits.CPUSeconds), explicit: r.Asked.CPUSeconds != 0, each: float64(s.CPUSeconds)}, &a.Limits.CPUSeconds, nil},
		{field{name: "bandwidthKbps", unit: "kbit/s", resource: -1, base: float64(a.Limits.BandwidthKbps), explicit: r.Asked.BandwidthKbps != 0, each: float64(s.BandwidthKbps)}, &a.Limits.BandwidthKbps, nil},
	} {
		if err := f.grant(&by); err != nil {
			return a, err
		}
		if f.cores != nil {
			*f.cores = f.granted
		} else {
			*f.whole = int64(f.granted)
		}
		if f.granted != f.base {
			if a.Reasons == nil {
				a.Reasons = make([]bulkhead.Reason, 0, 4)
			}
			a.Reasons = append(a.Reasons, bulkhead.Reason{Field: f.name, Asked: f.base, Granted: f.granted, Detail: f.detail})
		}
	}
	a.TTLSeconds = int64(math.Ceil(r.TTL.Seconds()))
	if q.TTLSeconds > 0 && a.TTLSeconds > q.TTLSeconds {
		a.Reasons = append(a.Reasons, bulkhead.Reason{
			Field: "ttlSeconds", Asked: float64(a.TTLSeconds), Granted: float64(q.TTLSeconds),
			Detail: fmt.Sprintf("cut to the tenant's longest time to live, %d s", q.TTLSeconds),
		})
		a.TTLSeconds = q.TTLSeconds
	}
	return a, nil
}

// scaling is what CPU and memory are multiplied with, and what that comes from.
type scaling struct {
	factor, multiplier, load float64
	tier                     string
	average                  float64 // of the host's load
}

func (r *Request) scaling(load bulkhead.Load) scaling {
	s := scaling{factor: 1, multiplier: 1, load: 1, tier: r.Tier.Name, average: load.Average()}
	if r.Tier.Multiplier > 0 {
		s.multiplier = r.Tier.Multiplier
	}
	if !r.Firm {
		s.load = load.Factor()
	}
	s.factor = s.multiplier * s.load
	return s
}

// appendTo says in words what was multiplied.
func (s *scaling) appendTo(to []byte) []byte {
	if s.multiplier != 1 {
		to = appendNumber(append(to, " × "...), s.multiplier)
		to = append(append(to, " for tier "...), s.tier...)
	}
	if s.load != 1 {
		to = appendNumber(append(to, " × "...), s.load)
		to = appendNumber(append(to, " for the host's load of "...), math.Round(100*s.average))
		to = append(to, " %"...)
	}
	return to
}

// bounds are what limits a field, in this order.
var bounds = [...]struct{ prefix, says string }{
	{"tenant.sandbox.", "the tenant's limit for one sandbox"},
	{"tenant.", "the tenant's limit for all its sandboxes"},
	{"host.", "all that this host has"},
}

// grant finds f.granted, and f.detail if that is not what the request or the
// template says.
func (f *field) grant(by *scaling) error {
	scaled, raised := f.base, false
	if f.scales && by.factor != 1 {
		scaled = f.base * by.factor
		if least := min(f.base, f.floor); scaled < least {
			scaled, raised = least, true
		}
	}
	limits := [len(bounds)]float64{f.each, f.all, f.host}
	var cut [len(bounds)]bool
	f.granted = scaled
	for i, limit := range limits {
		if limit <= 0 || f.granted <= limit {
			continue
		}
		// What was asked for by name and is impossible is refused, not cut down; so
		// is what would not run.
		if f.explicit && min(f.base, scaled) > limit || f.scales && limit < min(f.base, f.floor) {
			return neverFor(f, by, bounds[i].prefix+f.name, limit, min(f.base, scaled))
		}
		f.granted, cut[i] = limit, true
	}
	if f.resource == CPU {
		f.granted = float64(milli(f.granted)) / 1000
	} else {
		f.granted = math.Floor(f.granted)
	}
	if f.granted == f.base {
		return nil
	}
	var space [256]byte
	says := space[:0]
	if f.scales && by.factor != 1 {
		says = append(append(appendNumber(says, f.base), ' '), f.unit...)
		says = by.appendTo(says)
		if raised {
			says = append(says, ", but not below what the template needs"...)
		}
	}
	for i, is := range cut {
		if !is {
			continue
		}
		if len(says) > 0 {
			says = append(says, ", "...)
		}
		says = append(append(append(says, "cut to "...), bounds[i].says...), ", "...)
		says = append(append(appendNumber(says, limits[i]), ' '), f.unit...)
	}
	f.detail = string(says)
	return nil
}

// neverFor is never for a field, with what the tier or the load made of what was
// asked for.
func neverFor(f *field, by *scaling, name string, limit, asked float64) error {
	err := never(name, limit, asked, f.unit)
	if asked != f.base {
		err.Msg += "; " + string(by.appendTo(append(append(appendNumber(nil, f.base), ' '), f.unit...)))
	}
	return err
}

// number writes a figure without needless digits.
func number(v float64) string { return string(appendNumber(nil, v)) }

func appendNumber(to []byte, v float64) []byte {
	return strconv.AppendFloat(to, math.Round(v*1000)/1000, 'f', -1, 64)
}
