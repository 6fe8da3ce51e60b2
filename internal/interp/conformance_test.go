package interp

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// programs are the same programs in one language: what every kernel must be able
// to run.
type programs struct {
	print    string // prints "out" and a newline to stdout, "err" to stderr
	value    string // its value is 42, shown as that
	hasValue bool
	fail     string // ends with an error named or valued failWith
	failWith string
	forever  string // never ends by itself
	sleep    string // neither, and waits for something
	getenv   string // prints the variable BULKHEAD_TEST, or an empty line
	set, get string // sets a variable to 7; prints it
	exit     string // ends the kernel's process
	flood    string // prints 10,000 lines "line <n>"
}

// kernels are the languages to test, with what makes a server that has them.
func kernels(t *testing.T) map[string]struct {
	programs
	prepare func(t *testing.T, specs string) (python string)
} {
	t.Helper()
	return map[string]struct {
		programs
		prepare func(t *testing.T, specs string) (python string)
	}{
		"python": {
			programs{
				print: "import sys\nprint('out')\nprint('err', file=sys.stderr)",
				value: "40 + 2", hasValue: true,
				fail: "raise KeyError('gone')", failWith: "KeyError",
				forever: "while True: pass", sleep: "import time\ntime.sleep(1000)",
				getenv: "import os\nprint(os.environ.get('BULKHEAD_TEST', ''))",
				set:    "x = 7", get: "print(x)",
				exit:  "import os\nos._exit(3)",
				flood: "for i in range(10000): print('line', i)",
			},
			func(t *testing.T, _ string) string { t.Helper(); return pythonOf(t) },
		},
		"bash": {
			programs{
				print: "echo out; echo err >&2",
				fail:  "false", failWith: "1",
				forever: "while true; do sleep 0.01; done", sleep: "sleep 1000",
				getenv: `echo "$BULKHEAD_TEST"`,
				set:    "x=7", get: `echo "$x"`,
				exit:  "kill -9 $$",
				flood: "for i in $(seq 0 9999); do echo line $i; done",
			},
			func(t *testing.T, _ string) string { t.Helper(); return "python3" },
		},
		"ipykernel": { // stands for any kernel that only its kernelspec tells of
			programs{
				print: "import sys\nprint('out')\nprint('err', file=sys.stderr)",
				value: "40 + 2", hasValue: true,
				fail: "raise KeyError('gone')", failWith: "KeyError",
				forever: "while True: pass", sleep: "import time\ntime.sleep(1000)",
				set: "x = 7", get: "print(x)",
				exit:  "import os\nos._exit(3)",
				flood: "for i in range(10000): print('line', i)",
			},
			func(t *testing.T, specs string) string {
				t.Helper()
				python := pythonOf(t)
				needModule(t, python, "ipykernel")
				writeSpec(t, specs, "other", "ipykernel", python, "-m", "ipykernel_launcher", "-f", "{connection_file}")
				return python
			},
		},
		"javascript": {
			programs{
				print: "console.log('out'); console.error('err')",
				value: "40 + 2", hasValue: true,
				fail: "throw new RangeError('gone')", failWith: "RangeError",
				forever: "while (true) {}", // Deno stops what computes, not what waits: that is killed
				getenv:  "console.log(Deno.env.get('BULKHEAD_TEST') ?? '')",
				set:     "let x = 7", get: "console.log(x)",
				exit:  "Deno.kill(Deno.pid, 'SIGKILL')",
				flood: "for (let i = 0; i < 10000; i++) console.log('line ' + i)",
			},
			func(t *testing.T, specs string) string {
				t.Helper()
				deno, err := exec.LookPath("deno")
				testenv.Have(t, "deno", err == nil, "deno is not on PATH")
				writeSpec(t, specs, "deno", "typescript", deno, "jupyter", "--kernel", "--conn", "{connection_file}")
				return "python3"
			},
		},
	}
}

// writeSpec installs a kernelspec.
func writeSpec(t *testing.T, specs, name, language string, argv ...string) {
	t.Helper()
	data, err := json.Marshal(kernelspec{Argv: argv, Language: language})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(specs, "kernels", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// recorder is a Sink that keeps events and calls on, if set, with each.
type recorder struct {
	mu     sync.Mutex
	events []Event
	on     func(Event)
}

// Emit implements [Sink].
func (r *recorder) Emit(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	if r.on != nil {
		r.on(e)
	}
}

// Flush implements [Sink].
func (r *recorder) Flush() {}

// text joins the text of all events of a kind.
func (r *recorder) text(kind EventKind) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s strings.Builder
	for _, e := range r.events {
		if e.Kind == kind {
			s.WriteString(e.Text)
		}
	}
	return s.String()
}

// first returns the first event of a kind.
func (r *recorder) first(kind EventKind) (Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind {
			return e, true
		}
	}
	return Event{}, false
}

