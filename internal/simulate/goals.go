package simulate

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// The goals of the policy: how many of a fixed pool's cold starts it must spare,
// and how far its mean wait may be above the oracle's.
const (
	goalSpared = 0.5
	goalWait   = 1.3
)

// Goals is how a policy stands against its two goals on one trace: cold starts
// beside those of fixed pools with as much idle memory, waits beside the oracle's.
type Goals struct {
	// Trace names the trace, Requests counts its claims.
	Trace    string
	Requests int
	// Span is its length.
	Span time.Duration
	// Ours is the policy's result; Equal and EqualCold are those of the fixed pools
	// with as much idle memory, warm only and with cold boxes too.
	Ours, Equal, EqualCold, Oracle *Result
}

// CheckGoals runs the policy, the fixed pools and the oracle on a trace. Errors
// are those of [Compare].
func CheckGoals(tr *Trace, p Params, policy string) (*Goals, error) {
	rep, err := Compare(tr, p, []string{policy, "equal", "equal+cold", "oracle"})
	if err != nil {
		return nil, err
	}
	r := rep.Results
	return &Goals{Trace: rep.Trace, Requests: rep.Requests, Span: rep.Span, Ours: r[0], Equal: r[1], EqualCold: r[2], Oracle: r[3]}, nil
}

// spared is the share of a fixed pool's cold starts that the policy does without.
// Those that nobody can help, the oracle included, do not count; ok is false when
// the fixed pool has no others, and the policy neither.
func (g *Goals) spared(fixed *Result) (share float64, ok bool) {
	ours, theirs := g.Ours.ColdStarts()-g.Oracle.ColdStarts(), fixed.ColdStarts()-g.Oracle.ColdStarts()
	if theirs <= 0 && ours <= 0 {
		return 0, false
	}
	return 1 - ours/math.Max(theirs, 1e-12), true
}

// waits is the mean wait over the oracle's.
func (g *Goals) waits() float64 { return float64(g.Ours.WaitMean) / float64(g.Oracle.WaitMean) }

// Missed returns what goals the policy misses, in words; "" when it meets both.
func (g *Goals) Missed() string {
	var missed []string
	if share, ok := g.spared(g.Equal); ok && share < goalSpared {
		missed = append(missed, fmt.Sprintf("spares %.0f %% of a fixed pool's cold starts, less than %.0f %%", 100*share, 100*goalSpared))
	}
	if g.waits() > goalWait {
		missed = append(missed, fmt.Sprintf("waits %.2f times as long as the oracle, more than %.1f", g.waits(), goalWait))
	}
	return strings.Join(missed, "; ")
}

// WriteGoals writes a table of several traces for a document.
func WriteGoals(w io.Writer, p Params, policy string, all []*Goals) error {
	text := fmt.Sprintf("%s with %s:\n\n", policy, p)
	text += "| trace | claims | idle MB | cold starts | equal fixed pool | spared | … with cold boxes | spared | mean wait | oracle's | times | p95, p99 against the oracle's |\n"
	text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
	for _, g := range all {
		spared := func(fixed *Result) string {
			if share, ok := g.spared(fixed); ok {
				return fmt.Sprintf("%.0f %%", 100*share)
			}
			return "none to spare"
		}
		text += fmt.Sprintf("| %s | %d | %.0f | %s | %s | **%s** | %s | %s | %.2f ms | %.2f ms | **%.2f** | %.1f, %.1f |\n",
			strings.ReplaceAll(strings.TrimPrefix(g.Trace, "generated "), ",", ", "), g.Requests, g.Ours.Idle()/math.Max(g.Span.Seconds(), 1e-9),
			percent(g.Ours.ColdStarts()), percent(g.Equal.ColdStarts()), spared(g.Equal), percent(g.EqualCold.ColdStarts()), spared(g.EqualCold),
			float64(g.Ours.WaitMean)/1e6, float64(g.Oracle.WaitMean)/1e6, g.waits(),
			float64(g.Ours.WaitP95)/float64(g.Oracle.WaitP95), float64(g.Ours.WaitP99)/float64(g.Oracle.WaitP99))
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write goals: %w", err)
	}
	return nil
}
