package trace_test

import (
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bulkheadhq/bulkhead/internal/trace"
)

func TestStagesOfARequest(t *testing.T) {
	registry := prometheus.NewRegistry()
	tracer, err := trace.New(registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, timing := tracer.Request(t.Context(), "create")
	if got := timing.Header(); got != "" {
		t.Errorf("before any stage: %q", got)
	}
	inner, endOuter := trace.Stage(ctx, "acquire")
	_, end := trace.Stage(inner, "restore")
	end(nil)
	endOuter(errors.New("boom"))
	trace.From(inner, "cold")
	want := regexp.MustCompile(`^restore;dur=[0-9.]+, acquire;dur=[0-9.]+, all;dur=[0-9.]+;desc="cold"$`)
	if got := timing.Header(); !want.MatchString(got) {
		t.Errorf("header: %q", got)
	}
	timing.End()
	_, end = trace.Stage(ctx, "late") // of a request that has ended: nothing happens
	end(nil)

	counts := map[string]uint64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		var labels strings.Builder
		for _, l := range m.GetLabel() {
			labels.WriteString(l.GetName() + "=" + l.GetValue() + " ")
		}
		counts[labels.String()] = m.GetHistogram().GetSampleCount()
	}
	for _, s := range []string{"acquire", "restore", "all"} {
		if counts["from=cold request=create stage="+s+" "] != 1 {
			t.Errorf("stage %s is not counted once: %v", s, counts)
		}
	}
	if len(counts) != 3 {
		t.Errorf("counted: %v", counts)
	}
}

// A stage outside any request is allowed and recorded nowhere.
func TestStageWithoutRequest(t *testing.T) {
	ctx, end := trace.Stage(t.Context(), "refill")
	trace.From(ctx, "new")
	end(nil)
}

func TestManyRequests(t *testing.T) {
	tracer, err := trace.New(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			for range 200 {
				ctx, timing := tracer.Request(t.Context(), "create")
				_, end := trace.Stage(ctx, "one")
				end(nil)
				if n := len(regexp.MustCompile("one;").FindAllString(timing.Header(), -1)); n != 1 {
					t.Errorf("%d stages", n)
				}
				timing.End()
			}
		})
	}
	g.Wait()
}

func BenchmarkStage(b *testing.B) {
	tracer, err := trace.New(prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	ctx, timing := tracer.Request(b.Context(), "create")
	defer timing.End()
	for b.Loop() {
		_, end := trace.Stage(ctx, "one")
		end(nil)
	}
}