// TestKernels holds every kind of kernel to the contract of [Kernel].
func TestKernels(t *testing.T) {
	for name, lang := range kernels(t) {
		t.Run(name, func(t *testing.T) {
			specs := filepath.Join(shortDir(t), "j")
			env := map[string]string{"PATH": os.Getenv("PATH"), "JUPYTER_PATH": specs}
			srv := newServer(t, Config{
				Python: lang.prepare(t, specs), Preload: []string{}, InterruptGrace: 3 * time.Second,
				Env: func() map[string]string { return env },
			})
			if err := srv.install(); err != nil {
				t.Fatal(err)
			}
			sess := srv.addLocked(name, srv.cfg.Workdir)
			suite := kernelSuite{srv: srv, sess: sess, p: lang.programs}
			suite.start(t)
			for _, c := range []struct {
				name string
				test func(*testing.T)
			}{
				{"output", suite.output},
				{"value", suite.value},
				{"error", suite.failure},
				{"state", suite.state},
				{"variables of one execution", suite.variables},
				{"rebind", suite.rebind},
				{"flood", suite.flood},
				{"interrupt", suite.interrupt},
				{"cancelled from the beginning", suite.cancelled},
				{"touch", suite.touch},
				{"exit", suite.exit},
				{"close", suite.closing},
			} {
				t.Run(c.name, c.test)
			}
		})
	}
}

// kernelSuite tests one kernel after the other of a language.
type kernelSuite struct {
	srv  *Server
	sess *session
	p    programs
	k    Kernel
}

func (s *kernelSuite) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	k, _, err := s.srv.startKernel(ctx, s.sess)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	s.k = k
}

