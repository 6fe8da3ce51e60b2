package proc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"github.com/creack/pty"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc/processpb"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

// maxArgs bounds the arguments of a program. Their length the kernel bounds.
const maxArgs = 65536

// prepare makes a process that is ready to run, and the ends of its pipes.
func (s *Service) prepare(u ident.User, req *processpb.StartRequest) (*process, *plumbing, error) {
	config := req.GetProcess()
	if config == nil {
		config = &processpb.ProcessConfig{}
	}
	cmd, err := s.command(u, config)
	if err != nil {
		return nil, nil, err
	}
	size, err := winsize(req.GetPty())
	if err != nil {
		return nil, nil, err
	}
	in, _ := s.cfg.Box.Init()
	p := &process{
		service: s, config: config, tag: req.Tag, cmd: cmd, limit: in.OutputBytes,
		turn: make(chan struct{}, 1), done: make(chan struct{}),
	}
	var ends *plumbing
	if size != nil {
		ends, err = openTerminal(cmd, size, u)
	} else {
		ends, err = openPipes(cmd, req.Stdin == nil || req.GetStdin())
	}
	if err != nil {
		return nil, nil, err
	}
	return p, ends, nil
}

// command checks what is to be run and makes the Cmd for it.
func (s *Service) command(u ident.User, config *processpb.ProcessConfig) (*exec.Cmd, error) {
	if err := boxrpc.ValidateEnv("envs", config.GetEnvs()); err != nil {
		return nil, errorf(connect.CodeInvalidArgument, "%s", bulkhead.Message(err))
	}
	switch {
	case config.GetCmd() == "":
		return nil, errorf(connect.CodeInvalidArgument, "process.cmd is empty; it must name a program")
	case strings.ContainsRune(config.GetCmd(), 0):
		return nil, errorf(connect.CodeInvalidArgument, "process.cmd %.80q holds a NUL", config.GetCmd())
	case len(config.GetArgs()) > maxArgs:
		return nil, errorf(connect.CodeInvalidArgument, "process.args has %d arguments; at most %d are allowed", len(config.GetArgs()), maxArgs)
	}
	if i := slices.IndexFunc(config.GetArgs(), func(a string) bool { return strings.ContainsRune(a, 0) }); i >= 0 {
		return nil, errorf(connect.CodeInvalidArgument, "process.args[%d] holds a NUL", i)
	}
	cwd, err := s.cfg.Box.Resolve(u, config.GetCwd())
	if err != nil {
		return nil, errorf(connect.CodeInvalidArgument, "cwd: %v", err)
	}
	switch st, err := os.Stat(cwd); {
	case errors.Is(err, os.ErrNotExist):
		return nil, errorf(connect.CodeInvalidArgument, "cwd '%s' does not exist", cwd)
	case err != nil:
		return nil, errorf(connect.CodeInvalidArgument, "cwd '%s' cannot be used: %v", cwd, cause(err))
	case !st.IsDir():
		return nil, errorf(connect.CodeInvalidArgument, "cwd '%s' is not a directory", cwd)
	}
	env := s.cfg.Box.Environ(u, config.GetEnvs())
	path, err := lookPath(config.GetCmd(), cwd, env)
	if err != nil {
		return nil, err
	}
	attr, err := attributes(u)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: path, Args: append([]string{config.GetCmd()}, config.GetArgs()...),
		Env: env, Dir: cwd, SysProcAttr: attr,
	}, nil
}

// attributes makes a process run as u, in a session of its own.
func attributes(u ident.User) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
		return attr, nil
	}
	if int(u.UID) != os.Geteuid() {
		return nil, errorf(connect.CodePermissionDenied, "envd does not run as root, so it cannot start a process of user '%s'", u.Name)
	}
	return attr, nil
}

// lookPath finds the program in the PATH of the process, not in envd's own. A
// name with a slash is taken as it is, relative to the working directory.
func lookPath(name, cwd string, env []string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	var path string
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(cwd, dir) // an empty one is the working directory
		}
		file := filepath.Join(dir, name)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
			return file, nil
		}
	}
	return "", errorf(connect.CodeInvalidArgument, "program '%.200s' is not in PATH %.1000q", name, path)
}

// winsize is the size of a terminal, nil when none is wanted.
func winsize(p *processpb.PTY) (*pty.Winsize, error) {
	if p == nil {
		return nil, nil
	}
	cols, rows := p.GetSize().GetCols(), p.GetSize().GetRows()
	if cols > math.MaxUint16 || rows > math.MaxUint16 {
		return nil, errorf(connect.CodeInvalidArgument, "pty.size is %d×%d; neither may exceed %d", cols, rows, math.MaxUint16)
	}
	return &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}, nil
}

// plumbing are the pipes or the terminal between envd and a process.
type plumbing struct {
	// stdin, stdout, stderr and tty are envd's ends; some are nil.
	stdin, stdout, stderr, tty *os.File
	// child are the process's ends.
	child []*os.File
}

func (l *plumbing) closeChildEnds() { closeAll(l.child) }

func (l *plumbing) closeOurEnds() {
	closeAll([]*os.File{l.stdin, l.stdout, l.stderr, l.tty})
}

// closeAll closes what is not nil; what is closed already stays closed.
func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // nothing is buffered
		}
	}
}

// openPipes connects cmd to pipes. Without stdin it reads from /dev/null.
func openPipes(cmd *exec.Cmd, stdin bool) (*plumbing, error) {
	var l plumbing
	open := func(ours, childs **os.File) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		*ours, *childs = r, w
		l.child = append(l.child, w)
		return nil
	}
	var stdout, stderr *os.File
	err := errors.Join(open(&l.stdout, &stdout), open(&l.stderr, &stderr))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err == nil && stdin {
		var r *os.File
		if r, l.stdin, err = os.Pipe(); err == nil {
			cmd.Stdin = r
			l.child = append(l.child, r)
		}
	}
	if err != nil {
		l.closeChildEnds()
		l.closeOurEnds()
		return nil, errorf(connect.CodeResourceExhausted, "open pipes: %v", err)
	}
	return &l, nil
}

// openTerminal connects cmd to a new terminal of u, as the controlling terminal
// of its session.
func openTerminal(cmd *exec.Cmd, size *pty.Winsize, u ident.User) (*plumbing, error) {
	ours, childs, err := pty.Open()
	if err != nil {
		return nil, errorf(connect.CodeResourceExhausted, "open a terminal: %v", err)
	}
	l := &plumbing{tty: ours, child: []*os.File{childs}}
	if size.Cols > 0 && size.Rows > 0 {
		err = pty.Setsize(ours, size)
	}
	if err == nil && os.Geteuid() == 0 {
		err = childs.Chown(int(u.UID), -1)
	}
	if err != nil {
		l.closeChildEnds()
		l.closeOurEnds()
		return nil, errorf(connect.CodeInternal, "set up a terminal: %v", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childs, childs, childs
	cmd.SysProcAttr.Setctty = true
	return l, nil
}

// errorf is an answer of the service. Its text may be shown.
func errorf(code connect.Code, format string, args ...any) error {
	return connect.NewError(code, errors.New(strings.ToValidUTF8(fmt.Sprintf(format, args...), "�")))
}
