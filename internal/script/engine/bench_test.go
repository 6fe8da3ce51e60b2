package engine

import (
	"encoding/json"
	"testing"

	"github.com/dop251/goja"
)

// tiny is the program of the throughput figures: input, arrays, a string.
const tiny = `({total: input.items.map(x => x.n * 2).reduce((a, b) => a + b, 0), name: input.name.toUpperCase()})`

const tinyInput = `{"items":[{"n":1},{"n":2},{"n":3}],"name":"abc"}`

func BenchmarkTiny(b *testing.B) {
	e := newEngine(b)
	for _, lane := range []Lane{LaneInProcess, LaneWorker} {
		p, err := e.Compile(tiny, lane)
		if err != nil {
			b.Fatal(err)
		}
		in := Input{JSON: json.RawMessage(tinyInput), Limits: DefaultLimits(), Host: &world{}}
		b.Run(lane.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				in.Journal = nil
				if out := e.Run(b.Context(), p, lane, in); len(out.Result) == 0 {
					b.Fatal(out)
				}
			}
		})
	}
	p := goja.MustCompile("", tiny, false)
	b.Run("bare goja", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rt := goja.New()
			parse, _ := goja.AssertFunction(rt.Get("JSON").ToObject(rt).Get("parse"))
			v, err := parse(goja.Undefined(), rt.ToValue(tinyInput))
			if err != nil {
				b.Fatal(err)
			}
			_ = rt.Set("input", v)
			if v, err = rt.RunProgram(p); err != nil {
				b.Fatal(err)
			}
			if _, err := json.Marshal(v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
