package netslot

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPackets floods small packets both ways through two packet rates, and finds
// that large packets are bound by the bandwidth alone.
func TestPackets(t *testing.T) {
	l := newLab(t)
	a := l.allocator(t, l.config(t))
	s := acquire(t, a)
	must(t, s.SetEgress(Egress{Internet: true}))
	for _, pps := range []int64{1_000, 10_000} {
		must(t, s.SetBandwidth(1_000_000, pps))
		for dir, got := range map[string]float64{
			"from box": flood(t, s.Path(), l.world, worldPublic+":9"),
			"to box":   flood(t, l.host, s.Path(), s.Addr().String()+":9"),
		} {
			ratio := got / float64(pps)
			t.Logf("%s at %d packets/s: %.0f", dir, pps, got)
			if ratio < 0.5 || ratio > 1.3 {
				t.Errorf("%s: %.0f packets/s; want about %d", dir, got, pps)
			}
		}
	}
	// Behind a flood the next packet waits for a moment, not for minutes.
	must(t, s.SetBandwidth(1_000_000, 100))
	echo(t, l.world, worldPublic+":80")
	flood(t, s.Path(), l.world, worldOther+":9")
	var err error
	for range 3 { // the first may be lost, and waits for a second
		if _, err = ask(s.Path(), "udp4", worldPublic+":80"); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("behind a flood: %v", err)
	}
	must(t, s.SetBandwidth(40_000, 100_000))
	if got := throughput(t, l.host, s.Path(), s.Addr().String(), false) / 40_000; got < 0.6 || got > 1.3 {
		t.Errorf("large packets go at %.2f of the bandwidth", got)
	}
	for _, bad := range [][2]int64{{1000, 99}, {1000, 10_000_001}, {0, 1000}, {1000, -1}} {
		if err := s.SetBandwidth(bad[0], bad[1]); err == nil {
			t.Errorf("SetBandwidth(%d, %d) gave no error", bad[0], bad[1])
		}
	}
}

// flood sends small packets as fast as it can for most of a second and returns how
// many arrived per second.
func flood(t *testing.T, from, to, addr string) float64 {
	t.Helper()
	var pc net.PacketConn
	var c net.Conn
	must(t, within(to, func() (err error) {
		pc, err = net.ListenPacket("udp4", addr)
		return err
	}))
	must(t, within(from, func() (err error) {
		c, err = net.Dial("udp4", addr)
		return err
	}))
	defer c.Close()
	var arrived atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			if _, _, err := pc.ReadFrom(buf); err != nil {
				return
			}
			arrived.Add(1)
		}
	}()
	began := time.Now()
	must(t, c.SetWriteDeadline(began.Add(800*time.Millisecond)))
	for time.Since(began) < 800*time.Millisecond {
		if _, err := c.Write([]byte("x")); err != nil && !errors.Is(err, unix.ENOBUFS) && !isTimeout(err) {
			t.Fatal(err)
		}
	}
	rate := float64(arrived.Load()) / time.Since(began).Seconds()
	must(t, pc.Close())
	<-done
	return rate
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
