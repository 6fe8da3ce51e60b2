package interp

import (
	"context"
	"log/slog"
	"os/exec"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Config says how a [Server] runs kernels. The zero value is usable where the
// machine has a user named "user"; see each field for its default.
type Config struct {
	// Python is the interpreter of the lean lane: an absolute path, or a name that
	// is looked up on the PATH of Env. It must be able to import IPython 8.5 or
	// later. Default "python3".
	Python string
	// Dir is where the server keeps the kernel program, connection files and
	// sockets. Sockets bound its length: at most 60 bytes. It is made if missing.
	// Default "/run/bulkhead/interp".
	Dir string
	// User is the user that kernels run as. Default "user".
	User string
	// Workdir is the working directory of a context that names none. Default: the
	// user's home.
	Workdir string
	// Env returns the environment that every kernel starts with. What a lease adds
	// ([Server.Rebind]) is laid over it. It must not be modified after it was
	// returned. Default: PATH alone.
	Env func() map[string]string
	// Authorize reports whether an access token, which may be empty, opens /execute.
	// The routes of contexts ask it only about a token that was sent, since E2B's
	// SDKs send none there. Default: compare with the token of the last lease, and
	// let all pass before there is one.
	Authorize func(token string) bool
	// Start starts the process of a kernel, as [exec.Cmd.Start] does, within the
	// limits of the box. Default: [exec.Cmd.Start].
	Start func(*exec.Cmd) error
	// Verdict tells why a process of the box was killed, for the error that the
	// running execution ends with. Default: nobody knows.
	Verdict func(pid int) (bulkhead.End, bool)
	// Watch is told that code begins to run in a process of the box, and its result
	// is called when it has ended. Default: nobody watches.
	Watch func(pid int) (done func())
	// Preload is what the default Python kernel imports before the server is ready:
	// names of modules ("pandas", "pandas as pd") or any other Python statement. It
	// warms sys.modules and defines no name that the user sees. Default:
	// [DefaultPreload]. An empty, non-nil list preloads nothing.
	Preload []string
	// Warmup is Python code that runs after the imports in the default context,
	// before the server is ready. The names that it defines stay. If it fails there
	// is no Python kernel: [Server.Wait] returns a [WarmupError].
	Warmup string

	// MaxContexts bounds the contexts that exist at a time. Default 16.
	MaxContexts int
	// MaxQueue bounds the executions that wait for a context. Default 32.
	MaxQueue int
	// MaxRequestBytes bounds the body of a request. Default 16 MiB.
	MaxRequestBytes int64
	// MaxMessageBytes bounds one message from a kernel, such as a result with its
	// pictures. A longer one ends the execution. Default 32 MiB.
	MaxMessageBytes int64
	// OutputBytes bounds what one execution may print and show, until a lease says
	// otherwise. 0 means no limit.
	OutputBytes int64
	// AwaitOutput blocks until so many more bytes may be given out. Default: not at all.
	AwaitOutput func(ctx context.Context, n int)
	// InterruptGrace is how long an interrupted kernel may take to stop before it is
	// killed. Default 5 s: E2B's suite wants the next execution within 10 s.
	InterruptGrace time.Duration
	// StartTimeout is how long a kernel may take to become ready. Default 60 s.
	StartTimeout time.Duration
	// Log gets what concerns the operator, never what code prints. Default: none.
	Log *slog.Logger
}

// DefaultPreload returns what the default Python kernel imports ahead: the
// modules that nearly every data program begins with.
func DefaultPreload() []string {
	return []string{
		"sys", "os", "json", "datetime", "math",
		"pandas as pd", "numpy as np", "matplotlib.pyplot as plt", "requests",
	}
}

// maxDir leaves room for "/12345678/s-5" and more in a socket's path, which Linux
// bounds to 107 bytes.
const maxDir = 60

// or returns c with every zero field set to its default.
func (c Config) or() Config {
	setDefault(&c.Python, "python3")
	setDefault(&c.Dir, "/run/bulkhead/interp")
	setDefault(&c.User, "user")
	setDefault(&c.MaxContexts, 16)
	setDefault(&c.MaxQueue, 32)
	setDefault(&c.MaxRequestBytes, 16<<20)
	setDefault(&c.MaxMessageBytes, 32<<20)
	setDefault(&c.InterruptGrace, 5*time.Second)
	setDefault(&c.StartTimeout, time.Minute)
	if c.Env == nil {
		c.Env = func() map[string]string {
			return map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}
		}
	}
	if c.Watch == nil {
		c.Watch = func(int) func() { return func() {} }
	}
	if c.AwaitOutput == nil {
		c.AwaitOutput = func(context.Context, int) {}
	}
	if c.Verdict == nil {
		c.Verdict = func(int) (bulkhead.End, bool) { return bulkhead.End{}, false }
	}
	if c.Preload == nil {
		c.Preload = DefaultPreload()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
