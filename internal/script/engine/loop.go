package engine

import (
	"container/heap"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/dop251/goja"
)

// maxTimers bounds the timers that wait at once.
const maxTimers = 10_000

// timer is one call that is due at a time on the program's clock.
type timer struct {
	id    int64
	due   int64 // milliseconds since 1970
	every int64 // for an interval, else 0
	call  goja.Callable
	args  []goja.Value
}

// timers is the queue of a run's timers: by due time, then by age. It
// implements [heap.Interface].
type timers struct {
	queue []*timer
	set   int64 // timers ever set; the last one's id
	off   map[int64]bool
}

func (t *timers) Len() int { return len(t.queue) }
func (t *timers) Less(i, j int) bool {
	a, b := t.queue[i], t.queue[j]
	return a.due < b.due || a.due == b.due && a.id < b.id
}
func (t *timers) Swap(i, j int) { t.queue[i], t.queue[j] = t.queue[j], t.queue[i] }

// Push is for package heap.
func (t *timers) Push(x any) { t.queue = append(t.queue, x.(*timer)) } //nolint:errcheck,forcetypeassert // only heap calls it

// Pop is for package heap.
func (t *timers) Pop() any {
	last := t.queue[len(t.queue)-1]
	t.queue = t.queue[:len(t.queue)-1]
	return last
}

// setTimer is setTimeout and setInterval.
func (r *run) setTimer(call goja.FunctionCall, interval bool) goja.Value {
	r.enter()
	f, ok := goja.AssertFunction(call.Argument(0))
	if !ok {
		panic(r.rt.NewTypeError("a timer needs a function"))
	}
	r.timers.set++
	if r.lane == LaneInProcess && r.timers.set > smallTimers {
		r.move("it sets many timers")
	}
	if len(r.timers.queue) >= maxTimers {
		panic(r.rt.NewTypeError("more than %d timers wait", maxTimers))
	}
	delay := min(count(call.Argument(1)), 1<<31)
	t := &timer{id: r.timers.set, due: r.now().UnixMilli() + delay, call: f}
	if interval {
		t.every = max(1, delay)
	}
	if len(call.Arguments) > 2 {
		t.args = call.Arguments[2:]
	}
	r.charge("a timer", 256)
	heap.Push(&r.timers, t)
	return r.rt.ToValue(t.id)
}

// clearTimer is clearTimeout and clearInterval.
func (r *run) clearTimer(call goja.FunctionCall) goja.Value {
	r.enter()
	id := count(call.Argument(0))
	for i, t := range r.timers.queue {
		if t.id == id {
			heap.Remove(&r.timers, i)
			return goja.Undefined()
		}
	}
	if r.timers.off == nil {
		r.timers.off = map[int64]bool{}
	}
	if len(r.timers.off) < maxTimers {
		r.timers.off[id] = true // an interval may clear itself while it runs
	}
	return goja.Undefined()
}

// errNeverSettles is thrown for a promise that nothing is left to settle.
var errNeverSettles = errors.New("the result is a promise that nothing will settle")

// settle runs the timers until v is settled, if it is a promise, and else until
// none is left. It returns the promise's value.
func (r *run) settle(v goja.Value) (goja.Value, error) {
	promise, _ := exportPromise(v)
	for {
		if promise != nil {
			switch promise.State() {
			case goja.PromiseStateFulfilled:
				return promise.Result(), nil
			case goja.PromiseStateRejected:
				return nil, r.rejection(promise.Result())
			case goja.PromiseStatePending:
			}
		}
		if len(r.timers.queue) == 0 {
			if promise != nil {
				return nil, errNeverSettles
			}
			return v, nil
		}
		if err := r.fire(); err != nil {
			return nil, err
		}
	}
}

// promiseType is what goja says is the Go type of a promise.
var promiseType = reflect.TypeFor[*goja.Promise]()

// exportPromise returns the promise that v is.
func exportPromise(v goja.Value) (*goja.Promise, bool) {
	o, ok := v.(*goja.Object)
	if !ok || o.ExportType() != promiseType {
		return nil, false
	}
	p, ok := o.Export().(*goja.Promise)
	return p, ok
}

// rejection is the error of a promise that was rejected with v.
type rejectionError struct{ failure *Failure }

func (e *rejectionError) Error() string { return e.failure.Name + ": " + e.failure.Message }

func (r *run) rejection(v goja.Value) error { return &rejectionError{r.describe(v)} }

// fire waits for the next timer and calls it.
func (r *run) fire() error {
	t, _ := heap.Pop(&r.timers).(*timer)
	if err := r.waitUntil(time.UnixMilli(t.due)); err != nil {
		return err
	}
	r.timers.off = nil
	if _, err := t.call(goja.Undefined(), t.args...); err != nil {
		return err
	}
	if s := r.stopped.Load(); s != nil {
		return s
	}
	if t.every > 0 && !r.timers.off[t.id] {
		t.due = max(t.due, r.now().UnixMilli()) + t.every
		heap.Push(&r.timers, t)
	}
	return nil
}

// waitUntil blocks until the time comes, or the run's own end.
func (r *run) waitUntil(due time.Time) error {
	begin := time.Now()
	wait := due.Sub(begin)
	if wait <= 0 {
		return nil
	}
	left := r.limits.Time() - begin.Sub(r.began)
	clock := time.NewTimer(min(wait, left))
	defer clock.Stop()
	r.waiting.Store(true)
	select {
	case <-clock.C:
	case <-r.ctx.Done():
		r.end(r.killed("the caller went away"))
	}
	r.waited.Add(int64(time.Since(begin)))
	r.waiting.Store(false)
	if left <= wait {
		r.end(r.timeEnd(time.Since(r.began)))
	}
	if s := r.stopped.Load(); s != nil {
		return fmt.Errorf("wait for a timer: %w", s)
	}
	return nil
}
