package netslot

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCounters moves bytes each way, of which each is counted on its side.
func TestCounters(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	// A namespace's links are seen in a sysfs that was mounted from inside it.
	dir := filepath.Join(l.dir, "sys")
	must(t, os.Mkdir(dir, 0o700))
	must(t, within(l.host, func() error { return unix.Mount("sysfs", dir, "sysfs", unix.MS_RDONLY, "") }))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	a.sysfs = filepath.Join(dir, "class/net")

	s := acquire(t, a)
	read := func() (egress, ingress int64) {
		t.Helper()
		egress, ingress, err := s.Counters()
		must(t, err)
		return egress, ingress
	}
	for _, out := range []bool{true, false} {
		from, to := l.host, s.Path()
		if out {
			from, to = to, from
		}
		egress, ingress := read()
		throughput(t, from, to, s.Addr().String(), out)
		egressAfter, ingressAfter := read()
		with, against := egressAfter-egress, ingressAfter-ingress
		if !out {
			with, against = against, with
		}
		// Against the stream there are acknowledgements only.
		if with < 1_000_000 || against <= 0 || against > with/4 {
			t.Errorf("out of the box %v: counted %d with the stream and %d against it", out, with, against)
		}
	}
	must(t, s.Release())
}
