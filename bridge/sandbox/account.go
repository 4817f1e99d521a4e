package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// account is the 8x8 account: what it holds, and its REST API as far as the
// ten actions use it. Every tenant's connection leads to this one account.
type account struct {
	server  *Server
	courier *courier

	mu       sync.Mutex
	messages map[string]*message // by umid
	order    []*message          // as they came
	exports  map[string]*export  // by job id
	contacts map[int64]*contact
	byAddr   map[string]map[int64]bool // address → the contacts that have it
	groups   []*group                  // by id
	lastID   int64                     // of a contact
	spent    int                       // hundredths of the currency
	// lastStatus is when a message was last looked up, by sub-account.
	lastStatus map[string]time.Time

	families families
	sends    limiter
}

const (
	currency     = "USD"
	centsPerSMS  = 2
	firstBalance = 100_000_00 // hundredths
	ownNumber    = "+12025550199"
)

func newAccount(s *Server, c *courier) *account {
	a := &account{
		server: s, courier: c,
		messages: map[string]*message{}, exports: map[string]*export{}, lastStatus: map[string]time.Time{},
		contacts: map[int64]*contact{}, byAddr: map[string]map[int64]bool{}, lastID: 9000,
	}
	// No action makes a group, so there are some to begin with.
	for i, name := range []string{"customers", "vip", "opted-out"} {
		a.groups = append(a.groups, &group{
			ID: int64(i + 1), CreatedAt: timestamp(s.createdAt), Name: name, IsBlacklist: name == "opted-out",
			members: map[int64]bool{},
		})
	}
	return a
}

// exchange is a request that Membrane makes of 8x8, and the answer.
type exchange struct {
	method, path string
	input        json.RawMessage
	host         string // of the sandbox, for download links

	status int
	output any
	failed *vendorError
}

// endpoints of the ten actions, in the words of 8x8's OpenAPI files.
var endpoints = map[string]struct {
	method, path string
	call         func(*account, *exchange) (status int, output any, effect bool, failed *vendorError)
}{
	"send-sms":                  {"POST", "/api/v1/subaccounts/{subAccountId}/messages", (*account).sendSMS},
	"send-batch-sms":            {"POST", "/api/v1/subaccounts/{subAccountId}/messages/batch", (*account).sendBatch},
	"get-sms-status":            {"GET", "/api/v1/subaccounts/{subAccountId}/messages/{umid}", (*account).getStatus},
	"get-account-balance":       {"GET", "/api/v1/accounts/{accountId}/balance", (*account).getBalance},
	"list-contacts":             {"GET", "/api/v1/accounts/{accountId}/contacts", (*account).listContacts},
	"create-contact":            {"POST", "/api/v1/accounts/{accountId}/contacts", (*account).createContact},
	"list-groups":               {"GET", "/api/v1/accounts/{accountId}/groups", (*account).listGroups},
	"add-contacts-to-group":     {"POST", "/api/v1/accounts/{accountId}/groups/{groupId}/contacts", (*account).addToGroup},
	"request-sms-log-export":    {"POST", "/api/v1/subaccounts/{subAccountId}/messages/exports", (*account).requestExport},
	"get-sms-log-export-result": {"GET", "/api/v1/subaccounts/{subAccountId}/messages/exports/{jobId}", (*account).exportResult},
}

// call does what an action asks. effect says whether it changed anything.
func (a *account) call(key string, input json.RawMessage, host string) (x *exchange, effect bool) {
	endpoint := endpoints[key]
	x = &exchange{method: endpoint.method, path: endpoint.path, input: input, host: host}
	x.status, x.output, effect, x.failed = endpoint.call(a, x)
	if x.failed != nil {
		x.status, effect = x.failed.status, x.failed.happened
	}
	return x, effect
}

// failure is how Membrane reports an answer of 400 or more of the external app.
// source: @membranehq/sdk, its helper that packs a failed HTTP request.
func (x *exchange) failure(now time.Time) *apiError {
	f := x.failed
	headers := map[string]string{"content-type": "application/json"}
	cause := &apiError{
		Type:    "connection",
		Message: "Request failed with status code " + strconv.Itoa(f.status),
	}
	if f.status == http.StatusTooManyRequests {
		cause.Key = "rate_limit_exceeded"
		headers["retry-after"] = strconv.Itoa(f.retryAfter)
	}
	cause.Data = map[string]any{
		"connectionId": ConnectionID,
		"request":      map[string]any{"method": strings.ToLower(x.method), "url": x.path},
		"response": map[string]any{
			"status":  f.status,
			"headers": headers,
			"data": map[string]any{
				"code": f.code, "message": f.message, "errorId": newUUID(), "timestamp": timestamp(now),
			},
		},
	}
	return &apiError{Type: "action_run", Message: f.message, CausedByError: cause, retryAfter: f.retryAfter}
}

// Patterns of 8x8. source: sms_api.json, contacts_api.json.
var (
	msisdnPattern     = regexp.MustCompile(`^\+?[1-9][0-9]{6,14}$`)
	subAccountPattern = regexp.MustCompile(`^[A-Za-z0-9\-._&]{3,50}$`)
	uuidPattern       = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	countryPattern    = regexp.MustCompile(`^[A-Za-z]{2}$`)
)

// read decodes an input and settles its sub-account.
func read[T any](input json.RawMessage, into *T, subAccount *string) *vendorError {
	if len(input) > 0 {
		if err := json.Unmarshal(input, into); err != nil {
			return refused(1000, "Invalid parameter")
		}
	}
	if subAccount != nil {
		return settle(subAccount)
	}
	return nil
}

func (a *account) getBalance(*exchange) (int, any, bool, *vendorError) {
	if a.server.opts.Postpaid {
		return 0, nil, false, &vendorError{status: http.StatusForbidden, code: 1201, message: "Forbidden: the balance is for prepaid accounts only"}
	}
	a.mu.Lock()
	left := firstBalance - a.spent
	a.mu.Unlock()
	return http.StatusOK, struct {
		Balance  json.Number `json:"balance"`
		Currency string      `json:"currency"`
	}{money(left), currency}, false, nil
}

// price. source: 8x8 price-object-reference.md.
type price struct {
	Total    json.Number `json:"total"`
	PerSMS   json.Number `json:"perSms"`
	Currency string      `json:"currency"`
}

// money is a decimal number that no binary fraction has touched.
func money(cents int) json.Number {
	return json.Number(strconv.Itoa(cents/100) + "." + strconv.Itoa(cents/10%10) + strconv.Itoa(cents%10))
}

// timestamp is how 8x8 writes a time.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func isURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// newID is an opaque id in the shape of Membrane's: 24 hexadecimal digits.
func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], b[0:4])
	hex.Encode(text[9:13], b[4:6])
	hex.Encode(text[14:18], b[6:8])
	hex.Encode(text[19:23], b[8:10])
	hex.Encode(text[24:36], b[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
