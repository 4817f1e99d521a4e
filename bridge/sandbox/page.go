package sandbox

import (
	"fmt"
	"html"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// form is what a person sees in a browser: a title, and a form if there are
// buttons. It is written without html/template, see bridge/app/house_test.go.
type form struct {
	tab, title, note string
	action           string            // where the form goes
	fields           map[string]string // hidden ones
	buttons          []button
}

// button is a decision, and what is written on it.
type button struct{ decision, text string }

func (p form) String() string {
	var b strings.Builder
	put := func(format string, texts ...string) {
		escaped := make([]any, len(texts))
		for i, text := range texts {
			escaped[i] = html.EscapeString(text) // also good in a quoted attribute, which all of ours are
		}
		fmt.Fprintf(&b, format, escaped...)
	}
	put(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>%s (sandbox)</title></head><body>
<h1>%s</h1><p>This is the bridge8x8 sandbox: %s.</p>
`, p.tab, p.title, p.note)
	if len(p.buttons) > 0 {
		put(`<form method="post" action="%s">`+"\n", p.action)
		for _, name := range slices.Sorted(maps.Keys(p.fields)) {
			put(`<input type="hidden" name="%s" value="%s">`+"\n", name, p.fields[name])
		}
		for _, one := range p.buttons {
			put(`<button name="decision" value="%s">%s</button>`+"\n", one.decision, one.text)
		}
		put("</form>\n")
	}
	put("</body></html>\n")
	return b.String()
}

// writePage shows a screen as its page.
func writePage[T any](w http.ResponseWriter, status int, as func(T) form, screen T) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; form-action *; frame-ancestors 'none'")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(as(screen).String())) // the browser may have gone
}
