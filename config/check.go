package config

import (
	"fmt"
	"slices"
	"strings"
)

// Check reports what the environment and the file, each right by itself, get
// wrong together: sources that would take in the bridge's own traffic.
func Check(e *Env, f *File) Problems {
	var problems Problems
	problems = append(problems, checkClients(e, f)...)
	own := strings.ToUpper(e.Bridge.Prefix)
	// Results are not among them: one route may react to the outcome of another.
	streams := []string{own + "_EVENTS", own + "_DEAD", own + "_WAIT", "KV_" + own + "_LEDGER"}
	for _, s := range f.Sources {
		if slices.Contains(streams, s.NATS.Stream) && (s.NATS.Domain == "" || s.NATS.Domain == e.NATS.JSDomain) {
			problems = append(problems, Problem{
				Pos: s.Pos, Level: LevelError, Code: "own-stream",
				Msg:  fmt.Sprintf("source %q takes from %s, which is a stream of the bridge itself (BRIDGE_PREFIX is %q)", s.Name, s.NATS.Stream, e.Bridge.Prefix),
				Hint: "leave it out: what is in " + own + "_EVENTS is taken in anyway",
			})
		}
		if !s.NATS.Core {
			continue
		}
		for _, subject := range s.NATS.Subjects {
			if ours := e.Bridge.Prefix + ".>"; subjectsOverlap(subject, ours) {
				problems = append(problems, Problem{
					Pos: s.Pos, Level: LevelError, Code: "own-subject",
					Msg:  fmt.Sprintf("source %q subscribes to %q, which covers the bridge's own subjects %q", s.Name, subject, ours),
					Hint: "name the subjects that are wanted, or set another BRIDGE_PREFIX",
				})
			}
		}
	}
	return problems
}

// checkClients reports where a client's certificate is demanded that nobody could
// check, and one that could be checked and is demanded nowhere.
func checkClients(e *Env, f *File) Problems {
	var problems Problems
	demanded := len(e.Bridge.TLSClientNames) > 0
	for _, w := range f.Webhooks {
		if len(w.Clients) == 0 {
			continue
		}
		demanded = true
		if e.Bridge.TLSClientCA == "" {
			problems = append(problems, Problem{
				Pos: w.Pos, Level: LevelError, Code: "no-client-ca",
				Msg:  fmt.Sprintf("webhook %q asks for a client certificate (mtls), and BRIDGE_TLS_CLIENT_CA is not set", w.Name),
				Hint: "set BRIDGE_TLS_CLIENT_CA, BRIDGE_TLS_CERT and BRIDGE_TLS_KEY",
			})
		}
	}
	if e.Bridge.TLSClientCA != "" && !demanded {
		problems = append(problems, Problem{
			Level: LevelError, Code: "no-effect",
			Msg:  "BRIDGE_TLS_CLIENT_CA is set, and no client is asked for a certificate",
			Hint: `set BRIDGE_TLS_CLIENT_NAMES (* for any), or give a webhook auth: {mtls: {names: "*"}}`,
		})
	}
	return problems
}

// subjectsOverlap tells whether some subject matches both patterns.
func subjectsOverlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		switch {
		case as[i] == ">" || bs[i] == ">":
			return true
		case as[i] != bs[i] && as[i] != "*" && bs[i] != "*":
			return false
		}
	}
	return len(as) == len(bs)
}
