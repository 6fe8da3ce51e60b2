package netslot

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets in the IPv4 header.
const (
	offsetSource = 12
	offsetDest   = 16
)

// Registers: the second part of a key goes right behind the first, which is 4
// bytes for an address (register 9) and 16 for a link's name (register 2).
const (
	reg0         = unix.NFT_REG_1
	regAfterName = unix.NFT_REG_2
	reg4         = unix.NFT_REG32_01
	reg8         = unix.NFT_REG32_02
)

// match is a part of a rule.
type match = []expr.Any

// chains adds the table's chains and rules.
func (r *ruleset) chains(c *nftables.Conn) {
	accept := nftables.ChainPolicyAccept
	base := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{
			Table: r.table, Name: name, Type: typ, Hooknum: hook, Priority: prio, Policy: &accept,
		})
	}
	filter := nftables.ChainTypeFilter
	// Before connection tracking, so that a forged packet leaves no trace there.
	guard := base("guard", filter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	input := base("input", filter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	forward := base("forward", filter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	nat := base("nat", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	redirect := base("redirect", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	refuse := c.AddChain(&nftables.Chain{Table: r.table, Name: "refuse"})
	open := c.AddChain(&nftables.Chain{Table: r.table, Name: "open"})
	fromBox := c.AddChain(&nftables.Chain{Table: r.table, Name: "from_box"})

	rule := func(chain *nftables.Chain, parts ...match) {
		c.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	in, out := linkIs(expr.MetaKeyIIFNAME, r.plan.name), linkIs(expr.MetaKeyOIFNAME, r.plan.name)
	notIn, notOut := linkIsNot(expr.MetaKeyIIFNAME, r.plan.name), linkIsNot(expr.MetaKeyOIFNAME, r.plan.name)
	s := r.sets
	v4 := equal(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV4)
	service := slices.Concat(dest(reg0), meta(expr.MetaKeyL4PROTO, reg4), transportDest(reg8), has(s.resolvers))
	resolver := slices.Concat(v4, source(reg0), has(s.dns), service)

	// ICMP errors are rate-limited by the kernel, resets are not. Of the errors,
	// "port unreachable" is the one that gVisor tells its UDP sockets.
	rule(refuse, equal(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP), match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(refuse, match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})

	rule(open, v4, ctState(expr.CtStateBitNEW), source(reg0), countOver(s.conns, r.cfg.MaxConns), jump(refuse))
	rule(open, verdict(expr.VerdictAccept))

	rule(guard, notIn, verdict(expr.VerdictAccept))
	rule(guard, v4, meta(expr.MetaKeyIIFNAME, reg0), source(regAfterName),
		has(s.slots), verdict(expr.VerdictAccept))
	rule(guard, verdict(expr.VerdictDrop))

	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		forwarder := slices.Concat(equal(expr.MetaKeyL4PROTO, proto), portIs(r.forwarder))
		rule(input, notIn, forwarder, verdict(expr.VerdictDrop))
		rule(input, v4, forwarder, source(reg0), has(s.filtered), queriesOver(s.queries), verdict(expr.VerdictDrop))
		rule(input, v4, forwarder, source(reg0), has(s.filtered), jump(open))
	}
	rule(input, notIn, verdict(expr.VerdictAccept))
	rule(input, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), ctReply(), verdict(expr.VerdictAccept))
	rule(input, resolver, jump(open))
	rule(input, jump(refuse))

	rule(forward, in, jump(fromBox))
	rule(forward, notOut, verdict(expr.VerdictAccept))
	rule(forward, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	rule(forward, verdict(expr.VerdictDrop))

	rule(fromBox, out, jump(refuse))
	rule(fromBox, resolver, jump(open))
	rule(fromBox, v4, dest(reg0), has(s.closed), hasNot(s.opened), jump(refuse))
	rule(fromBox, v4, source(reg0), dest(reg4), has(s.allow), jump(open))
	rule(fromBox, v4, source(reg0), dest(reg4), has(s.pins), jump(open))
	// What began while its address was open goes on; see Slot.SetEgress.
	rule(fromBox, v4, source(reg0), has(s.filtered), ctState(expr.CtStateBitESTABLISHED), verdict(expr.VerdictAccept))
	rule(fromBox, v4, source(reg0), dest(reg4), has(s.deny), jump(refuse))
	rule(fromBox, v4, source(reg0), has(s.internet), jump(open))
	rule(fromBox, jump(refuse))

	rule(redirect, in, v4, source(reg0), has(s.filtered), service, redirectTo(r.forwarder))
	rule(nat, v4, notOut, r.fromPrefix(), match{&expr.Masq{}})
}

// linkIs matches links whose name begins with prefix.
func linkIs(key expr.MetaKey, prefix string) match {
	return slices.Concat(meta(key, reg0), match{&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte(prefix)}})
}

// linkIsNot matches all other links.
func linkIsNot(key expr.MetaKey, prefix string) match {
	return slices.Concat(meta(key, reg0), match{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: []byte(prefix)}})
}

func meta(key expr.MetaKey, reg uint32) match { return match{&expr.Meta{Key: key, Register: reg}} }

func equal(key expr.MetaKey, value byte) match {
	return slices.Concat(meta(key, reg0), match{&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{value}}})
}

func source(reg uint32) match { return ipField(offsetSource, reg) }
func dest(reg uint32) match   { return ipField(offsetDest, reg) }

func ipField(offset, reg uint32) match {
	return match{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

func transportDest(reg uint32) match {
	return match{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// has looks the key that begins in the first register up in a set.
func has(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID}}
}

// hasNot matches when the key is not in the set.
func hasNot(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID, Invert: true}}
}

// portIs matches the transport's destination port.
func portIs(port uint16) match {
	return slices.Concat(transportDest(reg0), match{
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binary.BigEndian.AppendUint16(nil, port)},
	})
}

