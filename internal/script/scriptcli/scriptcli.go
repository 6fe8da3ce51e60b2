// Package scriptcli is the command "bulkhead script": run, put, ls and rm, over
// a server's /v1/scripts. It prints to the session's streams and keeps nothing.
package scriptcli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// Session is what a command works with.
type Session struct {
	// Client sends requests; it adds the key.
	Client *http.Client
	// BaseURL is the server's address, such as http://127.0.0.1:8080.
	BaseURL string
	// Stdin, Stdout and Stderr are the process's streams.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// JSON asks for JSON instead of text.
	JSON bool
}

// Opener opens the session of an invocation. The commands' Run methods ask
// their parser for one.
type Opener interface {
	ScriptSession() (*Session, error)
}

// ExitError is how "script run" passes on how a program ended, when it did not
// end well.
type ExitError struct{ End bulkhead.End }

func (e *ExitError) Error() string { return "the script ended: " + e.End.String() }

// Cmd holds the commands on scripts.
type Cmd struct {
	Run RunCmd `cmd:"" help:"Run JavaScript or TypeScript: a file, - for standard input, or a stored script."`
	Put PutCmd `cmd:"" help:"Store a script, as a new version if it changed."`
	Ls  LsCmd  `cmd:"" help:"List stored scripts."`
	Rm  RmCmd  `cmd:"" help:"Remove stored scripts with all their versions."`
}

// RunCmd runs a script.
type RunCmd struct {
	File      string `arg:"" optional:"" help:"File with the program, - for standard input; or the name of a stored script, where there is no such file." placeholder:"FILE"`
	Script    string `help:"Name of a stored script, also where there is a file of that name." placeholder:"NAME"`
	Version   int    `name:"at" help:"Version of the stored script; the newest by default." placeholder:"N"`
	Code      string `short:"e" help:"The program itself, instead of a file." placeholder:"CODE"`
	TS        bool   `name:"ts" help:"The program is TypeScript. Files named .ts are."`
	Input     string `short:"i" help:"JSON for the global 'input'; @FILE reads it from a file." placeholder:"JSON"`
	MemoryMB  int64  `name:"memory-mb" help:"Memory limit in MiB." placeholder:"N"`
	TimeMS    int64  `name:"time-ms" help:"Time limit in milliseconds." placeholder:"N"`
	ResultMax int64  `name:"result-bytes" help:"Limit of the result in bytes." placeholder:"N"`
	LogMax    int64  `name:"log-bytes" help:"Limit of the console in bytes." placeholder:"N"`
	Depth     int64  `help:"Limit of nested calls." placeholder:"N"`
	Priority  string `help:"low, normal or high." enum:"low,normal,high" default:"normal"`
}

// Run runs the script: console lines go to standard error as they come, the
// result to standard output, the exit code to the caller.
func (c *RunCmd) Run(ctx context.Context, o Opener) error {
	s, err := o.ScriptSession()
	if err != nil {
		return err
	}
	req, err := c.request(s.Stdin)
	if err != nil {
		return err
	}
	resp, err := s.send(ctx, http.MethodPost, "/v1/scripts/run?stream=1", req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	d := json.NewDecoder(resp.Body)
	for {
		var line script.StreamLine
		if err := d.Decode(&line); err != nil {
			return fmt.Errorf("read the run: %w", err)
		}
		switch {
		case line.Log != nil:
			if _, err := fmt.Fprintln(s.Stderr, line.Log.Message); err != nil {
				return err
			}
		case line.Error != nil:
			return bulkhead.Errorf(line.Error.Code, "%s", line.Error.Message)
		case line.Result != nil:
			return s.printResult(line.Result)
		}
	}
}

// request makes the request of the flags.
func (c *RunCmd) request(stdin io.Reader) (*script.Request, error) {
	req := &script.Request{
		Code: c.Code, Script: c.Script, Version: c.Version, Priority: c.Priority,
		Limits: engine.Limits{MemoryMB: c.MemoryMB, TimeMS: c.TimeMS, ResultBytes: c.ResultMax, LogBytes: c.LogMax, Depth: c.Depth},
	}
	given := 0
	for _, s := range []string{c.File, c.Script, c.Code} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("give exactly one of FILE, --script and -e")
	}
	if c.File != "" {
		code, err := readFile(c.File, stdin)
		switch {
		case errors.Is(err, fs.ErrNotExist) && filepath.Base(c.File) == c.File && filepath.Ext(c.File) == "":
			req.Script = c.File // no file, so that it is the name of a stored one
		case err != nil:
			return nil, err
		}
		req.Code = code
	}
	if req.Code != "" && (c.TS || filepath.Ext(c.File) == ".ts") {
		req.Language = "typescript"
	}
	if c.Input != "" {
		text := c.Input
		if file, ok := strings.CutPrefix(text, "@"); ok {
			var err error
			if text, err = readFile(file, stdin); err != nil {
				return nil, err
			}
		}
		if !json.Valid([]byte(text)) {
			return nil, errors.New("--input is not JSON")
		}
		req.Input = json.RawMessage(text)
	}
	return req, nil
}

