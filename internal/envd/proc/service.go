// Package proc starts programs in the box and lets clients follow them, write
// to them and end them: E2B's process service.
//
// A program is in a session of its own and outlives the call that started it;
// only its time limit, a client or a limit of the box ends it. It waits while a
// client that follows it does not read, so nothing piles up here.
package proc

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb/processpbconnect"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// The bounds of a service.
const (
	// maxProcesses is how many programs may run at once.
	maxProcesses = 4096
	// keepEnds is for how long, and maxEnds how many, ends are kept for a late
	// Connect.
	keepEnds = 30 * time.Second
	maxEnds  = 256
)

// Config is what the service works with. All but Proc must be set.
type Config struct {
	// Box says who the programs are.
	Box *ident.Box
	// Guard starts and watches them; its Run must run.
	Guard *guard.Guard
	// Proc is where proc is mounted; "" means /proc.
	Proc string
	// Log takes what starts and ends.
	Log *slog.Logger
}

// Service is E2B's process service. All methods may be called from many
// goroutines.
type Service struct {
	cfg Config

	mu     sync.Mutex
	closed bool
	procs  map[uint32]*process // those that run and those whose end is kept
	ends   []*process          // those that ended, oldest first
}

var _ processpbconnect.ProcessHandler = (*Service)(nil)

// New returns a service without programs.
func New(cfg Config) (*Service, error) {
	if cfg.Box == nil || cfg.Guard == nil || cfg.Log == nil {
		return nil, errors.New("process service: box, guard and log must be set")
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	return &Service{cfg: cfg, procs: make(map[uint32]*process)}, nil
}

// Close ends every program and waits for the ends until ctx is done. No program
// can be started from then on.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	running := s.runningLocked()
	s.mu.Unlock()
	for _, p := range running {
		p.fate.CompareAndSwap(nil, &bulkhead.End{Cause: bulkhead.CauseKilled, Detail: "the sandbox ended"})
		p.kill()
	}
	for _, p := range running {
		select {
		case <-p.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// runningLocked are the programs that have not ended, by pid.
func (s *Service) runningLocked() []*process {
	var list []*process
	for _, p := range s.procs {
		select {
		case <-p.done:
		default:
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *process) int { return a.pid - b.pid })
	return list
}

// ended keeps p's end for a while.
func (s *Service) ended(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, p)
	if len(s.ends) > maxEnds {
		s.forgetLocked(s.ends[0])
	}
	time.AfterFunc(keepEnds, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forgetLocked(p)
	})
}

// forgetLocked drops a kept end.
func (s *Service) forgetLocked(p *process) {
	if i := slices.Index(s.ends, p); i >= 0 {
		s.ends = slices.Delete(s.ends, i, i+1)
	}
	if pid := uint32(p.pid); s.procs[pid] == p { //nolint:gosec // a pid is positive
		delete(s.procs, pid)
	}
}

// find returns the program that sel names, running or ended a moment ago; of
// those with the same tag one that runs.
func (s *Service) find(sel *processpb.ProcessSelector) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch by := sel.GetSelector().(type) {
	case *processpb.ProcessSelector_Pid:
		if p, ok := s.procs[by.Pid]; ok {
			return p, nil
		}
		return nil, errorf(connect.CodeNotFound, "process with pid %d not found", by.Pid)
	case *processpb.ProcessSelector_Tag:
		for _, list := range [][]*process{s.runningLocked(), s.ends} {
			for _, p := range list {
				if p.tag != nil && *p.tag == by.Tag {
					return p, nil
				}
			}
		}
		return nil, errorf(connect.CodeNotFound, "process with tag %.80q not found", by.Tag)
	}
	return nil, errorf(connect.CodeInvalidArgument, "process names neither a pid nor a tag")
}

// running is find for programs that have not ended.
func (s *Service) running(sel *processpb.ProcessSelector) (*process, error) {
	p, err := s.find(sel)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return nil, errorf(connect.CodeNotFound, "process with pid %d not found: it has ended", p.pid)
	default:
		return p, nil
	}
}

// List implements the service's List.
func (s *Service) List(context.Context, *connect.Request[processpb.ListRequest]) (*connect.Response[processpb.ListResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var resp processpb.ListResponse
	for _, p := range s.runningLocked() {
		resp.Processes = append(resp.Processes, &processpb.ProcessInfo{Config: p.config, Pid: uint32(p.pid), Tag: p.tag}) //nolint:gosec // positive
	}
	return connect.NewResponse(&resp), nil
}

// Start implements the service's Start. The program ends when the time limit of
// the call is over; it does not end when the client goes away.
func (s *Service) Start(ctx context.Context, req *connect.Request[processpb.StartRequest], stream *connect.ServerStream[processpb.StartResponse]) error {
	u, err := s.cfg.Box.Caller(req.Header())
	if err != nil {
		return err
	}
	p, sub, err := s.start(u, req.Msg, boxrpc.Timeout(req.Header()))
	if err != nil {
		return err
	}
	defer sub.leave()
	return p.relay(ctx, sub, boxrpc.Keepalive(req.Header()), func(e *processpb.ProcessEvent) error {
		return stream.Send(&processpb.StartResponse{Event: e})
	})
}

// start runs a program and subscribes to its output before it prints any.
func (s *Service) start(u ident.User, req *processpb.StartRequest, timeout time.Duration) (*process, *subscriber, error) {
	p, ends, err := s.prepare(u, req)
	if err != nil {
		return nil, nil, err
	}
	sub, err := p.out.subscribe()
	if err != nil {
		ends.closeChildEnds()
		ends.closeOurEnds()
		return nil, nil, err
	}
	// The program is entered under the lock that its end needs.
	s.mu.Lock()
	defer s.mu.Unlock()
	switch running := len(s.procs) - len(s.ends); {
	case s.closed:
		err = errorf(connect.CodeUnavailable, "the sandbox is ending")
	case running >= maxProcesses:
		err = errorf(connect.CodeResourceExhausted, "%d processes are running, the most allowed", running)
	}
	if err != nil {
		ends.closeChildEnds()
		ends.closeOurEnds()
		return nil, nil, err
	}
	if err := p.run(ends, timeout); err != nil {
		return nil, nil, err
	}
	s.cfg.Log.Info("process started", slog.Int("pid", p.pid), slog.String("program", p.cmd.Path), slog.String("user", u.Name))
	pid := uint32(p.pid) //nolint:gosec // positive
	if old, ok := s.procs[pid]; ok {
		s.forgetLocked(old) // the kernel gave its pid away
	}
	s.procs[pid] = p
	return p, sub, nil
}

// Connect implements the service's Connect.
func (s *Service) Connect(ctx context.Context, req *connect.Request[processpb.ConnectRequest], stream *connect.ServerStream[processpb.ConnectResponse]) error {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return err
	}
	sub, err := p.out.subscribe()
	if err != nil {
		return err
	}
	defer sub.leave()
	return p.relay(ctx, sub, boxrpc.Keepalive(req.Header()), func(e *processpb.ProcessEvent) error {
		return stream.Send(&processpb.ConnectResponse{Event: e})
	})
}

