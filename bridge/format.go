//go:build !bridge8x8_next

package bridge

// Format is the version of what bridges leave for each other in NATS: records,
// receipts and marks in the ledger, pairs set aside, dead letters. Each carries the
// version that wrote it. What is newer than a bridge knows it leaves alone, so
// that an older one and a newer one can run side by side; what is older it reads.
const Format = 1
