// Command envd is the process inside every box. It needs no arguments; what it
// serves is fixed by E2B's protocol, and what the host wants of it comes in the
// environment, see internal/boxrpc, and later by /init.
//
// Once its ports are open it writes the line "ready" to standard output, and
// nothing else ever. Its log goes to standard error as JSON, at most 100 lines a
// second.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd"
	"github.com/bulkheadhq/bulkhead/internal/envd/guard"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
	"github.com/bulkheadhq/bulkhead/internal/envd/reap"
	"github.com/bulkheadhq/bulkhead/internal/interp"
)

// pidsDir is where the box's own pids controller is mounted, for root alone.
const pidsDir = "/run/bulkhead/pids"

// defaultPath is the PATH of programs when the host sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// init keeps main's goroutine on the main thread, which the kernel gives orphans
// to; see internal/envd/reap.
//
//nolint:gochecknoinits // the one way to do it that the runtime documents
func init() { runtime.LockOSThread() }

func main() {
	os.Exit(run(os.Getenv, os.Stdout, os.Stderr))
}

// run is envd from its start to its end; it must be called on the main thread.
func run(getenv func(string) string, stdout, stderr io.Writer) int {
	lines := newLineLog(stderr)
	defer lines.close()
	log := slog.New(slog.NewJSONHandler(lines, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	syscall.Umask(0o022)
	if err := reap.Adopt(); err != nil {
		log.Warn("orphans go elsewhere", slog.Any("error", err))
	}
	// Orphans are reaped until the last program is gone.
	reaping, done := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		defer done()
		ended <- serve(ctx, getenv, stdout, log)
	}()
	if err := reap.Orphans(reaping); err != nil {
		log.Warn("orphans are not reaped", slog.Any("error", err))
	}
	if err := <-ended; err != nil {
		tellWarmup(ctx, log, err)
		log.Error("envd ended", slog.Any("error", err))
		return 1
	}
	return 0
}

// serve puts envd together and serves until ctx is done.
func serve(ctx context.Context, getenv func(string) string, stdout io.Writer, log *slog.Logger) error {
	path := cmp.Or(getenv("PATH"), defaultPath)
	box := ident.New(ident.Accounts{}, path)
	meter, err := guard.Detect("/sys/fs/cgroup")
	if err != nil {
		log.InfoContext(ctx, "memory is not watched", slog.Any("error", err))
	}
	g, err := guard.New(guard.Config{CgroupDir: pidsDir, Meter: meter, Log: log})
	if err != nil {
		return err
	}
	cfg := envd.Config{Box: box, Guard: g, System: envd.RealSystem(), Log: log}
	if err := cfg.System.Mark(); err != nil {
		log.WarnContext(ctx, "the box is not marked as a sandbox", slog.Any("error", err))
	}
	code, err := interpreter(getenv, box, g, log)
	if err != nil {
		return err
	}
	if code != nil {
		cfg.Rebinders = append(cfg.Rebinders, code.Rebind)
	}
	server, err := envd.New(cfg)
	if err != nil {
		return err
	}

	guarding, done := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan error, 1)
	go func() { watched <- g.Run(guarding) }()
	err = listenAndServe(ctx, server, code, g, func(ctx context.Context) error {
		if warmup := getenv(boxrpc.EnvWarmup); warmup != "" && code == nil {
			s := script{warmup, cmp.Or(getenv(boxrpc.EnvUser), "user"), getenv(boxrpc.EnvWorkdir), box, g.Spawn}
			return s.run(ctx)
		}
		return nil
	}, func() {
		debug.FreeOSMemory() // less to snapshot
		log.InfoContext(ctx, "ready", slog.String("version", boxrpc.EnvdVersion))
		if _, err := io.WriteString(stdout, "ready\n"); err != nil {
			log.ErrorContext(ctx, "nobody hears that envd is ready", slog.Any("error", err))
		}
	})
	done()
	return errors.Join(err, <-watched)
}

// listenAndServe opens the ports, warms up, calls ready, and serves until ctx is
// done.
func listenAndServe(ctx context.Context, server *envd.Server, code *interp.Server, g *guard.Guard,
	warm func(context.Context) error, ready func(),
) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", ":"+strconv.Itoa(boxrpc.EnvdPort))
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(ctx, l) })
	if code != nil {
		l, err := listen.Listen(ctx, "tcp", ":"+strconv.Itoa(boxrpc.InterpreterPort))
		if err != nil {
			return err
		}
		group.Go(func() error { return code.Run(ctx) })
		group.Go(func() error { return envd.Serve(ctx, l, server.Bound(watchExecutions(code, g))) })
	}
	group.Go(func() error {
		if code != nil {
			if err := code.Wait(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if err := warm(ctx); err != nil {
			return err
		}
		if ctx.Err() == nil {
			ready()
		}
		return nil
	})
	return group.Wait()
}

// interpreter makes the code interpreter, or returns nil when the host wants none.
func interpreter(getenv func(string) string, box *ident.Box, g *guard.Guard, log *slog.Logger) (*interp.Server, error) {
	if getenv(boxrpc.EnvInterpreter) != "1" {
		return nil, nil
	}
	cfg := interp.Config{
		User: getenv(boxrpc.EnvUser), Workdir: getenv(boxrpc.EnvWorkdir), Verdict: g.Verdict, Log: log,
		Authorize:   func(token string) bool { return !box.Guarded() || box.Holds(token) },
		Start:       g.Spawn,
		AwaitOutput: g.AwaitOutput,
		Watch:       func(pid int) func() { return g.Watch(pid).Release },
		Env: func() map[string]string {
			env := box.Env()
			for name, value := range map[string]string{"PATH": cmp.Or(getenv("PATH"), defaultPath), "LANG": "C.UTF-8"} {
				if _, set := env[name]; !set {
					env[name] = value
				}
			}
			return env
		},
	}
	if list := getenv(boxrpc.EnvPreload); list != "" {
		if err := json.Unmarshal([]byte(list), &cfg.Preload); err != nil {
			return nil, fmt.Errorf("%s is not a JSON list of strings: %w", boxrpc.EnvPreload, err)
		}
	}
	if cfg.Warmup = getenv(boxrpc.EnvWarmup); cfg.Warmup != "" {
		cfg.StartTimeout = boxrpc.WarmupTime
	}
	return interp.New(cfg)
}

// watchExecutions keeps the guard looking while code runs.
func watchExecutions(next http.Handler, g *guard.Guard) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/execute" {
			watch := g.Watch(os.Getpid())
			defer watch.Release()
		}
		next.ServeHTTP(w, r)
	})
}
