package engine

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dop251/goja"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// maxLine bounds one console line, in bytes; a longer one is cut.
	maxLine = 16 << 10
	// lineOverhead is what a console line counts beside its text, in bytes.
	lineOverhead = 16
	// maxShown is how many entries of a collection a line shows, and rows a table.
	maxShown = 100
	// maxIndent is how many groups a line is indented for.
	maxIndent = 16
)

// console is what a run's console remembers.
type console struct {
	groups int
	counts map[string]int
	began  map[string]time.Time
}

// newConsole makes the console. What is seldom used is there only where the
// program may name it: it takes longer to make than a short run.
func (r *run) newConsole() goja.Value {
	o := r.rt.NewObject()
	always := r.lane == LaneWorker || r.program.asks[askKey] || r.program.anyHost
	method := func(name string, f func(args []goja.Value)) {
		if !always && !r.program.names[name] {
			return
		}
		_ = o.Set(name, r.function(func(call goja.FunctionCall) goja.Value {
			r.enter()
			f(call.Arguments)
			return goja.Undefined()
		}, name, 0))
	}
	for _, m := range []struct{ name, level string }{
		{"log", "info"}, {"info", "info"}, {"debug", "debug"}, {"warn", "warn"}, {"error", "error"},
	} {
		method(m.name, func(args []goja.Value) { r.logLine(m.level, args, "") })
	}
	method("dir", func(args []goja.Value) { r.logLine("info", args[:min(len(args), 1)], "") })
	method("trace", func(args []goja.Value) {
		r.logLine("debug", append([]goja.Value{r.rt.ToValue("Trace:")}, args...), r.stackText(r.rt.CaptureCallStack(maxFrames+1, nil)))
	})
	method("assert", func(args []goja.Value) {
		if !arg(args, 0).ToBoolean() {
			r.logLine("error", append([]goja.Value{r.rt.ToValue("Assertion failed")}, args[min(len(args), 1):]...), "")
		}
	})
	method("table", r.logTable)
	group := func(args []goja.Value) {
		if len(args) > 0 {
			r.logLine("info", args, "")
		}
		r.con.groups++
	}
	method("group", group)
	method("groupCollapsed", group)
	method("groupEnd", func([]goja.Value) { r.con.groups = max(0, r.con.groups-1) })
	method("count", func(args []goja.Value) {
		label := r.label(args)
		if r.con.counts == nil {
			r.con.counts = map[string]int{}
		}
		r.con.counts[label]++
		r.logText("info", fmt.Sprintf("%s: %d", label, r.con.counts[label]))
	})
	method("countReset", func(args []goja.Value) { delete(r.con.counts, r.label(args)) })
	method("time", func(args []goja.Value) {
		if r.con.began == nil {
			r.con.began = map[string]time.Time{}
		}
		r.con.began[r.label(args)] = r.now()
	})
	passed := func(args []goja.Value) string {
		label := r.label(args)
		began, ok := r.con.began[label]
		if !ok {
			r.logText("warn", fmt.Sprintf("there is no timer %q", label))
			return label
		}
		r.logText("info", fmt.Sprintf("%s: %d ms", label, r.now().Sub(began).Milliseconds()))
		return label
	}
	method("timeLog", func(args []goja.Value) { passed(args) })
	method("timeEnd", func(args []goja.Value) { delete(r.con.began, passed(args)) })
	return o
}

// label returns the label of a counter or a timer, and charges it.
func (r *run) label(args []goja.Value) string {
	if goja.IsUndefined(arg(args, 0)) {
		return "default"
	}
	label := r.shortText(args[0])
	r.charge("a label", int64(len(label))+256)
	return label
}

// logLine writes the arguments as one line, and what is to stand below them.
func (r *run) logLine(level string, args []goja.Value, below string) {
	r.enter()
	w := writer{r: r, limit: maxLine}
	args = r.format(&w, args)
	for i, a := range args {
		if i > 0 || len(w.buf) > 0 {
			w.text(" ")
		}
		r.inspect(&w, a, 0)
		if w.full {
			break
		}
	}
	if below != "" {
		w.text("\n" + below)
	}
	if w.full {
		w.limit += 8
		w.full = false
		w.text("…")
	}
	r.logText(level, string(w.buf))
}

