//go:build !slim

package natsd

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog hands the server's log lines to slog and keeps its fatal ones. The
// server's stock logger would end the process on those.
type serverLog struct {
	to *slog.Logger

	mu    sync.Mutex
	first error
}

func (l *serverLog) Noticef(format string, v ...any) { l.to.Debug(line(format, v)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.to.Debug(line(format, v)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.to.Warn(line(format, v)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.to.Error(line(format, v)) }

// Tracef drops the line: traces hold the messages themselves.
func (l *serverLog) Tracef(string, ...any) {}

// Fatalf keeps the line as an error that wraps the one it tells of.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.to.Error(line(format, v))
	err := &fatalError{line: lowerFirst(fmt.Sprintf(format, v...))}
	for _, arg := range v {
		if cause, ok := arg.(error); ok {
			err.cause = cause
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// fatal is the first fatal line so far.
func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

type fatalError struct {
	line  string
	cause error
}

func (e *fatalError) Error() string { return e.line }
func (e *fatalError) Unwrap() error { return e.cause }

func line(format string, v []any) string {
	return "embedded NATS: " + strings.TrimSpace(fmt.Sprintf(format, v...))
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
