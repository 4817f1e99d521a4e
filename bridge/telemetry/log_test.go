package telemetry_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/telemetry"
)

func TestNewLogger(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		level, format string
		terminal      bool
		json, colour  bool
		debug         bool
	}{
		"for a machine":              {level: "info", json: true},
		"for a person":               {level: "info", terminal: true, colour: true},
		"text into a file":           {level: "info", format: "text"},
		"json on a terminal":         {level: "info", format: "json", terminal: true, json: true},
		"debug":                      {level: "debug", json: true, debug: true},
		"the level defaults to info": {json: true},
		"debug on a terminal":        {level: "debug", terminal: true, colour: true, debug: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log, err := telemetry.NewLogger(&out, test.level, test.format, test.terminal)
			if err != nil {
				t.Fatal(err)
			}
			log.Debug("a detail")
			if got := out.Len() > 0; got != test.debug {
				t.Errorf("debug line written: %v, want %v", got, test.debug)
			}
			out.Reset()
			log.Error("it broke", "route", "order-shipped")
			if got := json.Valid(out.Bytes()); got != test.json {
				t.Errorf("JSON: %v, want %v: %s", got, test.json, out.String())
			}
			if got := strings.Contains(out.String(), "\x1b["); got != test.colour {
				t.Errorf("coloured: %v, want %v: %q", got, test.colour, out.String())
			}
			if !strings.Contains(out.String(), "it broke") || !strings.Contains(out.String(), "order-shipped") {
				t.Errorf("the line lost something: %s", out.String())
			}
		})
	}
}

func TestNewLoggerRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ level, format, want string }{
		"level":  {"loud", "json", `LOG_LEVEL "loud": want debug, info, warn or error`},
		"format": {"info", "xml", `LOG_FORMAT "xml": want text or json`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := telemetry.NewLogger(&bytes.Buffer{}, test.level, test.format, false)
			if err == nil || err.Error() != test.want {
				t.Errorf("\n got error %v\nwant error %s", err, test.want)
			}
		})
	}
}
