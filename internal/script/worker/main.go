package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/evanw/esbuild/pkg/api"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// Name is argv[0] of a worker. A binary that holds this package must call [Main]
// first thing when it is started under it; see [Is].
const Name = "bulkhead-worker"

// Is reports whether the process was started as a worker.
func Is(argv0 string) bool { return argv0 == Name }

// socketFD is the worker's end of the socket to the server.
const socketFD = 3

// cleanAbove is the peak, in bytes, after which a worker gives its memory back
// and says when it has.
const cleanAbove = 16 << 20

// large reports whether a run may have left much behind: a peak is not told beyond the
// limit that ended the run.
func large(out *engine.Outcome) bool {
	return out.Usage.PeakBytes > cleanAbove || out.End.Cause == bulkhead.CauseMemoryLimit
}

// programsKept is how many compiled programs a worker remembers.
const programsKept = 64

// warmProgram makes goja build its lazy tables before the first run needs them.
const warmProgram = `JSON.stringify([1, "a"].map(x => x + "b").concat(new Map([[1, 2]]).size, "a-b".split("-"),
	/a(.)/.exec("ab"), Object.entries({ a: Math.max(1, 2) }), new Date(0), new Set([1])))`

// stuckCode is the exit code of a worker that gave up on a built-in.
const stuckCode = 3

// Main is the worker process. It confines itself, then serves runs from the
// socket on descriptor 3 until the server closes it, and returns the exit code.
// The arguments are a user ID, 0 for "stay who I am", and a directory to take as
// root, "" for none.
func Main(args []string) int {
	_ = cgroup.Expendable() // it works as well at the server's rank
	if err := serve(args); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	return 0
}

// process is the state of a worker.
type process struct {
	in       *bufio.Reader
	out      *os.File
	exit     func()
	writing  sync.Mutex
	engine   *engine.Engine
	programs *lru.Cache[string, *engine.Program]
}

func serve(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("start: %d arguments, want a user ID and a root", len(args))
	}
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("start: user ID: %w", err)
	}
	socket := os.NewFile(socketFD, "server")
	if socket == nil {
		return errors.New("start: descriptor 3 is not open")
	}
	p := &process{in: bufio.NewReader(socket), out: socket, exit: func() { os.Exit(stuckCode) }} //nolint:forbidigo // nothing else ends it
	if _, err := p.in.Peek(1); err != nil {                                                      // the server has placed us in our cgroup
		return fmt.Errorf("wait for the server: %w", err)
	}
	if _, _, err := readFrame(p.in, 1<<10); err != nil {
		return err
	}
	runtime.GOMAXPROCS(2) // one for the program, one for sampler and collector
	debug.SetMaxStack(64 << 20)
	if err := p.warm(); err != nil {
		return err
	}
	confined, err := confine(uid, args[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go p.engine.Sample(ctx)
	go p.outlive()
	if err := p.send(kindReady, ready{Confined: confined}); err != nil {
		return err
	}
	for {
		k, payload, err := readFrame(p.in, maxFrame)
		if err != nil {
			return err
		}
		switch k {
		case kindRun:
			err = p.run(ctx, payload)
		case kindBuild:
			err = p.send(kindBuilt, build(string(payload)))
		case kindVet:
			err = p.send(kindVerdict, p.engine.Vet(string(payload)))
		default:
			err = fmt.Errorf("read frame: unexpected kind %c", k)
		}
		if err != nil {
			return err
		}
	}
}

// outlive ends the process when the server is gone, whatever it is doing.
func (p *process) outlive() {
	fds := []unix.PollFd{{Fd: socketFD}} // a hang-up is always told
	for {
		if n, err := unix.Ppoll(fds, nil, nil); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			p.exit()
			return
		}
	}
}

// warm makes what every run needs, and what the first one would otherwise wait for.
func (p *process) warm() error {
	var err error
	if p.engine, err = engine.New(); err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	if p.programs, err = lru.New[string, *engine.Program](programsKept); err != nil {
		return fmt.Errorf("start engine: %w", err)
	}
	program, err := p.engine.Compile(warmProgram, engine.LaneWorker)
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	out := p.engine.Run(context.Background(), program, engine.LaneWorker, engine.Input{Limits: engine.DefaultLimits()})
	if out.End.Cause != bulkhead.CauseExited || out.End.ExitCode != 0 {
		return fmt.Errorf("warm up: %v", out.End)
	}
	debug.FreeOSMemory()
	return nil
}

