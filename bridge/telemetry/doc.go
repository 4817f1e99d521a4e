// Package telemetry is what an operator sees of a running bridge: its metrics
// and its log lines, both told by the same Observer.
//
// Nothing here comes from an event. Label values are names of the configuration
// or of closed lists in the code, so that neither a phone number nor an unbounded
// number of series can get in.
package telemetry
