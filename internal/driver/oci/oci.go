// Package oci is what the drivers that speak the OCI runtime command line have
// in common: the bundle they write, the pipes they give to a box, how they wait
// for its end.
//
// A box's folder, DIR/ID, holds its bundle (config.json, rootfs) and two named
// pipes. Box and server both hold a pipe open for reading and writing, so
// neither notices when the other goes away; what a box prints is bounded by the
// pipe and by the reader, never by the host's disk.
package oci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// readyLine is what envd prints on its standard output once all its ports
// accept connections.
const readyLine = "ready"

// maxLogLine bounds one line of a box's log, in bytes; what is longer is cut.
const maxLogLine = 16 << 10

// Box is one box's folder on the host.
type Box struct {
	// ID names the box.
	ID string
	// Dir is its folder.
	Dir string
}

// Bundle is where the runtime finds config.json and rootfs.
func (b Box) Bundle() string { return b.Dir }

// PidFile is where the runtime leaves the main process's number.
func (b Box) PidFile() string { return filepath.Join(b.Dir, "pid") }

// RuntimeLog is where the runtime writes why it failed.
func (b Box) RuntimeLog() string { return filepath.Join(b.Dir, "runtime.log") }

func (b Box) stdout() string { return filepath.Join(b.Dir, "stdout") }
func (b Box) stderr() string { return filepath.Join(b.Dir, "stderr") }

// Make creates the folder with its pipes and the file config.json. It fails
// when the folder exists.
func (b Box) Make(config any) error {
	if err := os.Mkdir(b.Dir, 0o700); err != nil {
		return fmt.Errorf("make box folder: %w", err)
	}
	if err := os.Mkdir(filepath.Join(b.Dir, "rootfs"), 0o755); err != nil { //nolint:gosec // the box's own root enters it
		return fmt.Errorf("make root folder: %w", err)
	}
	for _, p := range []string{b.stdout(), b.stderr()} {
		if err := unix.Mkfifo(p, 0o600); err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
	}
	data, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.Dir, "config.json"), data, 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// Exists returns nil, or CodeNotFound when the box has no folder.
func (b Box) Exists() error {
	if _, err := os.Stat(b.Dir); err != nil {
		return &bulkhead.Error{Code: bulkhead.CodeNotFound, Msg: fmt.Sprintf("no box %q", b.ID), Err: err}
	}
	return nil
}

// Pid returns the main process's number from the pid file, or 0 when there is
// none or the process is gone.
func (b Box) Pid() int {
	data, err := os.ReadFile(b.PidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 || !alive(pid) {
		return 0
	}
	return pid
}

// alive reports whether pid exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// The state follows the command, which is in parentheses and may hold any byte.
	i := strings.LastIndexByte(string(stat), ')')
	return i >= 0 && len(stat) > i+2 && stat[i+2] != 'Z' && stat[i+2] != 'X'
}

// lastLog returns the last message of the runtime's log, or "".
func (b Box) lastLog() string {
	f, err := os.Open(b.RuntimeLog())
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	var last string
	s := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for s.Scan() {
		var rec struct {
			Msg string `json:"msg"`
		}
		if json.Unmarshal(s.Bytes(), &rec) == nil && rec.Msg != "" {
			last = rec.Msg
		}
	}
	return last
}

// pipes are the box's ends of its standard streams.
type pipes struct {
	in, out, err *os.File
}

