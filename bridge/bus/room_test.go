package bus

import (
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// A server with little room gets small streams, and all of them.
func TestEnsureStreamsWithLessRoom(t *testing.T) {
	t.Parallel()
	for _, room := range []int64{6 << 30, 4 << 30, 2 << 30, 1 << 30, 512 << 20} {
		c := connect(t, startServer(t, natsd.Options{MaxStore: room}).ClientURL())
		n := NewNames("bridge")
		found, release, err := c.Room(within(t), n, 7<<30, 1)
		if err != nil {
			t.Errorf("with room for %d bytes: %v", room, err)
			continue
		}
		if got := len(streamNames(t, c)); got != 1 {
			t.Errorf("%d streams before the first is made, want one that keeps the server's folder", got)
		}
		if err := c.EnsureStreams(within(t), n, time.Hour, 1, found/7); err != nil {
			t.Errorf("with room for %d bytes: %v", room, err)
			continue
		}
		if err := release(); err != nil {
			t.Error(err)
		}
		if got := len(streamNames(t, c)); got != 4 {
			t.Errorf("%d streams in the end, want the bridge's four", got)
		}
		var sum int64
		for _, name := range []string{n.Events(), n.Results(), n.Dead(), n.Wait()} {
			size := streamInfo(t, c, name).Config.MaxBytes
			if size <= 0 {
				t.Errorf("with room for %d bytes: stream %s has no limit", room, name)
			}
			sum += size
		}
		if sum > room || sum < room/4 {
			t.Errorf("with room for %d bytes: the streams take %d", room, sum)
		}
	}
}

func streamNames(t *testing.T, c *Conn) []string {
	t.Helper()
	var names []string
	for name := range c.JS.StreamNames(within(t)).Name() {
		names = append(names, name)
	}
	return names
}
