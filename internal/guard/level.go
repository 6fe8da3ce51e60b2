package guard

// Level is how close memory is to its limit.
type Level int

// The levels, in order of pressure. The default bounds are those in brackets;
// see [Config].
const (
	// LevelNormal: the base concurrency (below 60 %).
	LevelNormal Level = iota
	// LevelStable: the concurrency stays as it is (60 to 70 %).
	LevelStable
	// LevelWarning: a quarter less than the base (70 to 80 %).
	LevelWarning
	// LevelHigh: half the base (80 to 85 %).
	LevelHigh
	// LevelCritical: only what is running; everything new is refused at once
	// (above 85 %).
	LevelCritical
)

// levelNames are the words of logs, statistics and metrics.
var levelNames = [...]string{"NORMAL", "STABLE", "WARNING", "HIGH", "CRITICAL"}

// String returns the level's name in capitals, as it stands in logs.
func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return "UNKNOWN"
	}
	return levelNames[l]
}

// MarshalText returns the same word as String.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// thresholds are the lower bounds of the levels above normal, as fractions.
type thresholds [LevelCritical]float64

// thresholds returns c's bounds moved by offset.
func (c *Config) thresholds(offset float64) thresholds {
	return thresholds{
		c.StablePercent + offset, c.WarningPercent + offset,
		c.MaxPercent + offset, c.CriticalPercent + offset,
	}
}

// level returns the level of a used fraction. A level is entered as soon as its
// bound is reached and left only once the fraction is the margin below it, so
// that a value which trembles on a bound does not make the level tremble.
// Critical starts above its bound, the others at theirs.
func (t thresholds) level(used, margin float64, from Level) Level {
	at := func(l Level, bound float64) bool {
		if l == LevelCritical {
			return used > bound
		}
		return used >= bound
	}
	for l := LevelCritical; l > LevelNormal; l-- {
		bound := t[l-1]
		if l <= from {
			bound -= margin
		}
		if at(l, bound) {
			return l
		}
	}
	return LevelNormal
}

// pressureFrom is the used fraction from which the kernel's pressure figures
// count. A group that is at a limit of its own, as a box with a memory bomb is,
// shows in those of the whole host; while half of the memory is free nobody else
// is short of it.
const pressureFrom = 0.5

// pressureLevel returns the least level that the kernel's pressure figures ask
// for.
func (c *Config) pressureLevel(r Reading) Level {
	switch {
	case r.Limit > 0 && r.Fraction() < pressureFrom:
		return LevelNormal
	case c.PressureCritical > 0 && r.Full10 >= c.PressureCritical:
		return LevelCritical
	case c.PressureHigh > 0 && r.Some10 >= c.PressureHigh:
		return LevelHigh
	case c.PressureWarning > 0 && r.Some10 >= c.PressureWarning:
		return LevelWarning
	}
	return LevelNormal
}

// concurrency returns how many may run at level l, given the base, the value in
// force and how many run now.
func concurrency(l Level, base, current, active int) int {
	switch l {
	case LevelNormal:
		return base
	case LevelStable:
		return max(current, base/2, 1) // less only comes from critical, which is over
	case LevelWarning:
		return max(1, base*3/4)
	case LevelHigh:
		return max(1, base/2)
	default:
		return active
	}
}
