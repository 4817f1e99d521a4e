// Package natsd is the embedded NATS server: JetStream in this process, for
// running without a NATS of one's own and for tests.
//
// It syncs every write to disk before it is acknowledged, locks its folder
// against a second process, and listens on nothing unless told (rule R20).
//
// The build tag slim leaves the server out, 9 MB of the program: then Start
// refuses. The image is built so, for a bridge in a container has a NATS elsewhere.
package natsd
