package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// apiError is Membrane's error envelope. source: @membranehq/sdk ErrorDataSchema.
type apiError struct {
	Type          string    `json:"type,omitempty"`
	Key           string    `json:"key,omitempty"`
	Message       string    `json:"message"`
	Data          any       `json:"data,omitempty"`
	CausedByError *apiError `json:"causedByError,omitempty"`
	// ActionRunID stands beside the error on every failed run.
	ActionRunID string `json:"actionRunId,omitempty"`

	// retryAfter becomes a Retry-After header, in seconds.
	retryAfter int
}

// status is chosen by the key, also by that of what 8x8 said; 400 otherwise.
// source: Membrane documentation, /reference/overview/errors; that an 8x8 rate
// limit is a 429 too is our choice, the documents do not say.
func (e *apiError) status() int {
	if e.Type == "internal" {
		return http.StatusInternalServerError
	}
	for at := e; at != nil; at = at.CausedByError {
		switch at.Key {
		case "not_authenticated":
			return http.StatusUnauthorized
		case "access_denied":
			return http.StatusForbidden
		case "not_found":
			return http.StatusNotFound
		case "rate_limit_exceeded":
			return http.StatusTooManyRequests
		}
	}
	return http.StatusBadRequest
}

func badRequest(format string, args ...any) *apiError {
	return &apiError{Type: "bad_request", Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *apiError {
	return &apiError{Type: "bad_request", Key: "not_found", Message: fmt.Sprintf(format, args...)}
}

func notAuthenticated(message string) *apiError {
	return &apiError{Type: "bad_request", Key: "not_authenticated", Message: message}
}

func internalError(message string) *apiError {
	return &apiError{Type: "internal", Message: message, Data: map[string]any{"errorId": newID()}}
}

func writeError(w http.ResponseWriter, e *apiError) {
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	writeJSON(w, e.status(), e)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("an answer that is no JSON: %v", err))
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(encoded) // the caller may have gone, which is its own affair
}

// vendorError is an answer of 8x8 with a status of 400 or more. source: 8x8
// api-error-codes.md.
type vendorError struct {
	status  int
	code    int
	message string
	// retryAfter is in seconds, and sent as 8x8's Retry-After header.
	retryAfter int
	// happened says that 8x8 did what it was asked, whatever it answers.
	happened bool
}

func refused(code int, message string) *vendorError {
	return &vendorError{status: http.StatusBadRequest, code: code, message: message}
}

func unknownObject(message string) *vendorError {
	return &vendorError{status: http.StatusNotFound, code: 1300, message: message}
}
