//go:build !bridge8x8_next

package bridge

// ahead is by how much the versions of all formats are raised: by nothing.
const ahead = 0