// logText writes one line, and ends the run where it writes too much.
func (r *run) logText(level, line string) {
	if n := min(r.con.groups, maxIndent); n > 0 {
		indent := strings.Repeat("  ", n)
		line = indent + strings.ReplaceAll(line, "\n", "\n"+indent)
	}
	if logged := r.logged.Add(int64(len(line)) + lineOverhead); logged > r.limits.LogBytes {
		r.fail(&stop{end: bulkhead.End{
			Cause: bulkhead.CauseOutputLimit, At: time.Now(), ExitCode: 1,
			Limit: r.limits.LogBytes, Peak: logged, Detail: fmt.Sprintf("it wrote more than %d bytes to the console", r.limits.LogBytes),
		}})
	}
	if r.lane == LaneInProcess {
		r.charge("a line", int64(len(line))+callOverhead)
	}
	r.input.Host.Log(LogLine{Level: level, Message: line})
}

// format writes a first argument with %s, %d and their like, and returns the
// arguments that are left.
func (r *run) format(w *writer, args []goja.Value) []goja.Value {
	s, ok := arg(args, 0).(goja.String)
	if !ok || len(args) < 2 || s.Length() > maxLine {
		return args
	}
	text := s.String()
	if !strings.Contains(text, "%") {
		return args
	}
	rest := args[1:]
	for {
		before, after, found := strings.Cut(text, "%")
		w.text(before)
		if !found {
			return rest
		}
		if after == "" {
			w.text("%")
			return rest
		}
		verb := after[0]
		text = after[1:]
		switch {
		case verb == '%':
			w.text("%")
		case !strings.ContainsRune("sdifoOjc", rune(verb)) || len(rest) == 0:
			w.text("%" + string(verb))
		default:
			r.formatOne(w, verb, rest[0])
			rest = rest[1:]
		}
	}
}

// formatOne writes v as a verb says.
func (r *run) formatOne(w *writer, verb byte, v goja.Value) {
	switch verb {
	case 'c': // a style, for browsers
	case 'd', 'i', 'f':
		f := math.NaN()
		if size(v) >= 0 && size(v) < 64 {
			f = v.ToFloat()
		}
		if verb == 'i' {
			f = math.Trunc(f)
		}
		w.text(r.rt.ToValue(f).String())
	default:
		r.inspect(w, v, 0)
	}
}

// inspect writes v for a person: strings as they are, errors with message, stack and
// cause, collections with their entries, all else as JSON where that is possible.
func (r *run) inspect(w *writer, v goja.Value, depth int) {
	o, ok := v.(*goja.Object)
	if !ok {
		if s, ok := v.(goja.String); ok && s.Length() > maxLine {
			text := s.String()
			w.text(strings.ToValidUTF8(text[:max(0, min(len(text), maxLine-len(w.buf)-1))], ""))
			w.full = true
			return
		}
		if v == nil {
			v = goja.Undefined()
		}
		w.text(v.String())
		return
	}
	class, known := shownAs[o.ExportType()]
	switch {
	case o.ClassName() == "Error":
		f := r.describe(o)
		w.text(f.Name + ": " + f.Message)
		if f.Stack != "" {
			w.text("\n    " + strings.ReplaceAll(f.Stack, "\n", "\n    "))
		}
		if f.Cause != "" {
			w.text("\n  caused by " + f.Cause)
		}
		return
	case known && o.ClassName() == "Object" && depth < 3 && class != "Promise":
		r.inspectEntries(w, o, class, depth)
		return
	case known && o.ClassName() == "Object":
		w.text("[" + class + "]")
		return
	}
	if _, callable := goja.AssertFunction(o); callable {
		w.text("[Function]")
		return
	}
	before := len(w.buf)
	ex := r.rt.Try(func() {
		if !w.value(o) {
			w.text("undefined")
		}
	})
	if ex != nil {
		w.buf, w.stack = w.buf[:before], nil
		w.text("[" + o.ClassName() + "]")
	}
}

