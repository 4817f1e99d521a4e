package config

import "strings"

// Nearest is the one of known that word is most likely a misspelling of, or
// "" if none is near. Case does not count.
func Nearest(word string, known []string) string {
	w := []rune(strings.ToLower(word))
	best, least := "", 1+max(1, len(w)/3)
	for _, candidate := range known {
		if d := editDistance(w, []rune(strings.ToLower(candidate))); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// editDistance counts the letters to insert, delete, replace or swap with a
// neighbour to make b of a.
func editDistance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
