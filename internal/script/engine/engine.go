package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"
)

// Engine compiles and runs programs. Start its sampler with [Engine.Sample]
// before the first run: without it nothing is interrupted, and [Engine.Run] in
// process moves every run.
type Engine struct {
	universe universe
	layout   layout
	byName   map[string][]native
	charged  []native // those with a charge, for workers
	clone    *goja.Program
	web      *goja.Program
	buffers  *goja.Program
	written  map[reflect.Type]bool // what goja makes of functions that a program writes
	sampling atomic.Int32
	wake     chan struct{}

	mu     sync.Mutex
	active map[*run]struct{}
}

// New returns an engine. The error means that this build's goja and the tables
// here do not belong together.
func New() (*Engine, error) {
	e := &Engine{byName: map[string][]native{}, active: map[*run]struct{}{}, wake: make(chan struct{}, 1)}
	var err error
	if e.universe, err = readUniverse(); err != nil {
		return nil, fmt.Errorf("list built-ins: %w", err)
	}
	if e.clone, err = goja.Compile(ownSource, cloneSource, true); err != nil {
		return nil, fmt.Errorf("compile structuredClone: %w", err)
	}
	if e.web, err = goja.Compile(ownSource, webSource, true); err != nil {
		return nil, fmt.Errorf("compile the web's classes: %w", err)
	}
	if e.buffers, err = bufferPrelude(); err != nil {
		return nil, fmt.Errorf("compile buffer prelude: %w", err)
	}
	if e.written, err = writtenFunctions(); err != nil {
		return nil, fmt.Errorf("list kinds of functions: %w", err)
	}
	if e.layout, err = readLayout(); err != nil {
		return nil, fmt.Errorf("find built-ins: %w", err)
	}
	for _, n := range natives() {
		if !e.universe.properties[n.name] {
			return nil, fmt.Errorf("list built-ins: there is no %s", n.name)
		}
		if n.small != nil {
			e.byName[n.name] = append(e.byName[n.name], n)
		}
		if n.charge != nil {
			e.charged = append(e.charged, n)
		}
	}
	return e, nil
}

// writtenFunctions returns goja's types of the functions that a program can write.
func writtenFunctions() (map[reflect.Type]bool, error) {
	rt := goja.New()
	list, err := rt.RunString(`[function () {}, () => 1, class {}, async () => 1, async function () {}, function* () {},
		{ m() {} }.m, { async m() {} }.m, { *m() {} }.m, class extends Array {}]`)
	if err != nil {
		return nil, err
	}
	types := map[reflect.Type]bool{}
	for _, k := range list.ToObject(rt).Keys() {
		types[implementation(list.ToObject(rt).Get(k).ToObject(rt))] = true
	}
	if f := rt.Get("parseInt").ToObject(rt); types[nil] || types[implementation(f)] {
		return nil, errors.New("those of programs cannot be told from built-in ones")
	}
	return types, nil
}

// implementation returns the type by which goja implements an object, nil where it
// does not say. It is much faster than the function's text.
func implementation(o *goja.Object) reflect.Type {
	self := reflect.ValueOf(o).Elem().FieldByName("self")
	if !self.IsValid() || self.Kind() != reflect.Interface {
		return nil
	}
	return self.Elem().Type()
}

// universeSource walks all that a program can reach and returns the names that
// lead to functions and accessors.
const universeSource = `(function () {
	const seen = new Set(), names = Object.create(null);
	function walk(o) {
		if ((typeof o !== "object" && typeof o !== "function") || o === null || seen.has(o)) return;
		seen.add(o);
		for (const key of Reflect.ownKeys(o)) {
			const d = Object.getOwnPropertyDescriptor(o, key);
			const reached = "value" in d ? [d.value] : [d.get, d.set];
			if (typeof key === "string" && reached.some(f => typeof f === "function")) names[key] = true;
			reached.forEach(walk);
		}
		walk(Object.getPrototypeOf(o));
	}
	walk(globalThis);
	[[][Symbol.iterator](), new Map().keys(), new Set().keys(), ""[Symbol.iterator](), "a".matchAll(/a/g),
		(function* () {})(), function* () {}, async function () {}, Int8Array].forEach(walk);
	return [Object.keys(names), Object.getOwnPropertyNames(globalThis)];
})()`

// readUniverse asks goja itself for the names of its built-ins.
func readUniverse() (universe, error) {
	rt := goja.New()
	v, err := rt.RunString(universeSource)
	if err != nil {
		return universe{}, err
	}
	var lists [][]string
	if err := rt.ExportTo(v, &lists); err != nil || len(lists) != 2 {
		return universe{}, fmt.Errorf("export names: %w", err)
	}
	u := universe{properties: map[string]bool{}, globals: map[string]bool{}}
	for _, n := range lists[0] {
		u.properties[n] = true
	}
	for _, n := range lists[1] {
		u.globals[n] = true
	}
	return u, nil
}

// The sampler looks every sampleEvery while something runs, and for linger
// after that, so that frequent short runs need not wake it each time.
const (
	sampleEvery = time.Millisecond
	linger      = 100 * time.Millisecond
)

// Sample watches the runs: it blocks until ctx ends. Exactly one call may be
// under way.
func (e *Engine) Sample(ctx context.Context) {
	e.sampling.Store(1)
	defer e.sampling.Store(0)
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	idleSince, last := time.Now(), allocated()
	for {
		select {
		case <-ctx.Done():
			e.stopAll()
			return
		case <-ticker.C:
		}
		now := time.Now()
		if e.sample(now, &last) {
			idleSince = now
			continue
		}
		if now.Sub(idleSince) < linger {
			continue
		}
		ticker.Stop()
		e.sampling.Store(2) // asleep
		if e.sample(now, &last) {
			e.sampling.Store(1) // one came in between
		} else {
			select {
			case <-ctx.Done():
				return
			case <-e.wake:
			}
		}
		idleSince, last = time.Now(), allocated()
		ticker.Reset(sampleEvery)
	}
}

// stopAll ends what runs when the sampler goes.
func (e *Engine) stopAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for r := range e.active {
		r.end(r.killed("the server is stopping"))
	}
}

// sample looks at every run once and reports whether there was one. Memory that
// was allocated since the last look is attributed in equal parts to the runs
// that were not waiting: with as many runs at once as processors that is close,
// and a run that is blamed wrongly is only moved.
func (e *Engine) sample(now time.Time, last *int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.active) == 0 {
		return false
	}
	total := allocated()
	running := int64(0)
	for r := range e.active {
		if !r.waiting.Load() {
			running++
		}
	}
	for r := range e.active {
		share := int64(0)
		if running > 0 && !r.waiting.Load() {
			share = (total - *last) / running
		}
		r.look(now, share)
	}
	*last = total
	return true
}

// begin registers a run with the sampler and wakes it.
func (e *Engine) begin(r *run) (watched bool) {
	e.mu.Lock()
	e.active[r] = struct{}{}
	e.mu.Unlock()
	switch e.sampling.Load() {
	case 0:
		return false
	case 2:
		if e.sampling.CompareAndSwap(2, 1) {
			select {
			case e.wake <- struct{}{}:
			default:
			}
		}
	}
	return true
}

// finish takes a run out.
func (e *Engine) finish(r *run) {
	e.mu.Lock()
	delete(e.active, r)
	e.mu.Unlock()
}
