package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

const (
	// maxFiles bounds how many files the results of one run become.
	maxFiles = 1000
	// maxKept bounds what --json holds of each stream: 16 MiB.
	maxKept = 16 << 20
)

// fileForms are the forms of a result that become files, the first that a result
// has being written, with the ending of the file's name.
var fileForms = []struct{ mime, ending string }{
	{"image/png", ".png"},
	{"image/jpeg", ".jpg"},
	{"image/svg+xml", ".svg"},
	{"application/pdf", ".pdf"},
}

// report is what run prints with --json.
type report struct {
	SandboxID      string            `json:"sandboxID"`
	ExecutionCount int               `json:"executionCount"`
	Stdout         string            `json:"stdout"`
	Stderr         string            `json:"stderr"`
	Truncated      bool              `json:"truncated,omitempty"`
	Results        []client.Result   `json:"results"`
	Files          []string          `json:"files"`
	Error          *client.CodeError `json:"error,omitempty"`
	End            *bulkhead.End     `json:"end"`
	ExitCode       int               `json:"exitCode"`
}

// display prints a run as it happens, or with --json gathers it.
type display struct {
	app    *App
	out    string
	files  int
	report report
	// midline says that what was printed last did not end its line.
	midline bool
}

// event shows one event.
func (d *display) event(ev client.Event) error {
	switch ev.Kind {
	case client.EventCount:
		d.report.ExecutionCount = ev.Count
	case client.EventStdout:
		return d.print(d.app.env.Stdout, &d.report.Stdout, ev.Text)
	case client.EventStderr:
		return d.print(d.app.env.Stderr, &d.report.Stderr, ev.Text)
	case client.EventResult:
		return d.result(*ev.Result)
	case client.EventError:
		d.report.Error = ev.Err
	case client.EventEnd:
		d.report.End = ev.End
	}
	return nil
}

// print shows text, or keeps it for --json.
func (d *display) print(w io.Writer, kept *string, text string) error {
	if d.app.flags.JSON {
		room := maxKept - len(*kept)
		d.report.Truncated = d.report.Truncated || len(text) > room
		*kept += text[:min(len(text), room)]
		return nil
	}
	if text == "" {
		return nil
	}
	if w == d.app.env.Stdout {
		d.midline = !strings.HasSuffix(text, "\n")
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// result writes a value's image or page to a file and shows its text.
func (d *display) result(r client.Result) error {
	written := false
	for _, form := range fileForms {
		if b, ok := r.Bytes(form.mime); ok {
			if err := d.file(form.mime, form.ending, b); err != nil {
				return err
			}
			written = true
			break
		}
	}
	text := r.Text()
	if page, ok := r.Bytes("text/html"); ok && !written && (d.out != "" || text == "") {
		if err := d.file("text/html", ".html", page); err != nil {
			return err
		}
		written = true
	}
	if d.app.flags.JSON {
		d.report.Results = append(d.report.Results, r)
		return nil
	}
	if text == "" && !written {
		for _, mime := range []string{"text/markdown", "text/latex", "application/json", "application/javascript"} {
			if b, ok := r.Bytes(mime); ok {
				text = string(b)
				break
			}
		}
	}
	if text == "" || written && !r.Main {
		return nil
	}
	return d.line(text)
}

// line prints text on lines of its own.
func (d *display) line(text string) error {
	if d.midline {
		text = "\n" + text
	}
	return d.print(d.app.env.Stdout, &d.report.Stdout, strings.TrimRight(text, "\n")+"\n")
}

// file stores b under the first free name and says so.
func (d *display) file(mime, ending string, b []byte) error {
	dir := d.out
	if dir == "" {
		dir = "."
	} else if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a directory of the user's own
		return fmt.Errorf("make --out directory: %w", err)
	}
	for d.files < maxFiles {
		d.files++
		path := filepath.Join(dir, fmt.Sprintf("result-%d%s", d.files, ending))
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // the user's own result
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		_, err = f.Write(b)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		d.report.Files = append(d.report.Files, path)
		if !d.app.flags.JSON {
			d.app.note("wrote %s (%s, %s)", path, mime, size(int64(len(b))))
		}
		return nil
	}
	return fmt.Errorf("write result: %d files result-*%s are in %s already", maxFiles, ending, dir)
}

// close says how the run ended.
func (d *display) close() error {
	if d.report.End == nil {
		return &bulkhead.Error{Code: bulkhead.CodeInternal, Op: "run code", Msg: "the run has no end"}
	}
	end := *d.report.End
	d.report.ExitCode = exitOfEnd(end)
	if d.app.flags.JSON {
		if err := d.app.printJSON(d.report); err != nil {
			return err
		}
		return endedWith(d.report.ExitCode)
	}
	if d.midline && isTerminal(d.app.env.Stdout) { // the prompt begins a line of its own
		if err := d.app.line(""); err != nil {
			return err
		}
	}
	if e := d.report.Error; e != nil {
		d.app.traceback(e)
	}
	if end.Cause != bulkhead.CauseExited {
		return ended{code: d.report.ExitCode, say: evidence(end)}
	}
	return endedWith(d.report.ExitCode)
}

// endedWith is nil for 0, else the error that only sets the exit code.
func endedWith(code int) error {
	if code == 0 {
		return nil
	}
	return ended{code: code}
}

// traceback prints an exception on standard error, coloured only for a terminal.
func (a *App) traceback(e *client.CodeError) {
	text := strings.TrimRight(e.Traceback, "\n")
	if text == "" {
		text = e.Error()
	}
	if !a.coloured(a.env.Stderr) {
		text = ansi.ReplaceAllString(text, "")
	}
	a.aside(text)
}

// evidence is an end that a limit or an owner brought about, in one line.
func evidence(end bulkhead.End) string {
	s := strings.ReplaceAll(string(end.Cause), "_", " ")
	switch {
	case end.Detail != "": // it has the figures
		s += ": " + end.Detail
	case end.Limit > 0 && end.Peak > 0:
		s += fmt.Sprintf(" of %s reached (peak %s)", quantity(end.Cause, end.Limit), quantity(end.Cause, end.Peak))
	case end.Limit > 0:
		s += fmt.Sprintf(" of %s reached", quantity(end.Cause, end.Limit))
	}
	return s
}

// quantity is n in the unit of a cause; see [bulkhead.End].
func quantity(cause bulkhead.Cause, n int64) string {
	switch cause {
	case bulkhead.CauseMemoryLimit, bulkhead.CauseDiskLimit, bulkhead.CauseOutputLimit:
		return size(n)
	case bulkhead.CauseTimeLimit:
		return fmt.Sprintf("%gs", float64(n)/1000)
	case bulkhead.CausePidsLimit:
		return fmt.Sprintf("%d tasks", n)
	default:
		return strconv.FormatInt(n, 10)
	}
}
