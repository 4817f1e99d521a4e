package ingress

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// comesFrom says whether a request was sent from one of the addresses.
func comesFrom(r *http.Request, addresses, proxies []netip.Prefix) bool {
	from, known := sender(r, proxies)
	return known && within(from, addresses)
}

// sender is who sent a request. Behind proxies that are known, that is the last
// address of X-Forwarded-For that is no proxy's: everything before it may be made
// up. known is false where a proxy does not say.
func sender(r *http.Request, proxies []netip.Prefix) (from netip.Addr, known bool) {
	if from = peer(r); !within(from, proxies) {
		return from, from.IsValid()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return netip.Addr{}, false
		}
		if from = addr.Unmap().WithZone(""); !within(from, proxies) {
			break
		}
	}
	return from, true
}

// peer is the other end of a request's connection.
func peer(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap().WithZone("")
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
