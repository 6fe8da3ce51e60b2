package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

const (
	// maxCode bounds the code that run sends: 8 MiB.
	maxCode = 8 << 20
	// margin is how much longer than its program a sandbox lives, so that the
	// program's own time limit is what ends it.
	margin = 30 * time.Second
	// farewell bounds the killing of a sandbox after an interrupt.
	farewell = 10 * time.Second
)

// languageOf is the table from file name endings to languages.
var languageOf = map[string]string{
	".py": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript",
	".ts": "typescript", ".sh": "bash", ".bash": "bash", ".r": "r", ".R": "r", ".java": "java",
}

// alias is the table of short names of languages.
var alias = map[string]string{"py": "python", "python3": "python", "js": "javascript", "ts": "typescript", "sh": "bash"}

// SandboxFlags say what a new sandbox is like.
type SandboxFlags struct {
	Template string            `help:"Template to make the sandbox from." default:"code-interpreter-v1" placeholder:"NAME"`
	TTL      time.Duration     `name:"ttl" help:"How long the sandbox may live." default:"5m"`
	Env      map[string]string `help:"Variable for every process of the sandbox, K=V. May be repeated." short:"E" mapsep:"none" placeholder:"K=V"`
	CPU      Cores             `name:"cpu" help:"Limit in cores, such as 0.5." placeholder:"CORES"`
	Memory   Bytes             `help:"Limit of memory, such as 512MiB." placeholder:"SIZE"`
	Disk     Bytes             `help:"Limit of what is written to disk." placeholder:"SIZE"`
	Pids     Count             `help:"Limit of processes and threads." placeholder:"N"`
	Output   Bytes             `help:"Limit of what one program prints." placeholder:"SIZE"`
	Offline  bool              `help:"Give the sandbox no internet access."`
	Priority string            `help:"Place among those that wait for a sandbox: low, normal or high." enum:"low,normal,high" default:"normal"`
	Wait     time.Duration     `help:"How long to wait for a place when the quota or the host is full. Default: the server's." placeholder:"SPAN"`
}

// request is what the flags ask for. least is what the program needs to live.
func (f SandboxFlags) request(least time.Duration) bulkhead.CreateRequest {
	return bulkhead.CreateRequest{
		Template: f.Template, TTL: max(f.TTL, least), Env: f.Env, Secure: true, AllowInternet: !f.Offline,
		Priority: bulkhead.Priority(f.Priority), Wait: f.Wait,
		Limits: bulkhead.Limits{
			CPU: float64(f.CPU), MemoryMB: f.Memory.MiB(), DiskMB: f.Disk.MiB(), Pids: int64(f.Pids), OutputMB: f.Output.MiB(),
		},
	}
}

// RunCmd runs code.
type RunCmd struct {
	File     string        `arg:"" optional:"" help:"File with the code, or - for standard input."`
	Args     []string      `arg:"" optional:"" passthrough:"" help:"Arguments of the code (Python and bash)."`
	Code     string        `short:"e" help:"Run this code instead of a file." placeholder:"CODE"`
	Language string        `short:"l" help:"Language: py, js, ts, bash, r, java. Default: by the file's name, else py." placeholder:"LANG"`
	Timeout  time.Duration `short:"t" help:"End the code after this time, such as 30s."`
	Keep     bool          `help:"Leave the sandbox running."`
	Sandbox  string        `help:"Run in this sandbox, which stays, instead of a new one." placeholder:"ID"`
	Out      string        `short:"o" help:"Directory for images and pages that the code shows. Default: the current one." placeholder:"DIR"`
	SandboxFlags
}

// Help is the long help.
func (*RunCmd) Help() string {
	return `Makes a sandbox, runs the code in it, prints what it prints as it prints it and
the value it ends with, and ends the sandbox. Images that the code shows are
written to files (result-1.png, …), and so are HTML pages when --out is given or
they have no text form.

  bulkhead run -e 'print("hello")'
  bulkhead run plot.py --out figures --memory 2GiB --timeout 1m
  echo 'console.log(1+1)' | bulkhead run --language js -
  bulkhead run script.py one two        # sys.argv is ['script.py', 'one', 'two']
  bulkhead run --keep -e 'x = 1'        # prints the sandbox's ID …
  bulkhead run --sandbox ID -e 'x'      # … to go on where it left off

Exit codes: 0 it ran, 1 it raised an exception (its traceback is on standard
error), 2 wrong usage, 3 no server answered, 4 refused (quota used up or host
full), 124 time limit, 137 memory limit, 121 process limit, 122 disk limit,
123 output limit, 120 sandbox expired, 143 sandbox killed, 134 sandbox crashed.`
}

// Validate checks what kong's tags cannot say.
func (c *RunCmd) Validate() error {
	switch {
	case c.File == "" && c.Code == "":
		return errors.New("nothing to run: give a file, - for standard input, or -e CODE")
	case c.Timeout < 0:
		return fmt.Errorf("--timeout is %v; it must be positive", c.Timeout)
	case c.TTL <= 0:
		return fmt.Errorf("--ttl is %v; it must be positive", c.TTL)
	case c.Sandbox != "" && c.Keep:
		return errors.New("--keep goes without --sandbox: that sandbox stays anyway")
	case c.Sandbox != "" && c.SandboxFlags.changed() != "":
		return fmt.Errorf("--%s is for a new sandbox and goes without --sandbox", c.SandboxFlags.changed())
	}
	return nil
}

