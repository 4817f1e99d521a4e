package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/lmittmann/tint"
)

// NewLogger makes the logger of a process. level is LOG_LEVEL: debug, info,
// warn or error. format is LOG_FORMAT: text, json, or empty for text on a
// terminal and json elsewhere. Text is coloured on a terminal only.
func NewLogger(w io.Writer, level, format string, isTerminal bool) (*slog.Logger, error) {
	var least slog.Level
	switch level {
	case "debug":
		least = slog.LevelDebug
	case "", "info":
		least = slog.LevelInfo
	case "warn":
		least = slog.LevelWarn
	case "error":
		least = slog.LevelError
	default:
		return nil, fmt.Errorf("LOG_LEVEL %q: want debug, info, warn or error", level)
	}
	if format == "" {
		format = "json"
		if isTerminal {
			format = "text"
		}
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: least})), nil
	case "text":
		stamp := time.RFC3339 // a log that is kept needs its date
		if isTerminal {
			stamp = time.TimeOnly
		}
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: least, TimeFormat: stamp, NoColor: !isTerminal})), nil
	default:
		return nil, fmt.Errorf("LOG_FORMAT %q: want text or json", format)
	}
}
