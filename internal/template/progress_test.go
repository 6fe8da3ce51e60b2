package template

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		p := &progress{log: discard, send: func(e Event) { events = append(events, e) }}
		ctx, cancel := context.WithCancel(t.Context())
		checks := 0
		go p.watch(ctx, func() { checks++ })
		p.begin(Event{Template: "a", Step: 1, Steps: 2, Action: "x"})
		fmt.Fprintf(p, "half")
		fmt.Fprintf(p, " a line\r\x1b[31mred\x1b[0m \x07bell\n\n%s\nlast", strings.Repeat("x", 2*maxLine))
		time.Sleep(2500 * time.Millisecond)
		p.begin(Event{Template: "a", Step: 2, Steps: 2, Action: "y"})
		p.add(10)
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		long := strings.Repeat("x", maxLine)
		want := []Event{
			{Template: "a", Step: 1, Steps: 2, Action: "x"},
			{Template: "a", Step: 1, Steps: 2, Action: "x", Line: long},
			{Template: "a", Step: 1, Steps: 2, Action: "x", Line: long},
			{Template: "a", Step: 2, Steps: 2, Action: "y"},
			{Template: "a", Step: 2, Steps: 2, Action: "y", Bytes: 10},
		}
		if d := cmp.Diff(want, events, cmpopts.IgnoreFields(Event{}, "At")); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		if checks != 3 {
			t.Errorf("checked %d times, want 3", checks)
		}
	})
}

func TestProgressKeepsTheEndOfTheOutput(t *testing.T) {
	p := &progress{log: discard}
	for i := range 100 {
		fmt.Fprintf(p, "line %d\n", i)
	}
	fmt.Fprint(p, "no end")
	lines := strings.Split(p.output(), "\n")
	if len(lines) != tailLines || lines[0] != "line 81" || lines[tailLines-1] != "no end" {
		t.Errorf("output = %q", lines)
	}
}
