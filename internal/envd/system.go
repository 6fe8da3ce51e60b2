package envd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// maxSkew is how far the box's clock may be off before it is set.
const maxSkew = time.Second

// maxHosts bounds what is kept of /etc/hosts, in bytes.
const maxHosts = 1 << 20

// System is what of the box itself follows its identity.
type System struct {
	// Root is the root of the box; "" means "/".
	Root string
	// Bind mounts one file over another; nil leaves it.
	Bind func(file, over string) error
	// SetHostname and SetClock change the kernel's; nil leaves it.
	SetHostname func(name string) error
	SetClock    func(now time.Time) error

	resolver string // what resolv.conf holds since the last apply
	lastCore int64  // the number of the kernel's last processor
}

// RealSystem is the box that the caller is in.
func RealSystem() *System {
	return &System{
		Bind:        func(file, over string) error { return unix.Mount(file, over, "", unix.MS_BIND, "") },
		SetHostname: func(name string) error { return unix.Sethostname([]byte(name)) },
		SetClock: func(now time.Time) error {
			ts := unix.NsecToTimespec(now.UnixNano())
			return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
		},
	}
}

// Mark says to programs that this is a sandbox. It needs no identity, so it can
// be done once, before a snapshot. It also makes the boot id a file that apply can
// write: gVisor's own is one of those things that a snapshot copies.
func (s *System) Mark() error {
	err := s.write("/run/e2b/.E2B_SANDBOX", "true")
	if s.Bind == nil {
		return err
	}
	return errors.Join(err, s.newBootID(), s.Bind(filepath.Join(s.Root, bootIDFile), filepath.Join(s.Root, bootID)), s.bindOnline())
}

// bootID is where programs look for it, and bootIDFile what is mounted there.
const (
	bootID     = "/proc/sys/kernel/random/boot_id"
	bootIDFile = "/run/bulkhead/boot_id"
)

func (s *System) newBootID() error {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return s.write(bootIDFile, fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// apply makes the box follow in, as far as it lets itself be changed; the error
// names what it did not. Empty fields change nothing.
func (s *System) apply(in boxrpc.Init, now time.Time) error {
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if in.Hostname != "" {
		if s.SetHostname != nil {
			try("set host name", s.SetHostname(in.Hostname))
		}
		try("write host name", s.write("/etc/hostname", in.Hostname+"\n"))
		try("write hosts", s.writeHosts(in.Hostname))
	}
	if in.MachineID != "" {
		try("write machine id", s.write("/etc/machine-id", in.MachineID+"\n"))
	}
	if s.Bind != nil {
		try("write boot id", s.newBootID())
	}
	if in.CPUs > 0 && s.Bind != nil {
		try("write processors", s.writeOnline(in.CPUs))
	}
	if resolver := "nameserver " + strings.Join(in.Nameservers, "\nnameserver ") + "\n"; len(in.Nameservers) > 0 && resolver != s.resolver {
		err := s.write("/etc/resolv.conf", resolver)
		if err == nil {
			s.resolver = resolver
		}
		try("write resolver", err)
	}
	if in.SandboxID != "" {
		try("write sandbox id", s.write("/run/e2b/.E2B_SANDBOX_ID", in.SandboxID))
	}
	if in.TemplateID != "" {
		try("write template id", s.write("/run/e2b/.E2B_TEMPLATE_ID", in.TemplateID))
	}
	if len(in.Seed) > 0 {
		try("seed the kernel", s.write("/dev/urandom", string(in.Seed)))
	}
	if skew := now.Sub(in.Timestamp).Abs(); !in.Timestamp.IsZero() && skew > maxSkew && s.SetClock != nil {
		try("set clock", s.SetClock(in.Timestamp))
	}
	return errors.Join(errs...)
}

// write replaces the contents of a file of the box, in place, since it may be a
// mount, and makes its directory if need be.
func (s *System) write(path, content string) error {
	path = filepath.Join(s.Root, path)
	err := sysfile.Write(path, []byte(content), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // everybody in the box reads it
			return err
		}
		return sysfile.Write(path, []byte(content), 0o644)
	}
	return err
}

// hostsMark ends the line of /etc/hosts that is envd's.
const hostsMark = " # this sandbox"

// writeHosts gives the host name an address and leaves the other lines alone.
func (s *System) writeHosts(hostname string) error {
	old, err := sysfile.Read(filepath.Join(s.Root, "/etc/hosts"), maxHosts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(old) == maxHosts {
		return fmt.Errorf("the file has %d bytes or more", len(old))
	}
	var hosts strings.Builder
	localhost := false
	for line := range strings.Lines(string(old)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasSuffix(line, hostsMark) {
			continue
		}
		localhost = localhost || strings.Contains(line, "localhost")
		hosts.WriteString(line + "\n")
	}
	if !localhost {
		hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	hosts.WriteString("127.0.1.1\t" + hostname + hostsMark + "\n")
	return s.write("/etc/hosts", hosts.String())
}
