package asyncapi

import (
	"encoding/json"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

func text(description string) object { return object{"type": "string", "description": description} }

func instant(description string) object {
	return object{"type": "string", "format": "date-time", "description": description}
}

// envelope is a CloudEvent in the JSON format.
func envelope() object {
	return object{
		"type": "object", "description": "A CloudEvent 1.0.", "required": []string{"specversion", "id", "source", "type"},
		"properties": object{
			"specversion":     object{"type": "string", "const": "1.0"},
			"id":              object{"type": "string", "minLength": 1, "description": "with source, tells an event from all others"},
			"source":          object{"type": "string", "minLength": 1},
			"type":            object{"type": "string", "minLength": 1},
			"subject":         text("what it is about; of a result, the id of the event that it answers"),
			"time":            instant("when it happened"),
			"datacontenttype": text("of data"),
			"dataschema":      text("of data"),
			"causationid":     text("id of the event that this one answers"),
			"causationsource": text("source of the event that this one answers"),
			"correlationid":   text("passed through, or else the causationid"),
			"traceparent":     text("W3C trace context"),
			"tracestate":      text("W3C trace context"),
			"partitionkey":    text("passed through"),
			"payloadversion":  object{"type": "integer", "description": "8x8's version of data, where it has an envelope"},
		},
	}
}

// resultSchema is the data of a result; see bridge.ResultData.
func resultSchema() object {
	var reasons []string
	for _, r := range bridge.Reasons {
		reasons = append(reasons, string(r))
	}
	return object{
		"type": "object", "description": "The data of a result that its route does not shape.",
		"required": []string{"action", "route", "attempts", "durationMs", "cause"},
		"properties": object{
			"action": text("what ran"), "route": text("which route ran it; run for a command"), "connection": text("name of the connection"),
			"actionRunId": text("Membrane's id of the run"), "attempts": object{"type": "integer", "minimum": 0},
			"startedAt": instant("of the last attempt"), "durationMs": object{"type": "integer", "minimum": 0},
			"cause": object{
				"type": "object", "description": "the event that this answers", "required": []string{"source", "id", "type"},
				"properties": object{"source": text(""), "id": text(""), "type": text(""), "subject": text(""), "time": instant("")},
			},
			"output":          object{"description": "what the action gave; of a success"},
			"outputTruncated": object{"type": "boolean", "description": "that output was too large to carry"},
			"sms": object{
				"type": "object", "description": "how the texts were cut, and so what they cost",
				"properties": object{"encoding": object{"type": "string", "enum": []string{"GSM7", "UCS2", "MIXED"}}, "smsCount": object{"type": "integer"}},
			},
			"followUp": object{
				"type": "object", "description": "what came of it, where the route waits for that", "required": []string{"durationMs"},
				"properties": object{
					"action": text("what was polled"), "polls": object{"type": "integer"}, "receipt": text("the state that a delivery receipt reported"),
					"durationMs": object{"type": "integer", "minimum": 0}, "output": object{"description": "the last answer"}, "outputTruncated": object{"type": "boolean"},
				},
			},
			"error": object{
				"type": "object", "description": "why there is no output; of a failure", "required": []string{"reason", "message", "retryable"},
				"properties": object{
					"reason": object{"type": "string", "enum": reasons}, "message": text("in words"),
					"retryable": object{"type": "boolean", "description": "whether the same event may go better when it is replayed"}, "details": object{"type": "object"},
				},
			},
			"unshaped": text("why it has this form although its route has another for it"),
		},
	}
}

// resultOf is the data of one action's results in a state.
func resultOf(state bridge.State, action string, output *catalog.Schema) object {
	own := object{"type": "object", "properties": object{"action": object{"const": action}}}
	if state == bridge.Failed {
		own["required"] = []string{"error"}
	} else if raw := output.Raw(); raw != nil {
		own["properties"].(object)["output"] = jsonSchema(raw)
	}
	return object{"allOf": []any{ref("components", "schemas", "Result"), own}}
}

// jsonSchema is a schema in Membrane's dialect as JSON Schema that is no stricter:
// what only hints at a form is left out, and null stands for absent.
func jsonSchema(raw json.RawMessage) any {
	var schema any
	if json.Unmarshal(raw, &schema) != nil {
		return object{}
	}
	return lenient(schema, true)
}

func lenient(schema any, top bool) any {
	s, ok := schema.(object)
	if !ok {
		return object{}
	}
	custom, _ := s["allowCustom"].(bool)
	made := object{}
	for keyword, value := range s {
		switch keyword {
		case "properties":
			fields := object{}
			if m, ok := value.(object); ok {
				for name, field := range m {
					fields[name] = lenient(field, false)
				}
			}
			made[keyword] = fields
		case "items":
			made[keyword] = lenient(value, false)
		case "required":
			if top {
				made[keyword] = value
			}
		case "enum":
			if list, ok := value.([]any); ok && !custom {
				made[keyword] = append(list, nil)
			}
		case "type":
			made[keyword] = withNull(value, top)
		case "pattern", "minLength", "maxLength", "minimum", "maximum", "maxItems", "title", "description":
			made[keyword] = value
		}
	}
	return made
}

func withNull(types any, top bool) any {
	if top {
		return types
	}
	list, isList := types.([]any)
	if !isList {
		list = []any{types}
	}
	for _, t := range list {
		if t == "null" {
			return list
		}
	}
	return append(list, "null")
}
