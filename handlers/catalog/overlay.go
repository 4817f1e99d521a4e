package catalog

import (
	"cmp"
	"encoding/json"
	"slices"
)

// Offer is an action as a connection offers it.
type Offer struct {
	Key         string `json:"key,omitempty"`
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Type is Membrane's, such as "api-request-to-external-app".
	Type string `json:"type,omitempty"`
	// Problem says why it cannot be run now; "" if it can. A state that nobody knows
	// is one.
	Problem string          `json:"problem,omitempty"`
	Input   json.RawMessage `json:"inputSchema,omitempty"`
	Output  json.RawMessage `json:"outputSchema,omitempty"`
}

// oneRequest is the type of action that is one request to 8x8: its configuration
// is one method and one path. Others may make several.
// source: @membranehq/sdk 0.28.3, ActionType; that there are no more is inferred.
const oneRequest = "api-request-to-external-app"

// ofOurs are the types that an action of 8x8's connector can have, and stay what
// the built-in one of its key is. Code of somebody's own may do anything.
func ofOurs(kind string) bool {
	return kind == "" || kind == oneRequest || kind == "connector-operation"
}

// Overlay is the catalog with what a connection offers laid over it, by key or
// else by id: an offered schema stands instead of ours, what is not offered stays
// as it is known.
//
// What we know of a built-in action beyond its schema (how its output is read,
// which field carries our reference, how numbers are written) holds for the
// offered one as far as that has the same fields; if not, Unlike is set.
func (c *Catalog) Overlay(offers []Offer) *Catalog {
	actions := make([]Action, 0, len(c.all)+len(offers))
	at := map[string]int{} // by key, and by id for those without
	for _, a := range c.all {
		at[cmp.Or(a.Key, a.ID)] = len(actions)
		actions = append(actions, *a)
	}
	sorted := slices.Clone(offers)
	slices.SortStableFunc(sorted, func(a, b Offer) int { return cmp.Compare(a.rank(), b.rank()) })
	for _, o := range sorted {
		if o.ID == "" && o.Key == "" {
			continue
		}
		name := cmp.Or(o.Key, o.ID)
		i, known := at[name]
		if !known {
			at[name] = len(actions)
			actions = append(actions, o.action())
			continue
		}
		if was := &actions[i]; !o.isWorseThan(was) {
			actions[i] = o.over(was)
		}
	}
	return newCatalog(actions)
}

// Offered says that a connection offers the action, as it told.
func (a *Action) Offered() bool { return a.offered }

// rank puts what can be run behind what cannot: of two with one key the later one counts.
func (o *Offer) rank() int {
	if o.Problem == "" {
		return 1
	}
	return 0
}

// isWorseThan says that the other one, of the same listing, can be run and this cannot.
func (o *Offer) isWorseThan(was *Action) bool {
	return o.Problem != "" && was.offered && was.Problem == ""
}

// action is an offer of which nothing else is known.
func (o *Offer) action() Action {
	return Action{
		Key: o.Key, ID: o.ID, Name: cmp.Or(o.Name, o.Key, o.ID), Description: o.Description, Problem: o.Problem,
		Input: parseOffered(o.Input, nil), Output: parseOffered(o.Output, nil), OneCall: o.Type == oneRequest, offered: true,
	}
}

// over is the offer of an action that is known.
func (o *Offer) over(was *Action) Action {
	a := *was
	a.ID, a.Name, a.Description = cmp.Or(o.ID, was.ID), cmp.Or(o.Name, was.Name), cmp.Or(o.Description, was.Description)
	a.Problem, a.offered = o.Problem, true
	if !ofOurs(o.Type) {
		a.OneCall, a.Safe = false, false
	}
	a.OneCall = a.OneCall || o.Type == oneRequest
	if output := parseOffered(o.Output, was.Output); output != nil {
		a.Output = output
	}
	input := parseOffered(o.Input, was.Input)
	if input == nil {
		return a
	}
	a.Input = input
	a.Unlike = was.Unlike || !input.likeness(was.Input)
	if a.Unlike {
		a.Normalize, a.Measure = nil, nil
	}
	if !input.takes(was.Reference, a.Unlike) {
		a.Reference = NoReference
	}
	return a
}

// parseOffered reads a schema that came from Membrane. It is nil where nothing is
// described, or where it cannot be read: then the service alone checks.
func parseOffered(raw json.RawMessage, like *Schema) *Schema {
	s := ParseOffered(raw)
	if s == nil || s.isOpen() {
		return nil
	}
	s.loosen(like, false)
	return s
}

