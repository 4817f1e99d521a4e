package catalog

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The functions below read an input that may not have met its schema yet: a
// value of the wrong type is left for the schema to refuse. They change the map
// they are given and copy before they change anything below, which may be shared
// with the event that the input was made from.

// normalizeMessage readies the input of send-sms.
func normalizeMessage(input map[string]any) error {
	number, err := normalNumber(input, "destination", "destination", stringOf(input, "country"))
	if err != nil {
		return err
	}
	if number != "" {
		input["destination"] = number
	}
	text, ok := input["text"].(string)
	if !ok {
		return nil
	}
	return checkText(text, stringOf(input, "encoding"), "text")
}

// normalizeBatch readies the input of send-batch-sms. 8x8 takes messages, or
// else destinations that all get the text of the template.
func normalizeBatch(input map[string]any) error {
	template, _ := input["template"].(map[string]any)
	messages, isList := input["messages"].([]any)
	if len(messages) > 0 {
		return normalizeMessages(input, messages, template)
	}
	if _, given := input["messages"]; given && !isList {
		return nil
	}
	destinations, isList := input["destinations"].([]any)
	if _, given := input["destinations"]; given && !isList {
		return nil
	}
	if len(destinations) == 0 {
		return &InputError{Field: "messages", Rule: "is required, or destinations and template.text"}
	}
	if !hasText(input["template"]) {
		return &InputError{Field: "template.text", Rule: "is required with destinations"}
	}
	if text, ok := template["text"].(string); ok {
		if err := checkText(text, stringOf(template, "encoding"), "template.text"); err != nil {
			return err
		}
	}
	var changed []any
	for i, value := range destinations {
		given, ok := value.(string)
		if !ok {
			continue
		}
		number, broken := phoneNumber(given, "")
		if broken == noCountry {
			broken = noInitial // a destination has no country beside it
		}
		if broken != "" {
			return &InputError{Field: "destinations[" + strconv.Itoa(i) + "]", Rule: broken}
		}
		if number == given {
			continue
		}
		if changed == nil {
			changed = slices.Clone(destinations)
			input["destinations"] = changed
		}
		changed[i] = number
	}
	return nil
}

func normalizeMessages(input map[string]any, messages []any, template map[string]any) error {
	var (
		shared     = hasText(input["template"])
		sharedText = stringOf(template, "text")
		checked    = "none yet" // the encoding that the shared text was last checked in
		changed    []any
	)
	for i, value := range messages {
		message, ok := value.(map[string]any)
		if !ok {
			continue
		}
		number, err := normalNumber(message, "destination", "destination", stringOf(message, "country"))
		if err != nil {
			return under(i, err)
		}
		if number != "" {
			if changed == nil {
				changed = slices.Clone(messages)
				input["messages"] = changed
			}
			message = maps.Clone(message)
			message["destination"] = number
			changed[i] = message
		}
		encoding := stringOf(message, "encoding")
		if encoding == "" {
			encoding = stringOf(template, "encoding")
		}
		switch text := message["text"].(type) {
		case string:
			if err := checkText(text, encoding, "text"); err != nil {
				return under(i, err)
			}
		case nil:
			if !shared {
				return under(i, &InputError{Field: "text", Rule: "is required, or template.text"})
			}
			if _, ok := template["text"].(string); !ok || encoding == checked {
				continue
			}
			if err := checkText(sharedText, encoding, "template.text"); err != nil {
				return err
			}
			checked = encoding
		}
	}
	return nil
}

// hasText tells whether a template has a text, or may have one.
func hasText(template any) bool {
	fields, _ := template.(map[string]any)
	return template == RunTime || fields["text"] != nil
}

// under puts the message in front of the field that an error names.
func under(message int, err error) error {
	problem := &InputError{}
	if errors.As(err, &problem) {
		problem.Field = "messages[" + strconv.Itoa(message) + "]." + problem.Field
	}
	return err
}

// normalizeContact readies the input of create-contact.
func normalizeContact(input map[string]any) error {
	addresses, ok := input["addresses"].(map[string]any)
	if !ok {
		return nil
	}
	if len(addresses) == 0 {
		return &InputError{Field: "addresses", Rule: "must have at least one address"}
	}
	number, err := normalNumber(addresses, "msisdn", "addresses.msisdn", stringOf(input, "country"))
	if err != nil || number == "" {
		return err
	}
	addresses = maps.Clone(addresses)
	addresses["msisdn"] = number
	input["addresses"] = addresses
	return nil
}

// normalNumber reads a phone number from an input. It returns "" where there is
// nothing to change.
func normalNumber(input map[string]any, name, field, country string) (string, error) {
	given, ok := input[name].(string)
	if !ok {
		return "", nil
	}
	number, broken := phoneNumber(given, strings.ToUpper(country))
	switch broken {
	case "":
	case badCountry:
		return "", &InputError{Field: "country", Rule: broken}
	default:
		return "", &InputError{Field: field, Rule: broken}
	}
	if number == given {
		return "", nil
	}
	return number, nil
}

func stringOf(input map[string]any, field string) string {
	text, _ := input[field].(string)
	return text
}

// checkText refuses what 8x8 would refuse (no text) or cut off (too much of it).
func checkText(text, encoding, field string) error {
	if text == "" {
		return &InputError{Field: field, Rule: "must not be empty"}
	}
	if len(text) <= harmlessBytes {
		return nil
	}
	if sms := Parts(text, encoding); sms.SMSCount > MaxParts {
		return &InputError{Field: field, Rule: "makes " + strconv.Itoa(sms.SMSCount) +
			" parts, and 8x8 sends at most " + strconv.Itoa(MaxParts)}
	}
	return nil
}

// measureMessage counts the parts of the input of send-sms.
func measureMessage(input map[string]any) *SMS {
	text, ok := input["text"].(string)
	if !ok || text == "" {
		return nil
	}
	sms := Parts(text, stringOf(input, "encoding"))
	return &sms
}

// measureBatch adds up the parts of all messages in the input of send-batch-sms.
func measureBatch(input map[string]any) *SMS {
	template, _ := input["template"].(map[string]any)
	text, encoding := stringOf(template, "text"), stringOf(template, "encoding")
	shared := Parts(text, encoding)

	var sum SMS
	add := func(sms SMS, times int) {
		if sms.SMSCount == 0 || times == 0 {
			return
		}
		if sum.SMSCount > 0 && sum.Encoding != sms.Encoding {
			sms.Encoding = encodingMixed
		}
		sum = SMS{Encoding: sms.Encoding, SMSCount: sum.SMSCount + sms.SMSCount*times}
	}
	if messages, _ := input["messages"].([]any); len(messages) > 0 {
		for _, value := range messages {
			message, ok := value.(map[string]any)
			if !ok {
				continue
			}
			ownText, ownEncoding := stringOf(message, "text"), stringOf(message, "encoding")
			if ownText == "" && (ownEncoding == "" || ownEncoding == encoding) {
				add(shared, 1)
				continue
			}
			if ownText == "" {
				ownText = text
			}
			if ownEncoding == "" {
				ownEncoding = encoding
			}
			add(Parts(ownText, ownEncoding), 1)
		}
	} else if destinations, _ := input["destinations"].([]any); len(destinations) > 0 {
		add(shared, len(destinations))
	}
	if sum.SMSCount == 0 {
		return nil
	}
	return &sum
}