// pipes opens the box's ends. The caller closes them once the runtime has
// started; the box keeps its copies.
func (b Box) pipes() (*pipes, error) {
	in, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open null device: %w", err)
	}
	p := &pipes{in: in}
	if p.out, err = os.OpenFile(b.stdout(), os.O_RDWR, 0); err != nil {
		p.close()
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	if p.err, err = os.OpenFile(b.stderr(), os.O_RDWR, 0); err != nil {
		p.close()
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	return p, nil
}

func (p *pipes) close() {
	for _, f := range []*os.File{p.in, p.out, p.err} {
		if f != nil {
			_ = f.Close() // opened here, written by others
		}
	}
}

// Ready blocks until the box's envd says it is ready, the box ends, or ctx is
// done.
func (b Box) Ready(ctx context.Context) error {
	f, err := openPipe(b.stdout())
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	watch, cancel := context.WithCancel(ctx)
	ended := make(chan bool, 1)
	go func() {
		ended <- b.Wait(watch, nil) == nil
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}()
	line, err := bufio.NewReaderSize(f, 256).ReadString('\n')
	cancel()
	gone := <-ended
	switch {
	case err == nil && strings.TrimSpace(line) == readyLine:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for envd: %w", ctx.Err())
	case err != nil && gone:
		return errors.New("wait for envd: the box ended before envd was ready")
	case err != nil:
		return fmt.Errorf("wait for envd: %w", err)
	}
	return fmt.Errorf("wait for envd: it said %q, not %q", strings.TrimSpace(line), readyLine)
}

// Wait blocks until the box's main process is gone or ctx is done, and gives
// each line of its log to say, which may be nil. Lines are cut at 16 KiB.
func (b Box) Wait(ctx context.Context, say pool.Say) error {
	if err := b.Exists(); err != nil {
		return err
	}
	pid := b.Pid()
	if pid == 0 {
		return nil
	}
	if say == nil {
		return WaitPid(ctx, pid)
	}
	ctx, cancel := context.WithCancel(ctx)
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.tail(ctx, say)
	}()
	err := WaitPid(ctx, pid)
	cancel()
	<-read
	return err
}

// tail reads the box's log until ctx is done.
func (b Box) tail(ctx context.Context, say pool.Say) {
	f, err := openPipe(b.stderr())
	if err != nil {
		say(slog.LevelError, err.Error())
		return
	}
	defer f.Close() //nolint:errcheck // only read
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	r := bufio.NewReaderSize(f, maxLogLine)
	for {
		line, prefix, err := r.ReadLine()
		if err != nil {
			tailRest(f, say)
			return
		}
		level, msg := parseLine(line)
		say(level, msg)
		for prefix && err == nil {
			_, prefix, err = r.ReadLine()
		}
	}
}

// maxRest bounds what is read of a log once its box is gone, in bytes.
const maxRest = 256 << 10

// tailRest gives what is left in the pipe of a box that is gone to say: often the
// lines that say why.
func tailRest(f *os.File, say pool.Say) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	var rest []byte
	_ = c.Control(func(fd uintptr) { // the pipe is open, and does not block
		buf := make([]byte, 64<<10)
		for len(rest) < maxRest {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			rest = append(rest, buf[:n]...)
		}
	})
	for line := range bytes.Lines(rest) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			level, msg := parseLine(line[:min(len(line), maxLogLine)])
			say(level, msg)
		}
	}
}

// parseLine takes level and message out of a JSON line, or the line as it is.
func parseLine(line []byte) (slog.Level, string) {
	var rec struct {
		Level slog.Level `json:"level"`
		Msg   string     `json:"msg"`
		Err   string     `json:"error"`
	}
	if json.Unmarshal(line, &rec) != nil || rec.Msg == "" {
		return slog.LevelInfo, strings.ToValidUTF8(string(line), "\ufffd")
	}
	if rec.Err != "" {
		rec.Msg += ": " + rec.Err
	}
	return rec.Level, strings.ToValidUTF8(rec.Msg, "\ufffd")
}

// openPipe opens the server's end of a pipe. O_NONBLOCK makes deadlines work;
// O_RDWR keeps it from ever reading an end of file.
func openPipe(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	return f, nil
}

// WaitPid blocks until process pid, which need not be a child, is gone, or ctx
// is done.
func WaitPid(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close() //nolint:errcheck // only read
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	c, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	err = c.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor fits
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err() //nolint:wrapcheck // the caller's own
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	return nil
}

// Boxes returns the boxes that have a folder under dir.
func Boxes(dir string) ([]Box, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list boxes: %w", err)
	}
	var boxes []Box
	for _, e := range entries {
		if e.IsDir() {
			boxes = append(boxes, Box{ID: e.Name(), Dir: filepath.Join(dir, e.Name())})
		}
	}
	return boxes, nil
}

// ValidID checks a box's name, which becomes a folder and a container.
func ValidID(id string) error {
	if id == "" || len(id) > 40 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "box id %q must have 1 to 40 characters", id)
	}
	for _, c := range id {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "box id %q may hold only a-z, 0-9 and -", id)
		}
	}
	return nil
}
