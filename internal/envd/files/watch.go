package files

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/fsnotify/fsnotify"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/filesystempb"
)

// The bounds of watchers that are asked now and then.
const (
	// maxPolled is how many there may be.
	maxPolled = 64
	// maxQueued is how many events wait for the next question.
	maxQueued = 16384
	// pollIdle is after how long without a question a watcher may be dropped.
	pollIdle = time.Hour
)

// WatchDir implements the service's WatchDir. A client that does not keep up
// ends with data_loss rather than with events missing.
func (s *Service) WatchDir(ctx context.Context, req *connect.Request[filesystempb.WatchDirRequest], stream *connect.ServerStream[filesystempb.WatchDirResponse]) error {
	_, path, err := s.path(req, req.Msg.GetPath())
	if err != nil {
		return err
	}
	w, err := newWatcher(path, req.Msg, s.cfg.Box)
	if err != nil {
		return err
	}
	defer w.close()
	start := &filesystempb.WatchDirResponse_Start{Start: &filesystempb.WatchDirResponse_StartEvent{}}
	if err := stream.Send(&filesystempb.WatchDirResponse{Event: start}); err != nil {
		return err
	}
	every := boxrpc.Keepalive(req.Header())
	keepalive := time.NewTicker(every)
	defer keepalive.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-keepalive.C:
			alive := &filesystempb.WatchDirResponse_Keepalive{Keepalive: &filesystempb.WatchDirResponse_KeepAlive{}}
			if err := stream.Send(&filesystempb.WatchDirResponse{Event: alive}); err != nil {
				return err
			}
		case err := <-w.notify.Errors:
			return w.failure(err)
		case e := <-w.notify.Events:
			events, err := w.translate(e)
			if err != nil {
				return err
			}
			for _, event := range events {
				change := &filesystempb.WatchDirResponse_Filesystem{Filesystem: event}
				if err := stream.Send(&filesystempb.WatchDirResponse{Event: change}); err != nil {
					return err
				}
			}
			keepalive.Reset(every)
		}
	}
}

// failure is the answer to an error of the watch itself.
func (w *watcher) failure(err error) error {
	if errors.Is(err, fsnotify.ErrEventOverflow) {
		return errLost(w.root)
	}
	return watchFailure(w.root, err)
}

// polled is a watcher whose events wait until they are asked for.
type polled struct {
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	events []*filesystempb.FilesystemEvent
	err    error     // told with the next question, then forgotten unless final
	final  bool      // no more events come
	asked  time.Time // when it was last asked
}

// run collects the events of w until ctx is done.
func (p *polled) run(ctx context.Context, w *watcher) {
	defer close(p.done)
	defer w.close()
	for {
		var events []*filesystempb.FilesystemEvent
		var err error
		select {
		case <-ctx.Done():
			return
		case err = <-w.notify.Errors:
			err = w.failure(err)
		case e := <-w.notify.Events:
			events, err = w.translate(e)
		}
		p.keep(w.root, events, err)
		if err != nil && connect.CodeOf(err) != connect.CodeDataLoss {
			return
		}
	}
}

// keep queues events. An event that says the same as the one before it is not
// queued, so that a long write is one event.
func (p *polled) keep(root string, events []*filesystempb.FilesystemEvent, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		if n := len(p.events); n > 0 && p.events[n-1].GetName() == e.GetName() && p.events[n-1].GetType() == e.GetType() {
			p.events[n-1] = e
			continue
		}
		if len(p.events) >= maxQueued {
			err = errLost(root)
			p.events = nil
		}
		p.events = append(p.events, e)
	}
	if err != nil {
		p.err, p.final = err, connect.CodeOf(err) != connect.CodeDataLoss
	}
}

// take returns what was queued, or why something is missing.
func (p *polled) take(now time.Time) ([]*filesystempb.FilesystemEvent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = now
	if err := p.err; err != nil {
		if !p.final {
			p.err = nil
		}
		return nil, err
	}
	events := p.events
	p.events = nil
	return events, nil
}

// CreateWatcher implements the service's CreateWatcher.
func (s *Service) CreateWatcher(_ context.Context, req *connect.Request[filesystempb.CreateWatcherRequest]) (*connect.Response[filesystempb.CreateWatcherResponse], error) {
	_, path, err := s.path(req, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.watchers {
		if p.idle(now) {
			p.stop()
			delete(s.watchers, id)
		}
	}
	if len(s.watchers) >= maxPolled {
		return nil, errorf(connect.CodeResourceExhausted, "there are %d watchers, the most allowed; remove one", len(s.watchers))
	}
	w, err := newWatcher(path, req.Msg, s.cfg.Box)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background()) // it outlives the call
	p := &polled{stop: stop, done: make(chan struct{}), asked: now}
	id := "w" + rand.Text()
	s.watchers[id] = p
	go p.run(ctx, w)
	return connect.NewResponse(&filesystempb.CreateWatcherResponse{WatcherId: id}), nil
}

// idle reports whether nobody has asked for long.
func (p *polled) idle(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.asked) > pollIdle
}

// GetWatcherEvents implements the service's GetWatcherEvents.
func (s *Service) GetWatcherEvents(_ context.Context, req *connect.Request[filesystempb.GetWatcherEventsRequest]) (*connect.Response[filesystempb.GetWatcherEventsResponse], error) {
	s.mu.Lock()
	p, ok := s.watchers[req.Msg.GetWatcherId()]
	s.mu.Unlock()
	if !ok {
		return nil, errorf(connect.CodeNotFound, "watcher with id %.80s not found", req.Msg.GetWatcherId())
	}
	events, err := p.take(s.cfg.Now())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystempb.GetWatcherEventsResponse{Events: events}), nil
}

// RemoveWatcher implements the service's RemoveWatcher. No watcher is no error.
func (s *Service) RemoveWatcher(_ context.Context, req *connect.Request[filesystempb.RemoveWatcherRequest]) (*connect.Response[filesystempb.RemoveWatcherResponse], error) {
	s.mu.Lock()
	p, ok := s.watchers[req.Msg.GetWatcherId()]
	delete(s.watchers, req.Msg.GetWatcherId())
	s.mu.Unlock()
	if ok {
		p.stop()
		<-p.done
	}
	return connect.NewResponse(&filesystempb.RemoveWatcherResponse{}), nil
}

// Close ends every watcher that clients left behind.
func (s *Service) Close() {
	s.mu.Lock()
	left := s.watchers
	s.watchers = make(map[string]*polled)
	s.mu.Unlock()
	for _, p := range left {
		p.stop()
		<-p.done
	}
}
