package quota

import (
	"math"

	"github.com/bulkheadhq/bulkhead"
)

// The resources that are summed, as indices of [Amounts].
const (
	Sandboxes = iota // sandboxes
	CPU              // thousandths of a core
	Memory           // MiB
	Disk             // MiB
	resources
)

// Unlimited is a limit that is none.
const Unlimited = math.MaxInt64

// Amounts is a quantity of each resource. Whole numbers add up without a rest.
type Amounts [resources]int64

// tenantLimits, hostLimits and units are as the API writes them.
var (
	tenantLimits = [resources]string{"tenant.sandboxes", "tenant.cpu", "tenant.memoryMB", "tenant.diskMB"}
	hostLimits   = [resources]string{"host.sandboxes", "host.cpu", "host.memoryMB", "host.diskMB"}
	units        = [resources]string{"sandboxes", "cores", "MiB", "MiB"}
)

// AmountsOf is what one sandbox with the limits takes.
func AmountsOf(l bulkhead.Limits) Amounts {
	return Amounts{Sandboxes: 1, CPU: milli(l.CPU), Memory: l.MemoryMB, Disk: l.DiskMB}
}

// milli is a number of cores in thousandths.
func milli(cores float64) int64 { return int64(math.Round(cores * 1000)) }

// value is a quantity in the unit that people read.
func value(resource int, n int64) float64 {
	if resource == CPU {
		return float64(n) / 1000
	}
	return float64(n)
}

func (a *Amounts) add(b *Amounts) {
	for i := range a {
		a[i] += b[i]
	}
}

func (a *Amounts) sub(b *Amounts) {
	for i := range a {
		a[i] -= b[i]
	}
}

// lacking returns the first resource of which ask does not fit beside used and
// kept, or -1.
func lacking(used, kept, ask, limit *Amounts) int {
	for i := range ask {
		// A claim on nothing of a resource is not held up by it.
		if ask[i] > 0 && used[i]+kept[i] > limit[i]-ask[i] {
			return i
		}
	}
	return -1
}

// nothing is none of each resource.
var nothing Amounts

// limitsOf are the sums that a quota allows.
func limitsOf(q *bulkhead.Quota) Amounts {
	orNone := func(n int64) int64 {
		if n <= 0 {
			return Unlimited
		}
		return n
	}
	return Amounts{
		Sandboxes: orNone(int64(q.Sandboxes)), CPU: orNone(milli(q.CPU)),
		Memory: orNone(q.MemoryMB), Disk: orNone(q.DiskMB),
	}
}
