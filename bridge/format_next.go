//go:build bridge8x8_next

package bridge

// ahead is by how much the versions of all formats are raised, for the test of an
// upgrade: beyond the highest that this bridge knows.
const ahead = 2
