package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// ExecCmd runs a program in a sandbox.
type ExecCmd struct {
	ID      string            `arg:"" name:"id" help:"The sandbox."`
	Command []string          `arg:"" optional:"" passthrough:"" help:"The program and its arguments."`
	Line    string            `short:"c" help:"Run this line with bash instead." placeholder:"LINE"`
	Dir     string            `short:"w" help:"Working directory." placeholder:"DIR"`
	User    string            `short:"u" help:"User to run as." placeholder:"NAME"`
	Env     map[string]string `short:"E" help:"Variable for the program, K=V. May be repeated." mapsep:"none" placeholder:"K=V"`
	Timeout time.Duration     `short:"t" help:"End the program after this time."`
	NoStdin bool              `short:"n" help:"Do not read standard input."`
}

// Help is the long help.
func (*ExecCmd) Help() string {
	return `Standard input, output and error, signals and the exit code are the program's own.

  bulkhead sandbox exec ID -- python3 -V
  bulkhead sandbox exec ID -c 'ls | wc -l'
  tar c src | bulkhead sandbox exec ID -- tar x -C /tmp`
}

// Validate checks that something is to be run.
func (c *ExecCmd) Validate() error {
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	switch {
	case (len(c.Command) > 0) == (c.Line != ""):
		return errors.New("give a program after --, or a line with -c")
	case c.Timeout < 0:
		return fmt.Errorf("--timeout is %v; it must be positive", c.Timeout)
	}
	return nil
}

// command is what the flags say to start.
func (c *ExecCmd) command() client.Command {
	cmd := client.Shell(c.Line)
	if len(c.Command) > 0 {
		cmd = client.Command{Path: c.Command[0], Args: c.Command[1:]}
	}
	cmd.Dir, cmd.User, cmd.Env, cmd.Timeout, cmd.Stdin = c.Dir, c.User, c.Env, c.Timeout, !c.NoStdin
	return cmd
}

// execReport is what exec prints with --json.
type execReport struct {
	Stdout    string       `json:"stdout"`
	Stderr    string       `json:"stderr"`
	Truncated bool         `json:"truncated,omitempty"`
	End       bulkhead.End `json:"end"`
	ExitCode  int          `json:"exitCode"`
}

// Run runs the program.
func (c *ExecCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	sb, err := cl.Open(ctx, c.ID)
	if err != nil {
		return err
	}
	p, err := sb.Start(ctx, c.command())
	if err != nil {
		return err
	}
	defer p.Detach()
	stop := a.forward(ctx, p)
	defer stop()
	if !c.NoStdin {
		feeding, stop := context.WithCancel(ctx)
		defer stop()
		go func() { _ = p.Feed(feeding, a.env.Stdin) }() // it fails when the program ends first
	}
	var rep execReport
	for chunk, err := range p.Output() {
		if err != nil {
			return err
		}
		if err := a.copyOut(chunk, &rep); err != nil {
			return err
		}
	}
	if rep.End, err = p.Wait(); err != nil {
		return err
	}
	rep.ExitCode = exitOfEnd(rep.End)
	if a.flags.JSON {
		if err := a.printJSON(rep); err != nil {
			return err
		}
	} else if rep.End.Cause != bulkhead.CauseExited && !signaled(rep.End) {
		return ended{code: rep.ExitCode, say: evidence(rep.End)}
	}
	return endedWith(rep.ExitCode)
}

// copyOut prints a chunk, or keeps it for --json.
func (a *App) copyOut(c client.Chunk, rep *execReport) error {
	w, kept := a.env.Stdout, &rep.Stdout
	if c.Stream == client.Stderr {
		w, kept = a.env.Stderr, &rep.Stderr
	}
	if a.flags.JSON {
		room := maxKept - len(*kept)
		rep.Truncated = rep.Truncated || len(c.Data) > room
		*kept += string(c.Data[:min(len(c.Data), room)])
		return nil
	}
	if _, err := w.Write(c.Data); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// forward hands signals that this process gets on to p, until stop is called.
func (a *App) forward(ctx context.Context, p *client.Process) (stop func()) {
	got := make(chan os.Signal, 4)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-got:
				if err := a.signal(ctx, p, sig); err != nil && ctx.Err() == nil {
					a.note("%v: %s", sig, text(err))
				}
			}
		}
	}()
	return func() {
		signal.Stop(got)
		cancel()
	}
}

