//go:build slim

package natsd_test

import (
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

func TestSlimRefuses(t *testing.T) {
	t.Parallel()
	s, err := natsd.Start(natsd.Options{Dir: t.TempDir()})
	if natsd.Included || s != nil || err == nil || !strings.Contains(err.Error(), "NATS_URL") {
		t.Errorf("included %v, server %v, error %v; want an error that says what to set", natsd.Included, s, err)
	}
}
