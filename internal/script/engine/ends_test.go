package engine

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSmallBuiltInsEnd calls every built-in that a small program may use, in
// process, on many receivers with many arguments: each call must come back at
// once, since nothing could end it from outside. A call that does not is a bug
// of goja's that needs a check in the table of natives.
func TestSmallBuiltInsEnd(t *testing.T) {
	e := newEngine(t)
	receivers := []string{
		`""`, `"abc"`, `"a,b,,c"`, `"ä€😀"`, `"\ud800x\udc00"`, `"x".repeat(300)`, `"ä".repeat(300)`, `" \t\n"`,
		`[]`, `[1, 2, 3]`, `[1, , 3]`, `["b", "a", "ä"]`, `[[1, [2]], [3]]`, `[NaN, -0, undefined, null]`, `new Array(50)`,
		`5`, `-1.5`, `NaN`, `true`, `new Date(0)`, `new Map([[1, 2], ["a", []]])`, `new Set([1, "a"])`,
		`/a/g`, `/(?:)/g`, `/x*/gi`, `/[^]/m`, `({a: 1, b: [2]})`, `Math`, `JSON`, `Promise.resolve(1)`, `(x => x)`,
	}
	arguments := []string{
		``, `undefined`, `null`, `""`, `"a"`, `","`, `"ä"`, `"\ud800"`, `"$&$1"`, `0`, `-1`, `1`, `2.5`, `NaN`, `1 / 0`, `-1 / 0`, `1e9`,
		`/a/g`, `/(?:)/g`, `/x*/`, `[]`, `[1, 2]`, `["a", "b"]`, `x => x`, `(a, b) => a < b ? 1 : -1`, `() => ""`, `Boolean`, `{}`, `{a: 1}`,
		`true`, `"", ""`, `"", "x"`, `/(?:)/g, "x"`, `/(?:)/g, "$&"`, `"", 0`, `0, 1`, `-1, 2`, `1, -1, 5`, `1e9, "x"`, `1e9, ""`, `5, ""`, `0, 1 / 0`,
		`x => [x, x]`, `0, 0, 0`, `undefined, 2`, `"a", "b", 2`,
	}
	names := []string{}
	for n := range smallProperties {
		names = append(names, n)
	}
	slices.Sort(names)
	ran, moved := 0, 0
	for _, receiver := range receivers {
		for _, name := range names {
			var calls strings.Builder
			for _, args := range arguments {
				fmt.Fprintf(&calls, "try { const v = %s; if (typeof v.%s === 'function') r.push(String(v.%s(%s)).length) } catch (e) { r.push(e.name) }\n",
					receiver, name, name, args)
			}
			// One program of all calls; where one of them moves it, one for each.
			sources := []string{"const r = [];\n" + calls.String() + "r.length"}
			for i := 0; i < len(sources); i++ {
				alarm := time.AfterFunc(2*time.Minute, func() {
					fmt.Fprintf(os.Stderr, "does not come back in process:\n%s\n", sources[i])
					os.Exit(1)
				})
				out := e.runSource(t, sources[i], LaneInProcess, Input{})
				alarm.Stop()
				if out.Moved != "" {
					moved++
					if i == 0 {
						for line := range strings.Lines(calls.String()) {
							sources = append(sources, "const r = [];\n"+line+"r.length")
						}
					}
					continue
				}
				ran++
			}
		}
	}
	t.Logf("%d programs ran in process, %d were moved", ran, moved)
}
