package ingress

import (
	"net/http"
	"strconv"
	"strings"
)

// handshake answers the validation request of CloudEvents Web Hooks 4: who may
// deliver here, and how often. A refusal is an answer without the two grants. The
// answer is given at once; a WebHook-Request-Callback, which would have us make a
// request to an address of the sender's choice, is never used.
func (h *handler) handshake(r *http.Request) answer {
	a := answer{status: http.StatusOK}.with("Allow", "POST, OPTIONS")
	origin := r.Header.Get("WebHook-Request-Origin")
	if origin == "" || !h.grants(origin) {
		return a
	}
	allowed := "*"
	if h.Rate > 0 {
		allowed = strconv.Itoa(h.Rate)
	}
	if asked := r.Header.Get("WebHook-Request-Rate"); asked != "" {
		n, err := strconv.Atoi(asked)
		if err != nil || n <= 0 {
			return refuse(http.StatusBadRequest, "malformed", "WebHook-Request-Rate is not a number of requests a minute").with("Allow", "POST, OPTIONS")
		}
		if h.Rate > n {
			allowed = strconv.Itoa(n)
		}
	}
	return a.with("WebHook-Allowed-Origin", origin).with("WebHook-Allowed-Rate", allowed)
}

// grants says whether an origin, a name like eventgrid.example.com, may deliver.
func (h *handler) grants(origin string) bool {
	if !plainHeader(origin, 253) {
		return false
	}
	for _, o := range h.Origins {
		if o == "*" || strings.EqualFold(o, origin) {
			return true
		}
	}
	return false
}
