package simulate

import (
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// Policy decides how many boxes of one template wait. Times never run backwards.
type Policy interface {
	// Observe learns of a claim and of how it was served.
	Observe(at time.Time, kind forecast.Kind)
	// Target is asked after each claim and when the last target runs out.
	Target(now time.Time) forecast.Target
}

// Params are the costs of the stages and the size of the host.
type Params struct {
	forecast.Costs
	// Builders is how many boxes are created or restored at once. 1 to
	// [forecast.MaxBuilders].
	// Callers who wait come first.
	Builders int `json:"builders"`
	// MaxAge is how old an idle box may get before it is replaced. A second or more.
	MaxAge time.Duration `json:"maxAge"`
}

// DefaultParams are those of the two-core test machine.
func DefaultParams() Params {
	return Params{Costs: forecast.DefaultCosts(), Builders: forecast.DefaultBuilders, MaxAge: forecast.MaxAge}
}

// Validate names the first field that is out of its range.
func (p Params) Validate() error {
	if p.Builders < 1 || p.Builders > forecast.MaxBuilders {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "builders is %d; it must be between 1 and %d", p.Builders, forecast.MaxBuilders)
	}
	if p.MaxAge < time.Second {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "maxAge is %v; it must be at least 1s", p.MaxAge)
	}
	if p.Restore <= 0 || p.Create <= 0 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "restore is %v and create %v; both must be more than 0", p.Restore, p.Create)
	}
	return p.Costs.Validate()
}

// never is later than everything.
const never = int64(1) << 62

// host replays one trace.
type host struct {
	tr    *Trace
	p     Params
	pools []pool
	now   int64
	busy  int // builders

	creates, restores jobs
	urgent, refill    ids
	due               events
	waiting           int // callers

	res   *Result
	waits []int64 // of those who found no warm box
}

// Run replays a trace through one host, with a policy for each template that
// policy makes. The parameters must be valid. When the trace ends, those who
// still wait are served.
func Run(tr *Trace, p Params, name string, policy func(template int) Policy) *Result {
	h := &host{tr: tr, p: p, pools: make([]pool, len(tr.Templates))}
	h.res = newResult(name, tr)
	for i := range h.pools {
		h.pools[i].policy = policy(i)
		h.pools[i].queued = never
		h.ask(int32(i))
	}
	h.dispatch()
	for next := 0; next < len(tr.Arrivals) || h.waiting > 0; {
		at := never
		if next < len(tr.Arrivals) {
			at = int64(tr.Arrivals[next].At)
		}
		if !h.before(at) {
			h.advance(at)
			h.arrive(tr.Arrivals[next].Template)
			next++
		}
		h.dispatch()
	}
	h.advance(max(h.now, int64(tr.Span)))
	h.finish()
	return h.res
}

// before handles the first event that comes no later than at, if there is one.
func (h *host) before(at int64) bool {
	created, restored, due := h.creates.next(), h.restores.next(), never
	if len(h.due) > 0 {
		due = h.due[0].at
	}
	switch first := min(created, restored, due); {
	case first > at || first == never:
		return false
	case first == created:
		h.advance(created)
		h.created(h.creates.pop().id)
	case first == restored:
		h.advance(restored)
		h.restored(h.restores.pop().id)
	default:
		h.advance(due)
		h.remind(h.due.pop())
	}
	return true
}

// advance moves the clock and books the idle memory up to then.
func (h *host) advance(to int64) {
	if to > h.now {
		h.res.timeline.idle(h.now, to, h.res.idleMB(h.p.Costs))
		h.now = to
	}
}

func (h *host) time() time.Time { return h.tr.Start.Add(time.Duration(h.now)) }

func (h *host) arrive(id int32) {
	p := &h.pools[id]
	kind := p.kind()
	h.res.claim(h.now, kind)
	if kind == forecast.KindWarm {
		p.warm.take(h.now)
		h.res.warmNow--
	} else {
		p.misses++
		p.waiting.push(h.now)
		h.waiting++
	}
	p.policy.Observe(h.time(), kind)
	h.ask(id)
}

func (h *host) created(id int32) {
	h.busy--
	p := &h.pools[id]
	p.creating--
	p.cold.push(h.now)
	h.res.coldNow++
	h.res.Created++
	h.settle(id)
}

func (h *host) restored(id int32) {
	h.busy--
	p := &h.pools[id]
	p.restoring--
	h.res.Restored++
	if p.waiting.n > 0 {
		wait := h.now - p.waiting.pop()
		p.waited += wait
		h.waiting--
		h.waits = append(h.waits, wait+int64(h.p.Lease))
	} else {
		p.warm.push(h.now)
		h.res.warmNow++
	}
	h.settle(id)
}

// remind looks at a pool whose time has come.
func (h *host) remind(e event) {
	p := &h.pools[e.id]
	if e.at != p.queued {
		return // an earlier reminder took its place
	}
	p.queued = never
	if p.until <= h.now {
		h.ask(e.id)
	} else {
		h.settle(e.id)
	}
}

// ask takes a new target from the policy.
func (h *host) ask(id int32) {
	p := &h.pools[id]
	p.want = p.policy.Target(h.time())
	p.until = max(int64(p.want.Until.Sub(h.tr.Start)), h.now+int64(time.Millisecond))
	h.settle(id)
}

// settle destroys what is too much, asks for builders for what is missing and
// sets the pool's next reminder.
func (h *host) settle(id int32) {
	p := &h.pools[id]
	old := h.now - int64(h.p.MaxAge)
	p.warm.age(old)
	p.cold.age(old)
	for p.waiting.n == 0 && p.warm.n > p.want.Warm {
		p.warm.take(h.now)
		h.res.warmNow--
		h.res.DroppedWarm++
	}
	need := max(0, p.want.Warm+p.waiting.n-p.warm.fresh()-p.restoring)
	for p.cold.n > p.want.Cold+need {
		p.cold.take(h.now)
		h.res.coldNow--
		h.res.DroppedCold++
	}
	if !p.urgent && p.forCaller() != nothing {
		p.urgent = true
		h.urgent.push(id)
	}
	if !p.refill && p.forTarget() != nothing {
		p.refill = true
		h.refill.push(id)
	}
	at := p.until
	for _, s := range []*shelf{&p.warm, &p.cold} {
		if s.fresh() > 0 {
			at = min(at, s.at(s.aged)+int64(h.p.MaxAge))
		}
	}
	if at < p.queued {
		p.queued = at
		h.due.push(event{at, id})
	}
}

// dispatch gives free builders to pools whose callers wait, then to those that
// are below their target, each pool in its turn.
func (h *host) dispatch() {
	for !h.urgent.empty() && h.busy < h.p.Builders {
		id := h.urgent.pop()
		p := &h.pools[id]
		h.begin(id, p.forCaller())
		if p.urgent = p.forCaller() != nothing; p.urgent {
			h.urgent.push(id)
		}
	}
	for !h.refill.empty() && h.busy < h.p.Builders {
		id := h.refill.pop()
		p := &h.pools[id]
		h.begin(id, p.forTarget())
		if p.refill = p.forTarget() != nothing; p.refill {
			h.refill.push(id)
		}
	}
}

func (h *host) begin(id int32, what job) {
	p := &h.pools[id]
	switch what {
	case restore:
		p.cold.take(h.now)
		h.res.coldNow--
		p.restoring++
		h.restores.push(event{h.now + int64(h.p.Restore), id})
	case create:
		p.creating++
		h.creates.push(event{h.now + int64(h.p.Create), id})
	case nothing:
		return
	}
	h.busy++
}
