package ingress

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// comesFrom says whether a request was sent from one of the addresses. Behind
// proxies that are known, the sender is the last address of X-Forwarded-For that is
// no proxy's: everything before it may be made up.
func comesFrom(r *http.Request, addresses, proxies []netip.Prefix) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	sender := peer.Addr().Unmap().WithZone("")
	if within(sender, proxies) {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for _, hop := range slices.Backward(hops) {
			addr, err := netip.ParseAddr(strings.TrimSpace(hop))
			if err != nil {
				return false // who stands there is not known
			}
			if sender = addr.Unmap().WithZone(""); !within(sender, proxies) {
				break
			}
		}
	}
	return within(sender, addresses)
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
