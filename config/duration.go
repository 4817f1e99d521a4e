package config

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var daysPattern = regexp.MustCompile(`^([+-]?)([0-9]+(?:\.[0-9]+)?)d(.*)$`)

var errDuration = errors.New("not a duration")

// ParseDuration reads a duration as Go writes it, with days before it if
// wanted: 1m30s, 36h, 7d, 1d12h. The error does not quote the text.
func ParseDuration(text string) (time.Duration, error) {
	m := daysPattern.FindStringSubmatch(text)
	if m == nil {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, errDuration
		}
		return d, nil
	}
	sign, days, rest := m[1], m[2], m[3]
	n, err := strconv.ParseFloat(days, 64)
	if err != nil || n > float64(math.MaxInt64/day)-1 {
		return 0, errDuration
	}
	d := time.Duration(n * float64(day))
	if rest != "" {
		if strings.HasPrefix(rest, "+") || strings.HasPrefix(rest, "-") {
			return 0, errDuration
		}
		part, err := time.ParseDuration(rest)
		if err != nil || part > math.MaxInt64-d {
			return 0, errDuration
		}
		d += part
	}
	if sign == "-" {
		d = -d
	}
	return d, nil
}

// FormatDuration is the shortest form that ParseDuration and time.ParseDuration
// both read back: 1h instead of 1h0m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
