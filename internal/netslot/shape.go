package netslot

import (
	"errors"
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bandwidth is limited on the host's side of the pair, where a box cannot undo
// it: a token bucket on the host link for what goes to the box, and for what
// comes from it a token bucket on an intermediate link (IFB), to which
// everything that arrives on the host link is redirected and from which it goes
// on as if it had come straight.

// The ranges of a limit in kbit/s and in packets per second, as in
// [bulkhead.Limits].
const (
	minKbps = 64
	maxKbps = 100_000_000
	minPPS  = 100
	maxPPS  = 10_000_000
)

// shape limits slot n to kbps and pps each way; 0 kbps takes both limits away, 0
// pps leaves packets uncounted.
func (a *Allocator) shape(n int, kbps, pps int64) error {
	host, err := a.nl.LinkByName(a.plan.hostLink(n))
	if err != nil {
		return opError(n, "find host link", err)
	}
	index := host.Attrs().Index
	arriving := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if kbps == 0 {
		err := errors.Join(none(a.nl.QdiscDel(arriving)), none(a.nl.QdiscDel(&netlink.Tbf{QdiscAttrs: rootQdisc(index)})))
		if err != nil {
			return opError(n, "remove bandwidth limit", err)
		}
		return nil
	}
	detour, fresh, err := a.detour(n)
	if err != nil {
		return err
	}
	err = errors.Join(
		a.setBucket(index, kbps, pps),
		a.setBucket(detour.Attrs().Index, kbps, pps),
	)
	if err != nil {
		return opError(n, "set token bucket", err)
	}
	if !fresh && a.redirected(host) {
		return nil
	}
	if err := none(a.nl.QdiscDel(arriving)); err != nil {
		return opError(n, "clear ingress", err)
	}
	if err := a.nl.QdiscAdd(arriving); err != nil {
		return opError(n, "add ingress", err)
	}
	err = a.nl.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: arriving.Handle, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{&netlink.MirredAction{
			ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
			MirredAction: netlink.TCA_EGRESS_REDIR, Ifindex: detour.Attrs().Index,
		}},
	})
	if err != nil {
		return opError(n, "redirect to the shaping link", err)
	}
	return nil
}

// none turns "there is nothing to remove" into nil.
func none(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// redirected reports whether the host link already has its redirection.
func (a *Allocator) redirected(host netlink.Link) bool {
	filters, err := a.nl.FilterList(host, netlink.MakeHandle(0xffff, 0))
	return err == nil && len(filters) > 0
}

// detour returns slot n's shaping link, made when missing, and whether it was.
func (a *Allocator) detour(n int) (link netlink.Link, fresh bool, err error) {
	name := a.plan.shapeLink(n)
	if link, err := a.nl.LinkByName(name); err == nil {
		return link, false, nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.NumTxQueues, attrs.NumRxQueues = name, a.cfg.MTU, 1, 1
	ifb := &netlink.Ifb{LinkAttrs: attrs}
	if err := a.nl.LinkAdd(ifb); err != nil {
		return nil, false, opError(n, "make shaping link", err)
	}
	if err := a.host.do(func() error { return disableIPv6(name) }); err != nil {
		return nil, false, opError(n, "shaping link", err)
	}
	if err := a.nl.LinkSetUp(ifb); err != nil {
		return nil, false, opError(n, "set shaping link up", err)
	}
	return ifb, true, nil
}

// maxUnit is the largest packet that a bucket can be told to count, in bytes.
const maxUnit = 1<<16 - 1

// setBucket puts a token bucket in place of a link's queue. It holds 5 ms worth of
// traffic and queues 50 ms worth; at low rates at least ten packets and twenty, so
// that TCP still works. Larger unsegmented packets are cut by the kernel.
//
// Packets are limited by the same bucket: one that is smaller than rate/pps counts
// as that many bytes ("mpu"), so that no more than pps of them fit into a second.
// The netlink package's own Tbf has no such field.
func (a *Allocator) setBucket(link int, kbps, pps int64) error {
	rate, unit := uint64(kbps)*1000/8, uint64(0) //nolint:gosec // checked range
	if pps > 0 {
		rate = min(rate, uint64(pps)*maxUnit)
		unit = rate / uint64(pps)
	}
	burst := min(max(rate/200, 16<<10, 4*unit), 64<<20)
	queue := min(max(rate/20, 32<<10), 256<<20)
	opt := nl.TcTbfQopt{
		Rate:   nl.TcRateSpec{Rate: uint32(min(rate, math.MaxUint32)), Mpu: uint16(unit)},
		Limit:  uint32(burst + queue),
		Buffer: netlink.Xmittime(rate, uint32(burst)),
	}
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, opt.Serialize())
	if rate > math.MaxUint32 {
		options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(rate))
	}
	if err := a.putQdisc(rootQdisc(link), "tbf", options); err != nil || pps == 0 {
		return err
	}
	// The bucket's own queue counts bytes: of small packets it would hold what
	// takes minutes to send.
	packets := max(min(uint64(pps)/20, queue/1500), 20) //nolint:gosec // checked range
	inner := netlink.QdiscAttrs{LinkIndex: link, Handle: netlink.MakeHandle(2, 0), Parent: netlink.MakeHandle(1, 1)}
	return a.putQdisc(inner, "pfifo", nl.NewRtAttr(nl.TCA_OPTIONS, nl.Uint32Attr(uint32(packets))))
}

// putQdisc makes a queue or changes one that is there.
func (a *Allocator) putQdisc(q netlink.QdiscAttrs, kind string, options nl.NetlinkRequestData) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.Sockets = a.tc
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(q.LinkIndex), Handle: q.Handle, Parent: q.Parent}) //nolint:gosec // the kernel's
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(kind)))
	req.AddData(options)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err //nolint:wrapcheck // the caller says what it did
}

// rootQdisc is where a link's queue is.
func rootQdisc(link int) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: link, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
}

func checkRates(kbps, pps int64) error {
	switch {
	case kbps != 0 && (kbps < minKbps || kbps > maxKbps):
		return fmt.Errorf("bandwidth is %d kbit/s; it must be 0 (no limit) or between %d and %d", kbps, minKbps, maxKbps)
	case pps != 0 && (pps < minPPS || pps > maxPPS):
		return fmt.Errorf("packet rate is %d packets/s; it must be 0 (no limit) or between %d and %d", pps, minPPS, maxPPS)
	case pps != 0 && kbps == 0:
		return errors.New("there is a packet rate and no bandwidth; both come from one bucket")
	}
	return nil
}
