package quota

import (
	"fmt"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// never is the refusal of what could not fit if nothing were used.
func never(name string, limit, asked float64, unit string) *bulkhead.Error {
	e := &bulkhead.Error{
		Code:  bulkhead.CodeQuotaExceeded,
		Limit: &bulkhead.LimitEvidence{Name: name, Limit: limit, Asked: asked, Unit: unit, Never: true},
		Msg:   fmt.Sprintf("%s: %s %s are asked for and the limit is %s; this can never fit", name, number(asked), unit, number(limit)),
	}
	if name[:5] == "host." {
		e.Code = bulkhead.CodeInvalid // another request might do; waiting would not help
	}
	return e
}

// refusal is why there is no place now, as it is found while the book is locked;
// its text is written after.
type refusal struct {
	kind refusalKind
	bulkhead.LimitEvidence
	pressure string // of kind pressed
}

// refusalKind says whose limit it is.
type refusalKind uint8

const (
	granting refusalKind = iota // no refusal
	exceeded                    // one of the tenant's own limits
	full                        // one of the host's
	pressed                     // the host is short of something now
)

// err is the refusal as the error that the tenant reads.
func (r refusal) err() error {
	switch r.kind {
	case exceeded:
		return exceededBy(r.LimitEvidence)
	case full:
		return fullOf(r.LimitEvidence)
	case pressed:
		return pressedBy(r.pressure)
	case granting:
	}
	return nil
}

// exceededBy is the refusal by one of the tenant's own limits.
func exceededBy(l bulkhead.LimitEvidence) error {
	e := &bulkhead.Error{
		Code: bulkhead.CodeQuotaExceeded, Limit: &l, RetryAfter: seconds(l.WaitSeconds),
		Msg: fmt.Sprintf("quota exceeded: %s is %s %s, %s are in use and %s are asked for",
			l.Name, number(l.Limit), l.Unit, number(l.Used), number(l.Asked)),
	}
	switch {
	case l.Asked == 0: // nothing of a day's budget is: it is spent
		e.Msg = fmt.Sprintf("quota exceeded: %s is %s %s, and %s were used today; the next day begins at midnight UTC",
			l.Name, number(l.Limit), l.Unit, number(l.Used))
	case l.WaitSeconds > 0:
		e.Msg += fmt.Sprintf("; a place is expected in %s s", number(l.WaitSeconds))
	}
	return e
}

// retryAfter is when a full host is worth asking again if nothing is known.
const retryAfter = 2 * time.Second

// fullOf is the refusal by the host.
func fullOf(l bulkhead.LimitEvidence) error {
	e := &bulkhead.Error{
		Code: bulkhead.CodeUnavailable, Limit: &l, RetryAfter: max(seconds(l.WaitSeconds), time.Second),
		Msg: fmt.Sprintf("this node is full: %s is %s %s, %s are booked and %s are needed",
			l.Name, number(l.Limit), l.Unit, number(l.Used), number(l.Asked)),
	}
	if l.WaitSeconds == 0 {
		e.RetryAfter = retryAfter
	} else {
		e.Msg += fmt.Sprintf("; a place is expected in %s s", number(l.WaitSeconds))
	}
	return e
}

// pressedBy is the refusal by a host that is short of something now.
func pressedBy(why string) error {
	return &bulkhead.Error{
		Code: bulkhead.CodeUnavailable, RetryAfter: retryAfter,
		Limit: &bulkhead.LimitEvidence{Name: "host.pressure"},
		Msg:   "this node is under pressure: " + why,
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// evidence is what lacks in an account, whose limits are called by names.
func evidence(names *[resources]string, resource int, used, ask, limit *Amounts) bulkhead.LimitEvidence {
	return bulkhead.LimitEvidence{
		Name: names[resource], Unit: units[resource],
		Limit: value(resource, limit[resource]), Used: value(resource, used[resource]), Asked: value(resource, ask[resource]),
	}
}
