package simulate

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// Report is several policies on one trace.
type Report struct {
	// Trace names the trace, Requests and Templates count what is in it.
	Trace     string `json:"trace"`
	Requests  int    `json:"requests"`
	Templates int    `json:"templates"`
	// Span is its length, Leased how many seconds boxes are leased in it.
	Span   time.Duration `json:"spanNs"`
	Leased float64       `json:"leasedSeconds"`
	// Params are what the host and its stages cost.
	Params Params `json:"params"`
	// Results are in the order the policies were named.
	Results []*Result `json:"results"`
}

// DefaultPolicies is what [Compare] is given by default.
func DefaultPolicies() []string {
	return []string{"none", "fixed:2+3", "equal", "equal+cold", "hindsight", "keepalive:10m", "hybrid", "seed", "bulkhead", "oracle"}
}

// PolicyHelp describes the names that [Compare] knows, a line each.
const PolicyHelp = `none             no pool
fixed:W+C        W warm and C cold boxes for each template
equal            the fixed pool, warm only, with as much idle memory as the first bulkhead
equal+cold       the same with 1.5 cold boxes for each warm one, as the seed has it
hindsight        the best fixed sizes for this very trace, template by template
keepalive:T+C    a replacement stays for T after each claim; C cold boxes
hybrid+C         the hybrid histogram of "Serverless in the Wild"; C cold boxes
depth:T          the k-th box stays for T after k claims came at once
rate             newsvendor on Poisson claims at the largest moving average
seed             the starting configuration
bulkhead:P       the live policy, at a price of P MB·s for a second's wait;
                 bulkhead-season and bulkhead-timers leave that part out,
                 bulkhead-bounded keeps to 2 to 10 warm, 3 to 15 cold in use
oracle           knows the future`

// Compare replays a trace through the named policies. The trace and the
// parameters must be valid. An unknown name is a *bulkhead.Error with
// CodeInvalid, and nothing is run.
func Compare(tr *Trace, p Params, names []string) (*Report, error) {
	rep := &Report{
		Trace: tr.Name, Requests: len(tr.Arrivals), Templates: len(tr.Templates), Span: tr.Span,
		Leased: tr.LeasedSeconds(), Params: p, Results: make([]*Result, len(names)),
	}
	runs := make([]func() *Result, len(names))
	ref := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "bulkhead") })
	for i, name := range names {
		var err error
		switch name {
		case "equal", "equal+cold":
			if ref < 0 {
				return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "policy %q needs bulkhead among the policies, to have as much idle memory as it", name)
			}
		default:
			if runs[i], err = parsePolicy(name, tr, p); err != nil {
				return nil, err
			}
		}
	}
	for i, run := range runs {
		if run != nil {
			rep.Results[i] = run()
		}
	}
	for i, name := range names {
		if runs[i] == nil {
			coldPer := 0.0
			if name == "equal+cold" {
				coldPer = 1.5
			}
			rep.Results[i], _ = FixedEqual(tr, p, rep.Results[ref].Idle(), coldPer)
		}
		rep.Results[i].Policy = name
	}
	best := Oracle(tr, p).Cost
	for _, r := range rep.Results {
		r.Regret = r.Cost - best
	}
	return rep, nil
}

// maxSize bounds the sizes that a policy's name may ask for.
const maxSize = 1024

// parsePolicy returns what runs the named policy.
func parsePolicy(name string, tr *Trace, p Params) (func() *Result, error) {
	kind, arg, _ := strings.Cut(name, ":")
	cold := 0
	if kind, arg, cold = splitCold(kind, arg); cold < 0 {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "policy %.60q has a number of cold boxes that is not 0 to %d", name, maxSize)
	}
	each := func(policy func() Policy) (func() *Result, error) {
		return func() *Result { return Run(tr, p, name, func(int) Policy { return policy() }) }, nil
	}
	switch kind {
	case "none":
		return each(func() Policy { return forecast.Fixed{} })
	case "seed":
		return each(func() Policy { return &forecast.Seed{} })
	case "hybrid":
		return each(func() Policy { return NewHybrid(cold) })
	case "rate":
		return each(func() Policy { return NewRate(p.Costs) })
	case "oracle":
		return func() *Result { return Oracle(tr, p) }, nil
	case "hindsight":
		return func() *Result {
			sizes := Hindsight(tr, p)
			return Run(tr, p, name, func(i int) Policy { return sizes[i] })
		}, nil
	case "fixed":
		warm, err := strconv.Atoi(arg)
		if err != nil || warm < 0 || warm > maxSize {
			return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "policy %.60q must be fixed:W+C with sizes from 0 to %d", name, maxSize)
		}
		return each(func() Policy { return forecast.Fixed{Warm: warm, Cold: cold} })
	case "keepalive", "depth":
		keep, err := time.ParseDuration(arg)
		if err != nil || keep <= 0 || keep > MaxSpan {
			return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "policy %.60q must be %s:T with a time such as 10m", name, kind)
		}
		if kind == "depth" {
			return each(func() Policy { return NewDepth(p.Costs, keep) })
		}
		return each(func() Policy { return NewKeepAlive(keep, cold) })
	case "bulkhead", "bulkhead-season", "bulkhead-timers", "bulkhead-bounded":
		return parseModel(name, tr, p, forecast.Config{NoSeason: kind == "bulkhead-season", NoTimers: kind == "bulkhead-timers"})
	}
	return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "policy %.60q is not known; the policies are\n%s", name, PolicyHelp)
}

func parseModel(name string, tr *Trace, p Params, cfg forecast.Config) (func() *Result, error) {
	cfg.Costs, cfg.Builders, cfg.Location = p.Costs, p.Builders, tr.Start.Location()
	if _, arg, ok := strings.Cut(name, ":"); ok {
		price, err := strconv.ParseFloat(arg, 64)
		if err != nil {
			return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "policy %.60q must be bulkhead:P with a price such as 1e6", name)
		}
		cfg.Costs.WaitPrice = price
	}
	if _, err := forecast.New(cfg); err != nil {
		return nil, err
	}
	return func() *Result {
		return Run(tr, p, name, func(int) Policy {
			m, err := forecast.New(cfg)
			if err != nil {
				return forecast.Fixed{} // not reached: the same configuration was accepted above
			}
			if strings.HasPrefix(name, "bulkhead-bounded") {
				return bounded{m}
			}
			return m
		})
	}, nil
}

// splitCold takes "+C" off the end of a policy's name; cold is -1 if C is wrong.
func splitCold(kind, arg string) (string, string, int) {
	text := &arg
	if arg == "" {
		text = &kind
	}
	left, right, ok := strings.Cut(*text, "+")
	if !ok {
		return kind, arg, 0
	}
	*text = left
	cold, err := strconv.Atoi(right)
	if err != nil || cold < 0 || cold > maxSize {
		cold = -1
	}
	return kind, arg, cold
}
