// Package trace says where the time of a request goes.
//
// It is OpenTelemetry with two readers on this host and none elsewhere: a
// histogram of every stage, and the Server-Timing header of the answer, so that
// a client sees the stages of its own request. [Stage] is all that most code
// needs; in a context without a request it costs nothing and records nothing.
package trace

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the instrumentation.
const scope = "github.com/bulkheadhq/bulkhead"

// fromKey is the attribute of a request that says what it was served from.
const fromKey = attribute.Key("bulkhead.from")

// Stage begins a stage of the request in ctx and returns how to end it, with the
// error it ended with or nil. End must be called once.
func Stage(ctx context.Context, name string) (_ context.Context, end func(error)) {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(scope).Start(ctx, name)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "") // the text may be the tenant's
		}
		span.End()
	}
}

// From notes what the request in ctx was served from, such as "warm".
func From(ctx context.Context, from string) {
	if t, ok := ctx.Value(timingKey{}).(*Timing); ok {
		t.mu.Lock()
		t.from = from
		t.mu.Unlock()
		t.span.SetAttributes(fromKey.String(from))
	}
}

// Tracer makes the traces of requests. It is safe for concurrent use.
type Tracer struct {
	provider *sdktrace.TracerProvider
	seconds  *prometheus.HistogramVec

	mu   sync.Mutex
	open map[trace.TraceID]*Timing
}

// New returns a Tracer that registers its histogram,
// bulkhead_stage_seconds{request, stage, from}.
func New(registry prometheus.Registerer) (*Tracer, error) {
	t := &Tracer{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_stage_seconds",
			Help: "Time of the stages of requests, by what they were served from; stage \"all\" is the whole request.",
			Buckets: []float64{
				.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30,
			},
		}, []string{"request", "stage", "from"}),
		open: map[trace.TraceID]*Timing{},
	}
	if err := registry.Register(t.seconds); err != nil {
		return nil, fmt.Errorf("register stage metrics: %w", err)
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithSpanProcessor(processor{t}),
	)
	return t, nil
}

// Timing is the stages of one request.
type Timing struct {
	tracer *Tracer
	name   string
	span   trace.Span
	began  time.Time

	mu     sync.Mutex
	from   string
	stages []stage
}

// stage is one that has ended.
type stage struct {
	name string
	took time.Duration
}

type timingKey struct{}

// Request begins the trace of a request of the given kind, which must be one of
// a few. The caller must call [Timing.End] once.
func (t *Tracer) Request(ctx context.Context, name string) (context.Context, *Timing) {
	timing := &Timing{tracer: t, name: name, began: time.Now()}
	ctx, timing.span = t.provider.Tracer(scope).Start(ctx, name)
	t.mu.Lock()
	t.open[timing.span.SpanContext().TraceID()] = timing
	t.mu.Unlock()
	return context.WithValue(ctx, timingKey{}, timing), timing
}

// End ends the request and counts its stages.
func (t *Timing) End() {
	t.tracer.mu.Lock()
	delete(t.tracer.open, t.span.SpanContext().TraceID())
	t.tracer.mu.Unlock()
	t.span.End()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.stages {
		t.tracer.seconds.WithLabelValues(t.name, s.name, t.from).Observe(s.took.Seconds())
	}
	t.tracer.seconds.WithLabelValues(t.name, "all", t.from).Observe(time.Since(t.began).Seconds())
}

// Header is the value of Server-Timing for the stages that have ended: times in
// milliseconds. It is empty when there are none.
func (t *Timing) Header() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.stages) == 0 {
		return ""
	}
	var b strings.Builder
	for _, s := range t.stages {
		fmt.Fprintf(&b, "%s;dur=%.3f, ", s.name, ms(s.took))
	}
	fmt.Fprintf(&b, "all;dur=%.3f", ms(time.Since(t.began)))
	if t.from != "" {
		fmt.Fprintf(&b, ";desc=%q", t.from)
	}
	return b.String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// processor gives ended spans to the request they are of.
type processor struct{ tracer *Tracer }

var _ sdktrace.SpanProcessor = processor{}

// OnStart implements [sdktrace.SpanProcessor].
func (processor) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements [sdktrace.SpanProcessor].
func (p processor) OnEnd(s sdktrace.ReadOnlySpan) {
	p.tracer.mu.Lock()
	t := p.tracer.open[s.SpanContext().TraceID()]
	p.tracer.mu.Unlock()
	if t == nil {
		return // its request has ended
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stages = append(t.stages, stage{s.Name(), s.EndTime().Sub(s.StartTime())})
}

// Shutdown implements [sdktrace.SpanProcessor].
func (processor) Shutdown(context.Context) error { return nil }

// ForceFlush implements [sdktrace.SpanProcessor].
func (processor) ForceFlush(context.Context) error { return nil }
