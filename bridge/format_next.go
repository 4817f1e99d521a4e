//go:build bridge8x8_next

package bridge

// Format is one more than it is, for the tests of an upgrade.
const Format = 2
