package netslot

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bandwidth is limited on the host's side of the pair, where a box cannot undo
// it: a token bucket on the host link for what goes to the box, and for what
// comes from it a token bucket on an intermediate link (IFB), to which
// everything that arrives on the host link is redirected and from which it goes
// on as if it had come straight.

// The range of a bandwidth limit in kbit/s, as in [bulkhead.Limits].
const (
	minKbps = 64
	maxKbps = 100_000_000
)

// shape limits slot n to kbps each way; 0 takes the limits away.
func (a *Allocator) shape(n int, kbps int64) error {
	host, err := a.nl.LinkByName(a.plan.hostLink(n))
	if err != nil {
		return opError(n, "find host link", err)
	}
	index := host.Attrs().Index
	arriving := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if kbps == 0 {
		err := errors.Join(none(a.nl.QdiscDel(arriving)), none(a.nl.QdiscDel(bucket(index, minKbps))))
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
		a.nl.QdiscReplace(bucket(index, kbps)),
		a.nl.QdiscReplace(bucket(detour.Attrs().Index, kbps)),
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

// bucket is a token bucket of the given rate. It holds 5 ms worth of traffic and
// queues 50 ms worth; at low rates at least ten packets and twenty, so that TCP
// still works. Larger unsegmented packets are cut by the kernel.
func bucket(link int, kbps int64) *netlink.Tbf {
	rate := uint64(kbps) * 1000 / 8 //nolint:gosec // checked range
	burst := min(max(rate/200, 16<<10), 64<<20)
	queue := min(max(rate/20, 32<<10), 256<<20)
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate,
		Limit:      uint32(burst + queue),                 //nolint:gosec // at most 320 MiB
		Buffer:     netlink.Xmittime(rate, uint32(burst)), //nolint:gosec // at most 64 MiB
	}
}

func checkBandwidth(kbps int64) error {
	if kbps != 0 && (kbps < minKbps || kbps > maxKbps) {
		return fmt.Errorf("bandwidth is %d kbit/s; it must be 0 (no limit) or between %d and %d", kbps, minKbps, maxKbps)
	}
	return nil
}
