package e2e

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The world is what sandboxes of these tests find outside: a network namespace
// with a name server and machines that answer, so that nothing leaves this host.
const (
	worldNet   = "10.214.0.0/24"
	worldHost  = "10.214.0.254/24" // the host's side
	worldDNS   = "10.214.0.1"
	worldAPI   = "10.214.0.2"
	worldOther = "10.214.0.3"
	worldLink  = "bhw0"
	maxConns   = 200 // of one sandbox
)

// names are what the world's name server knows.
var names = map[string]string{
	"api.example.test.": worldAPI, "other.example.net.": worldOther, "inside.example.test.": "10.99.0.1", "meta.example.test.": "169.254.169.254",
}

var world struct {
	link    netlink.Link
	close   []io.Closer
	serving sync.WaitGroup
	packets atomic.Int64 // that came in on UDP
	bytes   atomic.Int64 // that came in on TCP
}

// openWorld makes it.
func openWorld() error {
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		made <- makeWorld()
	}()
	return <-made
}

func makeWorld() error {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	outside, err := netlink.NewHandleAt(home)
	if err != nil {
		return err
	}
	defer outside.Close()
	ns, err := netns.New() // this thread is in there now
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = worldLink
	link := netlink.NewVeth(attrs)
	link.PeerName, link.PeerNamespace = "eth0", netlink.NsFd(ns)
	if old, err := outside.LinkByName(worldLink); err == nil { // of a run that was killed
		_ = outside.LinkDel(old)
	}
	if err := outside.LinkAdd(link); err != nil {
		return err
	}
	world.link = link
	if err := setUp(outside, worldLink, worldHost); err != nil {
		return err
	}
	inside, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer inside.Close()
	for _, a := range []string{worldDNS, worldAPI, worldOther} {
		if err := setUp(inside, "eth0", a+"/24"); err != nil {
			return err
		}
	}
	if err := inside.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.214.0.254")}); err != nil {
		return err
	}
	return serveWorld()
}

// setUp gives a link an address and switches it on.
func setUp(h *netlink.Handle, name, addr string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, a); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// serveWorld opens the world's ports on the thread that is in it.
func serveWorld() error {
	for _, addr := range []string{worldDNS, worldOther} {
		pc, err := net.ListenPacket("udp4", addr+":53")
		if err != nil {
			return err
		}
		world.close = append(world.close, pc)
		s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(resolve)}
		world.serving.Go(func() { _ = s.ActivateAndServe() })
	}
	for _, addr := range []string{worldAPI, worldOther} {
		l, err := net.Listen("tcp4", addr+":80")
		if err != nil {
			return err
		}
		pc, err := net.ListenPacket("udp4", addr+":80")
		if err != nil {
			return err
		}
		world.close = append(world.close, l, pc)
		world.serving.Go(func() { answer(l) })
		world.serving.Go(func() { count(pc) })
	}
	return nil
}

func resolve(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	addr, ok := names[q.Question[0].Name]
	if !ok {
		m.Rcode = dns.RcodeNameError
	} else if q.Question[0].Qtype == dns.TypeA {
		rr, err := dns.NewRR(fmt.Sprintf("%s 60 IN A %s", q.Question[0].Name, addr))
		if err == nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m)
}

// answer greets everyone, and counts what they send.
func answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.WriteString(c, "hello from "+l.Addr().String()+"\n")
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				world.bytes.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
}

func count(pc net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		if _, _, err := pc.ReadFrom(buf); err != nil {
			return
		}
		world.packets.Add(1)
	}
}

// closeWorld removes it.
func closeWorld() {
	for _, c := range world.close {
		_ = c.Close()
	}
	world.serving.Wait()
	if world.link != nil {
		_ = netlink.LinkDel(world.link)
	}
}