// relay sends the start of p, what sub gets of its output, and its end.
func (p *process) relay(ctx context.Context, sub *subscriber, every time.Duration, send func(*processpb.ProcessEvent) error) error {
	start := &processpb.ProcessEvent_StartEvent{Pid: uint32(p.pid)} //nolint:gosec // positive
	if err := send(&processpb.ProcessEvent{Event: &processpb.ProcessEvent_Start{Start: start}}); err != nil {
		return err
	}
	keepalive := time.NewTicker(every)
	defer keepalive.Stop()
	for {
		var event processpb.ProcessEvent
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-keepalive.C:
			event.Event = &processpb.ProcessEvent_Keepalive{Keepalive: &processpb.ProcessEvent_KeepAlive{}}
		case data, more := <-sub.chunks:
			if !more {
				return p.relayEnd(ctx, send)
			}
			event.Event = &processpb.ProcessEvent_Data{Data: data}
			keepalive.Reset(every)
		}
		if err := send(&event); err != nil {
			return err
		}
	}
}

// relayEnd sends the end of p. A call whose own time limit ended p ends with
// that instead, as E2B's does.
func (p *process) relayEnd(ctx context.Context, send func(*processpb.ProcessEvent) error) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	fate := p.fate.Load() // a limit of the box's is told like any other end
	if _, limited := ctx.Deadline(); limited && fate != nil && fate.Cause == bulkhead.CauseTimeLimit && p.end.GetCause() == string(bulkhead.CauseTimeLimit) {
		<-ctx.Done()
		return ctx.Err()
	}
	return send(&processpb.ProcessEvent{Event: &processpb.ProcessEvent_End{End: p.end}})
}

// Update implements the service's Update.
func (s *Service) Update(_ context.Context, req *connect.Request[processpb.UpdateRequest]) (*connect.Response[processpb.UpdateResponse], error) {
	p, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	size, err := winsize(req.Msg.GetPty())
	if err == nil && size != nil {
		err = p.resize(size)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.UpdateResponse{}), nil
}

// SendInput implements the service's SendInput.
func (s *Service) SendInput(ctx context.Context, req *connect.Request[processpb.SendInputRequest]) (*connect.Response[processpb.SendInputResponse], error) {
	p, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := p.write(ctx, req.Msg.GetInput()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.SendInputResponse{}), nil
}

// StreamInput implements the service's StreamInput.
func (s *Service) StreamInput(ctx context.Context, stream *connect.ClientStream[processpb.StreamInputRequest]) (*connect.Response[processpb.StreamInputResponse], error) {
	var p *process
	for stream.Receive() {
		switch event := stream.Msg().GetEvent().(type) {
		case *processpb.StreamInputRequest_Start:
			var err error
			if p, err = s.running(event.Start.GetProcess()); err != nil {
				return nil, err
			}
		case *processpb.StreamInputRequest_Data:
			if p == nil {
				return nil, errorf(connect.CodeInvalidArgument, "the first message of the stream must be a start")
			}
			if err := p.write(ctx, event.Data.GetInput()); err != nil {
				return nil, err
			}
		case *processpb.StreamInputRequest_Keepalive:
		default:
			return nil, errorf(connect.CodeInvalidArgument, "a message of the stream is neither start, data nor keepalive")
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.StreamInputResponse{}), nil
}

// maxSignal is the last of the real-time signals.
const maxSignal = 64

// SendSignal implements the service's SendSignal. It takes every signal that
// Linux has, not only those that have a name in the protocol.
func (s *Service) SendSignal(_ context.Context, req *connect.Request[processpb.SendSignalRequest]) (*connect.Response[processpb.SendSignalResponse], error) {
	p, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	sig := req.Msg.GetSignal()
	if sig < 1 || sig > maxSignal {
		return nil, errorf(connect.CodeInvalidArgument, "signal is %d; it must be between 1 and %d, such as SIGNAL_SIGKILL", sig, maxSignal)
	}
	if err := p.signal(syscall.Signal(sig)); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.SendSignalResponse{}), nil
}

// CloseStdin implements the service's CloseStdin.
func (s *Service) CloseStdin(ctx context.Context, req *connect.Request[processpb.CloseStdinRequest]) (*connect.Response[processpb.CloseStdinResponse], error) {
	p, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := p.closeStdin(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&processpb.CloseStdinResponse{}), nil
}
