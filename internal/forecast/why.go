package forecast

import (
	"fmt"
	"strconv"
	"time"
)

// Cause is the kind of a [Reason]. The set is closed.
type Cause string

// The causes.
const (
	// CausePinned: an operator set the size.
	CausePinned Cause = "pinned"
	// CauseNew: the template has no history yet.
	CauseNew Cause = "new"
	// CauseDemand: the box is needed often enough to pay for itself.
	CauseDemand Cause = "demand"
	// CauseBurst: as CauseDemand, while claims come much faster than usual.
	CauseBurst Cause = "burst"
	// CauseTimer: a timer is due.
	CauseTimer Cause = "timer"
	// CauseQuiet: no box pays for itself now; the least is kept.
	CauseQuiet Cause = "quiet"
	// CauseFormula: the seed's formula.
	CauseFormula Cause = "formula"
)

// Reason says why a target is what it is. It is a value; putting it into words
// is left to String.
type Reason struct {
	// Cause is the kind.
	Cause Cause
	// Box is the number of the box that decided, counted from 1: the last one
	// that still pays. 0 when none does.
	Box int
	// Every is how often that box is expected to spare somebody the time of a
	// replacement as things are now.
	Every time.Duration
	// Worth is how often it must be needed to pay for itself.
	Worth time.Duration
	// Ago is how long ago it was last needed; 0 when it never was.
	Ago time.Duration
}

// String returns the reason in one sentence for a person.
func (r Reason) String() string {
	box := "box " + strconv.Itoa(r.Box)
	ago := ", never needed yet"
	if r.Ago > 0 {
		ago = ", last " + short(r.Ago) + " ago"
	}
	switch r.Cause {
	case CausePinned:
		return "pinned by the operator"
	case CauseNew:
		return "new template, no claims yet"
	case CauseFormula:
		return "hour, weekday and recent use"
	case CauseQuiet:
		return "quiet: no box pays for itself now"
	case CauseTimer:
		return box + " is due by a timer that comes every " + short(r.Every)
	case CauseDemand, CauseBurst:
		s := fmt.Sprintf("%s is needed about every %s, pays up to every %s%s", box, short(r.Every), short(r.Worth), ago)
		if r.Cause == CauseBurst {
			return "burst: " + s
		}
		return s
	}
	return string(r.Cause)
}

// MarshalText returns String.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// short formats a duration with two figures: 350ms, 4.2s, 12m, 3.1h, 5d.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d >= u.unit {
			f := float64(d) / float64(u.unit)
			if f < 10 {
				return strconv.FormatFloat(f, 'f', 1, 64) + u.name
			}
			return strconv.FormatFloat(min(f, 9999), 'f', 0, 64) + u.name
		}
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
