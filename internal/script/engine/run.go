package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
)

// run is one run of a program.
type run struct {
	budget
	engine     *Engine
	program    *Program
	input      Input
	ctx        context.Context //nolint:containedctx // it is the run's own, and the sampler watches it
	replay     replay
	holders    [holderCount]*goja.Object
	sourceOf   goja.Callable   // Function.prototype.toString, once it was needed
	installed  map[string]bool // names that the program computed
	timers     timers
	con        console
	rejected   []*goja.Promise // and nobody handles them
	webClasses *goja.Object    // see web
	thread     int             // the kernel's number of the thread that it runs on
	cpuBefore  time.Duration   // of that thread, before the run

	// What the sampler keeps of it.
	stopping bool          // it has seen that the run was stopped,
	stopCPU  time.Duration // and how much processor time it had used then
	gaveUp   bool
}

// allocated returns all bytes this process ever allocated on the heap.
func allocated() int64 {
	s := [1]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s[:])
	return int64(min(s[0].Value.Uint64(), math.MaxInt64))
}

// threadCPU returns the processor time of the calling thread.
func threadCPU() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

// clock reads one of the kernel's clocks; 0 where it does not tell.
func clock(id int32) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(id, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// cpu returns how much processor time the run has used. It may be called from
// any goroutine while the run is registered, since its thread is there then.
func (r *run) cpu() time.Duration {
	const perThread, schedClock = 4, 2                                   // of the clocks that a thread's number makes
	return clock(int32(^r.thread<<3|perThread|schedClock)) - r.cpuBefore //nolint:gosec // thread numbers have 22 bits
}

// Run runs p and returns how that ended. It blocks until then; ctx's end kills
// the run. In process it returns within milliseconds of any limit; in a worker a
// built-in may hold it up, and the process must be ended from outside.
func (e *Engine) Run(ctx context.Context, p *Program, lane Lane, in Input) Outcome {
	if lane == LaneInProcess && p.Why != "" {
		return Outcome{Moved: p.Why}
	}
	if in.Journal == nil {
		in.Journal = NewJournal()
	}
	r := &run{engine: e, program: p, input: in, ctx: ctx, replay: replay{j: in.Journal}}
	r.lane, r.limits, r.began = lane, in.Limits, time.Now()
	r.rt = goja.New()
	if lane == LaneWorker {
		r.base = heapBytes()
	}
	runtime.LockOSThread() // for its clock
	defer runtime.UnlockOSThread()
	r.thread, r.cpuBefore = unix.Gettid(), threadCPU()
	watched := e.begin(r)
	defer e.finish(r)
	if lane == LaneInProcess && !watched {
		return Outcome{Moved: "nothing watches the in-process lane"}
	}
	out := r.protect()
	if lane == LaneWorker {
		r.live()
	}
	r.measure(&out, threadCPU()-r.cpuBefore)
	return out
}

// measure fills in what the run used.
func (r *run) measure(out *Outcome, cpu time.Duration) {
	out.End.At = time.Now()
	out.Usage = Usage{
		CPUMS:       float64(cpu) / 1e6,
		WallMS:      float64(time.Since(r.began)) / 1e6,
		PeakBytes:   r.peak.Load(),
		ResultBytes: int64(len(out.Result)),
		LogBytes:    r.logged.Load(),
	}
	if r.lane == LaneInProcess {
		out.Usage.PeakBytes = max(r.shared.Load(), r.charged.Load())
	}
}

// stuckAfter is how much processor time a run that was told to stop may still
// use, and stuckWait how long it may take for that: a busy machine is no reason to
// give a run up.
const (
	stuckAfter = 100 * time.Millisecond
	stuckWait  = 5 * time.Second
)

// stuck reports whether a run that was told to stop by s does not.
func (r *run) stuck(now time.Time, s *stop) bool {
	if !r.stopping {
		r.stopping, r.stopCPU = true, r.cpu()
	}
	late := now.Sub(s.at)
	return late > stuckWait || late > stuckAfter && r.cpu()-r.stopCPU > stuckAfter
}

// giveUp reports a run that a built-in keeps from stopping.
func (r *run) giveUp(s *stop) {
	if r.input.Stuck == nil || r.gaveUp {
		return
	}
	r.gaveUp = true
	out := ended(s)
	out.Stuck = true
	r.measure(&out, r.cpu())
	r.input.Stuck(out)
}

// protect runs the program and turns everything that can happen into an outcome.
func (r *run) protect() (out Outcome) {
	defer func() {
		x := recover()
		if x == nil {
			return
		}
		if s := r.stopped.Load(); s != nil {
			out = ended(s)
			return
		}
		if r.lane == LaneInProcess {
			out = Outcome{Moved: fmt.Sprintf("the engine panicked: %v", x)}
			return
		}
		if e, ok := x.(runtime.Error); ok && strings.Contains(e.Error(), "makeslice") {
			// The runtime's way to refuse a slice that no machine has.
			out = ended(r.memoryEnd(1<<62, "a built-in asked for more memory than there can be"))
			return
		}
		out = Outcome{End: bulkhead.End{
			Cause: bulkhead.CauseCrashed, ExitCode: 134,
			Detail: clip(fmt.Sprintf("the engine panicked: %v\n%s", x, debug.Stack()), maxMessage),
		}}
	}()
	v, err := r.evaluate()
	if err == nil {
		var result []byte
		if result, err = r.export(v); err == nil {
			out.Result = result
			out.End.Cause = bulkhead.CauseExited
		}
	}
	if s := r.stopped.Load(); s != nil {
		return ended(s) // also where the program went on for a moment
	}
	if err != nil {
		return r.failed(err)
	}
	return out
}

// ended is the outcome of a run that was stopped.
func ended(s *stop) Outcome { return Outcome{End: s.end, Moved: s.moved} }

// failed is the outcome of a run that ended with an exception.
func (r *run) failed(err error) Outcome {
	if s := stopOf(err); s != nil {
		return ended(s)
	}
	f := &Failure{Name: "Error", Message: clip(err.Error(), maxMessage)}
	var overflow *goja.StackOverflowError
	var ex *goja.Exception
	var rejected *rejectionError
	switch {
	case errors.As(err, &rejected):
		f = rejected.failure
	case errors.As(err, &overflow):
		f.Name, f.Message = "RangeError", "Maximum call stack size exceeded"
		f.Stack = r.stackText(overflow.Stack())
	case errors.As(err, &ex):
		f = r.describe(ex.Value())
		if thrown := r.stackText(ex.Stack()); f.Stack == "" {
			f.Stack = thrown
		}
	}
	out := Outcome{Failure: f, End: bulkhead.End{
		Cause: bulkhead.CauseExited, ExitCode: 1, Detail: clip(f.Name+": "+f.Message, 256),
	}}
	if overflow != nil {
		out.End.Detail += fmt.Sprintf(" (limits.depth is %d)", r.limits.Depth)
	}
	return out
}

// describe reads name and message of a thrown value. The program's own code may
// run for it; what that throws is left out.
func (r *run) describe(v goja.Value) *Failure {
	f := &Failure{Name: "Error"}
	read := func(get func() goja.Value, into *string) {
		_ = r.rt.Try(func() {
			if v := get(); v != nil && !goja.IsUndefined(v) && size(v) <= smallString {
				*into = clip(v.String(), maxMessage)
			}
		})
	}
	o, ok := v.(*goja.Object)
	if !ok {
		f.Name = "Uncaught"
		read(func() goja.Value { return v }, &f.Message)
		return f
	}
	read(func() goja.Value { return o.Get("name") }, &f.Name)
	read(func() goja.Value { return o.Get("message") }, &f.Message)
	read(func() goja.Value { return o.Get("stack") }, &f.Stack)
	f.Stack = r.ownStack(f.Stack)
	cause := goja.Value(o)
	for range maxCauses {
		next, ok := cause.(*goja.Object)
		if ok {
			ok = r.rt.Try(func() { cause = next.Get("cause") }) == nil
		}
		if !ok || cause == nil || goja.IsUndefined(cause) {
			break
		}
		var name, message string
		if c, ok := cause.(*goja.Object); ok {
			read(func() goja.Value { return c.Get("name") }, &name)
			read(func() goja.Value { return c.Get("message") }, &message)
		} else {
			read(func() goja.Value { return cause }, &message)
		}
		if name != "" {
			message = name + ": " + message
		}
		if f.Cause != "" {
			f.Cause += "; caused by "
		}
		f.Cause = clip(f.Cause+message, maxMessage)
	}
	return f
}

// maxCauses is how many causes behind an error are told.
const maxCauses = 4

// frame matches a call in the stack of goja's errors: "\tat f (script.js:1:2(3))",
// and without a name for the outermost.
var frame = regexp.MustCompile(`(?m)^\s+at (?:(.*) \()?script\.js:(\d+):(\d+)(?:\(\d+\))?\)?$`)

// ownStack returns what an error says of its own stack, in the form of stackText.
func (r *run) ownStack(stack string) string {
	var b strings.Builder
	shown := 0
	for _, m := range frame.FindAllStringSubmatch(stack, -1) {
		line, _ := strconv.Atoi(m[2])
		column, _ := strconv.Atoi(m[3])
		line, column, ok := r.program.place(line, column)
		if !ok {
			continue
		}
		if shown++; shown > maxFrames {
			b.WriteString("…\n")
			break
		}
		name := m[1]
		if name == "" {
			name = "<anonymous>"
		}
		fmt.Fprintf(&b, "at %s (%s:%d:%d)\n", clip(name, 64), sourceName, line, column)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// maxFrames is how many calls a stack shows.
const maxFrames = 16

// stackText writes the innermost calls, one a line.
func (r *run) stackText(frames []goja.StackFrame) string {
	var b strings.Builder
	shown := 0
	for _, f := range frames {
		pos := f.Position()
		line, column, ok := pos.Line, pos.Column, true
		if f.SrcName() == sourceName { // and not a text for eval
			line, column, ok = r.program.place(line, column)
		}
		if pos.Line == 0 || !ok || f.SrcName() == ownSource {
			continue // a built-in
		}
		if shown++; shown > maxFrames {
			b.WriteString("…\n")
			break
		}
		fmt.Fprintf(&b, "at %s (%s:%d:%d)\n", clip(f.FuncName(), 64), f.SrcName(), line, column)
	}
	return clip(strings.TrimSuffix(b.String(), "\n"), maxMessage)
}

// evaluate runs the program to its value.
func (r *run) evaluate() (goja.Value, error) {
	if err := r.prepare(); err != nil {
		return nil, err
	}
	r.rt.SetPromiseRejectionTracker(r.track)
	v, err := r.rt.RunProgram(r.program.code)
	if err != nil {
		return nil, err
	}
	if main, ok := goja.AssertFunction(r.rt.Get("main")); ok {
		if v, err = main(goja.Undefined(), r.rt.Get("input")); err != nil {
			return nil, err
		}
	}
	if v, err = r.settle(v); err != nil {
		return nil, err
	}
	for _, p := range r.rejected {
		r.logLine("error", []goja.Value{r.rt.ToValue("Uncaught (in promise)"), p.Result()}, "")
	}
	return v, nil
}

// maxRejected is how many rejections that nobody handled are told.
const maxRejected = 8

// track keeps the promises that were rejected and that nobody handles.
func (r *run) track(p *goja.Promise, op goja.PromiseRejectionOperation) {
	if op == goja.PromiseRejectionHandle {
		r.rejected = slices.DeleteFunc(r.rejected, func(q *goja.Promise) bool { return p == q })
	} else if len(r.rejected) < maxRejected {
		r.rejected = append(r.rejected, p)
	}
}

// prepare sets the realm up: limits, sources of chance and time, built-ins,
// host objects, input.
func (r *run) prepare() error {
	rt := r.rt
	rt.SetMaxCallStackSize(int(r.limits.Depth))
	rt.SetParserOptions(parser.WithDisableSourceMaps)
	rt.SetRandSource(r.replay.float)
	rt.SetTimeSource(r.now)
	if r.lane == LaneInProcess {
		for _, n := range r.program.checked {
			r.wrap(n, n.small)
		}
		if len(r.program.asks) > 0 {
			r.installAsks()
		}
	} else {
		for _, n := range r.engine.charged {
			r.wrap(n, n.charge)
		}
		if r.program.names["toLocaleString"] {
			r.plainNumbers()
		}
		if r.program.buffers {
			if err := r.installBuffers(); err != nil {
				return fmt.Errorf("prepare buffers: %w", err)
			}
		}
	}
	if r.program.anyHost || len(r.program.hostNames) > 0 {
		r.installHost()
	}
	return r.setInput()
}

// plainNumbers keeps the name of a language from a number's toLocaleString: goja takes
// it for a radix, and throws.
func (r *run) plainNumbers() {
	o, ok := r.rt.ToValue(1).ToObject(r.rt).Prototype().Get("toLocaleString").(*goja.Object)
	if !ok {
		return
	}
	if f := r.engine.layout.function(o); f != nil {
		call := *f
		*f = func(args goja.FunctionCall) goja.Value { return call(goja.FunctionCall{This: args.This}) }
	}
}

// now is the program's clock.
func (r *run) now() time.Time {
	t, full := r.replay.now()
	if full && r.lane == LaneInProcess {
		r.move("it reads the clock often")
	}
	return t
}

// setInput parses the input into the realm.
func (r *run) setInput() error {
	v := goja.Undefined()
	if text := r.input.JSON; len(text) > 0 {
		if r.lane == LaneInProcess && (len(text) > smallInput || jsonDepth(text) > smallDepth) {
			r.move("its input is long or deep")
		}
		r.charge("the input", jsonFactor*int64(len(text))/4)
		d := decoder{rt: r.rt, text: text}
		v = d.value()
	}
	return r.rt.Set("input", v)
}

// holder returns a built-in object by its place.
func (r *run) holder(h holder) *goja.Object {
	if o := r.holders[h]; o != nil {
		return o
	}
	o := r.rt.GlobalObject()
	switch at := holderOf[h]; {
	case h == inString: // a constructor is made when it is looked at; this leaves it
		o = r.rt.ToValue("").ToObject(r.rt).Prototype()
	case h == inArray:
		o = r.rt.NewArray().Prototype()
	case at.global != "":
		o, _ = o.Get(at.global).(*goja.Object)
		if at.prototype {
			o, _ = o.Get("prototype").(*goja.Object)
		}
	}
	r.holders[h] = o
	return o
}

// install puts the in-process checks of every built-in of this name in place, which
// the program does not mention.
func (r *run) install(name string) {
	if r.program.names[name] || r.installed[name] {
		return
	}
	if r.installed == nil {
		r.installed = map[string]bool{}
	}
	r.installed[name] = true
	for _, n := range r.engine.byName[name] {
		r.wrap(n, n.small)
	}
}

// wrap puts a check before the built-in n. The program cannot tell.
func (r *run) wrap(n native, c check) {
	o, ok := r.holder(n.in).Get(n.name).(*goja.Object)
	if !ok {
		return
	}
	f := r.engine.layout.function(o)
	if f == nil {
		return
	}
	call := *f
	*f = func(args goja.FunctionCall) goja.Value {
		r.enter()
		c(r, args.This, args.Arguments)
		if !n.result {
			return call(args)
		}
		if r.nesting++; r.nesting > smallDepth && r.lane == LaneInProcess {
			r.move("arrays nested in arrays")
		}
		defer func() { r.nesting-- }()
		v := call(args)
		r.charge(n.name, max(0, size(v)))
		return v
	}
}

// function makes a built-in function with a name and a length.
func (r *run) function(f func(goja.FunctionCall) goja.Value, name string, length int) *goja.Object {
	o := r.rt.ToValue(f).(*goja.Object) //nolint:errcheck,forcetypeassert // a function is an object
	const no, yes = goja.FLAG_FALSE, goja.FLAG_TRUE
	_ = o.DefineDataProperty("length", r.rt.ToValue(length), no, yes, no)
	_ = o.DefineDataProperty("name", r.rt.ToValue(name), no, yes, no)
	return o
}

// installAsks defines what rewritten operators call.
func (r *run) installAsks() {
	ask := func(name string, look func(goja.Value)) {
		if !r.program.asks[name] {
			return
		}
		f := func(call goja.FunctionCall) goja.Value {
			r.enter()
			look(call.Argument(0))
			return call.Argument(0)
		}
		_ = r.rt.GlobalObject().DefineDataProperty(name, r.rt.ToValue(f), goja.FLAG_FALSE, goja.FLAG_FALSE, goja.FLAG_FALSE)
	}
	ask(askKey, r.askKey)
	ask(askIterable, r.iterable)
	ask(askHanded, r.handed)
	ask(askObject, r.object)
	ask(askText, func(v goja.Value) {
		n := size(v)
		if n < 0 {
			r.move("an object in a long template")
		}
		r.charge("a template", 2*n)
	})
}

// askKey allows a computed property name.
func (r *run) askKey(v goja.Value) {
	switch v := v.(type) {
	case goja.String:
		if v.Length() > 64 {
			return // no built-in has such a name
		}
		name := v.String()
		if !r.engine.universe.small(name) {
			r.move("it computes the name %s", name)
		}
		r.install(name)
	case *goja.Object, *goja.Symbol:
		r.move("it computes a name from an object")
	}
}

// look is the sampler's view of the run. It is called from the sampler's
// goroutine.
func (r *run) look(now time.Time, share int64) {
	if s := r.stopped.Load(); s != nil {
		if r.stuck(now, s) {
			r.giveUp(s)
		}
		return
	}
	if r.ctx.Err() != nil {
		r.end(r.killed("the caller went away"))
		return
	}
	if wall := now.Sub(r.began); wall > r.limits.Time() {
		r.end(r.timeEnd(wall))
		return
	}
	if r.lane == LaneWorker {
		if n := r.live(); n > r.limits.MemoryMB<<20 {
			r.end(r.memoryEnd(n, fmt.Sprintf("it holds more than %d MiB", r.limits.MemoryMB)))
		}
		return
	}
	if !r.waiting.Load() && r.elapsed(now) > smallTime && r.cpu() > smallTime {
		r.end(&stop{moved: "it runs long"})
	} else if r.shared.Add(share) > r.smallBudget() {
		r.end(&stop{moved: "it allocates much"})
	}
}

// timeEnd is the end of a run that took too long.
func (r *run) timeEnd(wall time.Duration) *stop {
	return &stop{end: bulkhead.End{
		Cause: bulkhead.CauseTimeLimit, At: time.Now(), ExitCode: 137,
		Limit: r.limits.TimeMS, Peak: wall.Milliseconds(),
		Detail: fmt.Sprintf("it ran longer than %d ms", r.limits.TimeMS),
	}}
}

// killed is the end of a run that somebody stopped.
func (r *run) killed(detail string) *stop {
	return &stop{end: bulkhead.End{Cause: bulkhead.CauseKilled, At: time.Now(), ExitCode: 137, Detail: detail}}
}