// shownAs are the collections that JSON would leave empty, and promises, by what goja
// says is their Go type.
var shownAs = map[reflect.Type]string{
	reflect.TypeFor[[][2]any](): "Map", reflect.TypeFor[[]any](): "Set", promiseType: "Promise",
}

// inspectEntries writes a Map or a Set, as Map(1) {"a" => 1}.
func (r *run) inspectEntries(w *writer, o *goja.Object, class string, depth int) {
	before := len(w.buf)
	element := func(v goja.Value) {
		if s, ok := v.(goja.String); ok {
			w.value(s)
		} else {
			r.inspect(w, v, depth+1)
		}
	}
	ex := r.rt.Try(func() {
		w.text(fmt.Sprintf("%s(%d) {", class, count(o.Get("size"))))
		shown := 0
		r.rt.ForOf(o, func(v goja.Value) bool {
			r.enter()
			if shown++; shown > 1 {
				w.text(", ")
			}
			if shown > maxShown || w.full {
				w.text("…")
				return false
			}
			if pair, ok := v.(*goja.Object); ok && class == "Map" {
				element(pair.Get("0"))
				w.text(" => ")
				element(pair.Get("1"))
			} else {
				element(v)
			}
			return true
		})
		w.text("}")
	})
	if ex != nil {
		w.buf, w.stack = w.buf[:before], nil
		w.text("[" + class + "]")
	}
}

// logTable writes an array or an object of rows as a table; all else as log does.
func (r *run) logTable(args []goja.Value) {
	data, ok := arg(args, 0).(*goja.Object)
	if !ok {
		r.logLine("info", args, "")
		return
	}
	const maxColumns, maxCell = 20, 64
	cell := func(v goja.Value) string {
		w := writer{r: r, limit: maxCell}
		r.inspect(&w, v, 0)
		if w.full {
			return clip(strings.ToValidUTF8(string(w.buf), ""), maxCell-4) + "…"
		}
		return strings.NewReplacer("\n", " ", "\t", " ").Replace(string(w.buf))
	}
	index := func(o *goja.Object, most int) []string {
		if _, n, ok := asArray(o); ok {
			keys := make([]string, min(int(n), most))
			for i := range keys {
				keys[i] = strconv.Itoa(i)
			}
			return keys
		}
		keys := o.Keys()
		return keys[:min(len(keys), most)]
	}
	var columns []string
	known := map[string]bool{}
	type row struct {
		name, value string
		cells       map[string]string
	}
	var rows []row
	values := false
	for _, k := range index(data, maxShown) {
		r.enter()
		v := data.Get(k)
		line := row{name: k}
		if o, ok := v.(*goja.Object); ok {
			line.cells = map[string]string{}
			for _, c := range index(o, maxColumns) {
				if !known[c] && len(columns) < maxColumns {
					known[c] = true
					columns = append(columns, c)
				}
				line.cells[c] = cell(o.Get(c))
			}
		} else {
			line.value, values = cell(v), true
		}
		rows = append(rows, line)
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 1, 2, ' ', 0)
	write := func(name, value string, cells func(c string) string) {
		parts := []string{clip(name, maxCell)}
		for _, c := range columns {
			parts = append(parts, cells(c))
		}
		if values {
			parts = append(parts, value)
		}
		_, _ = fmt.Fprintln(tw, strings.Join(parts, "\t")) // to memory
	}
	write("(index)", "Values", func(c string) string { return clip(c, maxCell) })
	for _, line := range rows {
		write(line.name, line.value, func(c string) string { return line.cells[c] })
	}
	_ = tw.Flush() // to memory
	r.logText("info", clip(strings.TrimRight(b.String(), "\n"), maxLine))
}
