// Package bridge is the order of work and its words: what happens to one event
// between being taken and being acknowledged, which states its record passes
// through, and what the bus, the ledger and the service must offer for that.
// It does no I/O of its own.
package bridge
