package worker

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
)

// rlimits of a worker. The memory of its programs is limited by its cgroup and
// its engine; the data limit is what holds where there is no cgroup.
var rlimits = []struct {
	resource int
	value    uint64
}{
	{unix.RLIMIT_CORE, 0},
	{unix.RLIMIT_FSIZE, 0},
	{unix.RLIMIT_NOFILE, 16},
	{unix.RLIMIT_NPROC, 64}, // threads of its own user
	{unix.RLIMIT_DATA, 8 << 30},
}

// confine gives up what a worker does not need: files, user, privileges,
// system calls. As root all of it must work; otherwise only privileges and
// system calls go, and the result is false.
func confine(uid int, root string) (complete bool, err error) {
	privileged := os.Geteuid() == 0 && uid > 0
	if privileged && root != "" {
		if err := unix.Chroot(root); err != nil {
			return false, fmt.Errorf("take the empty root: %w", err)
		}
		if err := unix.Chdir("/"); err != nil {
			return false, fmt.Errorf("enter the empty root: %w", err)
		}
	}
	if privileged {
		// These three reach every thread of the process.
		if err := syscall.Setgroups(nil); err != nil {
			return false, fmt.Errorf("drop groups: %w", err)
		}
		if err := syscall.Setresgid(uid, uid, uid); err != nil {
			return false, fmt.Errorf("drop group: %w", err)
		}
		if err := syscall.Setresuid(uid, uid, uid); err != nil {
			return false, fmt.Errorf("drop user: %w", err)
		}
	}
	for _, l := range rlimits {
		if l.resource == unix.RLIMIT_NPROC && !privileged {
			continue // it would count the whole user
		}
		lim := unix.Rlimit{Cur: l.value, Max: l.value}
		if err := unix.Setrlimit(l.resource, &lim); err != nil {
			return false, fmt.Errorf("set resource limit %d: %w", l.resource, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return false, fmt.Errorf("forbid tracing: %w", err)
	}
	if err := filterCalls(); err != nil {
		return false, fmt.Errorf("filter system calls: %w", err)
	}
	return privileged, nil
}

// allowedCalls are the system calls of a Go program that computes, and talks
// over descriptors it has. There is no open, socket, exec, fork, ptrace or
// kill of others among them.
var allowedCalls = []uintptr{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_GETRANDOM,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_EPOLL_PWAIT, unix.SYS_PPOLL,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
}

// filterCalls installs the filter on every thread.
func filterCalls() error {
	rules := map[uintptr]seccomp.SyscallRule{}
	for _, n := range allowedCalls {
		rules[n] = seccomp.MatchAll{}
	}
	// A new thread of this process and of its namespaces, nothing else.
	const thread = unix.CLONE_VM | unix.CLONE_SIGHAND | unix.CLONE_THREAD
	const spaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	rules[unix.SYS_CLONE] = seccomp.PerArg{seccomp.MaskedEqual(thread|spaces, thread)}
	// Signals to its own threads: the runtime preempts goroutines with them.
	rules[unix.SYS_TGKILL] = seccomp.PerArg{seccomp.EqualTo(uint64(os.Getpid()))} //nolint:gosec // a process ID is positive
	rules[unix.SYS_PRCTL] = seccomp.PerArg{seccomp.EqualTo(unix.PR_SET_VMA)}
	program := seccomp.Program{
		RuleSets: []seccomp.RuleSet{
			{Rules: seccomp.MakeSyscallRules(rules), Action: seccomp.Allow},
			// A filter cannot look into clone3's arguments; libc knows what to do
			// without it.
			{
				Rules:  seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{unix.SYS_CLONE3: seccomp.MatchAll{}}),
				Action: seccomp.ReturnError.Code(uint16(unix.ENOSYS)),
			},
		},
		Options: seccomp.ProgramOptions{
			DefaultAction: seccomp.ReturnError.Code(uint16(unix.EPERM)),
		},
	}
	instructions, _, err := program.Build()
	if err != nil {
		return err
	}
	return seccomp.SetFilter(instructions)
}
