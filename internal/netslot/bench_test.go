package netslot

import (
	"net/netip"
	"testing"
)

func BenchmarkAcquireNew(b *testing.B) {
	l := newLab(b)
	cfg := l.config(b)
	cfg.Log = nil
	a := l.allocator(b, cfg)
	for b.Loop() {
		if _, err := a.Acquire(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSlot(b *testing.B) {
	l := newLab(b)
	cfg := l.config(b)
	cfg.Log = nil
	a := l.allocator(b, cfg)
	s := acquire(b, a)
	run := func(name string, fn func(i int) error) {
		b.Run(name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				if err := fn(i); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
	run("SetEgress", func(i int) error { return s.SetEgress(Egress{Internet: i%2 == 0, DNS: true}) })
	run("SetEgressLists", func(i int) error {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i), 0, 0}), 16)
		return s.SetEgress(Egress{Internet: true, Deny: []netip.Prefix{p}})
	})
	run("Prepare", func(int) error { return s.Prepare() })
	run("SetBandwidthChange", func(i int) error { return s.SetBandwidth(int64(1000+i%1000), 0) })
	run("SetBandwidthOnOff", func(i int) error { return s.SetBandwidth(int64(i%2)*1000, 0) })
	run("AcquireRelease", func(int) error {
		s, err := a.Acquire(b.Context())
		if err != nil {
			return err
		}
		return s.Release()
	})
}
