// Package filelock keeps other processes from a file, and other openings of it
// in this one. The kernel drops a lock with its process.
package filelock

import (
	"errors"
	"os"
)

// ErrLocked says that another holds the lock.
var ErrLocked = errors.New("locked by another process")

// Lock takes the lock of an open file, or returns ErrLocked at once. The file
// must be on a local disk.
func Lock(f *os.File) error { return lock(f) }

// Unlock gives the lock free and closes the file. What closing says is of no
// use: what counts is the lock.
func Unlock(f *os.File) {
	unlock(f)
	_ = f.Close()
}
