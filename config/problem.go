package config

import (
	"fmt"
	"strings"
)

// Level says whether a problem stops the program.
type Level string

// The levels of a Problem.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
)

// Problem is one thing wrong with the configuration, in words a person can act on.
type Problem struct {
	Pos   Pos    `json:"-"`
	Level Level  `json:"level"`
	Code  string `json:"code"`    // stable, kebab-case, e.g. "unknown-key"
	Msg   string `json:"message"` // lower case, no full stop, quotes the user's own word, never a secret
	Hint  string `json:"hint,omitempty"`
}

// String is "file:line:col: error: message (code)" and, on a second line, the hint.
func (p Problem) String() string {
	var b strings.Builder
	if p.Pos.File != "" {
		b.WriteString(p.Pos.File)
		if p.Pos.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Pos.Line, p.Pos.Col)
		}
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "%s: %s (%s)", p.Level, p.Msg, p.Code)
	if p.Hint != "" {
		fmt.Fprintf(&b, "\n    hint: %s", p.Hint)
	}
	return b.String()
}

// Problems is every problem found, in file order.
type Problems []Problem

// Errors says whether any of them stops the program.
func (ps Problems) Errors() bool {
	for _, p := range ps {
		if p.Level == LevelError {
			return true
		}
	}
	return false
}

// Error makes Problems an error; it is the problems, one after the other.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