// run does one run.
func (p *process) run(ctx context.Context, payload []byte) error {
	var req runRequest
	if err := json.Unmarshal(payload, &req); err != nil {
		return fmt.Errorf("decode run: %w", err)
	}
	out := p.evaluate(ctx, &req)
	if err := p.send(kindOutcome, &out); err != nil {
		return err
	}
	if large(&out) {
		debug.FreeOSMemory() // before the next run, not during this one
		return p.send(kindReady, ready{Confined: true})
	}
	return nil
}

// send writes a frame. Only one does at a time.
func (p *process) send(k kind, v any) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	return send(p.out, k, v)
}

// giveUp reports a run whose built-in does not stop, and takes the process down
// with it. It never lets another frame out.
func (p *process) giveUp(out engine.Outcome) {
	p.writing.Lock()
	_ = send(p.out, kindOutcome, &out) // without a server nobody asks
	p.exit()
}

// evaluate compiles and runs, or says what is wrong with the source.
func (p *process) evaluate(ctx context.Context, req *runRequest) engine.Outcome {
	limit := req.Limits.MemoryMB << 20
	debug.SetMemoryLimit(limit + limit/4 + 32<<20)
	key := engine.Fingerprint(req.Source)
	program, ok := p.programs.Get(key)
	if !ok {
		var err error
		program, err = p.engine.Compile(req.Source, engine.LaneWorker)
		if err != nil {
			out := engine.Outcome{End: bulkhead.End{Cause: bulkhead.CauseExited, At: time.Now(), ExitCode: 1, Detail: err.Error()}}
			if s, ok := errors.AsType[*engine.SyntaxError](err); ok {
				out.Failure = &s.Failure
			}
			return out
		}
		p.programs.Add(key, program)
	}
	return p.engine.Run(ctx, program, engine.LaneWorker, engine.Input{
		JSON: req.Input, Limits: req.Limits, Journal: req.Journal, HasFetch: req.HasFetch, Host: remote{p}, Stuck: p.giveUp,
	})
}

// remote is the host at the other end of the socket.
type remote struct{ p *process }

var _ engine.Host = remote{}

// Log sends a line. A server that is gone shows at the next read.
func (h remote) Log(l engine.LogLine) { _ = h.p.send(kindLog, l) }

// Call sends an operation and waits for its answer.
func (h remote) Call(op string, payload []byte) ([]byte, error) {
	if err := h.p.send(kindCall, call{Op: op, Payload: payload}); err != nil {
		return nil, err
	}
	k, data, err := readFrame(h.p.in, maxFrame)
	if err != nil {
		return nil, err
	}
	var a answer
	if k != kindAnswer {
		return nil, fmt.Errorf("the server sent %c for an answer", k)
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	if a.Over {
		return nil, engine.ErrOver
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Data, nil
}

// build turns TypeScript into JavaScript that goja runs. A text that uses return
// outside of functions is built as the body of an async function, as
// [engine.Engine.Compile] does with JavaScript.
func build(source string) built {
	b := transform(source)
	if b.Failure == nil {
		return b
	}
	inside := transform(engine.WrapHead + source + engine.WrapTail)
	if inside.Failure == nil {
		inside.Head = len(engine.WrapHead)
	} else if !strings.Contains(b.Failure.Message, "Top-level return") {
		return b
	}
	return inside
}

// transform builds a text as it is.
func transform(source string) built {
	result := api.Transform(source, api.TransformOptions{
		Loader: api.LoaderTS, Sourcefile: "script.ts", LogLevel: api.LogLevelSilent, Target: api.ESNext,
		Sourcemap: api.SourceMapExternal, SourcesContent: api.SourcesContentExclude,
		// What goja does not have, in esbuild's names.
		Supported: map[string]bool{
			"async-generator": false, "for-await": false, "regexp-lookbehind-assertions": true,
			"using": false, "decorators": false, "class-static-blocks": true,
		},
	})
	if len(result.Errors) > 0 {
		e := result.Errors[0]
		f := &engine.Failure{Name: "SyntaxError", Message: e.Text}
		if e.Location != nil {
			column := e.Location.Column + 1
			if head := len(engine.WrapHead); e.Location.Line == 1 && strings.HasPrefix(source, engine.WrapHead) && column > head {
				column -= head
			}
			f.Message = fmt.Sprintf("%s:%d:%d: %s", e.Location.File, e.Location.Line, column, e.Text)
		}
		return built{Failure: f}
	}
	return built{Built: Built{Code: string(result.Code), Map: string(result.Map)}}
}
