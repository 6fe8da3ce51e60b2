package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
)

// The ways out that a program in a box tries, as root of the box. Each prints
// ESCAPED only if it worked.
var escapes = map[string]string{
	"read a disk of the host":      `for d in 8:0 252:0 254:0 259:0 7:0; do mknod /tmp/d$d b ${d%:*} ${d#*:} && head -c 4096 /tmp/d$d | grep -q . && echo ESCAPED; done`,
	"read the host's memory":       `mknod /tmp/mem c 1 1; for f in /tmp/mem /dev/mem /dev/kmem /proc/kcore; do head -c 16 $f | grep -q . && echo ESCAPED; done`,
	"open a terminal of the host":  `mknod /tmp/tty c 4 1 && echo x > /tmp/tty && echo ESCAPED`,
	"KVM and FUSE of the host":     `mknod /tmp/kvm c 10 232 && head -c 1 < /tmp/kvm && echo ESCAPED; mknod /tmp/tun c 10 200 && head -c 1 < /tmp/tun && echo ESCAPED`,
	"write where envd comes from":  `echo x >> /opt/bulkhead/envd && echo ESCAPED; touch /opt/bulkhead/x && echo ESCAPED; mount -o remount,rw /opt/bulkhead && touch /opt/bulkhead/x && echo ESCAPED`,
	"name a program of the kernel": `for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sys/fs/binfmt_misc/register; do echo '|/tmp/x' > $f && echo ESCAPED; done`,
	"sysctl of the host":           `echo 1 > /proc/sys/kernel/panic_on_oops && echo ESCAPED; echo 0 > /proc/sys/vm/overcommit_memory && echo ESCAPED`,
	"leave through a release agent": `mkdir -p /tmp/cg; for c in memory rdma devices pids cpu; do mount -t cgroup -o $c x /tmp/cg || continue
for f in $(find /tmp/cg -name release_agent); do echo /tmp/x > $f && echo ESCAPED; done; umount /tmp/cg; done`,
	"see cgroups of others":      `find / -xdev -path '*bulkhead/bulkhead-*' -name tasks 2>/dev/null | grep -q . && echo ESCAPED`,
	"see processes of the host":  `for p in /proc/[0-9]*/cmdline; do tr '\0' ' ' < $p | grep -q '[b]ulkhead serve\|[r]unsc' && echo ESCAPED; done`,
	"enter namespaces of others": `nsenter -t 1 -m -u -i -n -p ls /run/bulkhead-test/netns && echo ESCAPED`,
	"the host's files by /proc":  `ls /proc/1/root/run/bulkhead-test /proc/1/cwd/run/bulkhead-test 2>/dev/null | grep -q . && echo ESCAPED`,
	"load a module": `python3 -c 'import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(175, b"", 0, b"") == 0 or ctypes.get_errno() not in (1, 38): print("ESCAPED")'`,
	"system calls that lead out": `python3 -c 'import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for name, args in {"bpf": (321, 0, 0, 0), "open_by_handle_at": (304, -1, 0, 0), "kexec_load": (246, 0, 0, 0, 0), "swapon": (167, b"/x", 0), "reboot": (169, 0xfee1dead, 672274793, 0x89abcdef, 0), "settimeofday": (164, None, None), "iopl": (172, 3), "add_key": (248, b"user", b"x", b"y", 1, -4)}.items():
    r = libc.syscall(*args)
    if r >= 0 and name not in ("settimeofday", "reboot"): print("ESCAPED", name, r)'`,
	"raw packets": `python3 -c 'import socket
for family, kind, proto in ((socket.AF_PACKET, socket.SOCK_RAW, 768), (socket.AF_INET, socket.SOCK_RAW, 255)):
    try: socket.socket(family, kind, proto); print("ESCAPED")
    except OSError: pass'`,
	"another address": `ip addr add 10.213.0.77/16 dev eth0 2>/dev/null && ip addr show eth0 | grep -q 10.213.0.77 && timeout 2 bash -c 'exec 3<>/dev/tcp/10.213.0.77/1' && echo ESCAPED`,
	"abstract sockets of the host": `python3 -c 'import socket
for path in ("/run/docker.sock", "/run/systemd/private", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket"):
    try: socket.socket(socket.AF_UNIX).connect(path); print("ESCAPED", path)
    except OSError: pass'`,
}

