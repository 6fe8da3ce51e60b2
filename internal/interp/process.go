package interp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// account is the user that kernels run as.
type account struct {
	name, home string
	uid, gid   int
	// credential is nil when the server runs as that user itself.
	credential *syscall.Credential
	// launch starts a process; see [Config.Start].
	launch func(*exec.Cmd) error
}

func lookupAccount(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("look up the user of the kernels: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("read uid of %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("read gid of %s: %w", name, err)
	}
	a := account{name: u.Username, home: u.HomeDir, uid: int(uid), gid: int(gid)}
	if a.uid == os.Geteuid() {
		return a, nil
	}
	a.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	groups, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("read groups of %s: %w", name, err)
	}
	for _, g := range groups {
		id, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("read groups of %s: %w", name, err)
		}
		a.credential.Groups = append(a.credential.Groups, uint32(id))
	}
	return a, nil
}

// command says how to start a kernel's process.
type command struct {
	argv []string
	env  map[string]string
	dir  string
	// files become descriptors 3 and up; the others may be nil.
	files          []*os.File
	stdin          *os.File
	stdout, stderr io.Writer
}

// process is a kernel's process and whatever it started: they are one group.
type process struct {
	pid    int
	done   chan struct{}
	status string // how it ended, once done is closed
	end    func()
}

// start runs c as a. The process leads a session and a group of its own.
func (a account) start(c command) (*process, error) {
	path, err := lookPath(c.argv[0], c.env["PATH"])
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: path, Args: c.argv, Dir: c.dir, Env: environ(c.env),
		ExtraFiles: c.files, Stdout: c.stdout, Stderr: c.stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: a.credential},
		// Children that hold the output open must not hold up the wait.
		WaitDelay: 100 * time.Millisecond,
	}
	if c.stdin != nil {
		cmd.Stdin = c.stdin
	}
	launch := cmd.Start
	if a.launch != nil {
		launch = func() error { return a.launch(cmd) }
	}
	if err := launch(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
	p.end = sync.OnceFunc(func() { p.signal(syscall.SIGKILL) })
	go func() {
		defer close(p.done)
		p.status = "exit status 0"
		if err := cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			p.status = err.Error()
		}
		p.end() // nothing that it left behind goes on
	}()
	return p, nil
}

// signal sends sig to the whole group. A group that is gone is no error.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.pid, sig) // ESRCH is the only error, and is fine
}

// close kills the group and waits for the process.
func (p *process) close() {
	p.end()
	<-p.done
}

// dead returns the error for a process that is done.
func (p *process) dead() *DeadError { return &DeadError{PID: p.pid, Status: p.status} }

// lookPath finds a program on the PATH of the box, which is not the server's own.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: it is not in %s", name, path)
}

func environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// tail keeps the last bytes that were written to it, for an error message.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailBytes = 2 << 10

// Write keeps the end of p. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p[max(0, len(p)-tailBytes):]...)
	t.data = t.data[max(0, len(t.data)-tailBytes):]
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.data), "\uFFFD"))
}
