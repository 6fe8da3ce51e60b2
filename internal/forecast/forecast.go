package forecast

import (
	"fmt"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Kind says which stage served a claim.
type Kind uint8

// The kinds, from best to worst.
const (
	// KindWarm: a restored box was waiting.
	KindWarm Kind = iota
	// KindCold: a created box was waiting and had to be restored.
	KindCold
	// KindNew: nothing was waiting; the box had to be made.
	KindNew
)

// String returns "warm", "cold" or "new".
func (k Kind) String() string {
	switch k {
	case KindWarm:
		return "warm"
	case KindCold:
		return "cold"
	case KindNew:
		return "new"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Target is how many boxes of a template should be waiting, and why. Boxes that
// are on their way count, leased ones do not.
type Target struct {
	// Warm is the number of restored boxes, Cold that of created ones.
	Warm int `json:"warm"`
	Cold int `json:"cold"`
	// Why is the reason for the size, of the last warm box if there is one.
	Why Reason `json:"why"`
	// Until is when to ask again if no claim comes before; it is later than the
	// time that was asked for.
	Until time.Time `json:"until"`
}

// Costs are what the stages of a box take and what waiting is worth.
type Costs struct {
	// Lease is what a claim takes that finds a warm box.
	Lease time.Duration `json:"lease"`
	// Restore is what turns a cold box into a warm one.
	Restore time.Duration `json:"restore"`
	// Create is what makes a cold box out of nothing.
	Create time.Duration `json:"create"`
	// WarmMB and ColdMB are the memory of one idle box, in MB.
	WarmMB float64 `json:"warmMB"`
	ColdMB float64 `json:"coldMB"`
	// WaitPrice is how many MB·s of idle memory are as bad as one second of one
	// caller's wait.
	WaitPrice float64 `json:"waitPrice"`
}

// DefaultCosts are those of a Python template with the scientific stack on the
// two-core test machine, restored from its snapshot: leased in 3 ms, restored in
// 150 ms, made in 60 ms before that. The price of a second is 30,000 GB·s: at
// 1 USD for a GB and a month, what memory costs in a rented server, an hour of a
// caller's wait comes to 42 USD.
func DefaultCosts() Costs {
	return Costs{
		Lease: 3 * time.Millisecond, Restore: 150 * time.Millisecond, Create: 60 * time.Millisecond,
		WarmMB: 170, ColdMB: 22, WaitPrice: 3e7,
	}
}

// Validate names the first field that is out of its range. The error is a
// *bulkhead.Error with CodeInvalid.
func (c Costs) Validate() error {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"lease", c.Lease}, {"restore", c.Restore}, {"create", c.Create}} {
		if f.d < 0 || f.d > 10*time.Minute {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %v; it must be between 0 and 10m", f.name, f.d)
		}
	}
	for _, f := range []struct {
		name string
		v    float64
	}{{"warmMB", c.WarmMB}, {"coldMB", c.ColdMB}, {"waitPrice", c.WaitPrice}} {
		if !(f.v >= 0 && f.v <= 1e12) { // also not NaN
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %v; it must be between 0 and 1e12", f.name, f.v)
		}
	}
	return nil
}

// Bounds are the least and the most a target may be.
type Bounds struct {
	// MinWarm and MaxWarm bound the number of warm boxes.
	MinWarm int `json:"minWarm"`
	MaxWarm int `json:"maxWarm"`
	// MinCold and MaxCold bound the number of cold ones.
	MinCold int `json:"minCold"`
	MaxCold int `json:"maxCold"`
}

// DefaultBounds are those of [Model]: the price decides, one cold box stays.
func DefaultBounds() Bounds { return Bounds{MaxWarm: 128, MinCold: 1, MaxCold: maxDepth} }

// Validate names the first bound that is out of its range: 0 ≤ min ≤ max ≤ 256.
func (b Bounds) Validate() error {
	if b.MinWarm < 0 || b.MaxWarm < b.MinWarm || b.MaxWarm > maxDepth {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "warm bounds are %d to %d; they must be within 0 to %d", b.MinWarm, b.MaxWarm, maxDepth)
	}
	if b.MinCold < 0 || b.MaxCold < b.MinCold || b.MaxCold > maxDepth {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "cold bounds are %d to %d; they must be within 0 to %d", b.MinCold, b.MaxCold, maxDepth)
	}
	return nil
}

func (b Bounds) clamp(warm, cold int) (int, int) {
	return min(max(warm, b.MinWarm), b.MaxWarm), min(max(cold, b.MinCold), b.MaxCold)
}

// Config is how a [Model] is set up. The zero value stands for the defaults.
type Config struct {
	// Costs default to [DefaultCosts] when all are zero.
	Costs Costs
	// Bounds default to [DefaultBounds] when all are zero.
	Bounds Bounds
	// Builders is how many boxes this host creates or restores at once; 16 when
	// zero, at most [MaxBuilders]. It decides how far a burst outruns the refill.
	Builders int
	// Location is where hours and weekdays are counted; UTC when nil.
	Location *time.Location
	// NoSeason leaves out the hour-of-week pattern, NoTimers the search for
	// timers. Both are there to measure what they bring.
	NoSeason bool
	NoTimers bool
}

// withDefaults fills what is zero and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if c.Costs == (Costs{}) {
		c.Costs = DefaultCosts()
	}
	if c.Bounds == (Bounds{}) {
		c.Bounds = DefaultBounds()
	}
	if c.Builders == 0 {
		c.Builders = DefaultBuilders
	}
	if c.Builders < 0 || c.Builders > MaxBuilders {
		return c, bulkhead.Errorf(bulkhead.CodeInvalid, "builders is %d; it must be between 1 and %d", c.Builders, MaxBuilders)
	}
	if c.Location == nil {
		c.Location = time.UTC
	}
	if err := c.Costs.Validate(); err != nil {
		return c, err
	}
	return c, c.Bounds.Validate()
}

// DefaultBuilders is how many boxes are created or restored at once unless the
// configuration says otherwise.
const DefaultBuilders = 16

// MaxBuilders bounds how many boxes a host creates or restores at once.
const MaxBuilders = maxDepth

// The timings of the starting configuration. The live pool keeps them; the model
// itself reacts to each claim.
const (
	// Maintenance is how often the seed's formula is evaluated.
	Maintenance = 5 * time.Minute
	// ModelUpdate is how often a model's state should be stored.
	ModelUpdate = 30 * time.Minute
	// CleanUp is how often the seed looks for boxes that are too old.
	CleanUp = time.Hour
	// MaxAge is how old an idle box may get before it is replaced.
	MaxAge = time.Hour
	// RecentUse is the span that "recent use" counts over.
	RecentUse = time.Hour
)

// NewWarm and NewCold are what a template gets that nobody knows yet: in its
// first hour, until its first claim.
const (
	NewWarm = 2
	NewCold = 3
)
