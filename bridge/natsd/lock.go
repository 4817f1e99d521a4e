//go:build !slim

package natsd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bridge8x8/bridge8x8/bridge/filelock"
)

// lockName is the lock's file in the folder. It holds the owner's process id
// for the error text; what counts is the lock on it, which the kernel drops with
// its process. So it is left behind on purpose: removing it would let a third
// process lock a new file while a second one waits on the old.
const lockName = "bridge8x8.lock"

// lockDir takes the folder for this process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the folder of the embedded NATS: %w", err)
	}
	if err := filelock.Lock(f); err != nil {
		owner, _ := os.ReadFile(path)
		filelock.Unlock(f)
		if errors.Is(err, filelock.ErrLocked) {
			return nil, fmt.Errorf("folder %q is in use by %s: stop it, or give this one another BRIDGE_DATA_DIR", dir, describe(owner))
		}
		return nil, fmt.Errorf("cannot lock %q, which must be on a local disk: %w", path, err)
	}
	if err := writePID(f); err != nil {
		filelock.Unlock(f)
		return nil, fmt.Errorf("cannot write to the folder of the embedded NATS: %w", err)
	}
	return f, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func describe(owner []byte) string {
	pid, err := strconv.Atoi(strings.TrimSpace(string(owner)))
	if err != nil { // it has locked, and not written yet
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}
