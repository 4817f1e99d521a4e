package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Loopback tells whether a listener on addr (host:port) can be reached from
// this machine only. An address without a host listens on every interface.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// CheckListeners reports every way in that can be reached from other machines
// and asks for no authentication, unless BRIDGE_ALLOW_UNAUTHENTICATED permits
// that, or, of the admin listener alone, BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED: to
// let Prometheus in must not open the webhooks. f may be nil.
func (e *Env) CheckListeners(f *File) Problems {
	b := &e.Bridge
	if b.AllowUnauthenticated {
		return nil
	}
	var problems Problems
	problem := func(pos Pos, variable, addr, what, hint string) {
		problems = append(problems, Problem{
			Pos: pos, Level: LevelError, Code: "unauthenticated-listener",
			Msg:  fmt.Sprintf("%s (%s) listens beyond loopback without authentication for %s", variable, addr, what),
			Hint: hint,
		})
	}
	open := func(pos Pos, variable, addr, what, fix string) {
		problem(pos, variable, addr, what, fix+", or listen on 127.0.0.1, or set BRIDGE_ALLOW_UNAUTHENTICATED=true")
	}
	if beyond(b.HTTPAddr) {
		if len(b.HTTPTokens) == 0 {
			open(Pos{}, "BRIDGE_HTTP_ADDR", b.HTTPAddr, "POST /events", "set BRIDGE_HTTP_TOKEN")
		}
		if b.WebhookSecret == "" && b.WebhookAuth == "" && !f.nativeAuthenticated() {
			open(Pos{}, "BRIDGE_HTTP_ADDR", b.HTTPAddr, "POST /webhooks/8x8", "set BRIDGE_WEBHOOK_SECRET or BRIDGE_WEBHOOK_AUTHORIZATION")
		}
		if f != nil {
			for _, w := range f.Webhooks {
				if w.Name != Native && !w.Authenticated() {
					open(w.Pos, "BRIDGE_HTTP_ADDR", b.HTTPAddr, "POST /webhooks/"+w.Name, `give the webhook auth: {bearer: "${NAME}"}`)
				}
			}
		}
	}
	if beyond(b.AdminAddr) && !b.AdminAllowUnauthenticated {
		problem(Pos{}, "BRIDGE_ADMIN_ADDR", b.AdminAddr, "the admin API, which has none",
			"listen on 127.0.0.1, with a proxy that signs people in before it, or set BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED=true")
	}
	if e.NATS.Embedded() && beyond(b.NATSAddr) && e.NATS.Token == "" && e.NATS.Password == "" {
		open(Pos{}, "BRIDGE_NATS_ADDR", b.NATSAddr, "the embedded NATS server", "set NATS_TOKEN, or NATS_USER and NATS_PASSWORD")
	}
	return problems
}

func beyond(addr string) bool { return addr != "" && !Loopback(addr) }

// nativeAuthenticated says whether the file asks 8x8's own webhooks for a proof.
func (f *File) nativeAuthenticated() bool {
	return f != nil && slices.ContainsFunc(f.Webhooks, func(w Webhook) bool { return w.Name == Native && w.Authenticated() })
}
