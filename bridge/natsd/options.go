package natsd

import "log/slog"

// The limits that Options leaves to us, in bytes. They are never left to the
// server: without them JetStream claims most of the machine's memory and disk.
const (
	DefaultMaxStore  int64 = 10 << 30
	DefaultMaxMemory int64 = 64 << 20
)

// DefaultMaxPayload is the largest message, headers and body, in bytes. It is
// the default of NATS itself, so that what is stored here also fits elsewhere.
const DefaultMaxPayload int32 = 1 << 20

// Options says how the embedded server runs. Only Dir is required.
type Options struct {
	// Dir is the folder for the streams. It is made if it does not exist, and
	// must be on a local disk.
	Dir string

	// Addr is where other programs can join, as host:port. The host defaults to
	// 127.0.0.1; port 0 picks a free one, which Server.Addr tells. Empty listens on
	// nothing: then only this process can connect.
	Addr string

	// User and Password, or Token, are what a program has to show to join. Who can
	// publish here can make the bridge send messages, so that an Addr beyond this
	// machine is refused without them, unless AllowUnauthenticated says that
	// something else guards the port. This process' own connections show them by
	// themselves.
	User, Password, Token string
	AllowUnauthenticated  bool

	// Name is the server's name as clients see it. Defaults to "bridge8x8".
	Name string

	// MaxStore and MaxMemory bound what all streams together may take on disk and
	// in memory, in bytes. Streams reserve their size limits out of them. They
	// default to DefaultMaxStore and DefaultMaxMemory.
	MaxStore, MaxMemory int64

	// MaxPayload is the largest message in bytes. Defaults to DefaultMaxPayload.
	MaxPayload int32

	// Fast acknowledges a write before it is on disk. It survives a killed process
	// but not a power cut, which is enough for tests and for nothing else.
	Fast bool

	// Logger gets the server's own log lines: its notices at debug level, its
	// warnings and errors at theirs. Nil drops them.
	Logger *slog.Logger
}
