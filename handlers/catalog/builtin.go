package catalog

import (
	"cmp"
	"embed"
	"fmt"
	"slices"
	"sync"
	"time"
)

//go:embed schema/*.json
var schemas embed.FS

// Builtin is the catalog of the ten actions that Membrane advertises for 8x8.
// Their keys are Membrane's; their schemas are ours, made after 8x8's own
// documents, since Membrane publishes none. It is built once.
func Builtin() *Catalog { return builtin() }

var builtin = sync.OnceValue(func() *Catalog {
	actions := builtinActions()
	for i := range actions {
		a := &actions[i]
		a.Input = embeddedSchema(a.Key + ".input")
		a.Output = embeddedSchema(a.Key + ".output")
		normalize := a.Normalize
		a.Normalize = func(input map[string]any) error {
			a.Input.DropNulls(input)
			if normalize == nil {
				return nil
			}
			return normalize(input)
		}
	}
	return newCatalog(actions)
})

func embeddedSchema(name string) *Schema {
	data, err := schemas.ReadFile("schema/" + name + ".json")
	if err != nil {
		panic(fmt.Sprintf("catalog: %v", err)) // a file is missing from the build
	}
	schema, err := ParseSchema(data)
	if err != nil {
		panic(fmt.Sprintf("catalog: schema/%s.json: %v", name, err))
	}
	return schema
}

// builtinActions is the list. All ten make one call to one 8x8 endpoint each.
//
// Safe is decided by what 8x8 documents. Reads are. create-contact is: 8x8
// merges a contact with the one that has the same address. The sends are not:
// 8x8 takes a repeated clientMessageId as a new message and bills it.
// add-contacts-to-group is not: what 8x8 does with a contact that is in the
// group already is not documented. request-sms-log-export is not: a repeat does
// no harm but starts a second export, which nobody would ask for; a route may
// choose it with on_unknown: retry.
//
// create-contact and add-contacts-to-group have no Check: 8x8 refuses them by
// HTTP status, and their effect is the point, whatever the output tells of it.
// source: 8x8 sms_api.json, contacts_api.json.
func builtinActions() []Action {
	return []Action{
		{
			Key:         "send-sms",
			Name:        "Send SMS",
			Description: "Sends a text message to one phone number.",
			OneCall:     true,
			Reference:   ClientMessageID,
			Check:       checkMessage,
			Normalize:   normalizeMessage,
			Measure:     measureMessage,
		},
		{
			Key:         "send-batch-sms",
			Name:        "Send batch SMS",
			Description: "Sends text messages to up to 10,000 phone numbers in one call.",
			OneCall:     true,
			Reference:   ClientBatchID,
			Check:       checkBatch,
			Normalize:   normalizeBatch,
			Measure:     measureBatch,
		},
		{
			Key:         "get-sms-status",
			Name:        "Get SMS status",
			Description: "Reads what became of a text message. 8x8 allows one call a second: prefer delivery receipts.",
			Safe:        true,
			OneCall:     true,
			Gap:         time.Second, // for each sub-account. source: 8x8 sms_api.json
			Check:       checkAnswer,
		},
		{
			Key:         "get-account-balance",
			Name:        "Get account balance",
			Description: "Reads the balance of a prepaid account.",
			Safe:        true,
			OneCall:     true,
			Check:       checkAnswer,
		},
		{
			Key:         "list-contacts",
			Name:        "List contacts",
			Description: "Reads a page of the account's contacts.",
			Safe:        true,
			OneCall:     true,
			Check:       checkAnswer,
		},
		{
			Key:         "create-contact",
			Name:        "Create contact",
			Description: "Creates a contact, or merges it with the one that has the same address.",
			Safe:        true,
			OneCall:     true,
			Normalize:   normalizeContact,
		},
		{
			Key:         "list-groups",
			Name:        "List groups",
			Description: "Reads a page of the account's contact groups.",
			Safe:        true,
			OneCall:     true,
			Check:       checkAnswer,
		},
		{
			Key:         "add-contacts-to-group",
			Name:        "Add contacts to group",
			Description: "Adds contacts to a group. In a blacklist group they have opted out.",
			OneCall:     true,
		},
		{
			Key:         "request-sms-log-export",
			Name:        "Request SMS log export",
			Description: "Starts an export of message logs; get-sms-log-export-result tells when it is done.",
			OneCall:     true,
			Check:       checkAnswer,
		},
		{
			Key:         "get-sms-log-export-result",
			Name:        "Get SMS log export result",
			Description: "Reads the state of an export and, once it has succeeded, where its files are.",
			Safe:        true,
			OneCall:     true,
			Check:       checkAnswer,
		},
	}
}

// Catalog is a set of actions. It never changes and may be used by many
// goroutines; so may the actions it gives out, which must not be changed.
type Catalog struct {
	all   []*Action // sorted by key, then by id
	byKey map[string]*Action
	byID  map[string]*Action
}

func newCatalog(actions []Action) *Catalog {
	c := &Catalog{byKey: map[string]*Action{}, byID: map[string]*Action{}}
	for i := range actions {
		a := &actions[i]
		c.all = append(c.all, a)
		if a.Key != "" {
			c.byKey[a.Key] = a
		}
		if a.ID != "" {
			c.byID[a.ID] = a
		}
	}
	slices.SortFunc(c.all, func(a, b *Action) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.ID, b.ID))
	})
	return c
}

// Lookup finds an action by its key.
func (c *Catalog) Lookup(key string) (*Action, bool) {
	a, ok := c.byKey[key]
	return a, ok
}

// ByID finds an action by Membrane's id. The built-in ones have none: each
// workspace has its own.
func (c *Catalog) ByID(id string) (*Action, bool) {
	a, ok := c.byID[id]
	return a, ok
}

// All lists the actions, sorted by key, then by id.
func (c *Catalog) All() []*Action { return slices.Clone(c.all) }

// Keys lists the keys, sorted.
func (c *Catalog) Keys() []string {
	var keys []string
	for _, a := range c.all {
		if a.Key != "" {
			keys = append(keys, a.Key)
		}
	}
	return keys
}

// Nearest is the key that was probably meant by one that is not there; "" if
// none comes close.
func (c *Catalog) Nearest(key string) string {
	const longest = 64 // no key is near a longer one
	if key == "" || len(key) > longest {
		return ""
	}
	key = plainKey(key)
	best, least := "", max(2, len(key)/3)+1
	for _, known := range c.Keys() {
		if d := distance(key, plainKey(known)); d < least {
			best, least = known, d
		}
	}
	return best
}

// plainKey leaves out what people write differently: sendSMS, send_sms, send sms.
func plainKey(key string) string {
	plain := make([]byte, 0, len(key))
	for i := range len(key) {
		switch b := key[i]; {
		case b >= 'A' && b <= 'Z':
			plain = append(plain, b+'a'-'A')
		case b != '-' && b != '_' && b != ' ' && b != '.':
			plain = append(plain, b)
		}
	}
	return string(plain)
}

// distance counts the letters to insert, leave out or replace to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
