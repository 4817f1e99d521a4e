// Package natsd is the embedded NATS server: JetStream in this process, for
// running without a NATS of one's own and for tests.
//
// It syncs every write to disk before it is acknowledged, locks its folder
// against a second process, and listens on nothing unless told (rule R20).
package natsd
