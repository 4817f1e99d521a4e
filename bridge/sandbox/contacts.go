package sandbox

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// contact. source: 8x8 contacts_api.json.
type contact struct {
	ID               int64             `json:"id"`
	CreatedAt        string            `json:"createdAt"`
	FirstName        string            `json:"firstName,omitempty"`
	LastName         string            `json:"lastName,omitempty"`
	ExternalID       string            `json:"externalId,omitempty"`
	Country          string            `json:"country,omitempty"`
	Groups           []group           `json:"groups"`
	Addresses        map[string]string `json:"addresses"`
	CustomAttributes map[string]any    `json:"customAttributes,omitempty"`
}

// group. source: 8x8 contacts_api.json.
type group struct {
	ID          int64  `json:"id"`
	Contacts    int    `json:"contacts"`
	CreatedAt   string `json:"createdAt"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	IsBlacklist bool   `json:"isBlacklist"`

	members map[int64]bool
}

// addressLimits is every kind of address, with its longest value in characters.
// source: 8x8 contacts_api.json.
var addressLimits = map[string]int{
	"msisdn": 16, "email": 320, "weChatUserId": 128, "facebookUserId": 128, "zaloId": 128, "lineId": 128, "kakaoTalkId": 128,
}

// view is a contact as 8x8 shows it, with its groups as they are now. a.mu is held.
func (a *account) view(c *contact) contact {
	shown := *c
	shown.Groups = []group{}
	for _, g := range a.groups {
		if g.members[c.ID] {
			shown.Groups = append(shown.Groups, g.view())
		}
	}
	shown.Addresses = maps.Clone(c.Addresses)
	shown.CustomAttributes = maps.Clone(c.CustomAttributes)
	return shown
}

func (g *group) view() group {
	shown := *g
	shown.Contacts, shown.members = len(g.members), nil
	return shown
}

// group finds a group. a.mu is held.
func (a *account) group(id int64) *group {
	for _, g := range a.groups {
		if g.ID == id {
			return g
		}
	}
	return nil
}

func (a *account) createContact(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		FirstName  *string `json:"firstName"`
		LastName   *string `json:"lastName"`
		ExternalID *string `json:"externalId"`
		Country    *string `json:"country"`
		Groups     []struct {
			ID int64 `json:"id"`
		} `json:"groups"`
		Addresses        map[string]string `json:"addresses"`
		CustomAttributes map[string]any    `json:"customAttributes"`
	}
	if failed := read(x.input, &r, nil); failed != nil {
		return 0, nil, false, failed
	}
	within := func(text *string, low, high int) bool {
		return text == nil || utf8.RuneCountInString(*text) >= low && utf8.RuneCountInString(*text) <= high
	}
	switch {
	case len(r.Addresses) == 0:
		return 0, nil, false, refused(1000, "Invalid parameter: addresses needs at least one entry")
	case !within(r.FirstName, 1, 200) || !within(r.LastName, 1, 200) || !within(r.ExternalID, 1, 50):
		return 0, nil, false, refused(1010, "A name or externalId is out of range")
	case r.Country != nil && !countryPattern.MatchString(*r.Country):
		return 0, nil, false, refused(1009, "Invalid country")
	case r.Groups != nil && (len(r.Groups) == 0 || len(r.Groups) > 10):
		return 0, nil, false, refused(1010, "groups is out of range: 1 to 10")
	case len(r.CustomAttributes) > 50:
		return 0, nil, false, refused(1010, "customAttributes is out of range: at most 50")
	}
	for kind, address := range r.Addresses {
		limit, known := addressLimits[kind]
		switch {
		case !known:
			return 0, nil, false, refused(1000, "Invalid parameter: unknown kind of address")
		case kind == "msisdn" && !msisdnPattern.MatchString(address):
			return 0, nil, false, refused(1002, "Invalid MSISDN format: not an E.164 international number")
		case address == "" || utf8.RuneCountInString(address) > limit:
			return 0, nil, false, refused(1010, "An address is out of range")
		}
		if kind == "msisdn" {
			r.Addresses[kind] = strings.TrimPrefix(address, "+") // stored without +
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range r.Groups {
		if a.group(g.ID) == nil {
			return 0, nil, false, unknownObject("Group not found")
		}
	}
	matches := map[int64]bool{}
	for kind, address := range r.Addresses {
		maps.Copy(matches, a.byAddr[addressKey(kind, address)])
	}
	if len(matches) > 1 {
		return 0, nil, false, &vendorError{status: http.StatusConflict, code: 5003, message: "The addresses belong to more than one contact"}
	}
	status := http.StatusOK
	var c *contact
	for id := range matches {
		c = a.contacts[id]
	}
	if c == nil {
		status = http.StatusCreated
		a.lastID++
		c = &contact{ID: a.lastID, CreatedAt: timestamp(a.server.opts.Now()), Addresses: map[string]string{}, CustomAttributes: map[string]any{}}
		a.contacts[c.ID] = c
	}
	for _, field := range []struct {
		into *string
		from *string
	}{{&c.FirstName, r.FirstName}, {&c.LastName, r.LastName}, {&c.ExternalID, r.ExternalID}, {&c.Country, r.Country}} {
		if field.from != nil {
			*field.into = *field.from
		}
	}
	for kind, address := range r.Addresses {
		if old, ok := c.Addresses[kind]; ok {
			delete(a.byAddr[addressKey(kind, old)], c.ID)
		}
		c.Addresses[kind] = address
		key := addressKey(kind, address)
		if a.byAddr[key] == nil {
			a.byAddr[key] = map[int64]bool{}
		}
		a.byAddr[key][c.ID] = true
	}
	maps.Copy(c.CustomAttributes, r.CustomAttributes)
	for _, g := range r.Groups {
		a.group(g.ID).members[c.ID] = true
	}
	return status, a.view(c), true, nil
}

func addressKey(kind, address string) string { return kind + ":" + strings.ToLower(address) }

// page is how 8x8 answers a list. source: 8x8 contacts_api.json.
type page[T any] struct {
	Items           []T  `json:"items"`
	Page            int  `json:"page"` // the first is 1
	TotalPages      int  `json:"totalPages"`
	TotalCount      int  `json:"totalCount"`
	TotalFiltered   int  `json:"totalFiltered"`
	HasPreviousPage bool `json:"hasPreviousPage"`
	HasNextPage     bool `json:"hasNextPage"`
}

// paging is what both lists take. Offset counts pages, not rows.
type paging struct {
	Limit  *int `json:"limit"`
	Offset int  `json:"offset"`
}

func newPage[T any](p paging, total int, filtered []T) (page[T], *vendorError) {
	limit := 20
	if p.Limit != nil {
		limit = *p.Limit
	}
	if limit < 1 || limit > 500 || p.Offset < 0 {
		return page[T]{}, refused(1010, "limit or offset is out of range: limit 1 to 500, offset from 0")
	}
	pages := (len(filtered) + limit - 1) / limit
	from := min(min(p.Offset, pages)*limit, len(filtered)) // first min: no overflow
	items := filtered[from:min(from+limit, len(filtered))]
	return page[T]{
		Items: append([]T{}, items...), Page: p.Offset + 1, TotalPages: pages, TotalCount: total, TotalFiltered: len(filtered),
		HasPreviousPage: p.Offset > 0, HasNextPage: p.Offset+1 < pages,
	}, nil
}

func (a *account) listContacts(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		paging
		Query   string `json:"query"`
		GroupID *int64 `json:"groupId"`
		Country string `json:"country"`
	}
	if failed := read(x.input, &r, nil); failed != nil {
		return 0, nil, false, failed
	}
	if utf8.RuneCountInString(r.Query) > 320 {
		return 0, nil, false, refused(1010, "query is out of range: at most 320 characters")
	}
	if r.Country != "" && !countryPattern.MatchString(r.Country) {
		return 0, nil, false, refused(1009, "Invalid country")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	query := strings.ToLower(strings.TrimPrefix(r.Query, "+"))
	var found []contact
	for _, id := range slices.Sorted(maps.Keys(a.contacts)) {
		c := a.contacts[id]
		inGroup := r.GroupID == nil
		if g := a.group(deref(r.GroupID)); g != nil && g.members[id] {
			inGroup = true
		}
		if inGroup && c.contains(query) && (r.Country == "" || strings.EqualFold(c.Country, r.Country)) {
			found = append(found, a.view(c))
		}
	}
	rows, failed := newPage(r.paging, len(a.contacts), found)
	return http.StatusOK, rows, false, failed
}

// contains looks for a lower-case text in the names and addresses.
func (c *contact) contains(query string) bool {
	if strings.Contains(strings.ToLower(c.FirstName+" "+c.LastName), query) {
		return true
	}
	for _, address := range c.Addresses {
		if strings.Contains(strings.ToLower(address), query) {
			return true
		}
	}
	return false
}

func (a *account) listGroups(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		paging
		Name string `json:"name"`
	}
	if failed := read(x.input, &r, nil); failed != nil {
		return 0, nil, false, failed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []group
	for _, g := range a.groups {
		if strings.Contains(strings.ToLower(g.Name), strings.ToLower(r.Name)) {
			found = append(found, g.view())
		}
	}
	rows, failed := newPage(r.paging, len(a.groups), found)
	return http.StatusOK, rows, false, failed
}

func (a *account) addToGroup(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		GroupID  json.Number `json:"groupId"`
		Contacts []int64     `json:"contacts"`
	}
	if failed := read(x.input, &r, nil); failed != nil {
		return 0, nil, false, failed
	}
	if len(r.Contacts) == 0 {
		return 0, nil, false, refused(1000, "Invalid parameter: contacts is empty")
	}
	id, err := r.GroupID.Int64()
	if err != nil {
		return 0, nil, false, refused(1000, "Invalid parameter: groupId is no whole number")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.group(id)
	if g == nil {
		return 0, nil, false, unknownObject("Group not found")
	}
	for _, member := range r.Contacts {
		if a.contacts[member] == nil {
			return 0, nil, false, unknownObject("Contact not found")
		}
	}
	for _, member := range r.Contacts {
		g.members[member] = true
	}
	return http.StatusCreated, g.view(), true, nil
}