// run runs code and fails the test if the kernel dies.
func (s *kernelSuite) run(t *testing.T, code string, env map[string]string) *recorder {
	t.Helper()
	r := &recorder{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.k.Run(ctx, Request{Code: code, Env: env}, r); err != nil {
		t.Fatalf("run %q: %v", code, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("run %q: it takes too long", code)
	}
	return r
}

func (s *kernelSuite) output(t *testing.T) {
	r := s.run(t, s.p.print, nil)
	if r.events[0].Kind != EventCount || r.events[0].Count < 1 {
		t.Errorf("the first event is %+v, want the number of the execution", r.events[0])
	}
	out, err := r.text(EventStdout), r.text(EventStderr)
	if out != "out\n" || err != "err\n" {
		t.Errorf("stdout is %q, stderr is %q", out, err)
	}
	if _, failed := r.first(EventError); failed {
		t.Errorf("events are %+v, want no error", r.events)
	}
}

func (s *kernelSuite) value(t *testing.T) {
	if !s.p.hasValue {
		t.Skip("the language has no values")
	}
	r := s.run(t, s.p.value, nil)
	e, _ := r.first(EventResult)
	if got := string(e.Data["text/plain"]); got != `"42"` {
		t.Errorf("the value is %s, want \"42\"", got)
	}
}

func (s *kernelSuite) failure(t *testing.T) {
	r := s.run(t, s.p.fail, nil)
	e, _ := r.first(EventError)
	if e.Name != s.p.failWith && e.Value != s.p.failWith {
		t.Errorf("events are %+v, want an error %s", r.events, s.p.failWith)
	}
	s.run(t, s.p.print, nil) // it goes on
}

func (s *kernelSuite) state(t *testing.T) {
	s.run(t, s.p.set, nil)
	if got := s.run(t, s.p.get, nil).text(EventStdout); strings.TrimSpace(got) != "7" {
		t.Errorf("the variable is %q, want 7", got)
	}
}

func (s *kernelSuite) variables(t *testing.T) {
	if s.p.getenv == "" {
		t.Skip("nothing is known of the language's variables")
	}
	const odd = `it's "a" $HOME \n ü`
	got := s.run(t, s.p.getenv, map[string]string{"BULKHEAD_TEST": odd}).text(EventStdout)
	if strings.TrimSpace(got) != odd {
		t.Errorf("the variable is %q, want %q", got, odd)
	}
	if got := s.run(t, s.p.getenv, nil).text(EventStdout); strings.TrimSpace(got) != "" {
		t.Errorf("after the execution the variable is %q, want none", got)
	}
}

func (s *kernelSuite) rebind(t *testing.T) {
	if s.p.getenv == "" {
		t.Skip("nothing is known of the language's variables")
	}
	s.k.Rebind(map[string]string{"BULKHEAD_TEST": "leased"}, []byte("0123456789abcdef0123456789abcdef"))
	if got := s.run(t, s.p.getenv, nil).text(EventStdout); strings.TrimSpace(got) != "leased" {
		t.Errorf("the variable is %q, want leased", got)
	}
	s.run(t, s.p.getenv, map[string]string{"BULKHEAD_TEST": "mine"})
	if got := s.run(t, s.p.getenv, nil).text(EventStdout); strings.TrimSpace(got) != "leased" {
		t.Errorf("after an execution with its own the variable is %q, want leased", got)
	}
}

func (s *kernelSuite) flood(t *testing.T) {
	got := strings.ReplaceAll(s.run(t, s.p.flood, nil).text(EventStdout), "\r", "")
	if n := strings.Count(got, "\n"); n != 10000 || !strings.HasSuffix(got, "line 9999\n") {
		t.Errorf("%d lines came, ending with %q", n, got[max(0, len(got)-40):])
	}
}

func (s *kernelSuite) interrupt(t *testing.T) {
	for name, code := range map[string]string{"busy": s.p.forever, "waiting": s.p.sleep} {
		t.Run(name, func(t *testing.T) {
			if code == "" {
				t.Skip("the language's kernel cannot")
			}
			s.run(t, s.p.set, nil)
			ctx, cancel := context.WithCancel(t.Context())
			r := &recorder{on: func(e Event) {
				if e.Kind == EventCount {
					time.AfterFunc(200*time.Millisecond, cancel) // by then it is well inside
				}
			}}
			begin := time.Now()
			if err := s.k.Run(ctx, Request{Code: code}, r); err != nil {
				t.Fatalf("run: %v", err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("the interrupt took %s", took)
			}
			if got := s.run(t, s.p.get, nil).text(EventStdout); strings.TrimSpace(got) != "7" {
				t.Errorf("after the interrupt the variable is %q, want 7", got)
			}
		})
	}
}

func (s *kernelSuite) cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &recorder{}
	if err := s.k.Run(ctx, Request{Code: s.p.print}, r); err != nil {
		t.Fatalf("run: %v", err)
	}
	if len(r.events) != 0 {
		t.Errorf("events are %+v, want none", r.events)
	}
	s.run(t, s.p.print, nil)
}

func (s *kernelSuite) exit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := s.k.Run(ctx, Request{Code: s.p.exit}, &recorder{})
	var dead *DeadError
	if !errors.As(err, &dead) || dead.PID == 0 || dead.Unresponsive {
		t.Fatalf("run: %v, want a kernel that ended by itself", err)
	}
	select {
	case <-s.k.Done():
	default:
		t.Error("Done is not closed")
	}
	s.start(t)
	s.run(t, s.p.print, nil)
}

func (s *kernelSuite) touch(t *testing.T) {
	before := s.run(t, s.p.print, nil).events[0].Count
	r := &recorder{}
	if err := s.k.Run(t.Context(), Request{Touch: true}, r); err != nil {
		t.Fatalf("touch: %v", err)
	}
	if len(r.events) != 0 {
		t.Errorf("events are %+v, want none", r.events)
	}
	if after := s.run(t, s.p.print, nil).events[0].Count; after != before+1 {
		t.Errorf("executions %d and %d come one after the other", before, after)
	}
}

func (s *kernelSuite) closing(t *testing.T) {
	ended := make(chan error, 1)
	r := &recorder{on: func(e Event) {
		if e.Kind == EventCount {
			go s.k.Close()
		}
	}}
	go func() { ended <- s.k.Run(t.Context(), Request{Code: s.p.forever}, r) }()
	select {
	case err := <-ended:
		if dead := (*DeadError)(nil); !errors.As(err, &dead) {
			t.Errorf("run: %v, want a dead kernel", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the execution goes on in a closed kernel")
	}
	s.k.Close()
}