// changed names a flag of a new sandbox that was set, "" if none was. Env is not
// among them: it is set for the run, too.
func (f SandboxFlags) changed() string {
	for _, flag := range []struct {
		name string
		set  bool
	}{
		{"cpu", f.CPU != 0},
		{"memory", f.Memory != 0},
		{"disk", f.Disk != 0},
		{"pids", f.Pids != 0},
		{"output", f.Output != 0},
		{"offline", f.Offline},
	} {
		if flag.set {
			return flag.name
		}
	}
	return ""
}

// Run runs the code.
func (c *RunCmd) Run(ctx context.Context, a *App) error {
	code, args, err := c.source(a)
	if err != nil {
		return err
	}
	language, err := c.language()
	if err != nil {
		return err
	}
	prelude := ""
	if len(args) > 1 {
		if prelude, err = argvOf(language, args); err != nil {
			return err
		}
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	sb, done, err := c.sandbox(ctx, a)
	if err != nil {
		return err
	}
	defer done()
	o := client.CodeOptions{Language: language, Timeout: c.Timeout}
	if c.Sandbox != "" {
		o.Env = c.Env
	}
	if prelude != "" {
		if _, err := sb.RunCode(ctx, prelude, o); err != nil {
			return err
		}
	}
	show := &display{app: a, out: c.Out, report: report{SandboxID: sb.ID(), Results: []client.Result{}, Files: []string{}}}
	for ev, err := range sb.StreamCode(ctx, code, o) {
		if err != nil {
			return err
		}
		if err := show.event(ev); err != nil {
			return err
		}
	}
	return show.close()
}

// source is the code and its arguments, the first of which is its name.
func (c *RunCmd) source(a *App) (code string, args []string, err error) {
	if c.Code != "" {
		args = []string{"-e"}
		if c.File != "" { // with -e, what looks like the file is the first argument
			args = append(args, c.File)
		}
		return c.Code, append(args, c.Args...), nil
	}
	in := a.env.Stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return "", nil, usageError{err: err}
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxCode+1))
	switch {
	case err != nil:
		return "", nil, usageError{err: fmt.Errorf("read code: %w", err)}
	case len(raw) > maxCode:
		return "", nil, usagef("the code in %s is larger than %s", c.File, size(maxCode))
	}
	return string(raw), append([]string{c.File}, c.Args...), nil
}

// language is the one that was named, or that the file's name tells.
func (c *RunCmd) language() (string, error) {
	if c.Language == "" {
		return languageOf[filepath.Ext(c.File)], nil // "" lets the template choose, python
	}
	name := strings.ToLower(c.Language)
	if long, ok := alias[name]; ok {
		return long, nil
	}
	known := slices.Sorted(maps.Values(languageOf))
	if !slices.Contains(known, name) {
		return "", usagef("--language %q is not known; it is one of %s", c.Language, strings.Join(slices.Compact(known), ", "))
	}
	return name, nil
}

// argvOf is code that makes args the arguments of the code to come. It runs on
// its own, so that line numbers in tracebacks stay right.
func argvOf(language string, args []string) (string, error) {
	switch language {
	case "", "python":
		list, err := json.Marshal(args)
		if err != nil {
			return "", fmt.Errorf("encode arguments: %w", err)
		}
		return "import sys as _s, json as _j\n_s.argv = _j.loads(" + strconv.QuoteToASCII(string(list)) + ")\ndel _s, _j", nil
	case "bash":
		quoted := make([]string, len(args)-1)
		for i, arg := range args[1:] {
			quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		return "set -- " + strings.Join(quoted, " "), nil
	default:
		return "", usagef("arguments are handed to Python and bash code only, not to %s; use --env", language)
	}
}

// sandbox opens the sandbox to run in, or makes one; done ends what it made.
func (c *RunCmd) sandbox(ctx context.Context, a *App) (sb *client.Sandbox, done func(), err error) {
	cl, err := a.Client()
	if err != nil {
		return nil, nil, err
	}
	if c.Sandbox != "" {
		sb, err = cl.Open(ctx, c.Sandbox)
		return sb, func() {}, err
	}
	least := time.Duration(0)
	if c.Timeout > 0 {
		least = c.Timeout + margin
	}
	req := c.request(least)
	sb, err = cl.Create(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	if c.Keep {
		return sb, func() {
			if a.flags.JSON { // the report names it
				return
			}
			a.note("sandbox %s stays for %s; 'bulkhead sandbox kill %s' ends it", sb.ID(), span(req.TTL), sb.ID())
		}, nil
	}
	return sb, func() { a.kill(ctx, sb) }, nil
}

// kill ends a sandbox that this command made, whatever became of ctx.
func (a *App) kill(ctx context.Context, sb *client.Sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := sb.Kill(ctx); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		a.note("sandbox %s may still run: %s", sb.ID(), text(err))
	}
}
