package bulkhead

// Sums are what several sandboxes may use together. A limit of 0 is none.
type Sums struct {
	// Sandboxes is how many.
	Sandboxes int64 `json:"sandboxes"`
	// CPU is in cores, MemoryMB and DiskMB are in MiB.
	CPU      float64 `json:"cpu"`
	MemoryMB int64   `json:"memoryMB"`
	DiskMB   int64   `json:"diskMB"`
}

// DayUse is what a tenant's sandboxes have used on a UTC day.
type DayUse struct {
	// CPUSeconds is processor time, GBHours memory (GiB) times hours.
	CPUSeconds float64 `json:"cpuSeconds"`
	GBHours    float64 `json:"gbHours"`
}

// QuotaState is what a tenant may use, and does.
type QuotaState struct {
	// Tenant is whose, Tier its tier with its own overrides in the quota.
	Tenant string `json:"tenant"`
	Tier   Tier   `json:"tier"`
	// Used is granted to its sandboxes, Waiting the number of its claims that wait.
	Used    Sums `json:"used"`
	Waiting int  `json:"waiting"`
	// Today is what its sandboxes have used since midnight, UTC.
	Today DayUse `json:"today"`
}

// Load is how busy a host is, each from 0 to 1.
type Load struct {
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
}

// Average is what the load factor goes by.
func (l Load) Average() float64 { return (l.CPU + l.Memory) / 2 }

// Factor scales what sandboxes get: 0.7 above 80 % of load, 0.85 above 60 %,
// else 1.
func (l Load) Factor() float64 {
	switch avg := l.Average(); {
	case avg > 0.8:
		return 0.7
	case avg > 0.6:
		return 0.85
	}
	return 1
}

// HostState is what a host promises and has promised.
type HostState struct {
	// Capacity is what it can promise now, Booked what is expected to be used of
	// that, Granted what its sandboxes may use if all did at once.
	Capacity Sums `json:"capacity"`
	Booked   Sums `json:"booked"`
	Granted  Sums `json:"granted"`
	// Bookings and Waiting are numbers of sandboxes and of claims.
	Bookings int `json:"bookings"`
	Waiting  int `json:"waiting"`
	// Load and LoadFactor say how new sandboxes are scaled.
	Load       Load    `json:"load"`
	LoadFactor float64 `json:"loadFactor"`
	// Pressure says why nothing new is taken on; empty while it is.
	Pressure string `json:"pressure,omitempty"`
}

// WhatIf says whether more sandboxes would fit.
type WhatIf struct {
	// Count is how many were asked about, Fits whether all of them would fit now,
	// Fitting how many would.
	Count   int  `json:"count"`
	Fits    bool `json:"fits"`
	Fitting int  `json:"fitting"`
	// Allocation is what each would get.
	Allocation Allocation `json:"allocation"`
	// Blocks are the limits in the way, the one that lets the fewest through first.
	Blocks []LimitEvidence `json:"blocks"`
}