// signal sends sig to p, or SIGTERM where the box delivers no other one but
// SIGKILL, as E2B's own does. That p has ended is no error.
func (a *App) signal(ctx context.Context, p *client.Process, sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v has no number", sig)
	}
	err := p.Signal(ctx, client.Signal(n)) //nolint:gosec // signals end at 64
	if bulkhead.CodeOf(err) == bulkhead.CodeInvalid {
		err = p.Signal(ctx, client.SIGTERM)
	}
	if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
		return nil
	}
	return err
}

// ShellCmd opens a shell.
type ShellCmd struct {
	ID      string `arg:"" optional:"" name:"id" help:"The sandbox. Default: a new one, ended with the shell."`
	Dir     string `short:"w" help:"Working directory." placeholder:"DIR"`
	User    string `short:"u" help:"User to run as." placeholder:"NAME"`
	Program string `help:"Shell to run." default:"/bin/bash" placeholder:"PATH"`
	SandboxFlags
}

// Run opens the shell and waits for its end.
func (c *ShellCmd) Run(ctx context.Context, a *App) error {
	if a.flags.JSON {
		return usagef("--json goes without shell; 'bulkhead sandbox exec' has it")
	}
	cl, err := a.Client()
	if err != nil {
		return err
	}
	var sb *client.Sandbox
	if c.ID != "" {
		sb, err = cl.Open(ctx, c.ID)
	} else {
		sb, err = cl.Create(ctx, c.request(0))
	}
	if err != nil {
		return err
	}
	if c.ID == "" {
		a.note("sandbox %s", sb.ID())
		defer a.kill(ctx, sb)
	}
	env := map[string]string{"TERM": "xterm-256color", "LANG": "C.UTF-8"}
	if a.env.Term != "" {
		env["TERM"] = a.env.Term
	}
	args := []string{}
	if c.Program == "/bin/bash" {
		args = []string{"-i", "-l"}
	}
	size := a.terminalSize()
	return a.interact(ctx, sb, client.Command{
		Path: c.Program, Args: args, Env: env, Dir: c.Dir, User: c.User, TTY: &size,
	})
}

// interact connects this process's terminal with a program's.
func (a *App) interact(ctx context.Context, sb *client.Sandbox, cmd client.Command) error {
	p, err := sb.Start(ctx, cmd)
	if err != nil {
		return err
	}
	defer p.Detach()
	restore, err := a.raw()
	if err != nil {
		return err
	}
	defer restore()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go a.followSize(ctx, p)
	go func() { _ = p.Feed(ctx, a.env.Stdin) }() // it fails when the shell ends first
	var unkept execReport
	for chunk, err := range p.Output() {
		if err != nil {
			return err
		}
		if err := a.copyOut(chunk, &unkept); err != nil {
			return err
		}
	}
	end, err := p.Wait()
	switch {
	case err != nil:
		return err
	case end.Cause != bulkhead.CauseExited && !signaled(end):
		restore()
		return ended{code: exitOfEnd(end), say: evidence(end)}
	default:
		return endedWith(exitOfEnd(end))
	}
}

// raw puts the input terminal, if it is one, into raw mode; restore may be
// called twice.
func (a *App) raw() (restore func(), err error) {
	f, ok := a.env.Stdin.(*os.File)
	if !ok || !isTerminal(f) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("set terminal to raw mode: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), state) }, nil // nothing is left to do about it
}

// terminalSize is that of the output terminal, 80x24 when there is none.
func (a *App) terminalSize() client.Size {
	for _, stream := range []any{a.env.Stdout, a.env.Stdin} {
		if f, ok := stream.(*os.File); ok {
			if cols, rows, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 && rows > 0 {
				return client.Size{Cols: uint16(min(cols, 1<<16-1)), Rows: uint16(min(rows, 1<<16-1))}
			}
		}
	}
	return client.Size{Cols: 80, Rows: 24}
}

// followSize tells p of changes of the terminal's size until ctx ends.
func (a *App) followSize(ctx context.Context, p *client.Process) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if err := p.Resize(ctx, a.terminalSize()); err != nil {
				return // the shell ends, or the next change tries again in vain
			}
		}
	}
}