// isOpen says that any object is as good as any other: nothing is said about the
// fields, so that what is known of them still holds.
func (s *Schema) isOpen() bool {
	if s.types != typeAny && s.types&typeObject == 0 || len(s.properties) > 0 || len(s.required) > 0 {
		return false
	}
	var o struct {
		AdditionalProperties any `json:"additionalProperties"`
	}
	return json.Unmarshal(s.raw, &o) != nil || o.AdditionalProperties != false
}

// ParseOffered reads a schema that Membrane offers, as leniently as Membrane
// itself is: it refuses only what is missing and what is of another type, and
// a value that an enum lacks. Limits and patterns are the service's to judge, as
// is what is required of the items of a list, and a keyword of the wrong shape is
// left out. It is nil where the schema is not a JSON object.
// source: @membranehq/sdk 0.28.3, DataSchema and its required check.
func ParseOffered(raw json.RawMessage) *Schema {
	raw = trimJSON(raw)
	if len(raw) == 0 || raw[0] != '{' || !json.Valid(raw) {
		return nil
	}
	s := parseTolerant(slices.Clone(raw))
	s.loosen(nil, false)
	return s
}

// loosen takes away what only the service may refuse. Where like, which we made
// after 8x8's own documents, has a field of the same name and type, its limits
// hold still, unless the service has other ones: 8x8 would refuse what breaks them.
func (s *Schema) loosen(like *Schema, inList bool) {
	if s == nil {
		return
	}
	if like != nil && s.types != like.types {
		like = nil
	}
	if inList {
		var held []string
		for _, name := range s.required {
			if like != nil && slices.Contains(like.required, name) {
				held = append(held, name)
			}
		}
		s.required = held
	}
	stated := s.stated
	if like == nil {
		s.minLength, s.maxLength, s.maxItems, s.minimum, s.maximum, s.pattern = -1, -1, -1, nil, nil, nil
	} else {
		s.minLength = stillHeld(stated.minLength, like.minLength)
		s.maxLength = stillHeld(stated.maxLength, like.maxLength)
		s.maxItems = stillHeld(stated.maxItems, like.maxItems)
		s.minimum = stillBound(stated.minimum, like.minimum)
		s.maximum = stillBound(stated.maximum, like.maximum)
		if s.pattern = like.pattern; stated.pattern != "" && (like.pattern == nil || like.pattern.String() != stated.pattern) {
			s.pattern = nil
		}
	}
	for i := range s.properties {
		p := &s.properties[i]
		known, _ := like.Property(p.name)
		p.schema.loosen(known, inList)
	}
	s.items.loosen(like.Items(), true)
}

// limits are what a schema states, whether it is held or not.
type limits struct {
	minLength, maxLength, maxItems int
	minimum, maximum               *float64
	pattern                        string
}

func stillHeld(stated, known int) int {
	if stated < 0 || stated == known {
		return known
	}
	return -1
}

func stillBound(stated, known *float64) *float64 {
	if stated == nil || known != nil && *stated == *known {
		return known
	}
	return nil
}

// likeness says that what is required of a known input is still a part of this
// one; of an input that requires nothing, that any field is.
func (s *Schema) likeness(known *Schema) bool {
	if known == nil {
		return true
	}
	has := func(name string) bool {
		p, named := s.Property(name)
		k, _ := known.Property(name)
		return named && (p.types == typeAny || k == nil || k.types == typeAny || p.types&k.types != 0)
	}
	if len(known.required) > 0 {
		return !slices.ContainsFunc(known.required, func(name string) bool { return !has(name) })
	}
	return len(known.properties) == 0 || slices.ContainsFunc(known.properties, func(p property) bool { return has(p.name) })
}

// Our references in characters, with the number of a message in a batch.
const (
	messageReference = 58 + len("#9999")
	batchReference   = 20
)

// takes says that an input has room for our reference. Where the schema does not
// name its field, it is ignored at worst; but not of an action unlike the one we know.
func (s *Schema) takes(r Reference, unlike bool) bool {
	p, named := s.Property(string(r))
	if !named {
		return !unlike
	}
	need := messageReference
	if r == ClientBatchID {
		need = batchReference
	}
	return (p.types == typeAny || p.types&typeString != 0) && (p.stated.maxLength < 0 || p.stated.maxLength >= need) && !p.enum
}
