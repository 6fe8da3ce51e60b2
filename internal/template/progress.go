package template

import (
	"bytes"
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// tick is how often a build reports when nothing changes.
	tick = time.Second
	// maxLine bounds one line of output, in bytes; the rest of it is dropped.
	maxLine = 512
	// tailLines is how many lines of output an error quotes.
	tailLines = 20
)

// Event says what a build is doing.
type Event struct {
	// At is when it was made.
	At time.Time `json:"timestamp"`
	// Template is the name of what is being built; it may be a parent of what
	// was asked for.
	Template string `json:"template"`
	// Step counts from 1 to Steps; it is 0 while the build waits for another.
	Step  int `json:"step"`
	Steps int `json:"steps"`
	// Action names the step, such as "pip install 12 packages".
	Action string `json:"action"`
	// Line is the last line that the step's program printed, if any, without
	// control characters, at most 512 bytes.
	Line string `json:"line,omitempty"`
	// Bytes is how much of an image was unpacked, 0 in other steps.
	Bytes int64 `json:"bytes,omitempty"`
}

// progress reports the state of a build: at once when a step begins, and then
// every second. It is also where the output of the build's programs goes.
type progress struct {
	log *slog.Logger

	mu   sync.Mutex
	send func(Event)
	now  Event
	line []byte
	tail []string
}

// watch sends events and calls check until ctx ends.
func (p *progress) watch(ctx context.Context, check func()) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			check()
			p.mu.Lock()
			p.sendLocked()
			p.mu.Unlock()
		}
	}
}

func (p *progress) sendLocked() {
	p.now.At = time.Now()
	if p.send != nil && p.now.Action != "" {
		p.send(p.now)
	}
}

// begin starts a step.
func (p *progress) begin(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Template == p.now.Template && e.Action == p.now.Action {
		return
	}
	p.now, p.line, p.tail = e, nil, nil
	p.log.Debug("template build step", slog.String("template", e.Template),
		slog.Int("step", e.Step), slog.Int("steps", e.Steps), slog.String("action", e.Action))
	p.sendLocked()
}

// add counts unpacked bytes.
func (p *progress) add(n int) {
	p.mu.Lock()
	p.now.Bytes += int64(n)
	p.mu.Unlock()
}

// Write takes a program's output.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for rest := b; len(rest) > 0; {
		end := bytes.IndexAny(rest, "\r\n")
		part := rest
		if end >= 0 {
			part, rest = rest[:end], rest[end+1:]
		} else {
			rest = nil
		}
		p.line = append(p.line, part[:min(len(part), maxLine-len(p.line))]...)
		if end >= 0 {
			p.endLineLocked()
		}
	}
	return len(b), nil
}

func (p *progress) endLineLocked() {
	line := clean(p.line)
	p.line = p.line[:0]
	if line == "" {
		return
	}
	p.now.Line = line
	p.tail = append(p.tail, line)
	if len(p.tail) > tailLines {
		p.tail = p.tail[1:]
	}
	p.log.Debug("template build output", slog.String("line", line))
}

// output returns the last lines of the step's program.
func (p *progress) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLineLocked()
	return strings.Join(p.tail, "\n")
}

// escapes are the sequences that move cursors and colour text.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

// clean makes a line of output safe for a terminal and a log.
func clean(line []byte) string {
	line = escapes.ReplaceAll(line, nil)
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(line), "")))
}
