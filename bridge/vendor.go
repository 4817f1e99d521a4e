package bridge

// OfVendor is what 8x8's own HTTP status says about the one call of a run (rule
// R8): whether it happened, and whose fault it was that it did not.
// source: 8x8 api-error-codes.md; a 5xx on a send leaves its effect open.
func OfVendor(status int) (Kind, Reason) {
	switch {
	case status == 401, status == 403:
		return Blocked, ReasonUnauthorized
	case status == 408: // it gave up waiting for a request, or for what it makes of one
		return Unknown, ReasonOutcomeUnknown
	case status == 426: // TLS too old: about the connector, not the event
		return Blocked, ReasonNotReady
	case status == 429:
		return Outage, ""
	case status >= 400 && status < 450:
		return Permanent, ReasonRejected
	}
	return Unknown, ReasonOutcomeUnknown
}
