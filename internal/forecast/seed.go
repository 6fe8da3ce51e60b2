package forecast

import (
	"math"
	"time"
)

// SeedBounds are the bounds of the seed's formula.
func SeedBounds() Bounds { return Bounds{MinWarm: 2, MaxWarm: 10, MinCold: 3, MaxCold: 15} }

// maxRecent bounds what [Seed] remembers. Its formula is at its upper bounds
// from 15 claims in an hour on, so nothing is lost.
const maxRecent = 1024

// Seed is the starting configuration, exactly as it was given: counts by hour of
// day and by day of week and the claims of the last hour, mixed by a formula
// every five minutes. It is here as the baseline. The zero value is ready.
type Seed struct {
	// Location is where hours and weekdays are counted; UTC when nil.
	Location *time.Location

	total  int
	hourly [24]int
	daily  [7]int
	recent []time.Time
	next   time.Time
	last   Target
}

// Observe counts a claim.
func (s *Seed) Observe(at time.Time, _ Kind) {
	at = s.local(at)
	s.total++
	s.hourly[at.Hour()]++
	s.daily[at.Weekday()]++
	if len(s.recent) == maxRecent {
		s.recent = append(s.recent[:0], s.recent[maxRecent/2:]...)
	}
	s.recent = append(s.recent, at)
}

// Target returns the sizes of the last maintenance, which it carries out when
// one is due.
func (s *Seed) Target(now time.Time) Target {
	if now.Before(s.next) {
		return s.last
	}
	s.next = now.Truncate(Maintenance).Add(Maintenance)
	s.last = Target{Warm: NewWarm, Cold: NewCold, Why: Reason{Cause: CauseNew}, Until: s.next}
	if s.total > 0 {
		s.last.Warm, s.last.Cold = s.formula(s.local(now))
		s.last.Why.Cause = CauseFormula
	}
	return s.last
}

func (s *Seed) formula(now time.Time) (warm, cold int) {
	i := 0
	for i < len(s.recent) && now.Sub(s.recent[i]) >= RecentUse {
		i++
	}
	s.recent = append(s.recent[:0], s.recent[i:]...)
	total := float64(s.total)
	hourly := float64(s.hourly[now.Hour()]) / math.Max(1, total/(24*7))
	daily := float64(s.daily[now.Weekday()]) / math.Max(1, total/7)
	demand := int(math.Ceil((hourly*daily + float64(len(s.recent))*2) / 2))
	return SeedBounds().clamp(demand, demand*2)
}

func (s *Seed) local(t time.Time) time.Time {
	if s.Location == nil {
		return t.UTC()
	}
	return t.In(s.Location)
}

// Fixed is a pool of a set size.
type Fixed struct {
	// Warm and Cold are the sizes.
	Warm, Cold int
}

// Observe does nothing.
func (Fixed) Observe(time.Time, Kind) {}

// Target returns the set size.
func (f Fixed) Target(now time.Time) Target {
	return Target{Warm: f.Warm, Cold: f.Cold, Why: Reason{Cause: CausePinned}, Until: now.Add(24 * time.Hour)}
}