// redirectTo sends packets to a port of the host instead, at the address that
// they came in by.
func redirectTo(port uint16) match {
	return match{
		&expr.Immediate{Register: reg0, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: reg0},
	}
}

// Packets with name queries that the host takes from one box.
const (
	queryPackets = 100 // a second
	queryBurst   = 400
)

// queriesOver matches what the source in the first register sends beyond that.
func queriesOver(s *nftables.Set) match {
	return match{&expr.Dynset{
		SrcRegKey: reg0, SetName: s.Name, SetID: s.ID, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
		Exprs: []expr.Any{&expr.Limit{
			Type: expr.LimitTypePkts, Rate: queryPackets, Unit: expr.LimitTimeSecond, Burst: queryBurst, Over: true,
		}},
	}}
}

// ctState matches connections in one of the given states.
func ctState(states uint32) match {
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		&expr.Bitwise{
			SourceRegister: reg0, DestRegister: reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(states), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
}

// ctReply matches packets that answer the side that opened the connection.
func ctReply() match {
	const reply = 1 // IP_CT_DIR_REPLY
	return match{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{reply}},
	}
}

// countOver matches once the source in the first register has more than limit
// connections open.
func countOver(s *nftables.Set, limit int) match {
	return match{&expr.Dynset{
		SrcRegKey: reg0, SetName: s.Name, SetID: s.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD),
		Exprs: []expr.Any{&expr.Connlimit{Count: uint32(limit), Flags: expr.NFT_CONNLIMIT_F_INV}}, //nolint:gosec // checked range
	}}
}

// fromPrefix matches packets from any slot's address.
func (r *ruleset) fromPrefix() match {
	p := r.plan.prefix
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(1<<(32-p.Bits())-1))
	return slices.Concat(source(reg0), match{
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: p.Addr().AsSlice()},
	})
}

func verdict(k expr.VerdictKind) match { return match{&expr.Verdict{Kind: k}} }

func jump(c *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}
