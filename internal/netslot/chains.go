package netslot

import (
	"encoding/binary"
	"fmt"
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
	refuse := c.AddChain(&nftables.Chain{Table: r.table, Name: refuseChain})
	hold := c.AddChain(&nftables.Chain{Table: r.table, Name: holdChain})
	open := c.AddChain(&nftables.Chain{Table: r.table, Name: "open"})
	fromBox := c.AddChain(&nftables.Chain{Table: r.table, Name: "from_box"})
	toBox := c.AddChain(&nftables.Chain{Table: r.table, Name: "to_box"})

	rule := func(chain *nftables.Chain, parts ...match) {
		c.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	in, out := linkIs(expr.MetaKeyIIFNAME, r.plan.name), linkIs(expr.MetaKeyOIFNAME, r.plan.name)
	notIn, notOut := linkIsNot(expr.MetaKeyIIFNAME, r.plan.name), linkIsNot(expr.MetaKeyOIFNAME, r.plan.name)
	s := r.sets
	v4 := equal(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV4)
	service := slices.Concat(dest(reg0), meta(expr.MetaKeyL4PROTO, reg4), transportDest(reg8), has(s.resolvers))
	resolver := slices.Concat(v4, source(reg0), has(s.dns), service)
	answering := slices.Concat(v4, dest(reg0), has(s.dns), asked(reg0), askedProto(reg4), askedPort(reg8), has(s.resolvers))

	// ICMP errors are rate-limited by the kernel, resets are not. Of the errors,
	// "port unreachable" is the one that gVisor tells its UDP sockets.
	rule(refuse, equal(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP), match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(refuse, match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})

	rule(hold, verdict(expr.VerdictDrop))
	rule(open, v4, ctState(expr.CtStateBitNEW), source(reg0), verdictOf(s.caps))
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
	rule(forward, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), jump(toBox))
	rule(forward, verdict(expr.VerdictDrop))

	// What comes back is judged like what goes out, so that a policy which closes
	// holds both ways with the transaction that puts it in force.
	judge := func(chain *nftables.Chain, box, far func(reg uint32) match, service, yes, no match) {
		rule(chain, service, yes)
		rule(chain, v4, far(reg0), has(s.closed), hasNot(s.opened), no)
		rule(chain, v4, box(reg0), far(reg4), has(s.allow), yes)
		rule(chain, v4, box(reg0), far(reg4), has(s.pins), yes)
		// What began while its address was open goes on; see Slot.SetEgress.
		rule(chain, v4, box(reg0), has(s.filtered), ctState(expr.CtStateBitESTABLISHED), verdict(expr.VerdictAccept))
		rule(chain, v4, box(reg0), far(reg4), has(s.deny), no)
		rule(chain, v4, box(reg0), has(s.internet), yes)
		rule(chain, no)
	}
	rule(fromBox, out, jump(refuse))
	judge(fromBox, source, dest, resolver, jump(open), jump(refuse))
	judge(toBox, dest, asked, answering, verdict(expr.VerdictAccept), verdict(expr.VerdictDrop))

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

// verdictOf goes where a map sends the key in the first register, if anywhere.
func verdictOf(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}}
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

// ctOriginal is the direction of the packet that opened a connection.
const ctOriginal = 0

// asked is the address to which a packet's connection was opened. The kernel
// reserves 16 bytes for it and fills 4.
func asked(reg uint32) match {
	return match{&expr.Ct{Key: expr.CtKeyDST, Direction: ctOriginal, Register: reg}}
}

// askedProto is the protocol of a packet's connection.
func askedProto(reg uint32) match { return match{&expr.Ct{Key: expr.CtKeyPROTOCOL, Register: reg}} }

// askedPort is the port to which a packet's connection was opened.
func askedPort(reg uint32) match {
	return match{&expr.Ct{Key: expr.CtKeyPROTODST, Direction: ctOriginal, Register: reg}}
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

// cap adds a chain that refuses new connections beyond limit.
func (r *ruleset) cap(c *nftables.Conn, limit int) error {
	chain, counted := r.capped(limit)
	if err := c.AddSet(counted, nil); err != nil {
		return fmt.Errorf("set %s: %w", counted.Name, err)
	}
	c.AddChain(chain)
	c.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: slices.Concat(
		source(reg0), countOver(counted, limit), jump(&nftables.Chain{Name: refuseChain}),
	)})
	return nil
}

// uncap removes what cap added.
func (r *ruleset) uncap(c *nftables.Conn, limit int) {
	chain, counted := r.capped(limit)
	c.FlushChain(chain)
	c.DelChain(chain)
	c.DelSet(counted)
}

// capped is the chain for boxes that may have limit connections open, and the set
// in which it counts them.
func (r *ruleset) capped(limit int) (*nftables.Chain, *nftables.Set) {
	return &nftables.Chain{Table: r.table, Name: capName(limit)}, &nftables.Set{
		Table: r.table, Name: capName(limit), KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian,
		Dynamic: true, Size: uint32(r.plan.size()), ID: uint32(1000 + limit), //nolint:gosec // at most 2^20 both
	}
}

func capName(limit int) string { return fmt.Sprintf("conns_%d", limit) }

// refuseChain is the name of the chain that answers with an error.
const refuseChain = "refuse"

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
