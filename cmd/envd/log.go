package main

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// The bounds of the log.
const (
	// linesPerSecond and burst are how much is written.
	linesPerSecond = 100
	burst          = 200
	// waitingLines is how many lines wait for a reader.
	waitingLines = 64
	// maxLine bounds one line, in bytes; what the host takes.
	maxLine = 16 << 10
)

// lineLog writes lines to a pipe that nobody may be reading: it never blocks, and
// drops what is too much. A box outlives the server that reads its log.
type lineLog struct {
	lines   chan []byte
	limit   *rate.Limiter
	dropped atomic.Int64
	quit    chan struct{}
	done    chan struct{}
}

// newLineLog returns a log that writes to w until it is closed.
func newLineLog(w io.Writer) *lineLog {
	l := &lineLog{
		lines: make(chan []byte, waitingLines), limit: rate.NewLimiter(linesPerSecond, burst),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run(w)
	return l
}

// run writes lines to w until the log is closed and no line waits.
func (l *lineLog) run(w io.Writer) {
	defer close(l.done)
	for {
		select {
		case line := <-l.lines:
			l.print(w, line)
			continue
		default:
		}
		select {
		case line := <-l.lines:
			l.print(w, line)
		case <-l.quit:
			return
		}
	}
}

// print writes a line, and how many are missing before it.
func (l *lineLog) print(w io.Writer, line []byte) {
	if n := l.dropped.Swap(0); n > 0 {
		line = append(fmt.Appendf(nil, "{\"level\":\"WARN\",\"msg\":\"log lines dropped\",\"lines\":%d}\n", n), line...)
	}
	_, _ = w.Write(line) // there is no other place to say it
}

// Write takes one line, as slog gives it. It always succeeds.
func (l *lineLog) Write(line []byte) (int, error) {
	if len(line) > maxLine || !l.limit.Allow() {
		l.dropped.Add(1)
		return len(line), nil
	}
	select {
	case l.lines <- bytes.Clone(line):
	default:
		l.dropped.Add(1)
	}
	return len(line), nil
}

// close waits a moment for what was logged last.
func (l *lineLog) close() {
	close(l.quit)
	select {
	case <-l.done:
	case <-time.After(100 * time.Millisecond):
	}
}
