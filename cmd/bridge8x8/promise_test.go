package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/app"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// What --json prints is promised in a table of the README. The scripts hold what
// the commands print against it, and a test the types that they print from.

// promises is the table: what each command prints, and each name that occurs there.
var promises = sync.OnceValue(func() map[string]string {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		panic(err)
	}
	_, table, _ := strings.Cut(string(readme), "<!-- json:")
	table, _, ok := strings.Cut(table, "<!-- /json -->")
	rows := regexp.MustCompile("(?m)^\\| (.+) \\| `([^`]+)`").FindAllStringSubmatch(table, -1)
	if !ok || len(rows) == 0 {
		panic("the README has no table of the commands' JSON")
	}
	shapes := map[string]string{}
	for _, row := range rows {
		for name := range strings.SplitSeq(row[1], ", ") {
			shapes[strings.Trim(name, "`*")] = row[2]
		}
	}
	return shapes
})

// fields are the members of a shape, such as {id: string, key?: string}.
func fields(shape string) (map[string]string, bool) {
	inner, ok := strings.CutPrefix(shape, "{")
	if !ok {
		return nil, false
	}
	members := map[string]string{}
	for member := range strings.SplitSeq(strings.TrimSuffix(inner, "}"), ", ") {
		name, kind, _ := strings.Cut(member, ": ")
		members[name] = kind
	}
	return members, true
}

// keeps says how a JSON value breaks a promise.
func keeps(value any, shape, at string) error {
	if item, ok := strings.CutSuffix(shape, "[]"); ok {
		list, isList := value.([]any)
		if !isList {
			return fmt.Errorf("%s is no list: %v", at, value)
		}
		for i, v := range list {
			if err := keeps(v, item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	}
	if members, ok := fields(shape); ok {
		object, isObject := value.(map[string]any)
		if !isObject {
			return fmt.Errorf("%s is no object: %v", at, value)
		}
		left := maps.Clone(object)
		for name, kind := range members {
			name, optional := strings.CutSuffix(name, "?")
			v, there := object[name]
			delete(left, name)
			switch {
			case there:
				if err := keeps(v, kind, at+"."+name); err != nil {
					return err
				}
			case !optional:
				return fmt.Errorf("%s has no %s", at, name)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%s has %v, which the README does not tell of", at, slices.Sorted(maps.Keys(left)))
		}
		return nil
	}
	good := true
	switch shape {
	case "any":
	case "string":
		_, good = value.(string)
	case "number":
		_, good = value.(float64)
	case "boolean":
		_, good = value.(bool)
	case "object":
		_, good = value.(map[string]any)
	default:
		named, ok := promises()[shape]
		if !ok {
			return fmt.Errorf("the README does not say what %q is", shape)
		}
		return keeps(value, named, at)
	}
	if !good {
		return fmt.Errorf("%s is no %s: %v", at, shape, value)
	}
	return nil
}

// scriptPromised is "promised COMMAND [file]": what the last command printed, or a
// file holds, is what the README promises of a command's JSON.
func scriptPromised(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: promised command [file]")
	}
	shape, ok := promises()[args[0]]
	if !ok {
		ts.Fatalf("the README has no JSON of %q", args[0])
	}
	from := "stdout"
	if len(args) == 2 {
		from = args[1]
	}
	documents := json.NewDecoder(strings.NewReader(ts.ReadFile(from)))
	for n := 0; ; n++ {
		var value any
		err := documents.Decode(&value)
		if errors.Is(err, io.EOF) && n > 0 {
			return
		}
		ts.Check(err)
		ts.Check(keeps(value, shape, args[0]))
	}
}

// The README has every field that the program can print, with its type.
func TestPromisedJSON(t *testing.T) {
	t.Parallel()
	names := map[reflect.Type]string{}
	all := map[string]any{
		"login --no-browser": loginPage{}, "login": signedInAs{}, "logout": signedOut{}, "whoami": whoami{},
		"connections connect --wait=false": membrane.ConnectionRequest{}, "actions run": membrane.Ran{}, "request": answered{},
		"check": report{}, "trace": app.Trace{},
		"connection": membrane.ConnectionDetails{}, "asked": membrane.ClientAction{}, "trouble": membrane.Trouble{}, "listed": actionRow{},
		"action": membrane.ActionDetails{}, "run": membrane.RunDetails{}, "problem": reportProblem{}, "test": reportTest{}, "live": reportLive{},
		"result": bridge.ResultData{}, "cause": bridge.ResultCause{}, "sms": catalog.SMS{}, "failure": bridge.ResultError{}, "followed": bridge.ResultFollowUp{},
		"traced": app.TracedEvent{}, "pair": app.TracedPair{}, "step": app.Step{}, "searched": app.Searched{},
	}
	for name, value := range all {
		names[reflect.TypeOf(value)] = name
	}
	for name, value := range all {
		want := map[string]string{}
		describe(reflect.TypeOf(value), names, want)
		got, ok := fields(promises()[name])
		if !ok || !maps.Equal(got, want) {
			t.Errorf("%s: the README has\n%s\nand the program prints\n%s", name, promises()[name], want)
		}
	}
}

// describe writes a struct as the README does.
func describe(of reflect.Type, names map[reflect.Type]string, into map[string]string) {
	for f := range of.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			describe(f.Type, names, into)
			continue
		case tag == "-" || tag == "":
			continue
		case strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero"):
			tag += "?"
		}
		into[tag] = kindName(f.Type, names)
	}
}

func kindName(of reflect.Type, names map[reflect.Type]string) string {
	switch {
	case of == reflect.TypeFor[json.RawMessage](), of.Kind() == reflect.Interface:
		return "any"
	case of == reflect.TypeFor[time.Time]():
		return "string"
	case names[of] != "":
		return names[of]
	}
	switch of.Kind() {
	case reflect.Pointer:
		return kindName(of.Elem(), names)
	case reflect.Slice:
		return kindName(of.Elem(), names) + "[]"
	case reflect.Map:
		return "object"
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Struct:
		return of.String()
	default:
		return "number"
	}
}