// readFile reads a file of at most the size of a request, - from stdin.
func readFile(name string, stdin io.Reader) (string, error) {
	const most = 16 << 20
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("read program: %w", err)
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > most {
		return "", fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return string(data), nil
}

// printResult prints a result; how the run went goes to standard error.
func (s *Session) printResult(r *script.Result) error {
	if s.JSON {
		if err := s.printJSON(r); err != nil {
			return err
		}
	} else {
		if r.Result != nil {
			if _, err := fmt.Fprintf(s.Stdout, "%s\n", r.Result); err != nil {
				return err
			}
		}
		if f := r.Failure; f != nil {
			if _, err := fmt.Fprintf(s.Stderr, "%s: %s\n%s", f.Name, f.Message, indent(f.Stack)); err != nil {
				return err
			}
		} else if r.End.Cause != bulkhead.CauseExited {
			if _, err := fmt.Fprintln(s.Stderr, r.End); err != nil {
				return err
			}
		}
	}
	if r.End.Cause != bulkhead.CauseExited || r.End.ExitCode != 0 {
		return &ExitError{r.End}
	}
	return nil
}

// indent puts four spaces before every line and ends the last one.
func indent(s string) string {
	if s == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(s, "\n", "\n    ") + "\n"
}

// PutCmd stores a script.
type PutCmd struct {
	Name string `arg:"" help:"What to call it."`
	File string `arg:"" help:"File with the program, - for standard input." placeholder:"FILE"`
	TS   bool   `name:"ts" help:"The program is TypeScript. Files named .ts are."`
}

// Run stores the script.
func (c *PutCmd) Run(ctx context.Context, o Opener) error {
	s, err := o.ScriptSession()
	if err != nil {
		return err
	}
	source, err := readFile(c.File, s.Stdin)
	if err != nil {
		return err
	}
	req := script.PutRequest{Source: source, Language: "javascript"}
	if c.TS || filepath.Ext(c.File) == ".ts" {
		req.Language = "typescript"
	}
	var stored bulkhead.Script
	if err := s.call(ctx, http.MethodPut, "/v1/scripts/"+url.PathEscape(c.Name), req, &stored); err != nil {
		return err
	}
	if s.JSON {
		return s.printJSON(stored)
	}
	_, err = fmt.Fprintf(s.Stdout, "%s version %d\n", stored.Name, stored.Version)
	return err
}

// LsCmd lists scripts.
type LsCmd struct{}

// Run lists the scripts.
func (*LsCmd) Run(ctx context.Context, o Opener) error {
	s, err := o.ScriptSession()
	if err != nil {
		return err
	}
	var list []bulkhead.Script
	if err := s.call(ctx, http.MethodGet, "/v1/scripts", nil, &list); err != nil {
		return err
	}
	if s.JSON {
		return s.printJSON(list)
	}
	w := tabwriter.NewWriter(s.Stdout, 0, 4, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, "NAME\tVERSION\tLANGUAGE\tBYTES\tSTORED"); err != nil {
		return err
	}
	for _, sc := range list {
		if _, err := fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\n", sc.Name, sc.Version, sc.Language, sc.SizeBytes,
			sc.CreatedAt.Local().Format("2006-01-02 15:04:05")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// RmCmd removes scripts.
type RmCmd struct {
	Names []string `arg:"" name:"name" help:"The scripts."`
}

// Run removes the scripts.
func (c *RmCmd) Run(ctx context.Context, o Opener) error {
	s, err := o.ScriptSession()
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		if err := s.call(ctx, http.MethodDelete, "/v1/scripts/"+url.PathEscape(name), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) printJSON(v any) error {
	e := json.NewEncoder(s.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// send sends a request and returns a response with a good status; the caller
// closes its body. Any other is a *bulkhead.Error.
func (s *Session) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(s.BaseURL, "/")+path, r)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var e script.WireError
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&e); err != nil || e.Message == "" {
		e.Message = "the server answered " + resp.Status
	}
	if e.Code == "" {
		e.Code = bulkhead.CodeOfStatus(resp.StatusCode)
	}
	return nil, bulkhead.Errorf(e.Code, "%s", e.Message)
}

// call is send that decodes the answer into into, which may be nil.
func (s *Session) call(ctx context.Context, method, path string, body, into any) error {
	resp, err := s.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 128<<20)).Decode(into); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}
