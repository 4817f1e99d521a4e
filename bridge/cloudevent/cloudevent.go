// Package cloudevent reads and writes CloudEvents over NATS and HTTP. It uses
// the CloudEvents SDK's event type and none of its decoders, which are too
// lenient in some places, too strict in others, and panic in one.
package cloudevent

import (
	"github.com/cloudevents/sdk-go/v2/event"
)

// Event is a CloudEvent together with its identity exactly as it was received:
// the SDK normalises a source's text, and identity must not depend on that.
type Event struct {
	event.Event
	// RawSource and RawID are the attributes as received, after undoing the
	// transport's own encoding (percent-encoding of headers) and nothing else.
	RawSource string
	RawID     string
}

// Mode is a CloudEvents content mode for what is written.
type Mode string

// The content modes that can be written.
const (
	Structured Mode = "structured"
	Binary     Mode = "binary"
)