// Every way out is closed, and the host is as it was.
func TestEscapes(t *testing.T) {
	s := serve(t)
	watched := []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/kernel/panic_on_oops",
		"/proc/sys/vm/overcommit_memory", "/proc/modules",
	}
	state := func() string {
		var b bytes.Buffer
		for _, f := range watched {
			text, _ := os.ReadFile(f)
			if f == "/proc/modules" { // their names: how many use them changes by itself
				text = regexp.MustCompile(`(?m) .*$`).ReplaceAll(text, nil)
			}
			b.Write(text)
		}
		return b.String()
	}
	before := state()
	sb := s.sandbox(t, bulkhead.CreateRequest{AllowInternet: true})
	if out, err := sb.Exec(t.Context(), shell("sudo id -u; echo ESCAPED"), nil); err != nil || string(out.Stdout) != "0\nESCAPED\n" {
		t.Fatalf("root in the box, and the word: %+v, %v", out, err)
	}
	for name, line := range escapes {
		t.Run(name, func(t *testing.T) {
			cmd := shell(`sudo timeout 20 bash -c "$0" 2>&1`)
			cmd.Args = append(cmd.Args, line)
			out, err := sb.Exec(t.Context(), cmd, nil)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(out.Stdout, []byte("ESCAPED")) {
				t.Errorf("it worked:\n%s", out.Stdout)
			}
		})
	}
	if after := state(); after != before {
		t.Errorf("the host changed:\n%s\nwas:\n%s", after, before)
	}
}

// status returns fields of /proc/PID/status.
func status(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// What the host's kernel is told of a box: for gVisor, that its sentry is nobody,
// has no capability and may make only the system calls that it needs; for runc,
// that root in the box has Docker's capabilities less two, and Docker's filter.
func TestConfinement(t *testing.T) {
	s := serve(t)
	sb := s.sandbox(t, bulkhead.CreateRequest{})
	if *driverName == "runc" {
		out, err := sb.Exec(t.Context(), shell("sudo cat /proc/1/status; cat /proc/self/status"), nil)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.SplitN(string(out.Stdout), "\nName:", 2)
		root, user := status(parts[0]), status("Name:"+parts[len(parts)-1])
		if root["CapBnd"] != "00000000a00415fb" && root["CapBnd"] != "00000000a00405fb" || root["CapEff"] != root["CapBnd"] {
			t.Errorf("capabilities of root: bounding %s, effective %s", root["CapBnd"], root["CapEff"])
		}
		if user["CapEff"] != "0000000000000000" || root["Seccomp"] != "2" || user["Seccomp"] != "2" {
			t.Errorf("effective of a user: %s; seccomp %s and %s", user["CapEff"], root["Seccomp"], user["Seccomp"])
		}
		return
	}
	// A sentry takes its filter when it is started or filled. One that waits cold
	// runs nothing of anybody's and has none yet: none shall wait.
	for _, template := range []string{"base", "code-interpreter-v1"} {
		if _, err := s.client.SetPool(t.Context(), template, &client.PoolSize{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := s.client.SetPool(context.WithoutCancel(t.Context()), template, nil); err != nil {
				t.Error(err)
			}
		})
	}
	var wrong []string
	for range 100 { // those that waited go one by one, and tell nobody
		var sentries int
		if sentries, wrong = s.sentries(t); sentries > 0 && len(wrong) == 0 {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	t.Errorf("sentries: %q", wrong)
}

// sentries counts the server's sentries and says what is wrong with them.
func (s *server) sentries(t *testing.T) (n int, wrong []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		line, err := os.ReadFile(p)
		if err != nil || !bytes.HasPrefix(line, []byte("runsc-sandbox")) || !bytes.Contains(line, []byte(s.run)) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(p), "status"))
		if err != nil {
			continue
		}
		n++
		got := status(string(text))
		for field, want := range map[string]string{"Seccomp": "2", "CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1"} {
			if got[field] != want {
				wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", field, got[field], want))
			}
		}
		if uid := strings.Fields(got["Uid"]); len(uid) != 4 || uid[0] == "0" || uid[1] == "0" {
			wrong = append(wrong, fmt.Sprintf("the user is %v", uid))
		}
		for _, ns := range []string{"user", "pid", "mnt", "net", "ipc", "uts"} {
			own, err := os.Readlink(filepath.Join(filepath.Dir(p), "ns", ns))
			host, _ := os.Readlink("/proc/self/ns/" + ns)
			if err != nil || own == host {
				wrong = append(wrong, fmt.Sprintf("the host's %s namespace (%s, %v)", ns, own, err))
			}
		}
	}
	return n, wrong
}
