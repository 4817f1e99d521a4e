package config

import (
	"fmt"
	"io"
	"log/slog"
)

const masked = "<secret>"

// Secret is a value that must never be printed. However it is formatted,
// logged or marshalled it reads "<secret>"; only Reveal gives it away.
//
// Two places are out of its reach: package fmt calls no methods on an unexported
// field of a struct that is printed whole, and encoding/json none on the key of a
// map. Do not print the one, nor make it the other.
type Secret string

// Reveal returns the secret itself. Call it only where the value is used.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return s.String() }

// Format implements fmt.Formatter, for the verbs that would go round String,
// such as %d.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' {
		text = `"` + text + `"`
	}
	_, _ = io.WriteString(f, text)
}

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, and so JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it never fails, so no
// decoder can quote the value in an error.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = Secret(b)
	return nil
}
