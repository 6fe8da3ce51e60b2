package netslot

import "net/netip"

// Public reports whether a is an address that anybody may reach: of IPv4, and in
// none of the special ranges, which stay closed to boxes too.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.Is4() {
		return false
	}
	for _, s := range special {
		if netip.MustParsePrefix(s).Contains(a) {
			return false
		}
	}
	return true
}
