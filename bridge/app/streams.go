package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
	"github.com/bridge8x8/bridge8x8/config"
)

// Permission is one thing that a server must allow a user; see bus.Permission.
type Permission = bus.Permission

// The verbs of a Permission.
const (
	Publish   = bus.Publish
	Subscribe = bus.Subscribe
)

// Access is what the least permissions of a bridge depend on, and of the commands
// that an operator has beside it. file may be nil: then it is as if it was empty.
func Access(env *config.Env, file *config.File) bus.Access {
	a := bus.Access{Names: bus.NewNames(env.Bridge.Prefix), Domain: env.NATS.JSDomain, Commands: env.Bridge.Commands, Sink: env.Bridge.SinkURL != ""}
	if file == nil {
		return a
	}
	a.Existing = file.Streams == config.StreamsExisting
	for _, s := range file.Sources {
		source := bus.SourceAccess{Name: s.Name, Subjects: s.NATS.Subjects}
		if !s.NATS.Core {
			source.Stream = bus.StreamIn(s.NATS.Domain, s.NATS.Stream)
		}
		a.Sources = append(a.Sources, source)
	}
	return a
}

// StreamConfig is a stream as the server's API has it.
type StreamConfig = jetstream.StreamConfig

// WantedStreams are the streams of a bridge, as whoever makes them has to make
// them. room is what they may take together, in bytes.
func WantedStreams(env *config.Env, room int64) []StreamConfig {
	b := env.Bridge
	unit := room / allUnits
	return append(bus.NewNames(b.Prefix).Streams(b.Retention, b.Replicas, unit), ledger.StreamConfig(b.Prefix, b.Replicas, ledgerUnits*unit))
}

// PermissionsConfig is a list of permissions as the server's configuration has
// them, for a user's entry.
func PermissionsConfig(list []Permission) string {
	var b strings.Builder
	b.WriteString("permissions: {\n")
	for _, verb := range []bus.Verb{Publish, Subscribe} {
		of := slices.DeleteFunc(slices.Clone(list), func(p Permission) bool { return p.Verb != verb })
		if len(of) == 0 {
			fmt.Fprintf(&b, "  %s: {deny: [\">\"]}\n", verb) // the server takes an empty list for everything
			continue
		}
		fmt.Fprintf(&b, "  %s: {allow: [\n", verb)
		for _, p := range of {
			fmt.Fprintf(&b, "    %q # %s\n", p.Entry(), p.For)
		}
		b.WriteString("  ]}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
