package main

import (
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/bundled"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/cli"
	"github.com/bulkheadhq/bulkhead/internal/config"
	"github.com/bulkheadhq/bulkhead/internal/script/worker"
	"github.com/bulkheadhq/bulkhead/internal/simulate/simcli"
	"github.com/bulkheadhq/bulkhead/internal/template/jail"
)

func main() {
	if worker.Is(os.Args[0]) {
		os.Exit(worker.Main(os.Args[1:]))
	}
	if jail.Is(os.Args) {
		_ = cgroup.Expendable()
		os.Exit(jail.Main(os.Stdin, os.Stderr))
	}
	// What whoever started us left open is not for the programs that we start:
	// mmdebstrap, for one, fails when its own files get numbers above 9.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // since Linux 5.11; without it, as before
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// grammar is the whole command line.
type grammar struct {
	cli.Flags
	cli.Commands

	Serve  serveCmd  `cmd:"" help:"Run the server: API, data plane and this host's sandboxes."`
	Doctor doctorCmd `cmd:"" help:"Say what this host can enforce, and how to mend what it cannot."`

	Simulate simcli.Command `cmd:"" help:"Replay arrivals against the policies of pools."`
}

// run is the program without its process.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	var g grammar
	data := os.Getenv("BULKHEAD_DATA")
	if data == "" {
		data = config.DefaultData
	}
	return cli.Main(ctx, &cli.Env{
		Stdin: in, Stdout: out, Stderr: errOut,
		URL: os.Getenv("BULKHEAD_URL"), Key: os.Getenv("BULKHEAD_API_KEY"),
		Credentials: filepath.Join(data, credentialsFile),
		NoColor:     os.Getenv("NO_COLOR") != "", Term: os.Getenv("TERM"),
		Templates: &builder{data: data}, Version: version(),
		Options: []kong.Option{kong.Configuration(config.Load), simcli.Vars()},
	}, &g, args)
}

// version is what the binary says it is; doctor tells that of its gVisor.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " (" + info.GoVersion + ")"
}

// gvisorVersion is that of the gVisor that this binary carries.
func gvisorVersion() string { return bundled.Version(bundled.Runsc, "gvisor.dev/gvisor") }
